package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"sluice/internal/control"
)

func topCommand(a *app) *cobra.Command {
	var once bool
	interval := time.Second
	c := &cobra.Command{
		Use:   "top",
		Short: "Show queues, rates, workers, pools and top talkers, live",
		Long: `Top redraws one screen every interval: what each queue receives and sends a second,
how busy the workers are and what a packet costs them, why packets are dropped, how
full tables and external addresses are, and which inside addresses have most ports.
q or Ctrl-C ends it. Where standard output is no terminal, or with --once, it prints
one screen, of the time of one interval.`,
		Example: `  sluice top --interval 5s
  sluice top --once`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if interval < 100*time.Millisecond {
				return usage("--interval: %s is too short; at least 100ms", interval)
			}
			return a.top(c.Context(), interval, once)
		},
	}
	c.Flags().BoolVar(&once, "once", false, "print one screen and end")
	c.Flags().DurationVar(&interval, "interval", interval, "how often to look")
	return c
}

// reading is the gateway at one moment.
type reading struct {
	at     time.Time
	status control.Status
	drops  control.Drops
	pools  control.Pools
}

func (a *app) read(ctx context.Context) (r reading, err error) {
	client := a.client()
	if r.status, err = client.Status(ctx); err != nil {
		return r, err
	}
	r.at = time.Now()
	if r.drops, err = client.Drops(ctx); err != nil {
		return r, err
	}
	r.pools, err = client.Pools(ctx, control.TopSources)
	return r, err
}

// top shows screens until ctx ends or somebody presses q.
func (a *app) top(ctx context.Context, interval time.Duration, once bool) error {
	out, live := a.out.(*os.File)
	live = live && !once && !a.json() && isTerminal(out)
	before, err := a.read(ctx)
	if err != nil {
		return err
	}
	if !live {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(interval):
		}
		now, err := a.read(ctx)
		if err != nil {
			return err
		}
		s := screenOf(&before, &now)
		if a.json() {
			return a.printJSON(s)
		}
		var b bytes.Buffer
		s.write(&b)
		_, err = b.WriteTo(a.out)
		return err
	}
	return a.topLive(ctx, out, interval, &before)
}

// topLive redraws the screen of a terminal, and leaves it as it was.
func (a *app) topLive(ctx context.Context, out *os.File, interval time.Duration, before *reading) error {
	v := &liveView{out: out}
	if err := v.enter(); err != nil {
		return err
	}
	defer v.leave()
	keys := make(chan byte, 16)
	// It ends with the process: nothing else reads the keys.
	go readKeys(os.Stdin, keys)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGWINCH, syscall.SIGTSTP)
	defer signal.Stop(signals)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	shown := screenOf(before, before)
	rows, columns := terminalSize(out)
	for {
		if err := shown.draw(out, rows, columns); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case k := <-keys:
			if k == 'q' || k == 3 {
				return nil
			}
		case s := <-signals:
			if s == syscall.SIGTSTP {
				if err := v.suspend(); err != nil {
					return err
				}
			}
			rows, columns = terminalSize(out)
		case <-tick.C:
			now, err := a.read(ctx)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return err
			}
			shown, before = screenOf(before, &now), &now
		}
	}
}

// liveView is a terminal that shows one screen and hands over keys as they are
// pressed.
type liveView struct {
	out     *os.File
	restore func() // nil where the keys could not be had
}

// enter shows the alternate screen, without a cursor.
func (v *liveView) enter() error {
	if restore, err := rawKeys(os.Stdin); err == nil {
		v.restore = restore
	}
	_, err := v.out.WriteString("\x1b[?1049h\x1b[?25l")
	return err
}

// leave gives the terminal back as it was.
func (v *liveView) leave() {
	_, _ = v.out.WriteString("\x1b[?25h\x1b[?1049l") // whatever happened before
	if v.restore != nil {
		v.restore()
		v.restore = nil
	}
}

// suspend is Ctrl-Z: the shell gets its terminal as it was, until it has this
// program go on.
func (v *liveView) suspend() error {
	v.leave()
	if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
		return err
	}
	return v.enter()
}

func readKeys(in *os.File, keys chan<- byte) {
	var b [1]byte
	for {
		if n, err := in.Read(b[:]); err != nil || n == 0 {
			return
		}
		keys <- b[0]
	}
}

// draw puts the screen on a terminal: each line over the old one, cut where the
// terminal ends, and nothing below. So it does not flicker.
func (s *screen) draw(out io.Writer, rows, columns int) error {
	var text, frame bytes.Buffer
	s.write(&text)
	frame.WriteString("\x1b[H")
	lines := bytes.Split(bytes.TrimRight(text.Bytes(), "\n"), []byte("\n"))
	for i, line := range lines[:min(len(lines), rows)] {
		if i > 0 {
			frame.WriteString("\r\n")
		}
		frame.Write(cut(line, columns))
		frame.WriteString("\x1b[K")
	}
	frame.WriteString("\x1b[J")
	_, err := frame.WriteTo(out)
	return err
}

// cut is as much of a line as fits the columns.
func cut(line []byte, columns int) []byte {
	at := 0
	for range columns {
		if at == len(line) {
			break
		}
		_, n := utf8.DecodeRune(line[at:])
		at += n
	}
	return line[:at]
}
