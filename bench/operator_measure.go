package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// command is what an operator does meanwhile.
type command struct {
	name string
	args []string // of sluice; FILE is one of the benchmark's
	over bool     // it ends by itself, and is run over and over
}

const (
	nothing = "nothing"

	// busy takes a CPU as the commands do, and has nothing to do with the gateway:
	// what it costs is the machine's lack of a CPU for it.
	busy = "a busy shell"
)

var commands = []command{
	{name: nothing},
	{name: busy},
	{name: "flows list", args: []string{"flows", "list", "-o", "json"}, over: true},
	{name: "nat list", args: []string{"nat", "list"}, over: true},
	{name: "top", args: []string{"top", "--once", "--interval", "100ms"}, over: true},
	{name: "capture of one flow", args: []string{"capture", "-w", "FILE", "src", "port", strconv.Itoa(firstPort)}},
	{name: "capture, 1 in 100", args: []string{"capture", "-w", "FILE", "--sample", "1/100"}},
	{name: "capture of everything", args: []string{"capture", "-w", "FILE"}},
	{name: "trace of one flow", args: []string{"trace", "-n", "1000000", "--timeout", "1h", "src", "port", strconv.Itoa(firstPort)}},
}

// operatorResult is what was measured beside one command.
type operatorResult struct {
	command                           command
	disturbed                         int
	rate, work, held, cpu, pace, loss []reading
	sent, received, unaccounted       int64
	pacedSent, pacedLost              int64
	lost                              lostAt
}

// settle is how long a command has before the sample begins.
const settle = 150 * time.Millisecond

// sample takes one, again where other work on the machine disturbed it.
func (w *operatorRun) sample(ctx context.Context, x *operatorResult) error {
	for try := 0; ; try++ {
		one := &operatorResult{command: x.command}
		foreign, err := w.once(ctx, one)
		if err != nil {
			return err
		}
		disturbed := foreign*foreignShare > 1
		if disturbed && try < maxWireRepeats {
			continue
		}
		x.take(one, disturbed)
		return nil
	}
}

// once takes a sample: the traffic that goes as fast as nothing is lost, and the
// stream that does not wait. It returns how many CPUs others used meanwhile.
func (w *operatorRun) once(ctx context.Context, x *operatorResult) (foreign float64, err error) {
	began, cpu := time.Now(), w.processor.of(w.pid)
	stop := w.start(ctx, x.command)
	stopped := false
	defer func() {
		if !stopped {
			stop()
		}
	}()
	time.Sleep(settle)
	counted, err := w.counters(ctx)
	if err != nil {
		return 0, err
	}
	before, err := w.look(ctx)
	if err != nil {
		return 0, err
	}
	p := w.lane.tester.run(w.o.Sample, window)
	after, err := w.look(ctx)
	if err != nil {
		return 0, err
	}
	x.add(before, after, p)
	q := w.lane.tester.paced(w.o.Sample, w.pace)
	x.pace = append(x.pace, reading{value: float64(q.sent) / q.wall.Seconds() / w.pace})
	x.pacedSent, x.pacedLost = q.sent, q.sent-q.received
	x.loss = append(x.loss, reading{value: float64(x.pacedLost) / float64(max(q.sent, 1))})
	own, client, err := stop()
	stopped = true
	if err != nil {
		return 0, err
	}
	took := float64(time.Since(began))
	_, others := w.processor.of(w.pid).since(cpu)
	x.cpu = append(x.cpu, reading{value: float64(own+client) / took})
	return float64(others-client) / took, w.account(ctx, x, counted, p.sent-p.received+q.sent-q.received)
}

// take adds a sample to what there is. What was lost in one that stayed disturbed
// says nothing, and is left out as its figures are.
func (x *operatorResult) take(one *operatorResult, disturbed bool) {
	for _, r := range []struct{ all, one *[]reading }{{&x.rate, &one.rate}, {&x.work, &one.work}, {&x.held, &one.held}, {&x.cpu, &one.cpu}, {&x.pace, &one.pace}, {&x.loss, &one.loss}} {
		(*r.one)[0].disturbed = disturbed
		*r.all = append(*r.all, (*r.one)[0])
	}
	if disturbed {
		x.disturbed++
		return
	}
	x.sent += one.sent
	x.received += one.received
	x.pacedSent += one.pacedSent
	x.pacedLost += one.pacedLost
	x.unaccounted += one.unaccounted
	if x.lost == nil {
		x.lost = lostAt{}
	}
	for name, n := range one.lost {
		x.lost[name] += n
	}
}

// account finds what was lost in the gateway's counters.
func (w *operatorRun) account(ctx context.Context, x *operatorResult, before lostAt, missing int64) error {
	if missing == 0 {
		return nil
	}
	time.Sleep(published)
	after, err := w.counters(ctx)
	if err != nil {
		return err
	}
	x.lost = lostAt{}
	for name, n := range after {
		x.lost[name] += n - before[name]
		missing -= n - before[name]
	}
	x.unaccounted = missing
	return nil
}

// state is the gateway's at a moment.
type state struct {
	at          time.Time
	busy        float64 // s of the worker's time spent on packets
	ran, waited int64   // ns of its thread
}

func (w *operatorRun) look(ctx context.Context) (s state, err error) {
	status, err := w.client.Status(ctx)
	if err != nil {
		return s, err
	}
	if len(status.Workers) != 1 {
		return s, fmt.Errorf("the gateway has %d workers, want one", len(status.Workers))
	}
	s.at, s.busy = time.Now(), status.Workers[0].BusySeconds
	s.ran, s.waited = schedstat(w.worker)
	return s, nil
}

// add notes what the run without loss came to.
func (x *operatorResult) add(before, after state, p passage) {
	x.sent, x.received = p.sent, p.received
	x.rate = append(x.rate, reading{value: float64(p.received) / p.wall.Seconds()})
	x.work = append(x.work, reading{value: (after.busy - before.busy) * 1e9 / float64(max(p.received, 1))})
	x.held = append(x.held, reading{value: float64(after.waited-before.waited) / float64(after.at.Sub(before.at))})
}

// start starts a command, on the CPU that is left for it. What it returns ends the
// command, and tells the CPU time that the gateway's threads but the worker used,
// and the command's processes, in ns.
func (w *operatorRun) start(ctx context.Context, c command) (stop func() (own, client int64, err error)) {
	ctx, cancel := context.WithCancel(ctx)
	before := w.others()
	used, done := int64(0), make(chan error, 1)
	go func() {
		done <- pinned(w.spare, func() error {
			for first := true; ctx.Err() == nil && (first || c.over); first = false {
				cmd := w.prepare(ctx, c)
				if cmd == nil {
					return nil
				}
				var says bytes.Buffer // a list goes to /dev/null
				cmd.Stderr = &says
				err := cmd.Run()
				if cmd.ProcessState == nil && ctx.Err() != nil {
					return nil // it was not even started
				}
				used += int64(cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime())
				if err != nil && ctx.Err() == nil {
					return fmt.Errorf("%w: %s", err, says.Bytes())
				}
			}
			return nil
		})
	}()
	return func() (own, client int64, err error) {
		own = w.others() - before
		cancel()
		err = <-done
		return own, used, err
	}
}

// prepare makes the process of a command, nil for none.
func (w *operatorRun) prepare(ctx context.Context, c command) *exec.Cmd {
	var cmd *exec.Cmd
	switch {
	case c.name == nothing:
		return nil
	case c.name == busy:
		cmd = exec.CommandContext(ctx, "sh", "-c", "while :; do :; done")
	default:
		args := append([]string{}, c.args...)
		for i := range args {
			if args[i] == "FILE" {
				args[i] = filepath.Join(w.site.dir, "capture.pcapng")
			}
		}
		cmd = exec.CommandContext(ctx, w.site.binary, append(args, "--socket", w.site.socket(w.lane))...)
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = patience
	return cmd
}

// others is the CPU time of the gateway's threads but its worker, in ns.
func (w *operatorRun) others() (sum int64) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", w.pid)) // the pattern is good
	for _, path := range threads {
		if path != w.worker {
			ran, _ := schedstat(path)
			sum += ran
		}
	}
	return sum
}

// number sends n packets, and waits for all of them.
func (t *tester) number(n int64) passage {
	var p passage
	base := t.sink.count()
	for p.sent < n {
		if missing, _ := t.await(&p, base, p.sent-window+burst); missing > 0 {
			break
		}
		p.sent += int64(t.send(int(min(burst, n-p.sent))))
	}
	t.await(&p, base, p.sent)
	p.received = int64(t.sink.count() - base)
	return p
}

// paced sends a steady stream and does not wait for it to arrive. A generator that
// was held up goes on at its pace and makes up for nothing, so that what is lost
// is not of its making.
func (t *tester) paced(span time.Duration, pace float64) passage {
	// Its CPU may be the commands' as well; it needs little more than half of it.
	// Where it may not, the pace that it reached tells.
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, -20)
	defer func() { _ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, 0) }()
	var p passage
	base, start := t.sink.count(), time.Now()
	skipped := int64(0)
	for at := time.Duration(0); at < span; at = time.Since(start) {
		due := int64(at.Seconds()*pace) - p.sent - skipped
		if due < burst {
			nap := syscall.NsecToTimespec(int64(float64(burst-due) / pace * 1e9))
			_ = syscall.Nanosleep(&nap, nil) // a shorter nap is as good
			continue
		}
		sent := int64(t.send(burst))
		p.sent += sent
		skipped += max(due-4*burst, 0) + burst - sent
	}
	p.wall = time.Since(start)
	t.await(&p, base, p.sent)
	p.received = int64(t.sink.count() - base)
	return p
}
