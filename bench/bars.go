package bench

import "fmt"

// Bar is a goal and how far the run was from it.
type Bar struct {
	Name    string  `json:"name"`
	Unit    string  `json:"unit"`
	Goal    float64 `json:"goal"`
	Value   float64 `json:"value"`
	Low     float64 `json:"low"` // interval of the value
	High    float64 `json:"high"`
	AtLeast bool    `json:"at_least"` // else at most
	Met     bool    `json:"met"`
}

// reached is the value as a multiple of the goal, so that up to 1 is good.
func (b *Bar) reached() float64 {
	if b.AtLeast {
		return b.Goal / b.Value
	}
	return b.Value / b.Goal
}

func bar(name, unit string, goal float64, s Summary) Bar {
	return Bar{Name: name, Unit: unit, Goal: goal, Value: s.Median, Low: s.Low, High: s.High, Met: s.Median <= goal}
}

// wholeGoals are a quarter to a half of what VPP's graph takes (123, 297, 453,
// 598 ns for 1k, 64k, 1M, 4M sessions on a machine of this kind).
var wholeGoals = map[int]float64{1 << 10: 60, 1 << 16: 74, 1 << 20: 113, 1 << 22: 150}

// vppGraph is that graph's time for a packet.
var vppGraph = map[int]float64{1 << 10: 123, 1 << 16: 297, 1 << 20: 453, 1 << 22: 598}

// judge holds the figures against the goals. What was not measured has no bar.
func (r *Report) judge() {
	r.Bars = nil
	places := r.places()
	for _, m := range places {
		if m.HotToTwin.Samples > 0 {
			r.Bars = append(r.Bars, bar("hot work, Go to C, "+sizeName(m.Flows)+" flows", "times", 1.4, m.HotToTwin))
		}
	}
	for _, m := range places {
		if goal, ok := wholeGoals[m.Flows]; ok {
			r.Bars = append(r.Bars, bar("whole pass, "+sizeName(m.Flows)+" flows", "ns", goal, m.Whole))
		}
	}
	few, many := r.memory(1<<10, Uniform), r.memory(1<<20, Uniform)
	if few != nil && many != nil {
		by := few.Whole.Median
		r.Bars = append(r.Bars, bar("whole pass, 1M to 1k flows", "times", 2.2,
			Summary{Median: many.Whole.Median / by, Low: many.Whole.Low / by, High: many.Whole.High / by}))
	}
	if many != nil {
		r.Bars = append(r.Bars, setUpBar(many))
	}
	r.judgeWire()
}

// setUpBar turns ns per flow into flows a second.
func setUpBar(m *MemoryResult) Bar {
	const goal = 4
	millions := func(ns float64) float64 { return 1e3 / ns }
	b := Bar{Name: "set-up at 1M live flows", Unit: "M flows/s", Goal: goal, AtLeast: true,
		Value: millions(m.SetUp.Median), Low: millions(m.SetUp.High), High: millions(m.SetUp.Low)}
	b.Met = b.Value >= goal
	return b
}

// judgeWire holds the figures over veth against the goals.
func (r *Report) judgeWire() {
	if r.Wire == nil {
		return
	}
	if s, ok := r.Wire.ratio(PeerSluice, PeerForwarder); ok {
		r.Bars = append(r.Bars, bar("CPU over veth, Sluice to a bare AF_XDP forwarder", "times", 1.1, s))
	}
	if s, ok := r.Wire.ratio(PeerSluice, PeerRouter); ok {
		r.Bars = append(r.Bars, bar("CPU over veth, masquerade on to off", "times", 1.05, s))
	}
}

// verdict says in words whether a bar was reached.
func (b *Bar) verdict() string {
	if b.Met {
		return "met"
	}
	return fmt.Sprintf("missed (%.2f of what is allowed)", b.reached())
}
