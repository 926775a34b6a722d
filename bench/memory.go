package bench

import (
	"context"
	"errors"
	"runtime"
	"runtime/debug"
	"time"
)

// freshFlows is how many flows one round of set-up opens.
const freshFlows = 1 << 14

// MemoryResult is what was measured in memory for one number of flows and one
// distribution. Times are nanoseconds per packet.
type MemoryResult struct {
	Flows        int          `json:"flows"`
	Distribution Distribution `json:"distribution"`

	Whole Summary `json:"whole"` // gateway.Worker.Step
	Hot   Summary `json:"hot"`   // parse, look up, rewrite alone
	Map   Summary `json:"map"`   // the same over Go's map
	Twin  Summary `json:"twin"`  // the same in C; without samples where there is no gcc
	SetUp Summary `json:"set_up"`

	Stages map[string]Summary `json:"stages"` // of the hot work, the clock taken off

	// Ratios of samples of the same round.
	HotToTwin   Summary `json:"hot_to_twin"`
	WholeToTwin Summary `json:"whole_to_twin"`
	MapToHot    Summary `json:"map_to_hot"`
	SetUpToTwin Summary `json:"set_up_to_twin"` // a new flow in packets of the twin

	// TwoToOne is how much two workers on two CPUs forward, in multiples of what
	// one does. Each has its own half of the flows.
	TwoToOne Summary `json:"two_to_one"`
}

// series collects the samples of one way.
type series struct {
	take     func() (sample, error)
	readings []reading
}

// sample adds one, repeated while it is disturbed.
func (s *series) sample() error {
	for try := 0; ; try++ {
		one, err := s.take()
		if err != nil {
			return err
		}
		if !one.disturbed() || try == maxRepeats {
			s.readings = append(s.readings, reading{one.perPacket(), one.disturbed()})
			return nil
		}
	}
}

func (s *series) summary() Summary {
	if s == nil {
		return Summary{}
	}
	return summarize(s.readings)
}

// leastRounds are taken even where time is up.
const leastRounds = 3

// inTurns takes a sample of every series, in rounds, the other way round every
// second time, so that a drift of the machine meets all alike. On a machine so
// busy that samples have to be repeated over and over, it ends early.
func inTurns(ctx context.Context, rounds int, until time.Time, list []*series, done func()) error {
	for round := range rounds {
		if round >= leastRounds && time.Now().After(until) {
			return nil
		}
		for i := range list {
			if round%2 == 1 {
				i = len(list) - 1 - i
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := list[i].sample(); err != nil {
				return err
			}
		}
		done()
	}
	return nil
}

// memoryRun measures in memory.
type memoryRun struct {
	sizes     []int
	kindSizes []int
	rounds    int
	budget    time.Duration     // of timed work, for one sample
	most      time.Duration     // for all samples of one size and distribution
	twin      string            // the compiled twin, "" for none
	cpu       int               // to measure on
	other     int               // for a second worker; the same one where there is no other
	note      func(what string) // tells the progress
}

// steps is how many notes measure makes.
func (m *memoryRun) steps() int { return len(m.sizes)*(1+3*m.rounds) + len(m.kindSizes)*(1+m.rounds) }

// measure returns a result for each size and distribution. It belongs on a
// pinned thread.
func (m *memoryRun) measure(ctx context.Context) (results []MemoryResult, err error) {
	// Nothing allocates while samples are taken; what the collector would do is
	// left over from making the flows.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	for _, size := range m.sizes {
		part, err := m.size(ctx, size)
		if err != nil {
			return nil, err
		}
		results = append(results, part...)
		runtime.GC()
		debug.FreeOSMemory()
	}
	return results, nil
}

func (m *memoryRun) size(ctx context.Context, size int) (results []MemoryResult, err error) {
	m.note(sizeName(size) + " flows: filling the tables")
	r, err := newRig(size)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	flows, fresh := makeFlows(0, size), makeFlows(size+portsPerHost, freshFlows)
	if err := r.populate(flows); err != nil {
		return nil, err
	}
	h, byMap := newHot(r), newMapped(r, flows)
	runtime.GC()
	for _, how := range []Distribution{Uniform, Zipf} {
		result, err := m.distribution(ctx, r, newTraffic(flows, how), fresh, h, byMap)
		if err != nil {
			return nil, err
		}
		result.Flows, result.Distribution = size, how
		results = append(results, result)
	}
	if results[0].TwoToOne, err = m.twoToOne(ctx, r, flows); err != nil {
		return nil, err
	}
	return results, r.dropped()
}

func (m *memoryRun) distribution(ctx context.Context, r *rig, t *traffic, fresh []flow, h *hot, byMap *mapped) (result MemoryResult, err error) {
	var w *twin
	if m.twin != "" {
		if w, err = startTwin(ctx, m.twin, t, m.cpu); err != nil {
			return result, err
		}
		defer w.close()
	}
	if err := r.agree(t, h, byMap, w); err != nil {
		return result, err
	}
	whole := m.series(func() (int, time.Duration) { return r.step(t) })
	hotly := m.series(func() (int, time.Duration) { r.write(t); return group, h.group(&r.descs) })
	mapwise := m.series(func() (int, time.Duration) { r.write(t); return group, byMap.group(&r.descs) })
	setUp := m.series(func() (int, time.Duration) { return r.setUp(fresh) })
	var inC *series
	list := []*series{whole, hotly, mapwise, setUp}
	if w != nil {
		inC = &series{take: func() (sample, error) { return w.run(m.budget) }}
		list = []*series{whole, inC, hotly, mapwise, setUp}
	}
	stages := m.stages(r, t, h)
	label := sizeName(len(t.flows)) + " flows in memory"
	list = append(list, stages.all)
	if err := inTurns(ctx, m.rounds, time.Now().Add(m.most), list, func() { m.note(label) }); err != nil {
		return result, err
	}
	result = MemoryResult{
		Whole: whole.summary(), Hot: hotly.summary(), Map: mapwise.summary(), Twin: inC.summary(), SetUp: setUp.summary(),
		Stages:   stages.summaries(),
		MapToHot: summarize(ratios(mapwise.readings, hotly.readings)),
	}
	if inC != nil {
		result.HotToTwin = summarize(ratios(hotly.readings, inC.readings))
		result.WholeToTwin = summarize(ratios(whole.readings, inC.readings))
		result.SetUpToTwin = summarize(ratios(setUp.readings, inC.readings))
	}
	return result, nil
}

// twoToOne measures what a second worker adds.
func (m *memoryRun) twoToOne(ctx context.Context, r *rig, flows []flow) (s Summary, err error) {
	alone, together, closing, err := m.cores(r, flows)
	if err != nil || alone == nil {
		return s, err
	}
	defer func() { err = errors.Join(err, closing()) }()
	label := sizeName(len(flows)) + " flows, two workers"
	err = inTurns(ctx, m.rounds, time.Now().Add(m.most), []*series{alone, together}, func() { m.note(label) })
	one := ratios(alone.readings, together.readings)
	for i := range one {
		one[i].value *= 2
	}
	return summarize(one), err
}

// series makes one of a function that processes a few packets at a time.
func (m *memoryRun) series(f func() (int, time.Duration)) *series {
	return &series{take: func() (sample, error) { return timed(m.budget, f), nil }}
}

// stageSeries are the stages of the hot work, measured together.
type stageSeries struct {
	all    *series
	values [len(stageNames)][]reading
}

func (m *memoryRun) stages(r *rig, t *traffic, h *hot) *stageSeries {
	s := &stageSeries{}
	clock := clockCost()
	s.all = &series{take: func() (sample, error) {
		h.stages = [len(stageNames)]time.Duration{}
		one := timed(m.budget, func() (int, time.Duration) {
			r.write(t)
			start := time.Now()
			h.staged(&r.descs)
			return group, time.Since(start)
		})
		bursts := one.packets / burst
		for i, took := range h.stages {
			took -= time.Duration(bursts) * clock
			s.values[i] = append(s.values[i], reading{float64(took.Nanoseconds()) / float64(one.packets), one.disturbed()})
		}
		return one, nil
	}}
	return s
}

func (s *stageSeries) summaries() map[string]Summary {
	m := make(map[string]Summary, len(stageNames))
	for i, name := range stageNames {
		m[name] = summarize(s.values[i])
	}
	return m
}
