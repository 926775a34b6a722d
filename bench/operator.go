package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sluice/internal/control"
	"sluice/internal/lab"
	"sluice/xdp"
)

// operatorFlows are as many flows as the gateway has while it is looked at: those
// of so many destinations, in a table that is nearly full.
const (
	operatorDestinations = 1 << 10
	operatorFlows        = operatorDestinations * wireFlows
	operatorCapacity     = operatorFlows + operatorFlows/8
	firstDestination     = "198.18.0.0" // RFC 2544
	operatorRoute        = "198.18.0.0/15"
)

// operatorRun measures what commands that only look cost a gateway at full load.
type operatorRun struct {
	o        *Options
	progress *progress
	site     *site
	lane     *lane
	client   *control.Client
	pid      int
	worker   string // schedstat of the gateway's worker
	spare    int    // CPU of the commands; the generator's where there is no third
	results  []*operatorResult

	processor *processor
	pace      float64 // packets a second
}

// runOperator measures commands of an operator's over veth. It needs root.
func (r *Report) runOperator(ctx context.Context, o *Options, progress *progress) (err error) {
	s, err := clearSite(o)
	if err != nil {
		return err
	}
	defer os.RemoveAll(s.dir)
	s.operator = true
	w := &operatorRun{o: o, progress: progress, site: s, spare: spareCPU(s), processor: newProcessor()}
	progress.begin("commands", 2+len(commands)*o.Pairs)
	progress.note("starting the gateway")
	if w.lane, err = s.open(ctx, PeerSluice); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.lane.close()) }()
	// The gateway has its CPUs by now; the benchmark's own threads stay off the gateway's CPU.
	back, err := xdp.LeaveCPUs([]int{s.otherCPU})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, back()) }()
	w.pid = w.lane.child.pid()
	w.client = control.NewClient(s.socket(w.lane))
	if w.worker, err = workerThread(w.pid, s.otherCPU); err != nil {
		return err
	}
	if err := pinned(s.generatorCPU, func() error { return w.measure(ctx) }); err != nil {
		return err
	}
	r.Operator = w.report()
	return nil
}

// spareCPU is a CPU that is neither the generator's nor the gateway's; the
// generator's where there is none.
func spareCPU(s *site) int {
	cpus, err := xdp.AllowedCPUs()
	if err != nil || len(cpus) < 3 {
		return s.generatorCPU
	}
	return cpus[1]
}

// operatorConfig has room for the flows, which stay.
func (s *site) operatorConfig(l *lane) string {
	return fmt.Sprintf(`interfaces:
  - {name: %s, role: inside}
  - {name: %s, role: outside}
masquerade: {sources: [10.20.30.0/24]}
conntrack: {max-flows: %d, timeouts: {udp: 1h, udp-unreplied: 1h}}
state-file: ""
cpus: [%d]
control: {socket: %s}
`, lab.InsideNIC, lab.OutsideNIC, operatorCapacity, s.otherCPU, s.socket(l))
}

func (s *site) socket(l *lane) string {
	return filepath.Join(s.dir, filepath.Base(l.gateway.Name())+".sock")
}

// workerThread is the schedstat of the thread of a process that is bound to a CPU.
func workerThread(pid, cpu int) (string, error) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid)) // the pattern is good
	var found []string
	for _, status := range tasks {
		if field(status, "Cpus_allowed_list") == fmt.Sprint(cpu) {
			found = append(found, filepath.Join(filepath.Dir(status), "schedstat"))
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("bench: %d threads of the gateway are bound to CPU %d, want its worker alone", len(found), cpu)
	}
	return found[0], nil
}

// measure fills the table and takes all samples. It belongs on the generator's
// thread.
func (w *operatorRun) measure(ctx context.Context) error {
	if err := w.first(); err != nil {
		return err
	}
	w.progress.note("making flows")
	if err := w.populate(ctx); err != nil {
		return err
	}
	for _, c := range commands {
		w.results = append(w.results, &operatorResult{command: c})
	}
	w.setPace()
	for round := range w.o.Pairs {
		order := slices.Clone(w.results)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, x := range order {
			if err := ctx.Err(); err != nil {
				return err
			}
			w.progress.note(fmt.Sprintf("round %d of %d: %s", round+1, w.o.Pairs, x.command.name))
			if err := w.sample(ctx, x); err != nil {
				return fmt.Errorf("bench: %s: %w", x.command.name, err)
			}
		}
	}
	return nil
}

// first waits until packets pass: the neighbours' addresses must be found.
func (w *operatorRun) first() error {
	r := wireRun{o: w.o}
	return r.first(w.lane)
}

// populate makes the flows that are to be listed.
func (w *operatorRun) populate(ctx context.Context) error {
	l, first := w.lane, address(firstDestination)
	mac, err := l.gateway.MAC(lab.InsideNIC)
	if err != nil {
		return err
	}
	for i := range uint32(operatorDestinations) {
		to := newTester(l.from, l.to, l.sink, l.from.ports[0].NIC().MAC, mac, &expectation{to: first + i, port: discardPort})
		if p := to.number(wireFlows); p.received != p.sent {
			return fmt.Errorf("bench: %d of %d flows towards the same destination were made", p.received, p.sent)
		}
	}
	n, err := w.client.CountFlows(ctx, control.Filter{})
	if err == nil && n.Count < operatorFlows {
		err = fmt.Errorf("bench: there are %d flows, want %d", n.Count, operatorFlows)
	}
	return err
}

// setPace sets the pace of the stream that does not wait: four fifths of the rate
// at which nothing is lost.
func (w *operatorRun) setPace() {
	var rates []reading
	for range minPairs {
		p := w.lane.tester.run(w.o.Sample, window)
		rates = append(rates, reading{value: float64(p.received) / p.wall.Seconds()})
	}
	w.pace = summarize(rates).Median * 4 / 5
}

// lostAt says where packets of a sample were lost.
type lostAt map[string]int64

// counters are all that the gateway counts of lost packets, by a name.
func (w *operatorRun) counters(ctx context.Context) (lostAt, error) {
	d, err := w.client.Drops(ctx)
	if err != nil {
		return nil, err
	}
	at := lostAt{}
	for _, r := range d.Reasons {
		at[r.Reason] += int64(r.Packets)
	}
	s, err := w.client.Status(ctx)
	if err != nil {
		return nil, err
	}
	for _, i := range s.Interfaces {
		for _, q := range i.Queues {
			// The kernel counts a frame that there was no room for once more
			// as dropped (xsk_rcv), but not one that met a full ring.
			at["rx-ring-full"] += int64(q.Drops.RXRingFull)
			at["fill-ring-empty"] += int64(q.Drops.FillRingEmpty)
		}
	}
	return at, nil
}

// published is how long after a packet its drop is in the counters.
const published = 300 * time.Millisecond

// text lists what was lost where.
func (at lostAt) text() string {
	var list []string
	for name, n := range at {
		if n != 0 {
			list = append(list, fmt.Sprintf("%s %d", name, n))
		}
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}
