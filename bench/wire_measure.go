package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// first waits until packets pass, which takes the neighbours' addresses, and
// then looks at each of many.
func (w *wireRun) first(l *lane) (err error) {
	deadline := time.Now().Add(3 * time.Second)
	for l.tester.run(10*time.Millisecond, burst).received == 0 {
		if time.Now().After(deadline) {
			return fmt.Errorf("bench: %s: no packet passes", l.peer)
		}
	}
	if l.check, err = l.tester.inspect(l.expect, inspected); err == nil {
		w.lanes = append(w.lanes, l)
	}
	return err
}

// measure takes all samples. It belongs on the generator's thread.
func (w *wireRun) measure(ctx context.Context) error {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // little is allocated, and nothing should interfere
	if err := w.rounds(ctx, w.pairs(), w.round, "in pairs"); err != nil {
		return err
	}
	if err := w.rounds(ctx, floodRounds, w.flooded, "flooding"); err != nil {
		return err
	}
	w.progress.note("timing programs")
	if err := w.split(ctx); err != nil {
		return err
	}
	span := 3 * w.o.Sample
	for _, l := range w.lanes {
		if err := ctx.Err(); err != nil {
			return err
		}
		w.progress.note("latency: " + string(l.peer))
		l.tester.run(warmUp, burst)
		var err error
		if l.latency, err = l.tester.latency(span, l.expect.longer()); err != nil {
			return err
		}
	}
	return nil
}

// rounds calls f for every lane in turn, the other way round every second time.
func (w *wireRun) rounds(ctx context.Context, n int, f func(*lane), what string) error {
	for round := range n {
		w.progress.note(fmt.Sprintf("%s, round %d of %d", what, round+1, n))
		if round >= minPairs && time.Now().After(w.until) {
			return nil
		}
		for i := range w.lanes {
			if round%2 == 1 {
				i = len(w.lanes) - 1 - i
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			f(w.lanes[i])
		}
	}
	return nil
}

// laneSample is one sample of a lane.
type laneSample struct {
	passage
	ran       int64         // CPU time of all that takes part
	user      time.Duration // of it the worker's in user mode
	disturbed bool
}

// foreignShare is the part of a sample, one twentieth of a CPU, beyond which the
// CPU time of others disturbs it. That a thread waits for its CPU says nothing
// here: the kernel's softirqs, which are part of what is measured, make it wait.
const foreignShare = 20

// maxWireRepeats is how often a disturbed sample is taken again.
const maxWireRepeats = 2

// sample takes one with at most so many packets under way, again where it was
// disturbed.
func (w *wireRun) sample(l *lane, most int64) (s laneSample) {
	for try := 0; ; try++ {
		l.tester.run(warmUp/5, window)
		before, user := w.processor.of(l.pids()...), userTime(l.worker())
		s = laneSample{passage: l.tester.run(w.o.Sample, most)}
		var others int64
		s.ran, others = w.processor.of(l.pids()...).since(before)
		s.user = userTime(l.worker()) - user
		s.disturbed = others*foreignShare > s.wall.Nanoseconds()
		if !s.disturbed || try == maxWireRepeats {
			return s
		}
	}
}

// round takes the sample of a lane that counts: no loss, and CPU time beside the
// generator's. The generator alone, right before, is what is taken off.
func (w *wireRun) round(l *lane) {
	b := w.sample(w.base, window)
	generator := float64(b.ran-b.waited.Nanoseconds()) / float64(max(b.sent, 1))
	w.generator = append(w.generator, reading{generator, b.disturbed})
	s := w.sample(l, window)
	l.inUser, l.passed = l.inUser+s.user, l.passed+s.received
	disturbed := s.disturbed || b.disturbed
	own := float64(s.waited.Nanoseconds()) + generator*float64(s.sent)
	l.cpu = append(l.cpu, reading{(float64(s.ran) - own) / float64(max(s.received, 1)), disturbed})
	l.rate = append(l.rate, reading{float64(s.received) / s.wall.Seconds(), disturbed})
	l.lost += s.sent - s.received
}

// flooded takes a sample with all that the generator can send.
func (w *wireRun) flooded(l *lane) {
	s := w.sample(l, 0)
	l.flood = append(l.flood, reading{float64(s.received) / s.wall.Seconds(), s.disturbed})
	l.loss = append(l.loss, reading{1 - float64(s.received)/float64(max(s.sent, 1)), s.disturbed})
	if l.pktgen != nil {
		w.floodByKernel(l, s.sent)
	}
}

// floodByKernel is flooded with so many packets of the kernel's generator. Where
// that fails, it is not tried on this lane again.
func (w *wireRun) floodByKernel(l *lane, count int64) {
	base := l.tester.sink.count()
	sent, took, err := l.pktgen.run(count)
	if err != nil || sent == 0 || took == 0 {
		l.pktgen = nil
		w.leftOut = append(w.leftOut, fmt.Sprintf("%s, flooded by pktgen: %v", l.peer, err))
		return
	}
	var p passage
	l.tester.await(&p, base, sent)
	came := float64(l.tester.sink.count() - base)
	l.byKernel = append(l.byKernel, reading{value: came / float64(took) * 1e6})
	l.lossByKernel = append(l.lossByKernel, reading{value: 1 - came/float64(sent)})
}

// report sums up.
func (w *wireRun) report() *WireReport {
	r := &WireReport{Frame: frameLength, Flows: wireFlows, Window: window, Generator: summarize(w.generator)}
	byPeer := make(map[Peer]*lane)
	for _, l := range w.lanes {
		byPeer[l.peer] = l
		r.Results = append(r.Results, WireResult{
			Peer: l.peer, Rate: summarize(l.rate), CPU: summarize(l.cpu), Lost: l.lost, Program: summarize(l.inProgram), User: l.user(), Flood: summarize(l.flood), FloodLoss: summarize(l.loss),
			Pktgen: summarize(l.byKernel), PktgenLoss: summarize(l.lossByKernel),
			Check: l.check, Latency: l.latency,
		})
	}
	for _, p := range w.contest.pairs {
		if of, to := byPeer[p[0]], byPeer[p[1]]; of != nil && to != nil {
			r.Ratios = append(r.Ratios, Ratio{Of: of.peer, To: to.peer,
				CPU: summarize(ratios(of.cpu, to.cpu)), Rate: summarize(ratios(of.rate, to.rate))})
		}
	}
	return r
}

func (w *wireRun) close() error {
	var errs []error
	for _, l := range w.opened {
		errs = append(errs, l.close())
	}
	return errors.Join(errs...)
}
