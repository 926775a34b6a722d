package daemon

import (
	"log/slog"
	"time"
)

// steps takes the time of each step of a start. While it lasts nothing is
// forwarded, so a start that takes long has to say with what; the log does, at
// level debug.
type steps struct {
	last  time.Time
	taken []any // as slog takes them: name, duration
}

func newSteps(began time.Time) *steps { return &steps{last: began} }

// done says that a step has ended, which began when the one before ended.
func (s *steps) done(name string) {
	now := time.Now()
	s.taken = append(s.taken, slog.Duration(name, now.Sub(s.last).Round(10*time.Microsecond)))
	s.last = now
}

func (s *steps) tell(log *slog.Logger) { log.Debug("time of the start", s.taken...) }
