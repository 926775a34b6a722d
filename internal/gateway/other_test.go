package gateway

import (
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/google/gopacket/layers"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
)

// raw is a packet of any protocol.
func (f from) raw(t testing.TB, proto uint8, body string) []byte {
	return f.frame(t, f.ipv4(layers.IPProtocol(proto)), payload(body))
}

// TestOtherProtocols: any protocol is translated by its address, both ways, and
// its bytes stay as they are (RFC 4787 is silent; RFC 7857 12 by analogy).
func TestOtherProtocols(t *testing.T) {
	for _, proto := range []uint8{packet.ProtoGRE, packet.ProtoESP, packet.ProtoAH, 89, 253, 255} {
		r := newRig(t)
		const body = "\x01\x02\x03\x04 whatever it is"
		r.send(insidePort, from{src: client, dst: server}.raw(t, proto, body))
		out := r.one(outsidePort)
		if out.packet.Src != external || out.packet.Dst != server || out.packet.Proto != proto || out.packet.TTL != 63 {
			t.Errorf("protocol %d left as %+v", proto, out.packet)
		}
		if got := string(out.raw[out.packet.L4:out.packet.End]); got != body {
			t.Errorf("protocol %d: the body became %q", proto, got)
		}
		r.send(outsidePort, from{src: server, dst: external}.raw(t, proto, body))
		back := r.one(insidePort)
		if back.packet.Dst != client || back.packet.Src != server {
			t.Errorf("protocol %d came back as %+v", proto, back.packet)
		}
	}
}

// TestOtherProtocolsOneHostAPeer: the reply's tuple is the claim: a second inside
// host gets another address of the pool, and where there is none, is refused by
// name and told.
func TestOtherProtocolsOneHostAPeer(t *testing.T) {
	r := newRig(t)
	r.send(insidePort, from{src: client, dst: server}.raw(t, packet.ProtoGRE, "a"))
	r.one(outsidePort)
	r.send(insidePort, from{src: client2, dst: server}.raw(t, packet.ProtoGRE, "b"))
	told := r.ports[insidePort].sent()
	if r.drops(verdict.PeerTaken) != 1 || len(told) != 1 {
		t.Fatalf("drops %v, %d answers", r.allDrops(), len(told))
	}
	if v := decode(t, told[0]); v.icmp == nil || v.icmp.TypeCode != layers.CreateICMPv4TypeCode(3, 13) {
		t.Errorf("told %v", v.icmp)
	}
	// Another protocol, or another peer, is free.
	r.send(insidePort, from{src: client2, dst: server}.raw(t, packet.ProtoESP, "esp spi"))
	r.one(outsidePort)
	r.send(insidePort, from{src: client2, dst: server + 1}.raw(t, packet.ProtoGRE, "c"))
	r.one(outsidePort)

	r = newRig(t)
	x := conntrack.NewExternal(pooled, nil)
	if err := r.table.AddExternal(x); err != nil {
		t.Fatal(err)
	}
	r.publish(func(s *Snapshot) { s.Pools[outsidePort] = nat.NewPool(r.ext, x) })
	seen := map[uint32]uint32{}
	for _, host := range []uint32{client, client2} {
		r.send(insidePort, from{src: host, dst: server}.raw(t, packet.ProtoGRE, "a"))
		seen[r.one(outsidePort).packet.Src] = host
	}
	if len(seen) != 2 {
		t.Fatalf("two hosts with one peer have the addresses %v", seen)
	}
	for addr, host := range seen {
		r.send(outsidePort, from{src: server, dst: addr}.raw(t, packet.ProtoGRE, "r"))
		if got := r.one(insidePort).packet.Dst; got != host {
			t.Errorf("an answer to %08x went to %08x, want %08x", addr, got, host)
		}
	}
	r.send(insidePort, from{src: client + 4, dst: server}.raw(t, packet.ProtoGRE, "a"))
	if r.drops(verdict.PeerTaken) != 1 {
		t.Errorf("a third host: drops %v", r.allDrops())
	}
}

// TestOtherProtocolsChoice: drop and pass send nothing out.
func TestOtherProtocolsChoice(t *testing.T) {
	for choice, want := range map[OtherProtocols]verdict.Reason{OtherDrop: verdict.ProtocolUnsupported, OtherPass: verdict.ProtocolPassed} {
		r := newRig(t, func(r *rig, s *Snapshot) { s.Other = choice })
		r.send(insidePort, from{src: client, dst: server}.raw(t, packet.ProtoGRE, "a"))
		r.none(want)
		// What policy excludes is forwarded as it is.
		r.send(insidePort, from{src: client, dst: excluded}.raw(t, packet.ProtoGRE, "a"))
		if got := r.one(outsidePort).packet.Src; got != client {
			t.Errorf("towards an excluded network from %08x", got)
		}
	}
}

// TestUnsolicitedOtherProtocol: nobody outside begins such a flow.
func TestUnsolicitedOtherProtocol(t *testing.T) {
	r := newRig(t)
	r.send(outsidePort, from{src: server, dst: external}.raw(t, packet.ProtoGRE, "a"))
	r.none(verdict.HostOwned)
	r.send(insidePort, from{src: client, dst: server}.raw(t, packet.ProtoGRE, "a"))
	r.one(outsidePort)
	r.send(outsidePort, from{src: server + 1, dst: external}.raw(t, packet.ProtoGRE, "a"))
	r.none(verdict.HostOwned)
}

// pseudoSummed is a UDP-Lite or DCCP packet whose checksum covers the
// pseudo-header and the first covered bytes.
func (f from) pseudoSummed(t testing.TB, proto uint8, covered int, wrong uint16) []byte {
	body := make([]byte, 40)
	for i := range body {
		body[i] = byte(7 * i)
	}
	binary.BigEndian.PutUint16(body[4:], uint16(covered)) // UDP-Lite's coverage; DCCP: data offset, CCVal, CsCov
	body[6], body[7] = 0, 0
	sum := packet.Sum(body[:covered], uint32(packet.PseudoSum(f.src, f.dst, proto, len(body))))
	binary.BigEndian.PutUint16(body[6:], ^packet.Fold(sum)+wrong)
	return f.raw(t, proto, string(body))
}

func pseudoRight(v view, covered int) bool {
	q := &v.packet
	body := v.raw[q.L4:q.End]
	return packet.Fold(packet.Sum(body[:covered], uint32(packet.PseudoSum(q.Src, q.Dst, q.Proto, len(body))))) == 0xffff
}

// TestPseudoHeaderChecksums: UDP-Lite's and DCCP's checksums follow the address
// whatever part of the payload they cover, and a wrong one stays wrong (RFC 3828,
// RFC 5597).
func TestPseudoHeaderChecksums(t *testing.T) {
	for _, proto := range []uint8{packet.ProtoUDPLite, packet.ProtoDCCP} {
		for _, covered := range []int{8, 12, 20, 40} {
			for _, wrong := range []uint16{0, 1} {
				r := newRig(t)
				r.send(insidePort, from{src: client, dst: server}.pseudoSummed(t, proto, covered, wrong))
				if right := pseudoRight(r.one(outsidePort), covered); right != (wrong == 0) {
					t.Errorf("protocol %d, %d bytes covered, wrong by %d: left right: %v", proto, covered, wrong, right)
				}
				r.send(outsidePort, from{src: server, dst: external}.pseudoSummed(t, proto, covered, wrong))
				if right := pseudoRight(r.one(insidePort), covered); right != (wrong == 0) {
					t.Errorf("protocol %d, %d bytes covered, wrong by %d: came back right: %v", proto, covered, wrong, right)
				}
			}
		}
	}
}

// TestSCTP: the CRC32c covers no address and stays; where the sending stack left
// it to its device it is finished (RFC 3309), and a wrong one stays wrong.
func TestSCTP(t *testing.T) {
	table := crc32.MakeTable(crc32.Castagnoli)
	for name, c := range map[string]struct {
		change func(crc uint32) uint32
		right  bool
	}{
		"right":      {func(crc uint32) uint32 { return crc }, true},
		"unfinished": {func(uint32) uint32 { return 0 }, true},
		"wrong":      {func(crc uint32) uint32 { return crc ^ 1 }, false},
	} {
		body := []byte("\x0b\xb8\x00\x50tag!\x00\x00\x00\x00\x00\x03\x00\x10 data chunk.")
		binary.LittleEndian.PutUint32(body[8:], c.change(crc32.Checksum(body, table)))
		r := newRig(t)
		r.send(insidePort, from{src: client, dst: server}.raw(t, packet.ProtoSCTP, string(body)))
		out := r.one(outsidePort)
		left := append([]byte(nil), out.raw[out.packet.L4:out.packet.End]...)
		got := binary.LittleEndian.Uint32(left[8:])
		clear(left[8:12])
		if right := got == crc32.Checksum(left, table); right != c.right || out.packet.Src != external {
			t.Errorf("%s: left from %08x with CRC %08x, right: %v", name, out.packet.Src, got, right)
		}
	}
}

// TestErrorAboutOtherProtocol: errors about such flows are translated, in both
// directions.
func TestErrorAboutOtherProtocol(t *testing.T) {
	r := newRig(t)
	for _, proto := range []uint8{packet.ProtoGRE, packet.ProtoUDPLite} {
		sent := from{src: client, dst: server}.pseudoSummed(t, proto, 8, 0)
		r.send(insidePort, sent)
		left := r.one(outsidePort)
		r.send(outsidePort, from{src: router, dst: external}.quote(t, 3, 1, left.raw, 28))
		back := r.one(insidePort)
		var quoted packet.Packet
		quote := back.raw[back.packet.L4+packet.ICMPLength : back.packet.End]
		if reason := packet.ParseQuoted(quote, &quoted); reason != verdict.None || quoted.Src != client || quoted.Dst != server || back.packet.Dst != client {
			t.Errorf("protocol %d: an error from outside became %v %+v", proto, reason, quoted)
		}
		if proto == packet.ProtoUDPLite {
			was := sent[packet.EthernetLength+packet.IPv4MinLength:][:8]
			if string(quote[quoted.L4:][:8]) != string(was) {
				t.Errorf("the quoted header is %x, was sent as %x", quote[quoted.L4:][:8], was)
			}
		}
		r.send(outsidePort, from{src: server, dst: external}.pseudoSummed(t, proto, 8, 0))
		arrived := r.one(insidePort)
		r.send(insidePort, from{src: client, dst: server}.quote(t, 3, 2, arrived.raw, 28))
		out := r.one(outsidePort)
		quote = out.raw[out.packet.L4+packet.ICMPLength : out.packet.End]
		if reason := packet.ParseQuoted(quote, &quoted); reason != verdict.None || quoted.Dst != external || out.packet.Src != external {
			t.Errorf("protocol %d: an error from inside became %v %+v", proto, reason, quoted)
		}
	}
}

// TestOtherProtocolFragments: in any order, all with one identification.
func TestOtherProtocolFragments(t *testing.T) {
	r := newRig(t)
	f := from{src: client, dst: server}
	ids, offsets := map[uint16]bool{}, map[uint16]bool{}
	for _, offset := range []uint16{2, 0, 1} {
		l := f.ipv4(layers.IPProtocol(packet.ProtoGRE))
		l.FragOffset = offset
		if offset != 2 {
			l.Flags = layers.IPv4MoreFragments
		}
		r.send(insidePort, f.frame(t, l, payload("8 bytes.")))
		for _, frame := range r.ports[outsidePort].sent() {
			got := decode(t, frame).packet
			if got.Src != external || got.Dst != server {
				t.Errorf("fragment %d left as %+v", offset, got)
			}
			ids[got.ID], offsets[got.FragOff] = true, true
		}
	}
	if len(ids) != 1 || len(offsets) != 3 {
		t.Errorf("left with identifications %v, offsets %v; drops %v", ids, offsets, r.allDrops())
	}
}
