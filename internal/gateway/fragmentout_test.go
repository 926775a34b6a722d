package gateway

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/ip4defrag"
	"github.com/google/gopacket/layers"
	"pgregory.net/rapid"

	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// fataler is what tests and property tests have in common.
type fataler interface{ Fatalf(string, ...any) }

// reassemble has gopacket put fragments together that must be of one datagram,
// in order, and none longer than mtu.
func reassemble(t fataler, frames [][]byte, mtu int) *layers.IPv4 {
	d := ip4defrag.NewIPv4Defragmenter()
	next := uint16(0)
	for i, f := range frames {
		p := gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.Default)
		ip, ok := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
		if !ok || int(ip.Length) > mtu || len(f) != packet.EthernetLength+int(ip.Length) {
			t.Fatalf("fragment %d at MTU %d: %x", i, mtu, f)
		}
		if packet.Fold(packet.Sum(ip.Contents, 0)) != 0xffff {
			t.Fatalf("fragment %d: wrong header checksum", i)
		}
		if ip.FragOffset*8 != next {
			t.Fatalf("fragment %d begins at %d, want %d (RFC 4787 REQ-13a)", i, ip.FragOffset*8, next)
		}
		next += uint16(len(ip.Payload))
		whole, err := d.DefragIPv4(ip)
		if err != nil {
			t.Fatalf("fragment %d: %v", i, err)
		}
		if (whole != nil) != (i == len(frames)-1) {
			t.Fatalf("whole after %d of %d fragments: %v", i+1, len(frames), whole != nil)
		}
		if whole != nil {
			return whole
		}
	}
	t.Fatalf("no fragments")
	return nil
}

// checkUDP holds a reassembled datagram's checksum and payload.
func checkUDP(t fataler, ip *layers.IPv4, data []byte) {
	sum := packet.PseudoSum(address(ip.SrcIP), address(ip.DstIP), packet.ProtoUDP, len(ip.Payload))
	if packet.Fold(packet.Sum(ip.Payload, uint32(sum))) != 0xffff {
		t.Fatalf("wrong UDP checksum")
	}
	if !bytes.Equal(ip.Payload[packet.UDPLength:], data) {
		t.Fatalf("the payload changed")
	}
}

func address(b []byte) uint32 { return binary.BigEndian.Uint32(b) }

// TestFragmentsOut: whatever does not have DF leaves in fragments that make the
// translated datagram again, both ways.
func TestFragmentsOut(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t)
		out := from{src: client, dst: server, sport: 4000, dport: 53}
		r.send(insidePort, out.udp(t))
		r.one(outsidePort)
		r.setMTU(uint16(rapid.IntRange(leastMTU, 1400).Draw(rt, "mtu")))
		// gopacket refuses a last fragment under 8 bytes; package packet's tests have them.
		data := make([]byte, 8*rapid.IntRange(int(r.mtu)/8, maxFragments*6-1).Draw(rt, "words"))
		random := rand.New(rand.NewPCG(1, 2))
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		out.payload = string(data)
		back := from{src: server, dst: external, sport: 53, dport: 4000, payload: out.payload}
		for _, way := range []struct {
			in, out  fib.PortID
			frame    []byte
			src, dst string
		}{
			{insidePort, outsidePort, out.udp(t), "192.0.2.1", "198.51.100.9"},
			{outsidePort, insidePort, back.udp(t), "198.51.100.9", "10.0.0.5"},
		} {
			before := r.worker.counters
			r.send(way.in, way.frame)
			frames := r.ports[way.out].sent()
			ip := reassemble(rt, frames, int(r.mtu))
			checkUDP(rt, ip, data)
			if ip.SrcIP.String() != way.src || ip.DstIP.String() != way.dst || ip.TTL != 63 {
				rt.Fatalf("left as %v → %v with TTL %d", ip.SrcIP, ip.DstIP, ip.TTL)
			}
			c := &r.worker.counters
			if c.Fragmented != before.Fragmented+1 || c.Fragments != before.Fragments+uint64(len(frames)) {
				rt.Fatalf("counted as %d fragments of %d packets", c.Fragments, c.Fragmented)
			}
		}
		if len(r.allDrops()) != 0 {
			rt.Fatalf("drops %v", r.allDrops())
		}
	})
}

// TestFragmentsStayInOrder: with what goes before and after, however many there
// are, and nothing mixes.
func TestFragmentsStayInOrder(t *testing.T) {
	r := newRig(t)
	r.setMTU(128)
	var frames [][]byte
	data := bytes.Repeat([]byte("0123456789abcdef"), 90)
	for i := range Burst {
		frames = append(frames, from{src: client, dst: server, sport: uint16(2000 + i), dport: 53, payload: string(data)}.udp(t))
	}
	r.send(insidePort, frames...)
	all := r.ports[outsidePort].sent()
	each := len(all) / Burst
	if each != (8+len(data)+103)/104 || len(all) != each*Burst {
		t.Fatalf("%d fragments of %d packets; drops %v", len(all), Burst, r.allDrops())
	}
	seen := map[uint16]bool{}
	for i := range Burst {
		ip := reassemble(t, all[i*each:][:each], 128)
		checkUDP(t, ip, data)
		if port := 2000 + i; int(ip.Payload[0])<<8|int(ip.Payload[1]) != port {
			t.Fatalf("datagram %d is not that of port %d", i, port)
		}
		seen[ip.Id] = true
	}
	if len(seen) != Burst {
		t.Errorf("%d datagrams have %d identifications (RFC 6864)", Burst, len(seen))
	}
}

// TestFragmentsOfFragments: RFC 791: a fragment that does not fit is divided
// further, and all together make the datagram.
func TestFragmentsOfFragments(t *testing.T) {
	r := newRig(t)
	r.setMTU(576)
	data := bytes.Repeat([]byte("payload "), 300)
	f := from{src: client, dst: excluded, sport: 4000, dport: 53}
	datagram := gopacketUDP(t, f, data)
	for offset := 0; offset < len(datagram); offset += 1200 {
		l := f.ipv4(layers.IPProtocolUDP)
		l.FragOffset = uint16(offset / 8)
		if offset+1200 < len(datagram) {
			l.Flags = layers.IPv4MoreFragments
		}
		r.send(insidePort, f.frame(t, l, payload(string(datagram[offset:min(offset+1200, len(datagram))]))))
	}
	frames := r.ports[outsidePort].sent()
	if len(frames) != 7 { // 552, 552, 96; twice; and what is left
		t.Errorf("%d fragments; drops %v", len(frames), r.allDrops())
	}
	ip := reassemble(t, frames, 576)
	checkUDP(t, ip, data)
	if ip.Id != 9 {
		t.Errorf("identification %d, want the datagram's own, 9", ip.Id)
	}
}

// gopacketUDP is a UDP datagram without its IPv4 header.
func gopacketUDP(t testing.TB, f from, data []byte) []byte {
	ip, l := f.ipv4(layers.IPProtocolUDP), &layers.UDP{SrcPort: layers.UDPPort(f.sport), DstPort: layers.UDPPort(f.dport)}
	_ = l.SetNetworkLayerForChecksum(ip)
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, l, gopacket.Payload(data)); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// TestFragmentsAfterWaiting: what waited for its neighbour is divided by the MTU
// that holds when it leaves; what has DF and no longer fits is answered then.
func TestFragmentsAfterWaiting(t *testing.T) {
	data := bytes.Repeat([]byte{7}, 1000)
	r := newRig(t)
	f := from{src: client, dst: silent, sport: 4000, dport: 53, payload: string(data)}
	large := f
	large.df = true
	r.send(insidePort, f.udp(t), large.udp(t))
	if r.worker.Waiting() != 2 {
		t.Fatalf("%d wait; drops %v", r.worker.Waiting(), r.allDrops())
	}
	r.builder.SetNeighbour(fib.Neighbour{Port: outsidePort, Addr: silent, State: fib.Resolved, MAC: routerMAC})
	r.setMTU(600)
	r.step()
	checkUDP(t, reassemble(t, r.ports[outsidePort].sent(), 600), data)
	if v := r.quoted(insidePort, "10.0.0.1", large.udp(t), 3, 4); v.icmp.Seq != 600 {
		t.Errorf("next-hop MTU %d", v.icmp.Seq)
	}
	r.balanced()
}

// TestFragmentsNeedFrames: without enough of them the packet is dropped whole,
// under that name, and nothing is lost.
func TestFragmentsNeedFrames(t *testing.T) {
	r := newRig(t)
	r.setMTU(576)
	frame := from{src: client, dst: server, sport: 4000, dport: 53, payload: string(make([]byte, 1400))}.udp(t)
	kept := r.memory.free
	r.memory.free = kept[:2] // the packet's own, and one of the two that it needs
	r.send(insidePort, frame)
	r.none(verdict.NoFreeFrame)
	if len(r.memory.free) != 2 {
		t.Errorf("%d frames came back, want 2", len(r.memory.free))
	}
	r.memory.free = kept
	r.send(insidePort, frame)
	reassemble(t, r.ports[outsidePort].sent(), 576)
}

// TestTooManyFragments: the work for one packet is bounded.
func TestTooManyFragments(t *testing.T) {
	r := newRig(t)
	r.setMTU(leastMTU)
	send := func(bytes int) {
		r.send(insidePort, from{src: client, dst: server, sport: 4000, dport: 53, payload: string(make([]byte, bytes))}.udp(t))
	}
	send(maxFragments*48 - packet.UDPLength)
	reassemble(t, r.ports[outsidePort].sent(), leastMTU)
	send(maxFragments*48 - packet.UDPLength + 1)
	r.none(verdict.FragmentationNeeded)
}

// TestIdentification: RFC 6864: what merges sources sees to it that their
// identifications do not meet, and leaves alone what is not its own.
func TestIdentification(t *testing.T) {
	id := func(r *rig, f from) uint16 {
		r.send(insidePort, f.udp(t))
		return r.one(outsidePort).ip.Id
	}
	long := string(make([]byte, 100))
	out := from{src: client, dst: server, sport: 4000, dport: 53, payload: long}
	other, whole, short, hidden := out, out, out, out
	other.src, whole.df, short.payload, hidden.dst = client2, true, "", excluded
	r := newRig(t)
	seen := map[uint16]bool{}
	for range 100 {
		seen[id(r, out)], seen[id(r, other)] = true, true
	}
	if len(seen) != 200 {
		t.Errorf("two hosts that use identification 9 all the time left with %d in 200 packets", len(seen))
	}
	// An inner router's error gets the external address, and with it an
	// identification.
	r.send(outsidePort, from{src: server, dst: external, sport: 53, dport: 4000, payload: long}.udp(t))
	delivered := r.one(insidePort)
	r.send(insidePort, from{src: client, dst: server}.quote(t, 3, 3, delivered.raw, 100))
	if got := r.one(outsidePort).ip.Id; got == 9 {
		t.Error("a translated error keeps its sender's identification")
	}
	for name, f := range map[string]from{"DF": whole, "too short to be divided": short, "not translated": hidden} {
		if got := id(r, f); got != 9 {
			t.Errorf("%s: identification %d, want 9 as it came", name, got)
		}
	}
}

// TestDivisible: a fragment needs an identification as what will be divided does.
func TestDivisible(t *testing.T) {
	for flags, want := range map[packet.Flags]bool{0: true, packet.FlagOptions: true, packet.FlagDontFragment: false, packet.FlagFragment: true, packet.FlagFragment | packet.FlagDontFragment: true} {
		if got := divisible(&packet.Packet{L3: 14, End: 14 + leastMTU + 1, Flags: flags}); got != want {
			t.Errorf("flags %b: %v", flags, got)
		}
	}
	if divisible(&packet.Packet{L3: 14, End: 14 + leastMTU}) {
		t.Error("68 bytes are carried whole everywhere")
	}
}

// TestIdents: workers never give out the same, and each as many as there are
// before the first comes again; nobody who does not know the seed can tell where
// they begin.
func TestIdents(t *testing.T) {
	for _, workers := range []int{1, 2, 3, 4, 16} {
		owner := map[uint16]int{}
		for w := range workers {
			x := newIdents(newKeyed([32]byte{1}), w, workers)
			span := 1 << 16
			for n := 1; n < workers; n *= 2 {
				span /= 2
			}
			for range span {
				id := x.next(external, server, packet.ProtoUDP)
				if o, ok := owner[id]; ok {
					t.Fatalf("%d workers: %d is given out by %d and by %d", workers, id, o, w)
				}
				owner[id] = w
			}
		}
	}
	a, b := newIdents(newKeyed([32]byte{1}), 0, 1), newIdents(newKeyed([32]byte{2}), 0, 1)
	same := 0
	for dst := range uint32(100) {
		if a.next(external, dst, 17) == b.next(external, dst, 17) {
			same++
		}
	}
	if same > 3 {
		t.Errorf("two seeds agree on %d of 100", same)
	}
}

// TestSlowPathsDoNotAllocate: fragments, errors, errors about held frames.
func TestSlowPathsDoNotAllocate(t *testing.T) {
	r := newRig(t, func(r *rig, _ *Snapshot) { r.maxFlows = 1 << 12 })
	waiting := ip("10.0.0.7")
	r.builder.SetNeighbour(fib.Neighbour{Port: insidePort, Addr: waiting, State: fib.Resolved, MAC: clientMAC})
	r.setMTU(576)
	large := from{src: client, dst: server, sport: 4000, dport: 53, payload: string(make([]byte, 1400))}
	whole := large
	whole.df = true
	frames := [][]byte{large.udp(t), whole.udp(t), from{src: client2, dst: server, sport: 1, dport: 2, ttl: 1}.udp(t),
		from{src: waiting, dst: silent, sport: 9, dport: 9}.udp(t)}
	r.worker.memory = forgetful{r.memory}
	p := &loop{memory: r.memory, frames: frames}
	r.worker.ports[insidePort], r.worker.ports[outsidePort] = p, &sink{}
	if n := testing.AllocsPerRun(100, func() { r.worker.Step(r.now); r.now++ }); n != 0 {
		t.Errorf("%v allocations a step", n)
	}
	c := &r.worker.counters
	if c.Fragmented == 0 || c.Errors[FragmentationNeeded] == 0 || c.Errors[TimeExceeded] == 0 || c.Errors[HostUnreachable] == 0 || c.ErrorsLimited == 0 {
		t.Errorf("not all of it happened: %+v %+v", c.Errors, r.allDrops())
	}
}

// FuzzStep: whatever arrives, on either side, with fragments and errors in play,
// the worker accounts for every frame and shows nothing outside that it hides.
func FuzzStep(f *testing.F) {
	big := string(make([]byte, 700))
	f.Add(from{src: client, dst: server, sport: 1, dport: 2, payload: big}.udp(f), true, uint16(576))
	f.Add(from{src: client, dst: server, sport: 1, dport: 2, payload: big, df: true}.udp(f), true, uint16(576))
	f.Add(from{src: client, dst: excluded, sport: 1, dport: 2, ttl: 1}.udp(f), true, uint16(1500))
	f.Add(from{src: excluded, dst: client, sport: 1, dport: 2, ttl: 1}.tcp(f, packet.TCPSyn), false, uint16(1500))
	f.Add(from{src: server, dst: external}.quote(f, 3, 4, from{src: external, dst: server, sport: 1, dport: 2}.udp(f), 28), false, uint16(68))
	f.Fuzz(func(t *testing.T, frame []byte, inside bool, mtu uint16) {
		if len(frame) > chunk-headroom {
			return
		}
		r := newRig(t)
		r.send(insidePort, from{src: client, dst: server, sport: 1, dport: 2, payload: big}.udp(t))
		r.setMTU(mtu)
		on := outsidePort
		if inside {
			on = insidePort
		}
		r.send(on, frame, frame)
		r.now += holdTicks
		r.step()
		r.step()
		for _, frame := range r.ports[outsidePort].sent() {
			if leak(t, frame) {
				t.Fatalf("leaked: %x", frame)
			}
		}
	})
}
