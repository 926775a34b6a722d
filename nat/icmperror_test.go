package nat

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"pgregory.net/rapid"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// icmpError describes an error that gopacket builds: outer addresses, type and
// code, the second word of its header, and the quoted bytes as they are.
type icmpError struct {
	src, dst   uint32
	typ, code  uint8
	word       uint32 // next-hop MTU, pointer, RFC 4884 length
	quote      []byte
	extensions []byte // RFC 4884, behind the quote
}

func (e icmpError) frame(t testing.TB) []byte {
	t.Helper()
	header := &layers.IPv4{Version: 4, TTL: 60, Protocol: layers.IPProtocolICMPv4, Id: 0x4321, TOS: 0xc0, SrcIP: ip(e.src), DstIP: ip(e.dst)}
	message := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(e.typ, e.code), Id: uint16(e.word >> 16), Seq: uint16(e.word)}
	return ethernet(serialize(t, header, message, gopacket.Payload(append(bytes.Clone(e.quote), e.extensions...))))
}

// cut is the quote of a datagram: its first n bytes behind the IPv4 header, or
// all of them for n < 0.
func cut(b []byte, n int) []byte {
	if h := int(b[0]&15) * 4; n >= 0 && h+n < len(b) {
		return b[:h+n]
	}
	return b
}

// translateError does what the gateway does with an error, the look-up apart.
func translateError(frame []byte, quotedTo conntrack.Tuple, src, dst uint32) (quotedAs conntrack.Tuple, r verdict.Reason) {
	var p packet.Packet
	if r := packet.Parse(frame, &p); r != verdict.None {
		return quotedAs, r
	}
	quotedAs, quoted, r := QuotedTuple(frame, &p)
	if r == verdict.None {
		RewriteError(frame, &p, &quoted, quotedTo, src, dst)
	}
	return quotedAs, r
}

// The cast of the tables below: a client behind the gateway, a server it talks
// to, and routers on both sides that find fault with their packets.
var (
	client      = addr("10.20.30.5")
	external    = addr("192.0.2.1")
	server      = addr("203.0.113.9")
	outerRouter = addr("198.51.100.254")
	innerRouter = addr("10.20.30.254")
)

// quotedFlows has one flow of each protocol: what the client's packet looks like
// inside, and what it is translated to outside.
func quotedFlows() map[string]struct {
	inside  datagram
	outside conntrack.Tuple
} {
	flows := map[string]struct {
		inside  datagram
		outside conntrack.Tuple
	}{}
	add := func(name string, d datagram, port uint16) {
		d.src, d.dst, d.ttl = client, server, 1
		if d.payload == nil {
			d.payload = bytes.Repeat([]byte("payload "), 20)
		}
		to := d.tuple()
		to.Src, to.SrcPort = external, port
		flows[name] = struct {
			inside  datagram
			outside conntrack.Tuple
		}{d, to}
	}
	option := []layers.IPv4Option{{OptionType: 0x9a, OptionLength: 8, OptionData: []byte{0, 0x7d, 2, 0, 0x12, 0xac}}}
	add("TCP", datagram{proto: packet.ProtoTCP, sport: 40000, dport: 443}, 1024)
	add("UDP", datagram{proto: packet.ProtoUDP, sport: 40000, dport: 53}, 1025)
	add("UDP without checksum", datagram{proto: packet.ProtoUDP, sport: 40000, dport: 53, noSum: true}, 1025)
	add("UDP without payload", datagram{proto: packet.ProtoUDP, sport: 40000, dport: 53, payload: []byte{}}, 1025)
	add("ICMP echo", datagram{proto: packet.ProtoICMP, icmpType: 8, sport: 77}, 1026)
	add("TCP with options in the IPv4 header", datagram{proto: packet.ProtoTCP, sport: 40000, dport: 443, options: option}, 1024)
	add("UDP with options in the IPv4 header", datagram{proto: packet.ProtoUDP, sport: 40000, dport: 53, options: option}, 1025)
	add("port kept", datagram{proto: packet.ProtoTCP, sport: 40000, dport: 443}, 40000)
	add("protocol without ports", datagram{proto: 47}, 0)
	return flows
}

// kinds are the errors that pass, with what stands in their second word.
var kinds = []struct {
	name      string
	typ, code uint8
	word      uint32
}{
	{"net unreachable", 3, 0, 0},
	{"port unreachable", 3, 3, 0},
	{"fragmentation needed", 3, 4, 1400},
	{"precedence cutoff", 3, 15, 0},
	{"time exceeded in transit", 11, 0, 0},
	{"reassembly time exceeded", 11, 1, 0},
	{"parameter problem", 12, 0, 20 << 24},
	{"bad length", 12, 2, 0},
}

// cuts are how much of the transport a router quotes: the 8 bytes of RFC 792,
// up to TCP's checksum, with it, and all of it (RFC 1812).
var cuts = []int{8, 9, 16, 18, 19, 20, -1}

// TestErrorFromOutside: RFC 5508 REQ-4. A router in the internet complains about
// a packet that was translated; the client gets the complaint about the packet
// that it sent, from the router that complains, with type, code and MTU.
func TestErrorFromOutside(t *testing.T) {
	for name, flow := range quotedFlows() {
		for _, k := range kinds {
			for _, n := range cuts {
				in := icmpError{src: outerRouter, dst: external, typ: k.typ, code: k.code, word: k.word, quote: cut(flow.inside.translated(flow.outside).bytes(t), n)}
				out := in
				out.dst, out.quote = client, cut(flow.inside.bytes(t), n)
				checkError(t, name+", "+k.name, in.frame(t), out.frame(t), flow.outside, flow.inside.tuple(), in.src, client)
			}
		}
	}
}

// TestErrorFromInside: RFC 5508 REQ-5. The client, or a router between it and
// the gateway, complains about a server's packet; the server gets a complaint
// from the external address about the packet that it sent.
func TestErrorFromInside(t *testing.T) {
	for _, sender := range []struct {
		name string
		addr uint32
	}{{"the host itself", client}, {"REQ-5: an inner router", innerRouter}} {
		for name, flow := range quotedFlows() {
			reply := flow.inside.translated(flow.outside.Reverse()) // the server's packet as it sent it
			if reply.proto == packet.ProtoICMP {
				reply.icmpType = packet.ICMPEchoReply
			}
			inside := flow.inside.tuple().Reverse() // and as the client's side sees it
			for _, k := range kinds {
				for _, n := range cuts {
					in := icmpError{src: sender.addr, dst: server, typ: k.typ, code: k.code, word: k.word, quote: cut(reply.translated(inside).bytes(t), n)}
					out := in
					out.src, out.quote = external, cut(reply.bytes(t), n)
					checkError(t, sender.name+", "+name+", "+k.name, in.frame(t), out.frame(t), inside, reply.tuple(), external, server)
				}
			}
		}
	}
}

// TestErrorHairpin: RFC 5508 REQ-7. Both ends are inside and know each other by
// external addresses: source and destination of the quote change both.
func TestErrorHairpin(t *testing.T) {
	sent := datagram{proto: packet.ProtoUDP, src: client, dst: external, sport: 40000, dport: 2000, ttl: 9, payload: []byte("to my neighbour")}
	seen := conntrack.Tuple{Src: external, Dst: addr("10.20.30.6"), SrcPort: 1024, DstPort: 53, Proto: sent.proto}
	in := icmpError{src: seen.Dst, dst: external, typ: 3, code: 3, quote: sent.translated(seen).bytes(t)}
	out := icmpError{src: external, dst: client, typ: 3, code: 3, quote: sent.bytes(t)}
	checkError(t, "hairpin", in.frame(t), out.frame(t), seen, sent.tuple(), external, client)
}

func checkError(t *testing.T, name string, frame, want []byte, quotedAs, quotedTo conntrack.Tuple, src, dst uint32) {
	t.Helper()
	got, r := translateError(frame, quotedTo, src, dst)
	if r != verdict.None {
		t.Errorf("%s: refused: %v", name, r)
		return
	}
	if got != quotedAs {
		t.Errorf("%s: quotes %+v, want %+v", name, got, quotedAs)
	}
	if !bytes.Equal(frame, want) {
		t.Errorf("%s:\n got %x\nwant %x", name, frame, want)
	}
}

// TestErrorExtensions: RFC 4884, RFC 5508 REQ-3d. A quote padded to 128 bytes
// with an MPLS label stack behind it: padding and extension stay, and all sums
// are right.
func TestErrorExtensions(t *testing.T) {
	mpls := []byte{0x20, 0, 0, 0, 0, 8, 1, 1, 0, 0x18, 0x70, 0x40}
	for name, size := range map[string]int{"quote shorter than 128 bytes is padded": 10, "quote cut at 128 bytes": 300} {
		t.Run(name, func(t *testing.T) {
			d := datagram{proto: packet.ProtoUDP, src: client, dst: server, sport: 40000, dport: 33434, ttl: 1, payload: bytes.Repeat([]byte{0xab}, size)}
			to := d.tuple()
			to.Src, to.SrcPort = external, 1025
			pad := func(b []byte) []byte { return append(b, make([]byte, 128)...)[:128] }
			in := icmpError{src: outerRouter, dst: external, typ: 11, word: 128 / 4 << 16, quote: pad(d.translated(to).bytes(t)), extensions: mpls}
			out := in
			out.dst, out.quote = client, pad(d.bytes(t))
			checkError(t, name, in.frame(t), out.frame(t), to, d.tuple(), outerRouter, client)
		})
	}
}

// TestErrorHalfChecksum: a quote that ends within TCP's checksum. The half cannot
// be updated without the other and stays; the message's own sum is right.
func TestErrorHalfChecksum(t *testing.T) {
	flow := quotedFlows()["TCP"]
	seen := cut(flow.inside.translated(flow.outside).bytes(t), 17)
	in := icmpError{src: outerRouter, dst: external, typ: 11, quote: seen}
	out := in
	out.dst, out.quote = client, bytes.Clone(cut(flow.inside.bytes(t), 17))
	out.quote[packet.IPv4MinLength+tcpChecksum] = seen[packet.IPv4MinLength+tcpChecksum]
	checkError(t, "half a checksum", in.frame(t), out.frame(t), flow.outside, flow.inside.tuple(), outerRouter, client)
}

// TestErrorRefused has what RFC 5508 REQ-3 and RFC 1812 4.3.2.7 refuse, and the
// types that RFC 5508 REQ-10 leaves out.
func TestErrorRefused(t *testing.T) {
	flow := quotedFlows()["UDP"]
	quoted := flow.inside.translated(flow.outside)
	// edit changes the quote in an otherwise right message.
	edit := func(f func(b []byte) []byte) func() []byte {
		return func() []byte {
			return icmpError{src: outerRouter, dst: external, typ: 3, code: 1, quote: f(quoted.bytes(t))}.frame(t)
		}
	}
	// header changes the quoted IPv4 header and makes its checksum right again.
	header := func(f func(b []byte)) func() []byte {
		return edit(func(b []byte) []byte {
			f(b)
			fixHeader(b)
			return b
		})
	}
	kind := func(typ, code uint8) func() []byte {
		return func() []byte {
			return icmpError{src: outerRouter, dst: external, typ: typ, code: code, quote: quoted.bytes(t)}.frame(t)
		}
	}
	damaged := func(f func(frame []byte)) func() []byte {
		return func() []byte {
			frame := kind(3, 1)()
			f(frame)
			return frame
		}
	}
	const l4 = packet.EthernetLength + packet.IPv4MinLength
	for _, tc := range []struct {
		name  string
		frame func() []byte
		want  verdict.Reason
	}{
		{"nothing is wrong with the frame that the others are made from", kind(3, 1), verdict.None},
		{"REQ-3: the message's checksum", damaged(func(f []byte) { f[l4+icmpChecksum]++ }), verdict.ICMPErrorMalformed},
		{"REQ-3: a bit of the quote flipped", damaged(func(f []byte) { f[len(f)-1] ^= 1 }), verdict.ICMPErrorMalformed},
		{"REQ-3a: the quoted header's checksum", edit(func(b []byte) []byte { b[ipChecksum]++; return b }), verdict.ICMPErrorMalformed},
		{"REQ-3b: a header length beyond the quote", edit(func(b []byte) []byte { b[0] = 0x4f; return b[:40] }), verdict.ICMPErrorMalformed},
		{"REQ-3c: the quoted transport's checksum does not matter", edit(func(b []byte) []byte { b[20+udpChecksum]++; return b }), verdict.None},
		{"a quote of another version", header(func(b []byte) { b[0] = 0x65 }), verdict.ICMPErrorMalformed},
		{"a header length under 20", header(func(b []byte) { b[0] = 0x44 }), verdict.ICMPErrorMalformed},
		{"a total length under the header's", header(func(b []byte) { b[2], b[3] = 0, 19 }), verdict.ICMPErrorMalformed},
		{"a quote without ports", edit(func(b []byte) []byte { return b[:20+7] }), verdict.ICMPErrorMalformed},
		{"a quote cut in its header", edit(func(b []byte) []byte { return b[:19] }), verdict.ICMPErrorMalformed},
		{"no quote", edit(func([]byte) []byte { return nil }), verdict.ICMPErrorMalformed},
		{"RFC 1812 4.3.2.7: an error about a later fragment", header(func(b []byte) { b[6], b[7] = 0, 8 }), verdict.ICMPErrorMalformed},
		{"an error about a first fragment passes", header(func(b []byte) { b[6], b[7] = 0x20, 0 }), verdict.None},
		{"RFC 1812 4.3.2.7: an error about an error", func() []byte {
			d := datagram{proto: packet.ProtoICMP, src: external, dst: server, icmpType: 3, ttl: 9, payload: quoted.bytes(t)}
			return icmpError{src: outerRouter, dst: external, typ: 11, quote: d.bytes(t)}.frame(t)
		}, verdict.ICMPErrorMalformed},
		{"a fragment of an error", damaged(func(f []byte) {
			h := f[packet.EthernetLength:]
			h[6], h[3] = 0x20, h[3]-4 // to a multiple of 8
			fixHeader(h)
		}), verdict.None}, // its checksum covers what is not there
		{"REQ-10c: source quench", kind(4, 0), verdict.ICMPUnsupported},
		{"REQ-10b: redirect", kind(5, 1), verdict.ICMPUnsupported},
		{"a code of unreachable that is not assigned", kind(3, 16), verdict.ICMPUnsupported},
		{"a code of time exceeded that is not assigned", kind(11, 2), verdict.ICMPUnsupported},
		{"a code of parameter problem that is not assigned", kind(12, 3), verdict.ICMPUnsupported},
		{"an echo request is no error", kind(8, 0), verdict.ICMPUnsupported},
		{"an echo reply is no error", kind(0, 0), verdict.ICMPUnsupported},
	} {
		t.Run(tc.name, func(t *testing.T) {
			frame := tc.frame()
			p := parse(t, frame)
			if _, _, r := QuotedTuple(frame, &p); r != tc.want {
				t.Errorf("%v, want %v", r, tc.want)
			}
		})
	}
}

// TestErrorKeepsWrongQuotedSum: RFC 5508 REQ-3c. A quoted checksum that is wrong
// is translated and stays as wrong as it was.
func TestErrorKeepsWrongQuotedSum(t *testing.T) {
	for _, name := range []string{"TCP", "UDP", "ICMP echo"} {
		flow := quotedFlows()[name]
		quote := flow.inside.translated(flow.outside).bytes(t)
		sum := quote[packet.IPv4MinLength+sumOffset(flow.inside):]
		binary.BigEndian.PutUint16(sum, binary.BigEndian.Uint16(sum)^0x5a5a)
		var before, after packet.Packet
		if r := packet.ParseQuoted(quote, &before); r != verdict.None {
			t.Fatal(r)
		}
		frame := icmpError{src: outerRouter, dst: external, typ: 11, quote: quote}.frame(t)
		want := transportSum(quote, &before)
		if _, r := translateError(frame, flow.inside.tuple(), outerRouter, client); r != verdict.None {
			t.Fatal(r)
		}
		p := parse(t, frame)
		if transportSum(frame, &p) != 0xffff {
			t.Errorf("%s: the message's checksum is wrong", name)
		}
		quote = frame[p.L4+packet.ICMPLength : p.End]
		if r := packet.ParseQuoted(quote, &after); r != verdict.None {
			t.Fatal(r)
		}
		if got := transportSum(quote, &after); got%0xffff != want%0xffff {
			t.Errorf("%s: the quoted sum was %#04x and is %#04x", name, want, got)
		}
	}
}

// TestErrorEqualsRecompute: for random flows, quotes and addresses, all four
// checksums are those computed from scratch, and back again is identity.
func TestErrorEqualsRecompute(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d := anyDatagram.Draw(rt, "quoted")
		to := anyTranslation(rt, d)
		n := rapid.SampledFrom(cuts).Draw(rt, "cut")
		in := icmpError{src: rapid.Uint32().Draw(rt, "src"), dst: rapid.Uint32().Draw(rt, "dst"), typ: 3, code: 1, quote: cut(d.bytes(t), n)}
		out := in
		out.src, out.dst = rapid.Uint32().Draw(rt, "to outer src"), rapid.Uint32().Draw(rt, "to outer dst")
		out.quote = cut(d.translated(to).bytes(t), n)
		frame := in.frame(t)
		before := bytes.Clone(frame)
		for _, step := range []struct {
			to       conntrack.Tuple
			src, dst uint32
			want     []byte
		}{{to, out.src, out.dst, out.frame(t)}, {d.tuple(), in.src, in.dst, before}} {
			if _, r := translateError(frame, step.to, step.src, step.dst); r != verdict.None {
				rt.Fatal(r)
			}
			if !bytes.Equal(frame, step.want) {
				rt.Fatalf("\n got %x\nwant %x", frame, step.want)
			}
		}
	})
}

func TestErrorAllocs(t *testing.T) {
	flow := quotedFlows()["TCP"]
	inside := flow.inside.tuple()
	frame := icmpError{src: outerRouter, dst: external, typ: 3, code: 4, quote: flow.inside.translated(flow.outside).bytes(t)}.frame(t)
	if n := testing.AllocsPerRun(100, func() {
		translateError(frame, inside, outerRouter, client)
		translateError(frame, flow.outside, outerRouter, external)
	}); n != 0 {
		t.Errorf("translating an error allocates %v times", n)
	}
}

func BenchmarkError(b *testing.B) {
	flow := quotedFlows()["TCP"]
	frame := icmpError{src: outerRouter, dst: external, typ: 3, code: 4, quote: flow.inside.translated(flow.outside).bytes(b)}.frame(b)
	inside := flow.inside.tuple()
	for b.Loop() {
		translateError(frame, inside, outerRouter, client)
	}
}

// FuzzRewriteError: no frame makes it panic; what it accepts has right checksums
// afterwards, quotes the tuple asked for, and is the same everywhere else.
func FuzzRewriteError(f *testing.F) {
	for _, flow := range quotedFlows() {
		for _, n := range cuts {
			frame := icmpError{src: outerRouter, dst: external, typ: 3, code: 4, quote: cut(flow.inside.bytes(f), n)}.frame(f)
			f.Add(frame, external, server, uint16(1024), uint16(443), true)
			f.Add(append(frame, make([]byte, 20)...), external, server, uint16(1024), uint16(443), false)
		}
	}
	f.Fuzz(func(t *testing.T, frame []byte, src, dst uint32, sport, dport uint16, repair bool) {
		var p packet.Packet
		if len(frame) > 0xffff || packet.Parse(frame, &p) != verdict.None || p.Proto != packet.ProtoICMP {
			return
		}
		if repair { // mutations would seldom get past the checksums
			repairSums(frame, &p)
		}
		tuple, quoted, r := QuotedTuple(frame, &p)
		if r != verdict.None {
			return
		}
		before := bytes.Clone(frame)
		to := conntrack.Tuple{Src: src, Dst: dst, SrcPort: sport, DstPort: dport, Proto: tuple.Proto}
		RewriteError(frame, &p, &quoted, to, src, dst)
		checkFuzzed(t, frame, before, &p, to)
	})
}

// repairSums makes the quoted header's checksum and the message's right.
func repairSums(frame []byte, p *packet.Packet) {
	message := frame[p.L4:p.End]
	if quote := message[packet.ICMPLength:]; len(quote) >= packet.IPv4MinLength && int(quote[0]&15)*4 <= len(quote) && quote[0]&15 >= 5 {
		fixHeader(quote)
	}
	binary.BigEndian.PutUint16(message[icmpChecksum:], 0)
	binary.BigEndian.PutUint16(message[icmpChecksum:], packet.Checksum(message))
}

func checkFuzzed(t *testing.T, frame, before []byte, p *packet.Packet, to conntrack.Tuple) {
	after := parse(t, frame)
	if after != *p {
		t.Fatalf("p = %+v, but the frame has %+v", *p, after)
	}
	tuple, quoted, r := QuotedTuple(frame, &after) // checks both checksums
	if r != verdict.None {
		t.Fatalf("the rewritten error is refused: %v", r)
	}
	if tuple.Src != to.Src || tuple.Dst != to.Dst {
		t.Fatalf("quotes %+v, want %+v", tuple, to)
	}
	if ports := to.Proto == packet.ProtoTCP || to.Proto == packet.ProtoUDP; ports && tuple != to {
		t.Fatalf("quotes %+v, want %+v", tuple, to)
	}
	// Nothing changes in front of the header checksum, nor behind what may
	// hold the quoted transport's, nor behind the packet.
	head := int(p.L3) + ipChecksum
	tail := min(int(p.L4)+packet.ICMPLength+int(quoted.L4)+packet.TCPMinLength, int(p.L4)+packet.ICMPLength+int(quoted.End))
	if !bytes.Equal(frame[:head], before[:head]) || !bytes.Equal(frame[tail:], before[tail:]) {
		t.Fatal("bytes changed outside of the headers")
	}
}
