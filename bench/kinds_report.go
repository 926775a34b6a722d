package bench

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// kindsText is the table of the kinds of traffic.
func (r *Report) kindsText(b *strings.Builder) {
	if len(r.Kinds) == 0 {
		return
	}
	b.WriteString("\nKinds of traffic in memory, whole pass, ns per packet, and the first packet of a flow, ns\n\n")
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "flows\t\twhole pass\tset-up\tto\twhole pass\tset-up")
	for i := range r.Kinds {
		k := &r.Kinds[i]
		against, ratio, setUp := k.Against, k.Ratio.text(2), k.SetUpRatio.text(2)
		if k.Against == k.Kind {
			against, ratio, setUp = "", "", ""
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", sizeName(k.Flows), k.Kind, k.Whole.text(1), k.SetUp.text(0), against, ratio, setUp)
	}
	t.Flush()
}

// kindsPlot draws the whole pass of every kind, for the most flows.
func (r *Report) kindsPlot() string {
	most := r.Kinds[len(r.Kinds)-1].Flows
	var rows []row
	for i := range r.Kinds {
		k := &r.Kinds[i]
		if k.Flows != most {
			continue
		}
		class := "s1"
		if k.Against == k.Kind {
			class = "s0"
		}
		rows = append(rows, row{name: k.Kind, value: fmt.Sprintf("%.1f", k.Whole.Median), class: class, length: k.Whole.Median, low: k.Whole.Low, high: k.Whole.High})
	}
	return lyingBars("Kinds of traffic", "ns per packet", rows, 0)
}
