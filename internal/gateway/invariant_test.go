package gateway

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
)

// hidden reports whether policy hides addr from dst.
func hidden(addr, dst uint32) bool {
	inside := netip.MustParsePrefix("10.0.0.0/24").Contains(fib.Addr(addr))
	return inside && !netip.MustParsePrefix("10.9.0.0/16").Contains(fib.Addr(dst))
}

// leak reports whether a frame that left outside shows a source that policy
// hides, or quotes an address that it does, and whether an error of the
// gateway's own has another source than the external address. It is the
// invariant, said as slowly as it can be said.
func leak(t fataler, frame []byte) bool {
	var p, quoted packet.Packet
	if r := packet.Parse(frame, &p); r != verdict.None {
		t.Fatalf("a frame that left is %v: %x", r, frame)
	}
	if hidden(p.Src, p.Dst) {
		return true
	}
	if !p.Is(packet.FlagICMPError) {
		return false
	}
	if r := packet.ParseQuoted(frame[p.L4+packet.ICMPLength:p.End], &quoted); r != verdict.None {
		t.Fatalf("an error that left quotes a packet that is %v: %x", r, frame)
	}
	return hidden(quoted.Src, p.Dst) || hidden(quoted.Dst, p.Dst) || ownError(frame) && p.Src != external
}

// TestNothingLeaks drives the pipeline with random packets from both sides,
// damaged ones among them, and with changes of routes, addresses, policy, time
// and ring space, and holds every frame that leaves against the invariant:
// translated, excluded, or dropped with a reason. Every frame is accounted for.
func TestNothingLeaks(t *testing.T) {
	addresses := []uint32{client, client2, server, excluded, external, router, silent, gatewayInside, pooled, ip("10.0.0.255"), ip("127.0.0.1"), 0}
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t)
		in, out, dropped := 0, 0, uint64(0)
		forwards := someForwards()
		outsideUp, plain := true, r.pointer.Load().Policy
		off := nat.NewPolicy(nat.PolicyConfig{Enabled: true, Sources: anyPolicyLines})
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			switch rapid.IntRange(0, 11).Draw(rt, "event") {
			case 5:
				other := OtherProtocols(rapid.IntRange(0, 2).Draw(rt, "other"))
				static := rapid.SampledFrom([]*nat.Static{nil, forwards}).Draw(rt, "forwards")
				r.publish(func(s *Snapshot) { s.Other, s.Static = other, static })
			case 0:
				outsideUp = !outsideUp
				r.interfaces(outsideUp)
				r.reroute()
			case 1:
				r.now += conntrack.Tick(rapid.IntRange(1, 4000).Draw(rt, "ticks"))
			case 2:
				r.publish(func(s *Snapshot) {
					if s.Policy == plain {
						s.Policy = off
					} else {
						s.Policy = plain
					}
				})
			case 4:
				r.mtu = rapid.SampledFrom([]uint16{68, 576, 1500}).Draw(rt, "mtu")
				r.interfaces(outsideUp)
				r.reroute()
			case 3:
				r.ports[outsidePort].room = rapid.IntRange(-1, 2).Draw(rt, "room")
			default:
				on := fib.PortID(rapid.IntRange(0, 1).Draw(rt, "port"))
				f := from{
					src: rapid.SampledFrom(addresses).Draw(rt, "src"), dst: rapid.SampledFrom(addresses).Draw(rt, "dst"),
					sport: uint16(rapid.IntRange(0, 3).Draw(rt, "sport")), dport: uint16(rapid.IntRange(0, 3).Draw(rt, "dport")),
					ttl: uint8(rapid.IntRange(1, 3).Draw(rt, "ttl")), df: rapid.Bool().Draw(rt, "df"),
					payload: strings.Repeat("x", rapid.SampledFrom([]int{0, 7, 600, 1600}).Draw(rt, "length")),
				}
				frame := anyFrame(rt, t, f)
				in++
				r.send(on, frame)
			}
			for i, p := range r.ports {
				for _, frame := range p.sent() {
					out++
					if fib.PortID(i) == outsidePort && leak(rt, frame) {
						rt.Fatalf("leaked: %x", frame)
					}
				}
			}
		}
		for _, n := range r.worker.counters.Drops {
			dropped += n
		}
		c := &r.worker.counters
		made := int(c.Fragments - c.Fragmented)
		for _, n := range c.Errors {
			made += int(n)
		}
		if waiting := r.worker.Waiting() + r.worker.store.Held(); in+made != out+int(dropped)+waiting {
			rt.Fatalf("%d frames in, %d made, %d out, %d dropped, %d waiting", in, made, out, dropped, waiting)
		}
	})
}

// anyFrame builds one packet of any kind, sometimes damaged.
func anyFrame(rt *rapid.T, t *testing.T, f from) []byte {
	var frame []byte
	switch rapid.IntRange(0, 6).Draw(rt, "kind") {
	case 0:
		frame = f.tcp(t, rapid.SampledFrom([]uint8{packet.TCPSyn, packet.TCPSyn | packet.TCPAck, packet.TCPAck, packet.TCPRst, packet.TCPFin | packet.TCPAck}).Draw(rt, "flags"))
	case 1:
		frame = f.echo(t, rapid.SampledFrom([]uint8{0, 8, 13}).Draw(rt, "type"), f.sport)
	case 2:
		quoted := from{src: f.dst, dst: f.src, sport: f.dport, dport: f.sport, payload: "quoted"}
		frame = f.quote(t, rapid.SampledFrom([]uint8{3, 4, 5, 11, 12}).Draw(rt, "error"), 0, quoted.udp(t), rapid.IntRange(0, 60).Draw(rt, "quote"))
	case 3:
		l := f.ipv4(47)
		frame = f.frame(t, l, payload("other protocol"))
	case 4:
		l := f.ipv4(17)
		l.FragOffset, l.Flags = rapid.SampledFrom([]uint16{0, 1, 100}).Draw(rt, "offset"), 1
		frame = f.frame(t, l, payload("a fragment of something."))
	default:
		frame = f.udp(t)
	}
	if rapid.IntRange(0, 3).Draw(rt, "damage") == 0 {
		at := rapid.IntRange(0, len(frame)-1).Draw(rt, "at")
		frame[at] ^= rapid.Byte().Draw(rt, "bits")
	}
	return frame
}

// TestStepDoesNotAllocate: hits, misses, drops and held frames alike.
func TestStepDoesNotAllocate(t *testing.T) {
	r := newRig(t, func(r *rig, _ *Snapshot) { r.maxFlows = 1 << 16 })
	var frames [][]byte
	for i := range 2000 {
		frames = append(frames, from{src: client, dst: server, sport: uint16(1024 + i), dport: 53}.udp(t))
	}
	frames = append(frames, from{src: client, dst: silent, sport: 9, dport: 9}.udp(t), from{src: client, dst: server}.echo(t, 13, 1),
		from{src: client, dst: excluded, sport: 1, dport: 2}.tcp(t, packet.TCPSyn))
	r.worker.memory = forgetful{r.memory}
	p := &loop{memory: r.memory, frames: frames}
	r.worker.ports[insidePort], r.worker.ports[outsidePort] = p, p
	if n := testing.AllocsPerRun(60, func() { r.worker.Step(r.now); r.now++ }); n != 0 {
		t.Errorf("%v allocations a step", n)
	}
	if r.table.Count().Flows < 1000 {
		t.Fatalf("the steps made %d flows; drops %v", r.table.Count().Flows, r.allDrops())
	}
}

// loop is a port that receives the same frames over and over, out of memory that
// it goes round in, and sends nowhere.
type loop struct {
	memory *memory
	frames [][]byte
	next   int
}

func (l *loop) Receive(descs []xdpDesc) int {
	for i := range descs {
		addr := uint64(l.next*chunk%len(l.memory.bytes) + headroom)
		f := l.frames[l.next%len(l.frames)]
		l.next++
		descs[i] = xdpDesc{Addr: addr, Len: uint32(copy(l.memory.bytes[addr:addr+chunk-headroom], f))}
	}
	return len(descs)
}
func (l *loop) Transmit(descs []xdpDesc) int { return len(descs) }
func (l *loop) Flush()                       {}
func (l *loop) SetUp(bool)                   {}
func (l *loop) Up() bool                     { return true }
func (l *loop) Wasted() uint64               { return 0 }

// BenchmarkStep is the whole pass in memory: parse, look up, route, rewrite, for
// established flows taken at random. The copy of the frame into memory, which
// the kernel does for a real port, is measured with it.
func BenchmarkStep(b *testing.B) {
	for _, flows := range []int{1 << 10, 1 << 16, 1 << 20} {
		b.Run(sizeName(flows), func(b *testing.B) { benchmarkStep(b, flows) })
	}
}

func benchmarkStep(b *testing.B, flows int) {
	r := newRig(b, func(r *rig, _ *Snapshot) { r.maxFlows = flows + flows/4 })
	r.worker.memory = forgetful{r.memory}
	frame := from{src: client, dst: server, sport: 1024, dport: 1, payload: "0123456789012345"}.udp(b)
	p := &generator{memory: r.memory, frame: frame, flows: flows}
	r.worker.ports[insidePort], r.worker.ports[outsidePort] = p, &sink{}
	for p.sequence = true; p.sent < 2*flows; {
		r.worker.Step(r.now)
	}
	if got := r.table.Count().Flows; got != flows {
		b.Fatalf("%d flows, want %d; drops %v", got, flows, r.allDrops())
	}
	p.sequence, p.random = false, rand.New(rand.NewPCG(1, 2))
	b.ResetTimer()
	for range b.N / Burst {
		r.worker.Step(r.now)
	}
}

func sizeName(n int) string {
	if n >= 1<<20 {
		return "1M"
	}
	return map[int]string{1 << 10: "1k", 1 << 16: "64k"}[n]
}
