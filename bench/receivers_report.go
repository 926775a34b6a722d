package bench

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// text is the table of many receivers at once.
func (r *ReceiversReport) text(b *strings.Builder) {
	fmt.Fprintf(b, "\n%d TCP connections that begin to receive %d KiB each at once, over veth\n\n", r.Connections, r.Bytes>>10)
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\tseconds\tsegments\tsent again\tfill ring empty\tRX ring full\trounds")
	for i := range r.Results {
		p := &r.Results[i]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s [%s, %s]\t%s\t%s\t%s\n", p.Peer, p.Seconds.text(2), p.Segments.text(0),
			percent(p.Retransmitted.Median), percent(p.Retransmitted.Low), percent(p.Retransmitted.High),
			p.FillRingEmpty.text(0), p.RXRingFull.text(0), p.Seconds.count())
	}
	t.Flush()
}

// plot draws what had to be sent again.
func (r *ReceiversReport) plot() string {
	var rows []row
	for i := range r.Results {
		p := &r.Results[i]
		class := "s0"
		if p.Peer.ours() {
			class = "s1"
		}
		s := p.Retransmitted
		rows = append(rows, row{name: string(p.Peer), value: percent(s.Median), class: class, length: 100 * s.Median, low: 100 * s.Low, high: 100 * s.High})
	}
	return lyingBars("Many receivers at once", "% of segments", rows, 0)
}
