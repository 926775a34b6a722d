package bench

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// OperatorReport is what commands that only look cost a gateway at full load.
type OperatorReport struct {
	Flows   int              `json:"flows"`  // that are in the table meanwhile
	Shared  bool             `json:"shared"` // the commands had no CPU of their own, but shared the generator's
	Pace    float64          `json:"pace"`   // packets a second of the stream that does not wait
	Results []OperatorResult `json:"results"`
}

// OperatorResult is what was measured beside one command.
type OperatorResult struct {
	Command string `json:"command"`

	// With as many packets under way as the window allows.
	Rate      Summary `json:"rate"`       // packets a second
	RateRatio Summary `json:"rate_ratio"` // to beside nothing
	Work      Summary `json:"work"`       // ns of the worker's time a packet
	WorkRatio Summary `json:"work_ratio"`
	Held      Summary `json:"held"` // share of the time that the worker waited for its CPU
	Sent      int64   `json:"sent"`
	Lost      int64   `json:"lost"`

	// The stream that does not wait.
	PaceReached Summary `json:"pace_reached"` // share of the pace that the generator reached
	PacedLoss   Summary `json:"paced_loss"`   // share of each sample; where the worker stood still it is all at once
	PacedSent   int64   `json:"paced_sent"`
	PacedLost   int64   `json:"paced_lost"`

	Where       string  `json:"where"`       // the gateway's counters of what was lost, with both
	Unaccounted int64   `json:"unaccounted"` // lost and in no counter of the gateway's
	Disturbed   int     `json:"disturbed"`   // samples that stayed so, of which no loss is counted
	CPU         Summary `json:"cpu"`         // CPUs that the command and the gateway's other threads used
}

// report sums up.
func (w *operatorRun) report() *OperatorReport {
	r := &OperatorReport{Flows: operatorFlows, Shared: w.spare == w.site.generatorCPU, Pace: w.pace}
	alone := w.results[0]
	for _, x := range w.results {
		r.Results = append(r.Results, OperatorResult{
			Command: x.command.name, Rate: summarize(x.rate), RateRatio: summarize(ratios(x.rate, alone.rate)),
			Work: summarize(x.work), WorkRatio: summarize(ratios(x.work, alone.work)), Held: summarize(x.held),
			Sent: x.sent, Lost: x.sent - x.received,
			PaceReached: summarize(x.pace), PacedLoss: summarize(x.loss), PacedSent: x.pacedSent, PacedLost: x.pacedLost,
			Where: x.lost.text(), Unaccounted: x.unaccounted, Disturbed: x.disturbed, CPU: summarize(x.cpu),
		})
	}
	return r
}

func (r *OperatorReport) text(b *strings.Builder) {
	fmt.Fprintf(b, "\nCommands beside a gateway at full load, %s flows in its table, %d-byte UDP over veth. First as fast as nothing\n"+
		"is lost, at most %d packets under way; then a stream of %.0f packets/s that waits for nothing.\n\n", sizeName(r.Flows), frameLength, window, r.Pace)
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "beside\tpackets/s\tto nothing\tworker, ns\tto nothing\theld up\tlost\tpace reached\tlost of a sample\tin all\tCPUs used\tsamples")
	for i := range r.Results {
		x := &r.Results[i]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%d of %d\t%s\t%s [%s, %s]\t%d of %d\t%s\t%s\n", x.Command, x.Rate.text(0), x.RateRatio.text(2),
			x.Work.text(0), x.WorkRatio.text(2), percent(x.Held.Median), x.Lost, x.Sent, x.PaceReached.text(2),
			percent(x.PacedLoss.Median), percent(x.PacedLoss.Low), percent(x.PacedLoss.High), x.PacedLost, x.PacedSent, x.CPU.text(2), x.Rate.count())
	}
	t.Flush()
	for i := range r.Results {
		if x := &r.Results[i]; x.Lost+x.PacedLost > 0 {
			fmt.Fprintf(b, "\nLost beside %s: %s; in no counter: %d", x.Command, orNone(x.Where), x.Unaccounted)
		}
	}
	if r.Shared {
		b.WriteString("\nThere was no CPU for the commands: they share the generator's, and slow it down, as the busy shell does.\n")
	}
}
