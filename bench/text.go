package bench

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// Text is the report as tables.
func (r *Report) Text() string {
	var b strings.Builder
	m := &r.Machine
	fmt.Fprintf(&b, "Sluice %s, %s, %.0f s\n", r.Version, r.Started.UTC().Format("2006-01-02 15:04 MST"), r.Seconds)
	fmt.Fprintf(&b, "%s, %d CPUs, Linux %s, %s, gcc %s; load %.1f before, %.1f after\n", m.CPU, m.CPUs, m.Kernel, m.Go, orNone(m.GCC), m.Load[0], m.Load[1])
	if r.Quick {
		b.WriteString("A quick run: too few samples to quote.\n")
	}
	r.memoryText(&b)
	r.kindsText(&b)
	if r.Wire != nil {
		r.Wire.text(&b, "")
	}
	if r.Services != nil {
		r.Services.text(&b, ", services")
	}
	if r.Receivers != nil {
		r.Receivers.text(&b)
	}
	if r.Operator != nil {
		r.Operator.text(&b)
	}
	r.barsText(&b)
	if n := r.disturbed(); n > 0 {
		fmt.Fprintf(&b, "\n%d samples stayed disturbed by other work on the machine, however often they were repeated. They are\n"+
			"left out, except where too few others are left: then the figure is none.\n", n)
	}
	for _, l := range r.LeftOut {
		fmt.Fprintf(&b, "Left out: %s\n", l)
	}
	return b.String()
}

// disturbed is how many samples stayed so.
func (r *Report) disturbed() (n int) {
	for i := range r.Memory {
		m := &r.Memory[i]
		for _, s := range []Summary{m.Whole, m.Hot, m.Twin, m.Map, m.SetUp, m.Stages[stageNames[0]]} {
			n += s.Disturbed
		}
	}
	for i := range r.Kinds {
		n += r.Kinds[i].Whole.Disturbed + r.Kinds[i].SetUp.Disturbed
	}
	for _, w := range []*WireReport{r.Wire, r.Services} {
		for i := range w.results() {
			n += w.Results[i].CPU.Disturbed + w.Results[i].Flood.Disturbed
		}
	}
	return n
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func (r *Report) memoryText(b *strings.Builder) {
	if len(r.Memory) == 0 {
		return
	}
	b.WriteString("\nIn memory, ns per packet (median, interval of 95 %)\n\n")
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "flows\t\twhole pass\thot work\tC twin\tGo's map\tset-up\thot to C\twhole to C\tmap to hot")
	for i := range r.Memory {
		m := &r.Memory[i]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", sizeName(m.Flows), m.Distribution,
			m.Whole.text(1), m.Hot.text(1), m.Twin.text(1), m.Map.text(0), m.SetUp.text(0), m.HotToTwin.text(2), m.WholeToTwin.text(2), m.MapToHot.text(1))
	}
	t.Flush()
	for i := range r.Memory {
		if m := &r.Memory[i]; m.TwoToOne.Samples > 0 {
			fmt.Fprintf(b, "\nTwo workers on two CPUs, %s flows: %s times what one does", sizeName(m.Flows), m.TwoToOne.text(2))
		}
	}
	b.WriteString("\n\nStages of the hot work, ns per packet, and what the whole pass adds to them\n\n")
	t = tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "flows\t\t%s\tthe rest\n", strings.Join(stageNames[:], "\t"))
	for i := range r.Memory {
		m := &r.Memory[i]
		fmt.Fprintf(t, "%s\t%s", sizeName(m.Flows), m.Distribution)
		for _, name := range stageNames {
			fmt.Fprintf(t, "\t%s", m.Stages[name].text(1))
		}
		fmt.Fprintf(t, "\t%.1f\n", m.rest())
	}
	t.Flush()
}

// rest is what the whole pass takes besides the stages of the hot work.
func (m *MemoryResult) rest() float64 {
	rest := m.Whole.Median
	for _, s := range m.Stages {
		rest -= s.Median
	}
	return rest
}

// text is the tables of what was measured over veth; of says of what.
func (w *WireReport) text(b *strings.Builder, of string) {
	fmt.Fprintf(b, "\nOver veth%s, %d-byte UDP, %d flows, copy mode. CPU is the whole machine's per forwarded packet less the\n", of, w.Frame, w.Flows)
	fmt.Fprintf(b, "generator's own %s ns; at most %d packets under way, so that none is lost.\n", w.Generator.text(0), w.Window)
	if w.answered() {
		b.WriteString("What is answered counts once and passes twice; an XDP program at the server sends it back.\n")
	}
	b.WriteString("\n")
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\tCPU ns\tpackets/s\tflooded: packets/s\tlost\tlatency µs p50\tp99\tp99.9\tchecked")
	for i := range w.Results {
		p := &w.Results[i]
		l := &p.Latency
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%.1f\t%.1f\t%.1f\t%s\n", p.Peer, p.CPU.text(0), p.Rate.text(0), p.Flood.text(0),
			percent(p.FloodLoss.Median), l.P50, l.P99, l.P999, p.Check.text())
	}
	t.Flush()
	for i := range w.Results {
		if p := &w.Results[i]; p.Pktgen.Samples > 0 {
			fmt.Fprintf(b, "\n%s, flooded by the kernel's generator: %s packets/s, %s lost", p.Peer, p.Pktgen.text(0), percent(p.PktgenLoss.Median))
		}
	}
	w.splitText(b)
	b.WriteString("\nIn pairs, one to the other\n\n")
	t = tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\t\tCPU\tpackets/s\tpairs")
	for i := range w.Ratios {
		p := &w.Ratios[i]
		fmt.Fprintf(t, "%s\tto %s\t%s\t%s\t%s\n", p.Of, p.To, p.CPU.text(2), p.Rate.text(2), p.CPU.count())
	}
	t.Flush()
}

func (c *Check) text() string {
	if c.Wrong == 0 && c.Received == c.Sent {
		return fmt.Sprintf("%d right", c.Received)
	}
	return fmt.Sprintf("%d of %d came, %d wrong %s", c.Received, c.Sent, c.Wrong, c.First)
}

func percent(share float64) string { return fmt.Sprintf("%.1f %%", 100*share) }

func (r *Report) barsText(b *strings.Builder) {
	if len(r.Bars) == 0 {
		return
	}
	b.WriteString("\nGoals\n\n")
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for i := range r.Bars {
		g := &r.Bars[i]
		word := "at most"
		if g.AtLeast {
			word = "at least"
		}
		fmt.Fprintf(t, "%s\t%.3g [%.3g, %.3g] %s\t%s %g\t%s\n", g.Name, g.Value, g.Low, g.High, g.Unit, word, g.Goal, g.verdict())
	}
	t.Flush()
}

// count says how many samples there are, and how many were disturbed.
func (s Summary) count() string {
	switch {
	case s.Disturbed == 0:
		return fmt.Sprint(s.Samples)
	case s.Samples-s.Disturbed < leastRounds && s.Samples >= s.Disturbed:
		return fmt.Sprintf("%d, of them %d disturbed", s.Samples, s.Disturbed)
	}
	return fmt.Sprintf("%d, and %d disturbed left out", s.Samples, s.Disturbed)
}

// text is the median and its interval with so many digits behind the point.
func (s Summary) text(digits int) string {
	if s.Samples == 0 {
		return "–"
	}
	return fmt.Sprintf("%.*f [%.*f, %.*f]", digits, s.Median, digits, s.Low, digits, s.High)
}
