package daemon

import (
	"os"
	"strconv"
	"testing"
)

func TestWatchdogIsConfigured(t *testing.T) {
	self := strconv.Itoa(os.Getpid())
	for _, c := range []struct {
		name, usec, pid string
		on, tooShort    bool
	}{
		{"no watchdog", "", "", false, false},
		{"not a number", "soon", self, false, false},
		{"none", "0", self, false, false},
		{"another process's", "10000000", "1", false, false},
		{"ours", "10000000", self, true, false},
		{"anybody's", "3000000", "", true, false},
		{"too often", "2999999", self, true, true},
	} {
		env := map[string]string{"WATCHDOG_USEC": c.usec, "WATCHDOG_PID": c.pid}
		w, short := newWatchdog(func(k string) string { return env[k] })
		if w.on != c.on || short != c.tooShort {
			t.Errorf("%s: on %v, too short %v; want %v, %v", c.name, w.on, short, c.on, c.tooShort)
		}
	}
}

// TestWatchdogStarves: it is fed while all workers move, and only then.
func TestWatchdogStarves(t *testing.T) {
	fed := 0
	notify := func(state string) error {
		if state != "WATCHDOG=1" {
			t.Errorf("said %q", state)
		}
		fed++
		return nil
	}
	w := watchdog{on: true}
	for i, c := range []struct {
		stuck int
		news  bool
		fed   int
	}{{-1, false, 1}, {0, true, 1}, {0, false, 1}, {-1, true, 2}, {-1, false, 3}} {
		if news := w.feed(c.stuck, notify); news != c.news || fed != c.fed {
			t.Errorf("step %d: news %v, fed %d times; want %v, %d", i, news, fed, c.news, c.fed)
		}
	}
	if off := (watchdog{}); off.feed(-1, notify) || fed != 3 {
		t.Error("a watchdog that nobody asked for is fed")
	}
}
