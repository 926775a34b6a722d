package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"time"

	"sluice/internal/control"
	"sluice/internal/lab"
)

// audit asks the gateway what it did, by its commands, ends it, and asks the
// checker what left outside until then. The answers must agree with the traffic
// that was sent.
func (l *running) audit(ctx context.Context, t *table) {
	for _, c := range []check{
		{"sluice status", "", "", anyone, l.status},
		{"sluice flows list", "", "", anyone, l.flows},
		{"sluice flows count", "", "", anyone, l.flowCount},
		{"sluice drops", "", "", anyone, l.drops},
		{"SIGTERM ends the gateway", "", "", anyone, l.end},
		{"sluice detach", "", "", anyone, l.detached},
		{"no inside source left outside", "", "", anyone, l.invariant},
	} {
		if ctx.Err() != nil {
			return
		}
		o, err := guarded(ctx, c.run)
		t.row(c, o, err)
	}
}

// ask runs a command of the gateway's program against its control socket and
// returns what it printed.
func (l *running) ask(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, l.binary, append(args, "--socket", l.socket, "-o", "json")...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("sluice %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	return out, nil
}

func (l *running) askJSON(ctx context.Context, into any, args ...string) error {
	out, err := l.ask(ctx, args...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("sluice %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// jsonLines decodes what the listing commands print.
func jsonLines[T any](b []byte) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for dec := json.NewDecoder(bytes.NewReader(b)); ; {
			var v T
			err := dec.Decode(&v)
			if errors.Is(err, io.EOF) || !yield(v, err) || err != nil {
				return
			}
		}
	}
}

// status must find nothing degraded, and workers that have seen packets.
func (l *running) status(ctx context.Context) (o outcome, err error) {
	var s control.Status
	if err := l.askJSON(ctx, &s, "status"); err != nil {
		return o, err
	}
	for _, d := range s.Degraded {
		err = errors.Join(err, fmt.Errorf("degraded: %s", d.What))
	}
	var packets uint64
	for _, w := range s.Workers {
		packets += w.Packets
	}
	if packets == 0 {
		err = errors.Join(err, errors.New("no worker has seen a packet"))
	}
	var modes []string
	for _, i := range s.Interfaces {
		for _, q := range i.Queues {
			if !slices.Contains(modes, q.Mode) {
				modes = append(modes, q.Mode)
			}
		}
	}
	o.detail = fmt.Sprintf("not degraded; %d worker(s), %s mode, %d packets", len(s.Workers), strings.Join(modes, " and "), packets)
	return o, err
}

// flows must all be translated to the external address, but for those with the
// excluded network, which must not be.
func (l *running) flows(ctx context.Context) (o outcome, err error) {
	out, err := l.ask(ctx, "flows", "list")
	if err != nil {
		return o, err
	}
	var natted, plain int
	byProtocol := make(map[string]int)
	for f, err := range jsonLines[control.Flow](out) {
		if err != nil {
			return o, fmt.Errorf("sluice flows list: %w", err)
		}
		if err := lawful(&f); err != nil {
			return o, err
		}
		if f.Natted() {
			natted++
		} else {
			plain++
		}
		byProtocol[f.Protocol]++
	}
	o.detail = fmt.Sprintf("%d masqueraded, %d with their true source; %d tcp, %d udp, %d icmp",
		natted, plain, byProtocol["tcp"], byProtocol["udp"], byProtocol["icmp"])
	if natted < connections || plain == 0 {
		return o, fmt.Errorf("too few: %s", o.detail)
	}
	return o, nil
}

// lawful checks a listed flow against the policy of the lab.
func lawful(f *control.Flow) error {
	excluded := netip.MustParsePrefix(lab.ExcludedNetwork)
	if f.Reply == nil {
		return fmt.Errorf("a %s flow of %s has no reply tuple", f.Protocol, f.Original.Src)
	}
	if excluded.Contains(f.Original.Src) || excluded.Contains(f.Original.Dst) {
		if f.Natted() || f.Kind != "forward" {
			return fmt.Errorf("a flow with the excluded network is translated: %s to %s, kind %s", f.Original.Src, f.Original.Dst, f.Kind)
		}
		return nil
	}
	if f.Kind != "masquerade" || f.Reply.Dst.String() != lab.GatewayOutside {
		return fmt.Errorf("a flow is not masqueraded: %s to %s, kind %s, replies to %s", f.Original.Src, f.Original.Dst, f.Kind, f.Reply.Dst)
	}
	return nil
}

func (l *running) flowCount(ctx context.Context) (o outcome, err error) {
	var c control.FlowCount
	if err := l.askJSON(ctx, &c, "flows", "count"); err != nil {
		return o, err
	}
	o.detail = fmt.Sprintf("%d of %d", c.Count, c.Capacity)
	if c.Count == 0 || c.Count > c.Capacity {
		return o, fmt.Errorf("%s cannot be right", o.detail)
	}
	return o, nil
}

// drops must count the connection that was refused.
func (l *running) drops(ctx context.Context) (o outcome, err error) {
	out, err := l.ask(ctx, "drops")
	if err != nil {
		return o, err
	}
	refused := false
	var counted []string
	for r, err := range jsonLines[control.Drop](out) {
		if err != nil {
			return o, fmt.Errorf("sluice drops: %w", err)
		}
		if r.Packets > 0 {
			counted = append(counted, fmt.Sprintf("%s %d", r.Reason, r.Packets))
		}
		refused = refused || r.Reason == "outside-to-inside" && r.Packets > 0
	}
	o.detail = strings.Join(counted, ", ")
	if !refused {
		return o, fmt.Errorf("the refused connection is not counted as outside-to-inside; counted: %q", o.detail)
	}
	return o, nil
}

// end stops the gateway, which must exit 0.
func (l *running) end(context.Context) (o outcome, err error) {
	if l.gateway == nil {
		return o, errors.New("it does not run")
	}
	began := time.Now()
	err = l.gateway.stop()
	o.detail = "exit status 0 within " + round(time.Since(began)).String()
	l.gateway = nil
	return o, err
}

// detached takes away what the gateway left: the program that holds packets back
// while no gateway runs.
func (l *running) detached(context.Context) (o outcome, err error) {
	names, err := l.detach()
	if err != nil {
		return o, err
	}
	slices.Sort(names)
	if want := []string{lab.InsideNIC, lab.OutsideNIC}; !slices.Equal(names, want) {
		return o, fmt.Errorf("the steering program was on %v, not on %v", names, want)
	}
	o.detail = "the steering program is off " + strings.Join(names, " and ")
	return o, nil
}

// invariant is the checker's verdict over everything, the gateway's end
// included.
func (l *running) invariant(context.Context) (o outcome, err error) {
	r := l.top.Checker.Close()
	l.top.Checker = nil
	o.detail = fmt.Sprintf("%d frames watched, %d to the excluded network", r.Frames, r.Excluded)
	if r.Frames == 0 {
		return o, errors.New("the checker saw no frame at all")
	}
	return o, r.Err()
}
