package bench

import (
	"fmt"
	"html/template"
	"strings"
)

// page is the whole HTML file: nothing in it is fetched from elsewhere.
var page = template.Must(template.New("report").Parse(`<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Sluice: benchmark</title>
<style>
:root { color-scheme: light dark; --ink: #1c2430; --soft: #667085; --paper: #fff; --grid: #e4e7ec; --card: #f8fafc;
  --c0: #8a94a6; --c1: #2e90fa; --c2: #0e9384; --c3: #f79009; --c4: #9e77ed; --c5: #d444a0; --good: #12b76a; --bad: #f04438; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --paper: #12161d; --grid: #2a313c; --card: #1a2029; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 940px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; margin-bottom: 0; } h2 { font-size: 1.1em; margin: 2.2em 0 .2em; }
p { margin: .3em 0; color: var(--soft); } p.sum { font-size: 1.2em; color: var(--ink); margin: .8em 0; }
svg { width: 100%; height: auto; } pre { background: var(--card); padding: 1em; overflow-x: auto; font-size: 12px; border-radius: 6px; }
.label { font-size: 12.5px; fill: var(--ink); } .tick { font-size: 11px; fill: var(--soft); }
.grid { stroke: var(--grid); } .mark { stroke: var(--ink); stroke-width: 2; stroke-dasharray: 5 3; } .whisker { stroke: var(--ink); stroke-width: 1.3; }
.good { fill: var(--good); } .bad { fill: var(--bad); }
.s0 { fill: var(--c0); } .s1 { fill: var(--c1); } .s2 { fill: var(--c2); } .s3 { fill: var(--c3); } .s4 { fill: var(--c4); } .s5 { fill: var(--c5); }
.l0 { stroke: var(--c0); } .l1 { stroke: var(--c1); } .l2 { stroke: var(--c2); } .l3 { stroke: var(--c3); } .l4 { stroke: var(--c4); } .l5 { stroke: var(--c5); }
.l0, .l1, .l2, .l3, .l4, .l5 { stroke-width: 2; } .dashed { stroke-dasharray: 6 5; }
</style>
<h1>Sluice: benchmark</h1>
<p>{{.Subtitle}}</p>
<p class="sum">{{.Summary}}</p>
{{range .Plots}}<h2>{{.Title}}</h2>
<p>{{.Text}}</p>
{{.SVG}}
{{end}}<h2>All figures</h2>
<pre>{{.Tables}}</pre>
</html>
`))

// plot is one picture of the page.
type plot struct {
	Title, Text string
	SVG         template.HTML
}

// HTML is the report as one page with plots.
func (r *Report) HTML() string {
	m := &r.Machine
	met := 0
	for i := range r.Bars {
		if r.Bars[i].Met {
			met++
		}
	}
	summary := fmt.Sprintf("%d of %d goals reached.", met, len(r.Bars))
	if r.Quick {
		summary += " A quick run: too few samples to quote."
	}
	content := struct {
		Subtitle, Summary, Tables string
		Plots                     []plot
	}{
		Subtitle: fmt.Sprintf("%s, %s, %s, %d CPUs, Linux %s, %s", r.Version, r.Started.UTC().Format("2006-01-02 15:04 MST"), m.CPU, m.CPUs, m.Kernel, m.Go),
		Summary:  summary, Tables: r.Text(), Plots: r.plots(),
	}
	var b strings.Builder
	// A strings.Builder does not fail, and the template is a constant whose
	// every field is there, which the tests execute.
	if err := page.Execute(&b, content); err != nil {
		return err.Error()
	}
	return b.String()
}

func (r *Report) plots() (list []plot) {
	add := func(title, text, svg string) {
		// What the plots draw is escaped where it is drawn.
		list = append(list, plot{title, text, template.HTML(svg)})
	}
	if len(r.Bars) > 0 {
		add("Goals", "How much of what is allowed each figure takes. Left of the line is good.", r.goalPlot())
	}
	if places := r.places(); len(places) > 0 {
		add("One packet in memory", "Nanoseconds by number of flows, every packet of a random flow; logarithmic. VPP's graph is a figure of "+
			"another run on a machine of this kind, drawn for orientation.", r.flowPlot(places))
		add("Where the time goes", "The stages of the whole pass, nanoseconds per packet.", r.stagePlot(places))
	}
	if len(r.Kinds) > 0 {
		add("Kinds of traffic in memory", fmt.Sprintf("Nanoseconds per packet of the whole pass, %s flows of each kind in one table.", sizeName(r.Kinds[len(r.Kinds)-1].Flows)),
			r.kindsPlot())
	}
	if r.Wire != nil && len(r.Wire.Results) > 0 {
		add("CPU over veth", fmt.Sprintf("Nanoseconds of the whole machine per forwarded packet, less the generator's own %.0f.", r.Wire.Generator.Median),
			r.Wire.bars("ns per packet", func(p *WireResult) Summary { return p.CPU }, "%.0f"))
		add("Packets a second over veth", "The most that passes without loss, generator and gateway on a CPU each.",
			r.Wire.bars("packets a second", func(p *WireResult) Summary { return p.Rate }, "%.0f"))
		add("Latency over veth", "Microseconds of a paced stream, logarithmic.", r.Wire.latencyPlot())
	}
	if len(r.Services.results()) > 0 {
		add("Services: CPU over veth", "Nanoseconds of the whole machine per packet that came back or arrived, less the generator's own. What is answered passes twice.",
			r.Services.bars("ns per packet", func(p *WireResult) Summary { return p.CPU }, "%.0f"))
		add("Services: packets a second over veth", "The most that passes without loss.",
			r.Services.bars("packets a second", func(p *WireResult) Summary { return p.Rate }, "%.0f"))
	}
	if r.Receivers != nil && len(r.Receivers.Results) > 0 {
		add("Many receivers at once", fmt.Sprintf("Share of segments that the server had to send again, of %d TCP connections that begin to receive at once.", r.Receivers.Connections),
			r.Receivers.plot())
	}
	return list
}

func (r *Report) goalPlot() string {
	rows := make([]row, len(r.Bars))
	for i := range r.Bars {
		b := &r.Bars[i]
		class, word := "bad", "≤"
		if b.Met {
			class = "good"
		}
		if b.AtLeast {
			word = "≥"
		}
		rows[i] = row{name: b.Name, value: fmt.Sprintf("%.3g %s, %s %g", b.Value, b.Unit, word, b.Goal), class: class, length: b.reached()}
	}
	return lyingBars("Goals", "share of what is allowed", rows, 1)
}

// places are the results of uniform traffic, by number of flows.
func (r *Report) places() (list []*MemoryResult) {
	for i := range r.Memory {
		if r.Memory[i].Distribution == Uniform {
			list = append(list, &r.Memory[i])
		}
	}
	return list
}

func sizeNames(places []*MemoryResult) (names []string) {
	for _, m := range places {
		names = append(names, sizeName(m.Flows)+" flows")
	}
	return names
}

func (r *Report) flowPlot(places []*MemoryResult) string {
	list := []curve{{name: "C twin, hot work"}, {name: "Go, hot work"}, {name: "Go, whole pass"}, {name: "hot work over Go's map"}, {name: "VPP's graph", dashed: true}}
	for _, m := range places {
		for i, s := range []Summary{m.Twin, m.Hot, m.Whole, m.Map, {Median: vppGraph[m.Flows]}} {
			list[i].points = append(list[i].points, s)
		}
	}
	return curves("One packet in memory", "ns", sizeNames(places), list)
}

func (r *Report) stagePlot(places []*MemoryResult) string {
	parts := append(stageNames[:len(stageNames):len(stageNames)], "the rest: decision, next hop, queues, sweep")
	values := make([][]float64, len(places))
	for i, m := range places {
		for _, name := range stageNames {
			values[i] = append(values[i], m.Stages[name].Median)
		}
		values[i] = append(values[i], m.rest())
	}
	return stacks("Where the time goes", "ns", sizeNames(places), parts, values)
}

// bars draws one quantity of all peers.
func (w *WireReport) bars(unit string, of func(*WireResult) Summary, format string) string {
	var rows []row
	for i := range w.Results {
		p := &w.Results[i]
		s, class := of(p), "s0"
		if p.Peer.ours() {
			class = "s1"
		}
		rows = append(rows, row{name: string(p.Peer), value: fmt.Sprintf(format, s.Median), class: class, length: s.Median, low: s.Low, high: s.High})
	}
	return lyingBars(unit, unit, rows, 0)
}

func (w *WireReport) latencyPlot() string {
	list := make([]curve, len(w.Results))
	for i := range w.Results {
		l := &w.Results[i].Latency
		list[i] = curve{name: string(w.Results[i].Peer), points: []Summary{{Median: l.P50}, {Median: l.P99}, {Median: l.P999}}}
	}
	return curves("Latency", "µs", []string{"median", "99 %", "99.9 %"}, list)
}
