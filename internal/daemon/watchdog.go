package daemon

import (
	"os"
	"strconv"
	"time"
)

// watchdog feeds systemd's (sd_watchdog_enabled(3)) as long as every worker makes
// progress. It belongs to the control goroutine, so that this one must move, too.
type watchdog struct {
	on      bool
	starved bool
}

// newWatchdog reads what systemd wants. A watchdog that is to be fed more often
// than housekeeping comes round is not fed at all, which systemd would notice:
// the unit's WatchdogSec has to be at least three times as long.
func newWatchdog(env func(string) string) (w watchdog, tooShort bool) {
	usec, err := strconv.ParseInt(env("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return w, false
	}
	if pid := env("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return w, false // another process's
	}
	w.on = true
	return w, time.Duration(usec)*time.Microsecond < 3*housekeeping
}

// feed tells systemd that all is well, unless worker stuck (-1 = none) does not
// move. It reports whether this is news.
func (w *watchdog) feed(stuck int, notify func(string) error) (news bool) {
	if !w.on {
		return false
	}
	news = (stuck >= 0) != w.starved
	w.starved = stuck >= 0
	if !w.starved {
		_ = notify("WATCHDOG=1")
	}
	return news
}

// stuckWorker is a worker whose heartbeat is so old that the steering program
// gives it nothing any more, or -1.
func (d *Daemon) stuckWorker() int {
	for _, t := range d.plane.threads {
		if !t.running() || time.Duration(t.clock.Now()-t.lastBeat()).Seconds() > staleSeconds {
			return t.id
		}
	}
	return -1
}

// feedWatchdog lets systemd end and restart a daemon of which a part hangs.
func (d *Daemon) feedWatchdog() {
	stuck := d.stuckWorker()
	if !d.watchdog.feed(stuck, notify) {
		return
	}
	if stuck >= 0 {
		d.log.Error("a worker does not move: systemd's watchdog is not fed any more", "worker", stuck)
	} else {
		d.log.Info("all workers move again: the watchdog is fed")
	}
}
