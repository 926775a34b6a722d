package bench

import (
	"fmt"
	"io"
	"os"
	"time"
)

// progress tells on one line how far a part of the run is. Where the writer is
// no terminal, it tells the tenths, each on a line of its own. It may be used
// from one goroutine at a time.
type progress struct {
	w           io.Writer
	terminal    bool
	part        string
	steps, done int
	told        int
	start       time.Time
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w, start: time.Now()}
	if f, ok := w.(*os.File); ok {
		if s, err := f.Stat(); err == nil {
			p.terminal = s.Mode()&os.ModeCharDevice != 0
		}
	}
	return p
}

// begin begins a part of so many steps.
func (p *progress) begin(part string, steps int) {
	p.part, p.steps, p.done, p.told = part, steps, 0, -1
}

// note tells of one more step.
func (p *progress) note(what string) {
	percent := 100 * p.done / max(p.steps, 1)
	p.done++
	switch {
	case p.w == nil:
	case p.terminal:
		fmt.Fprintf(p.w, "\r\x1b[K%s %3d %%  %s  (%v)", p.part, percent, what, time.Since(p.start).Round(time.Second))
	case percent/10 > p.told:
		p.told = percent / 10
		fmt.Fprintf(p.w, "%s %3d %%  %s  (%v)\n", p.part, percent, what, time.Since(p.start).Round(time.Second))
	}
}

// end clears the line.
func (p *progress) end() {
	if p.terminal {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
