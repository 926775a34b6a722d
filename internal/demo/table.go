package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"sluice/internal/lab"
)

// outcome is what a check found.
type outcome struct {
	seen   []netip.Addr // the sources that the far end saw
	detail string       // the figures
}

// saw adds a source, once.
func (o *outcome) saw(a netip.Addr) {
	a = a.Unmap()
	if !slices.Contains(o.seen, a) {
		o.seen = append(o.seen, a)
	}
}

// table prints the checks as they are made, and counts.
type table struct {
	w              io.Writer
	checks, failed int
}

func newTable(w io.Writer) *table { return &table{w: w} }

const rowFormat = "  %-4s  %-34s %-10s %-10s %-28s %s\n"

// picture shows the lab and its addresses.
func picture(w io.Writer, l *running) {
	fmt.Fprintf(w, `
  client1 %-11s ─┐                           ┌─ server1 %s
                       ├─── gateway %-12s ──┼─ server2 %s
  client2 %-11s ─┘      (%s)         └─ excluded network %s

  network namespaces %s and so on; the gateway was ready in %s

`, lab.Client1Address, lab.Server1Address, lab.GatewayOutside, lab.Server2Address,
		lab.Client2Address, lab.GatewayInside, lab.ExcludedNetwork,
		l.top.Gateway.Name(), round(l.ready))
}

func (t *table) head() {
	fmt.Fprintf(t.w, rowFormat, "", "CHECK", "FROM", "TO", "SOURCE THE FAR END SAW", "RESULT")
}

// row prints one check: what the far end saw must be want and nothing else,
// where want is given.
func (t *table) row(c check, o outcome, err error) {
	if err == nil && c.want != anyone {
		err = sources(o.seen, c.want.address)
	}
	t.checks++
	mark, result := "ok", o.detail
	if err != nil {
		t.failed++
		mark, result = "FAIL", oneLine(err)
	}
	fmt.Fprintf(t.w, rowFormat, mark, c.what, c.from, c.to, seenAs(o.seen, c.want), result)
}

// sources compares the sources that were seen with the only one expected.
func sources(seen []netip.Addr, want string) error {
	if len(seen) == 0 {
		return errors.New("the far end saw nothing")
	}
	for _, a := range seen {
		if a.String() != want {
			return fmt.Errorf("the source should have been %s", want)
		}
	}
	return nil
}

// seenAs lists sources, with the word for the expected one.
func seenAs(seen []netip.Addr, want source) string {
	if len(seen) == 0 {
		return "-"
	}
	names := make([]string, len(seen))
	for i, a := range seen {
		names[i] = a.String()
		if names[i] == want.address {
			names[i] += " " + want.words
		}
	}
	return strings.Join(names, ", ")
}

// foot prints the sum and returns it as an error if anything failed.
func (t *table) foot(ctx context.Context, took time.Duration) error {
	if ctx.Err() != nil {
		fmt.Fprintf(t.w, "\n  stopped after %d checks: %v\n", t.checks, context.Cause(ctx))
		return fmt.Errorf("demo: stopped: %w", context.Cause(ctx))
	}
	if t.failed > 0 {
		fmt.Fprintf(t.w, "\n  %d of %d checks FAILED in %s\n", t.failed, t.checks, round(took))
		return fmt.Errorf("demo: %d of %d checks failed", t.failed, t.checks)
	}
	fmt.Fprintf(t.w, "\n  all %d checks passed in %s\n", t.checks, round(took))
	return nil
}

// oneLine is an error that fits a row.
func oneLine(err error) string {
	return strings.ReplaceAll(strings.ReplaceAll(err.Error(), "\n", "; "), "\t", "")
}

// round leaves a duration three digits or so.
func round(d time.Duration) time.Duration {
	switch {
	case d > time.Second:
		return d.Round(10 * time.Millisecond)
	case d > time.Millisecond:
		return d.Round(10 * time.Microsecond)
	default:
		return d.Round(time.Microsecond)
	}
}

// rate is bytes over time in the unit of networks.
func rate(bytes int, d time.Duration) string {
	return fmt.Sprintf("%.2f Gbit/s", float64(bytes)*8/d.Seconds()/1e9)
}
