package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"sluice/conntrack"
	"sluice/internal/agent"
	"sluice/internal/config"
	"sluice/internal/control"
)

// dsrAgent is the DSR agent of this node, while the configuration has one.
type dsrAgent struct {
	log *slog.Logger

	mu    sync.Mutex
	agent *agent.Agent // nil: this node is none
	stop  func()       // ends its loop and waits for it
}

// configure starts, changes or ends the agent.
func (n *dsrAgent) configure(c *config.Config) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	wanted, err := agentConfig(c)
	switch {
	case err != nil:
		return err
	case len(wanted.Interfaces) == 0:
		return n.end(true)
	case n.agent != nil:
		return n.agent.Apply(wanted)
	}
	a, err := agent.Open(wanted, n.log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.Run(ctx)
	}()
	n.agent, n.stop = a, func() { cancel(); <-ended }
	return nil
}

// end lets go of the agent. Unless detach is set its programs stay and serve the
// flows that they know and new ones.
func (n *dsrAgent) end(detach bool) error {
	if n.agent == nil {
		return nil
	}
	n.stop()
	err := n.agent.Close()
	n.agent = nil
	if detach {
		_, gone := agent.Detach()
		err = errors.Join(err, gone)
	}
	return err
}

func (n *dsrAgent) close(detach bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.end(detach)
}

// ask calls f with the agent, if there is one, and keeps it open meanwhile.
func (n *dsrAgent) ask(f func(*agent.Agent) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.agent == nil {
		return nil
	}
	return f(n.agent)
}

// agentConfig words the configuration for the agent.
func agentConfig(c *config.Config) (agent.Config, error) {
	d, t := &c.DSRAgent, &c.Conntrack.Timeouts
	out := agent.Config{
		Interfaces: d.Interfaces, ReplyInterfaces: d.ReplyInterfaces.Names,
		NetworkOrder: c.DSR.ByteOrder == "network", StripOption: d.StripOption, MaxFlows: c.Conntrack.MaxFlows,
		Timeouts: agent.Timeouts{
			Opening: t.TCPSyn.Std(), Transitory: t.TCPTransitory.Std(), Closing: t.Closing().Std(), Established: t.TCPEstablished.Std(),
			TimeWait: t.TCPTimeWait.Std(), Closed: t.TCPClose.Std(), Unreplied: t.UDPUnreplied.Std(), UDP: t.UDP.Std(),
		},
	}
	switch c.DSR.Dispatch {
	case "ipip":
		out.Dispatch = agent.IPIP
	case "geneve":
		out.Dispatch = agent.Geneve
	}
	for _, text := range d.TrustedGateways {
		g, err := config.ParseTrustedGateway(text)
		if err != nil {
			return out, err
		}
		out.Gateways = append(out.Gateways, agent.Gateway{MAC: g.MAC, Address: g.Address})
	}
	for _, text := range d.Services {
		s, err := config.ParseServedAddress(text)
		if err != nil {
			return out, err
		}
		out.Services = append(out.Services, agent.Service{Prefix: s.Prefix, Port: s.Port})
	}
	return out, nil
}

// agentStates are the flow table's states for the agent's.
var agentStates = map[agent.State]conntrack.State{
	agent.Opening: conntrack.TCPSynSent, agent.SynReceived: conntrack.TCPSynReceived, agent.Established: conntrack.TCPEstablished,
	agent.HalfClosed: conntrack.TCPFinWait, agent.TimeWait: conntrack.TCPTimeWait, agent.Reset: conntrack.TCPClose,
	agent.Unreplied: conntrack.UDPUnreplied, agent.Replied: conntrack.UDPReplied,
}

func agentFlow(f *agent.Flow) control.Flow {
	return control.Flow{
		Protocol: control.Protocol(f.Protocol), State: agentStates[f.State].String(), Kind: conntrack.DSRBackend.String(),
		// As the client has it, and as the server answers.
		Original:       control.Tuple{Src: f.Client.Addr(), Dst: f.Service.Addr(), Sport: f.Client.Port(), Dport: f.Service.Port()},
		Reply:          &control.Tuple{Src: f.Backend.Addr(), Dst: f.Client.Addr(), Sport: f.Backend.Port(), Dport: f.Client.Port()},
		TimeoutSeconds: int64(f.Timeout.Seconds()),
		Packets:        control.Pair{Original: f.Packets[0], Reply: f.Packets[1]},
		Bytes:          control.Pair{Original: f.Bytes[0], Reply: f.Bytes[1]},
		Created:        f.Created, Backend: f.Backend.String(),
	}
}

// flows calls f with every flow of the agent until it returns false.
func (n *dsrAgent) flows(f func(*control.Flow) bool) error {
	var cursor agent.Cursor
	var list []agent.Flow
	for !cursor.Done {
		list = list[:0]
		// The agent may end between two chunks: f may wait for whoever reads.
		err := n.ask(func(a *agent.Agent) (err error) {
			list, err = a.Next(&cursor, list)
			return err
		})
		if err != nil || len(list) == 0 && !cursor.Done {
			return err
		}
		for i := range list {
			if c := agentFlow(&list[i]); !f(&c) {
				return nil
			}
		}
	}
	return nil
}

// flush ends the flows that filter matches. What they still send leaves with the
// backend's address.
func (n *dsrAgent) flush(filter control.Filter) (flushed int, err error) {
	var cursor agent.Cursor
	var list []agent.Flow
	for !cursor.Done && err == nil {
		list = list[:0]
		err = n.ask(func(a *agent.Agent) (err error) {
			if list, err = a.Next(&cursor, list); err != nil {
				return err
			}
			for i := range list {
				if c := agentFlow(&list[i]); !filter.Match(&c) {
					continue
				}
				there, gone := a.Remove(&list[i])
				if err = errors.Join(err, gone); there {
					flushed++
				}
			}
			return err
		})
		if len(list) == 0 {
			break
		}
	}
	return flushed, err
}

var agentFates = map[agent.Fate]string{
	agent.Ignored: "delivered as it came, DSR agent: ", agent.Dropped: "dropped, DSR agent: ",
}

// drops are what the agent ignored or dropped, by reason.
func (n *dsrAgent) drops() (list []control.Drop) {
	err := n.ask(func(a *agent.Agent) error {
		counters, err := a.Counters()
		for _, c := range counters {
			if c.Fate != agent.Served {
				list = append(list, control.Drop{Reason: "dsr-agent-" + c.Name, Packets: c.Packets, Explanation: agentFates[c.Fate] + c.Text})
			}
		}
		return err
	})
	if err != nil {
		n.log.Warn(err.Error())
	}
	return list
}

// status adds what there is to say of the agent.
func (n *dsrAgent) status(s *control.Status) {
	err := n.ask(func(a *agent.Agent) error {
		about := a.Status()
		counters, err := a.Counters()
		out := &control.DSRAgent{
			Interfaces: about.Interfaces, ReplyInterfaces: about.ReplyInterfaces, StrictFilter: about.StrictFilter, Hook: about.Hook,
			SourceRules: about.SourceRules,
			Pinned:      about.Pinned, Path: about.Where, Flows: control.Usage{Used: about.Flows, Capacity: about.MaxFlows},
		}
		for _, c := range counters {
			out.Counters = append(out.Counters, control.Counter{Name: c.Name, Packets: c.Packets})
		}
		s.DSRAgent = out
		s.Degraded = append(s.Degraded, agentProblems(&about)...)
		return err
	})
	if err != nil {
		n.log.Warn(err.Error())
	}
}

func agentProblems(s *agent.Status) (list []control.Degradation) {
	add := func(remedy, format string, args ...any) {
		list = append(list, control.Degradation{What: "DSR agent: " + fmt.Sprintf(format, args...), Remedy: remedy})
	}
	for _, name := range s.Missing {
		add("bring it up, or correct dsr-agent", "interface %s is not there", name)
	}
	if len(s.TakenOff) > 0 {
		add("attach them again: `systemctl restart sluice`",
			"its programs were taken off %s (`sluice detach` does that): requests keep the option, and replies leave with the backend's address", strings.Join(s.TakenOff, ", "))
	}
	for _, addr := range s.Unresolved {
		add("see whether it runs and `ip neigh` shows it; behind a router, list the router's MAC", "trusted gateway %s does not answer ARP: it is not believed", addr)
	}
	if len(s.StrictFilter) > 0 && len(s.ReplyInterfaces) > 1 {
		add("sysctl net.ipv4.conf.INTERFACE.rp_filter=2, if clients are routed by another interface",
			"rp_filter is strict on %s: requests of clients that the node reaches another way are dropped", strings.Join(s.StrictFilter, ", "))
	}
	if s.NoLookup {
		add("sysctl net.ipv4.conf.lo.forwarding=1, which forwards nothing",
			"routing rules ask for the source, and the kernel does not look routes up for replies of the node's own servers: they leave as the backend's address does")
	}
	if float64(s.Flows) > pressure*float64(s.MaxFlows) {
		add("raise conntrack.max-flows", "flow table: %d of %d in use", s.Flows, s.MaxFlows)
	}
	if !s.Pinned {
		add("mount bpffs on the host before the service starts", "its flows end with the process: %s", s.Where)
	}
	if s.Problem != "" {
		add("see the log", "%s", s.Problem)
	}
	return list
}
