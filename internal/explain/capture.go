package explain

import (
	"fmt"
	"strings"

	"sluice/conntrack"
	"sluice/internal/control"
	"sluice/internal/fib"
	"sluice/internal/gateway"
)

// Comment is what a captured packet's comment says, in the words of Trace: fields
// `NAME: VALUE` with "; " between them, verdict first, and only those that apply.
// docs/tracing.md lists them; names are never renamed.
func Comment(g *Gateway, worker int, c *gateway.Captured) string {
	a := &account{Gateway: g}
	f := make(fields, 0, 12)
	f.add("verdict", "%s", a.capturedVerdict(c))
	if c.Fate == gateway.Dropped || c.Fate == gateway.Punted {
		f.add("reason", "%s (%s)", c.Reason, strings.ReplaceAll(c.Reason.Explain(), "; ", ", "))
	}
	if c.Error != gateway.NoError {
		f.add("error", "icmp %s to the sender", c.Error)
	}
	if c.Reset {
		f.add("error", "TCP reset to the client")
	}
	if c.IPv4 && c.In != fib.NoPort {
		f.add("before", "%s", arrow(c.Before))
	}
	if c.Left {
		f.add("after", "%s", arrow(c.After))
	}
	if c.Fragments > 0 {
		f.add("fragments", "%d", c.Fragments)
	}
	if c.HasFlow {
		name := "ended"
		if c.ID != 0 {
			name = fmt.Sprintf("%d.%d", c.ID, c.Generation)
		}
		f.add("flow", "%s", name)
		f.add("kind", "%s", c.Flow.Kind)
		f.add("state", "%s", c.Flow.State)
		f.add("direction", "%s", c.Flow.Direction)
	}
	if c.In != fib.NoPort {
		f.add("in", "%s", a.name(c.In))
	}
	if c.Out != fib.NoPort {
		f.add("out", "%s", a.name(c.Out))
	}
	f.add("worker", "%d", worker)
	if c.Queue >= 0 {
		f.add("queue", "%d", c.Queue)
	}
	return strings.Join(f, "; ")
}

type fields []string

func (f *fields) add(name, format string, args ...any) {
	*f = append(*f, name+": "+fmt.Sprintf(format, args...))
}

// arrow is a tuple as tcpdump's users read it.
func arrow(t conntrack.Tuple) string {
	return control.Protocol(t.Proto) + " " + endpoint(t.Proto, t.Src, t.SrcPort) + " > " + endpoint(t.Proto, t.Dst, t.DstPort)
}

// capturedVerdict is the packet's verdict, in the words of explain.
func (a *account) capturedVerdict(c *gateway.Captured) string {
	switch c.Fate {
	case gateway.Dropped:
		return "drop: " + c.Reason.String()
	case gateway.Punted:
		return "pass to kernel"
	case gateway.Answered:
		if c.IPv4 {
			return "answer echo"
		}
		return "answer ARP"
	case gateway.Waiting:
		return "wait for the first fragment"
	case gateway.HandedOver:
		return "hand over to another worker"
	case gateway.Searching:
		return "wait for a port"
	}
	if c.In == fib.NoPort {
		return "send what waited, or the gateway's own"
	}
	to, from := c.After, c.Before
	switch {
	case !c.Left || c.HasFlow && c.Flow.Direction == conntrack.Reply:
		return "forward"
	case c.HasFlow && (c.Flow.Kind == conntrack.ServiceSNAT || c.Flow.Kind == conntrack.ServiceDSR):
		return fmt.Sprintf("balance to %s (%s)", endpoint(to.Proto, to.Dst, to.DstPort), mode(c.Flow.Kind))
	case to.Src != from.Src || to.SrcPort != from.SrcPort:
		return "masquerade to " + endpoint(to.Proto, to.Src, to.SrcPort)
	}
	return "forward"
}
