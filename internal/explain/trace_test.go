package explain

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"sluice/internal/control"
	"sluice/internal/fib"
	"sluice/internal/filter"
	"sluice/internal/gateway"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/xdp"
)

// headroom is in front of a received frame, as in a UMEM.
const headroom = 256

// side is a port that receives one frame at a time, into the memory that it
// shares with the others, and sends nowhere.
type side struct {
	memory memory
	frame  []byte
}

func (s *side) Receive(descs []xdp.Desc) int {
	if s.frame == nil {
		return 0
	}
	descs[0] = xdp.Desc{Addr: headroom, Len: uint32(copy(s.memory[headroom:], s.frame))}
	s.frame = nil
	return 1
}
func (s *side) Transmit(descs []xdp.Desc) int { return len(descs) }
func (s *side) Flush()                        {}
func (s *side) SetUp(bool)                    {}
func (s *side) Up() bool                      { return true }
func (s *side) Wasted() uint64                { return 0 }

type memory []byte

func (m memory) Bytes() []byte           { return m }
func (m memory) Allocate([]xdp.Desc) int { return 0 }
func (m memory) Free([]xdp.Desc)         {}

// kernel takes everything that it is given back.
type kernel struct{}

func (kernel) Punt(fib.PortID, []byte, verdict.Reason) bool { return true }

// traceRig is the live gateway with a worker.
type traceRig struct {
	*Gateway
	t      *testing.T
	worker *gateway.Worker
	sides  [2]*side // by interface: eth1, eth0
	trace  *gateway.Trace
}

func newTraceRig(t *testing.T) *traceRig {
	g, _, _ := live(t)
	r := &traceRig{Gateway: g, t: t, trace: gateway.NewTrace(&filter.Filter{}, 1, 1000)}
	m := make(memory, 4096)
	r.sides = [2]*side{{memory: m}, {memory: m}}
	var pointer atomic.Pointer[gateway.Snapshot]
	pointer.Store(g.Snapshot)
	r.worker = gateway.New(gateway.Config{
		Workers: 1, Table: g.Table, Ports: []gateway.Port{r.sides[0], r.sides[1]}, Memory: m, Snapshot: &pointer,
		Resolve: make(chan gateway.Neighbour, 64), Punt: kernel{},
	})
	r.worker.SetLooks(gateway.NewLooks(1, []*gateway.Trace{r.trace}, nil))
	return r
}

// pass has a frame arrive on an interface, and tells what the worker did.
func (r *traceRig) pass(on string, frame []byte) control.Explanation {
	r.t.Helper()
	r.sides[map[string]int{"eth1": 0, "eth0": 1}[on]].frame = frame
	r.worker.Step(r.Now)
	var record gateway.TraceRecord
	if !r.trace.Read(0, &record) {
		r.t.Fatal("the packet was not traced")
	}
	return Trace(r.Gateway, &record)
}

// frame is the packet of a question, as packetOf has it.
func frame(t *testing.T, q control.Question, change func(*layers.IPv4)) []byte {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, SrcIP: q.Src.Addr().AsSlice(), DstIP: q.Dst.Addr().AsSlice()}
	var l4 gopacket.SerializableLayer
	switch q.Proto {
	case "tcp":
		l := &layers.TCP{SrcPort: layers.TCPPort(q.Src.Port()), DstPort: layers.TCPPort(q.Dst.Port()), SYN: true}
		_ = l.SetNetworkLayerForChecksum(ip)
		ip.Protocol, l4 = layers.IPProtocolTCP, l
	case "udp":
		l := &layers.UDP{SrcPort: layers.UDPPort(q.Src.Port()), DstPort: layers.UDPPort(q.Dst.Port())}
		_ = l.SetNetworkLayerForChecksum(ip)
		ip.Protocol, l4 = layers.IPProtocolUDP, l
	default:
		ip.Protocol, l4 = layers.IPProtocolICMPv4, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: q.Src.Port()}
	}
	if change != nil {
		change(ip)
	}
	eth := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 9}, DstMAC: []byte{2, 0, 0, 0, 0, 8}, EthernetType: layers.EthernetTypeIPv4}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, l4); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestTraceSaysWhatExplainSays: of the same packet, word for word, but for what
// only one of them can know.
func TestTraceSaysWhatExplainSays(t *testing.T) {
	for _, question := range []string{
		"udp 10.20.30.5:6000 1.1.1.1:53 eth1",    // begins a flow, keeps its port
		"udp 10.20.30.6:5000 9.9.9.9:53 eth1",    // its port is taken
		"udp 10.20.30.5:5000 1.1.1.1:53 eth1",    // belongs to a flow
		"udp 1.1.1.1:53 192.0.2.2:5000 eth0",     // answers it
		"udp 1.1.1.1:53 192.0.2.2:5000 eth1",     // from the wrong side
		"udp 10.20.30.6:7 192.0.2.2:5000 eth1",   // hairpin
		"udp 9.9.9.9:53 192.0.2.2:5000 eth0",     // filtered
		"tcp 10.20.30.5:53 10.8.0.1:22 eth1",     // excluded from masquerading
		"tcp 10.20.30.5:53 10.6.0.1:22 eth1",     // no way there
		"tcp 10.20.30.5:53 192.0.2.66:22 eth1",   // the neighbour is dead
		"tcp 10.20.30.5:2053 192.0.2.77:22 eth1", // the neighbour is not known
		"tcp 9.9.9.9:53 10.20.30.5:22 eth0",      // from outside to inside
		"tcp 10.20.30.5:53 10.20.30.5:22 eth1",   // a martian
		"icmp 10.20.30.5:77 1.1.1.1 eth1",
	} {
		t.Run(question, func(t *testing.T) {
			r := newTraceRig(t)
			q := ask(t, question)
			e, err := Explain(r.Gateway, q)
			if err != nil {
				t.Fatal(err)
			}
			x := r.pass(q.In, frame(t, q, nil))
			only := func(list []control.Decision, not ...string) []control.Decision {
				return slices.DeleteFunc(slices.Clone(list), func(d control.Decision) bool {
					return slices.Contains(not, d.Stage) || strings.HasPrefix(d.Text, "the flow is in state ")
				})
			}
			want, got := only(e.Decisions, stageSteering, stageAnswer), only(x.Decisions, stageParse, stageError, stageDeparture)
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("decisions: %s", d)
			}
			if before, open := strings.CutSuffix(e.Verdict, "*"); x.Verdict != e.Verdict && !(open && strings.HasPrefix(x.Verdict, before)) {
				t.Errorf("traced: %s, explained: %s", x.Verdict, e.Verdict)
			}
			if x.Action != e.Action || x.Reason != e.Reason || x.In != e.In || x.Out != e.Out || x.Protocol != e.Protocol || x.Original != e.Original {
				t.Errorf("traced %+v, explained %+v", x, e)
			}
		})
	}
}

// TestTraceWords: what only a trace can tell.
func TestTraceWords(t *testing.T) {
	plain := "udp 10.20.30.5:6000 1.1.1.1:53"
	quote := func(t *testing.T) []byte { // about the flow of live, from a router on the way
		t.Helper()
		about := frame(t, ask(t, "udp 192.0.2.2:5000 1.1.1.1:53"), nil)
		ip := &layers.IPv4{Version: 4, TTL: 60, Protocol: layers.IPProtocolICMPv4, SrcIP: fib.Addr(addr("203.0.113.1")).AsSlice(), DstIP: fib.Addr(addr("192.0.2.2")).AsSlice()}
		b := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
			&layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}, ip,
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 3)}, gopacket.Payload(about[packet.EthernetLength:])); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	for _, tt := range []struct {
		name, on string
		frame    func(t *testing.T) []byte
		verdict  string
		want     []string // stage: text, each
	}{
		{"departure", "eth1", func(t *testing.T) []byte { return frame(t, ask(t, plain), nil) }, "masquerade to 192.0.2.2:6000",
			[]string{"flow: the flow is in state unreplied now", "departure: leaves by eth0 as 192.0.2.2:6000 to 1.1.1.1:53, TTL 63"}},
		{"waits", "eth1", func(t *testing.T) []byte { return frame(t, ask(t, "udp 10.20.30.5:6000 192.0.2.77:53"), nil) }, "masquerade to 192.0.2.2:6000",
			[]string{"departure: waits for its next hop's link address, to leave by eth0 as 192.0.2.2:6000 to 192.0.2.77:53, TTL 63"}},
		{"TCP flags", "eth1", func(t *testing.T) []byte { return frame(t, ask(t, "tcp 10.20.30.5:6000 1.1.1.1:53"), nil) }, "masquerade to 192.0.2.2:6000",
			[]string{"parse: TCP: SYN", "flow: the flow is in state syn-sent now"}},
		{"an echo", "eth1", func(t *testing.T) []byte { return frame(t, ask(t, "icmp 10.20.30.5:7000 1.1.1.1"), nil) }, "masquerade to 192.0.2.2:7000",
			[]string{"parse: ICMP echo, type 8, identifier 7000"}},
		{"time exceeded", "eth1", func(t *testing.T) []byte { return frame(t, ask(t, plain), func(ip *layers.IPv4) { ip.TTL = 1 }) }, "drop: ttl-expired",
			[]string{"error: the sender is told: ICMP time-exceeded leaves by eth1, from 10.20.30.1 to 10.20.30.5"}},
		{"a fragment", "eth1", func(t *testing.T) []byte {
			return frame(t, ask(t, "udp 10.20.30.5:6000 10.8.0.1:53"), func(ip *layers.IPv4) { ip.FragOffset = 3 })
		}, "forward", []string{"parse: a fragment, at offset 24: no flow is looked up", "departure: leaves by eth0 as 10.20.30.5 to 10.8.0.1, TTL 63"}},
		{"a fragment before its first", "eth1", func(t *testing.T) []byte {
			return frame(t, ask(t, "udp 10.20.30.5:6000 1.1.1.1:53"), func(ip *layers.IPv4) { ip.FragOffset, ip.Id = 3, 9 })
		}, "wait for the first fragment", []string{"parse: a fragment of datagram 9, at offset 24", "departure: a copy waits for the first fragment of its datagram"}},
		{"a first fragment", "eth1", func(t *testing.T) []byte {
			return frame(t, ask(t, plain), func(ip *layers.IPv4) { ip.Flags, ip.Id = layers.IPv4MoreFragments, 9 })
		}, "masquerade to 192.0.2.2:6000", []string{"parse: a fragment of datagram 9, at offset 0: the first one's flow is its own", "flow: the flow is in state unreplied now"}},
		{"an ICMP error", "eth0", quote, "forward", []string{"parse: ICMP type 3, code 3",
			"flow: an ICMP error about a flow, masquerade, state unreplied, by a packet that went in the original direction: 10.20.30.5:5000 to 1.1.1.1:53, answered as 1.1.1.1:53 to 192.0.2.2:5000",
			"departure: waits for its next hop's link address, to leave by eth1 as 203.0.113.1 to 10.20.30.5, TTL 59"}},
		{"malformed", "eth0", func(*testing.T) []byte { return make([]byte, 12) }, "drop: frame-too-short", []string{"arrival: arrives on eth0, role outside"}},
		{"the kernel's", "eth0", func(t *testing.T) []byte { return frame(t, ask(t, "tcp 9.9.9.9:53 192.0.2.2:22"), nil) }, "pass to kernel",
			[]string{"departure: given back to the kernel: the packet is for the gateway's own host"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newTraceRig(t)
			e := r.pass(tt.on, tt.frame(t))
			if e.Verdict != tt.verdict {
				t.Errorf("%s, want %s", e.Verdict, tt.verdict)
			}
			for _, want := range tt.want {
				stage, text, _ := strings.Cut(want, ": ")
				if !said(&e, stage, 0, text) && !said(&e, stage, r.Config.Interfaces[1].Line, text) {
					t.Errorf("%q is not said:\n%s", want, steps(&e))
				}
			}
			for _, d := range e.Decisions {
				if !slices.Contains(Stages, d.Stage) || strings.Contains(d.Text, "%!") {
					t.Errorf("%+v", d)
				}
			}
			if tt.name == "time exceeded" && said(&e, stageFlow, 0, "") {
				t.Errorf("nobody looked for a flow:\n%s", steps(&e))
			}
		})
	}
}
