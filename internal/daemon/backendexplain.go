package daemon

import (
	"fmt"
	"net/netip"

	"sluice/internal/agent"
	"sluice/internal/config"
	"sluice/internal/control"
	"sluice/internal/packet"
)

// explainBackend says what becomes of a packet on a node that is a DSR agent and no
// gateway: the kernel has it, whatever it is, and the agent may know its flow.
// flows is nil where nobody knows any.
func explainBackend(c *config.Config, q control.Question, flows *dsrAgent) (control.Explanation, error) {
	e := control.Explanation{
		Verdict: "pass to kernel", Action: "pass-to-kernel", Protocol: q.Proto, Config: c.Path, In: q.In,
		Original: control.Tuple{Src: q.Src.Addr(), Dst: q.Dst.Addr(), Sport: q.Src.Port(), Dport: q.Dst.Port()},
	}
	add := func(stage, format string, args ...any) {
		e.Decisions = append(e.Decisions, control.Decision{Stage: stage, Line: c.Line("dsr-agent"), Text: fmt.Sprintf(format, args...)})
	}
	add("arrival", "no interfaces are listed: this node is a DSR agent and no gateway, and its kernel routes and delivers")
	if flows == nil {
		e.Assumptions = []string{"the file alone was read: ask the daemon with --socket whether the agent has a flow of this packet"}
		return e, nil
	}
	request, err := flows.find(q.Proto, q.Src, q.Dst)
	if err != nil {
		return e, err
	}
	reply, err := flows.find(q.Proto, q.Dst, q.Src)
	switch {
	case err != nil:
		return e, err
	case request != nil:
		add("flow", "the agent has it as a request to %s: what %s answers leaves with that source", request.Service, request.Backend)
	case reply != nil:
		add("flow", "the agent has it as a reply: its source becomes %s", reply.Service)
		e.Translated = &control.Tuple{Src: reply.Service.Addr(), Sport: reply.Service.Port(), Dst: q.Dst.Addr(), Dport: q.Dst.Port()}
	default:
		add("flow", "the agent has no flow of it, neither as a request to a backend nor as its reply: nothing is translated")
	}
	return e, nil
}

// find is the flow between a client and a backend, or nil.
func (n *dsrAgent) find(proto string, client, backend netip.AddrPort) (found *agent.Flow, err error) {
	err = n.ask(func(a *agent.Agent) (err error) {
		for _, p := range []uint8{packet.ProtoTCP, packet.ProtoUDP} {
			if control.Protocol(p) == proto {
				found, err = a.Find(p, client, backend)
			}
		}
		return err
	})
	return found, err
}
