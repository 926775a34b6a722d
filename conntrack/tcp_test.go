package conntrack

import (
	"strings"
	"testing"

	"sluice/internal/packet"
)

// talk is a TCP connection of which a table sees the segments: two ends with
// their numbers, and the flow.
type talk struct {
	t     testing.TB
	w     *Worker
	f     *Flow
	next  [2]uint32 // the number that each end sends next
	heard [2]uint32 // the next number of the other end that each expects
}

const dataLength = 100

func newTalk(t testing.TB) *talk {
	return &talk{t: t, w: newTable(t, 16, 1).Worker(0), next: [2]uint32{0xffffff00, 5000}}
}

// flagLetters are the letters by which segments are written.
var flagLetters = map[rune]uint8{'S': packet.TCPSyn, 'A': packet.TCPAck, 'F': packet.TCPFin, 'R': packet.TCPRst, 'P': packet.TCPPsh}

// parse reads a segment: "o:S" is a SYN from the original side, "r:SA" a SYN+ACK from
// the other, P means data. Then may follow
//
//	!  numbers that the ends do not use, as of one who guesses
//	<  the number that the end sent its SYN with, long ago
//	+  a SYN with a number far beyond the last connection's, - far before it
//	?  a number in the window that is not the next one
//	=  lost before it arrived: the other end has not heard it
func (k *talk) parse(token string) (Direction, *packet.Packet) {
	d := Original
	if token[0] == 'r' {
		d = Reply
	}
	p := &packet.Packet{Proto: packet.ProtoTCP, Window: 1000, WindowScale: packet.NoWindowScale}
	for _, c := range token[2:] {
		p.TCPFlags |= flagLetters[c]
	}
	has := func(c string) bool { return strings.Contains(token, c) }
	if has("P") {
		p.SegmentLength = dataLength
	}
	p.SegmentLength += uint16(p.TCPFlags&packet.TCPFin) + uint16(p.TCPFlags&packet.TCPSyn>>1)
	switch {
	case has("+"):
		k.next[d] += 1 << 20
	case has("-"):
		k.next[d] -= 1 << 20
	}
	p.Seq = k.next[d]
	if p.TCPFlags&packet.TCPAck != 0 {
		p.Ack = k.heard[d]
	}
	switch {
	case has("!"):
		p.Seq, p.Ack = p.Seq+0x40000000, p.Ack+0x40000000
	case has("?"):
		p.Seq += 7
	case has("<"):
		p.Seq -= uint32(p.SegmentLength)
	}
	if !has("!") && !has("?") && !has("<") {
		k.next[d] += uint32(p.SegmentLength)
		if !has("=") {
			k.heard[d^1] = k.next[d]
		}
	}
	return d, p
}

// segment lets a packet come by, and returns whether it fitted.
func (k *talk) segment(d Direction, p *packet.Packet) bool {
	if k.f == nil {
		key := Tuple{Src: client, Dst: server, SrcPort: 4000, DstPort: 80, Proto: packet.ProtoTCP}
		nf := plain(key)
		nf.TCPFlags = p.TCPFlags
		k.f = mustCreate(k.t, k.w, nf, 100)
	}
	fits := k.w.Update(k.f, d, p)
	if !k.f.Alive() {
		k.t.Fatal("a segment ended the flow")
	}
	return fits
}

func TestTCPStates(t *testing.T) {
	const opened, closed = "o:S r:SA o:A ", "o:S r:SA o:A o:FA r:FA o:A "
	for _, c := range []struct{ name, segments, states string }{
		{"three-way handshake", "o:S r:SA o:A", "syn-sent syn-received established"},
		{"retransmitted SYN and SYN+ACK", "o:S o:S< r:SA r:SA< o:A r:SA<", "syn-sent syn-sent syn-received syn-received established established"},
		{"data completes the handshake", "o:S r:SA o:PA", "syn-sent syn-received established"},
		{"RFC 5382 REQ-2a: simultaneous open", "o:S r:S o:SA< r:SA<", "syn-sent syn-received syn-received established"},
		{"simultaneous open, a SYN+ACK lost", "o:S r:S o:SA< r:A", "syn-sent syn-received syn-received established"},
		{"another attempt before an answer", "o:S= o:S+ r:SA o:A", "syn-sent syn-sent syn-received established"},
		{"a challenge ACK while opening", "o:S r:A! o:R! r:SA o:A", "syn-sent syn-sent* syn-sent* syn-received established"},
		{"an ACK of the responder establishes nothing", "o:S r:SA r:A o:A", "syn-sent syn-received syn-received established"},
		{"forged SYN+ACK while opening", "o:S r:SA! r:SA o:A", "syn-sent syn-sent* syn-received established"},
		{"forged SYN while opening, then the true answer", "o:S r:S! r:SA o:A", "syn-sent syn-received syn-received established"},
		{"RFC 5961 4: SYN on a live connection", opened + "o:S! r:S! r:A", opening + "established* established* established"},
		{"RFC 5961 5: wild data", opened + "r:PA! o:PA! r:PA o:A", opening + "established* established* established established"},
		{"forged FIN", opened + "r:FA! o:FA! r:PA", opening + "established* established* established"},
		{"active close", opened + "o:FA r:A r:FA o:A", opening + "fin-wait fin-wait last-ack time-wait"},
		{"passive close", opened + "r:FA o:A o:FA r:A", opening + "fin-wait fin-wait last-ack time-wait"},
		{"FIN and ACK in one", opened + "o:FA r:FA o:A", opening + "fin-wait last-ack time-wait"},
		{"simultaneous close, the first FIN not acknowledged", opened + "o:FA= r:FA o:A r:A!", opening + "fin-wait last-ack last-ack last-ack*"},
		{"half closed, data goes on", opened + "o:FA r:PA r:PA o:A", opening + "fin-wait fin-wait fin-wait fin-wait"},
		{"FIN with the handshake's ACK", "o:S r:SA o:FA r:A", "syn-sent syn-received fin-wait fin-wait"},
		{"retransmitted FIN", opened + "o:FA o:FA< r:FA o:FA< o:A", opening + "fin-wait fin-wait last-ack time-wait time-wait"},
		{"late FIN and ACK after the close", closed + "r:FA< o:A", closing + "time-wait time-wait"},
		{"RFC 6191: used again after TIME-WAIT", closed + "o:S+ r:SA o:A", closing + "syn-sent syn-received established"},
		{"an old SYN after TIME-WAIT", closed + "o:S! r:A", closing + "syn-sent syn-sent*"},
		{"used again with a number before", closed + "o:S- r:SA+ o:A", closing + "time-wait* syn-received established"},
		{"not by the reply side alone", closed + "r:S+ r:S! r:SA! r:A", closing + "time-wait* time-wait* time-wait* time-wait*"},
		{"by the reply side, if the other agrees", closed + "r:S+ o:SA+ r:A", closing + "time-wait* syn-received established"},
		{"refused", "o:S r:RA", "syn-sent close"},
		{"forged refusal", "o:S r:RA! r:R! r:SA", "syn-sent syn-sent* syn-sent* syn-received"},
		{"refused, tried again", "o:S r:RA o:S- r:SA+ o:A", "syn-sent close syn-sent syn-received established"},
		{"RFC 5961 3: the exact number", opened + "r:R", opening + "close"},
		{"RFC 5961 3: in the window", opened + "r:R? o:R? r:RA?", opening + "established* established* established*"},
		{"RFC 5961 3: out of it", opened + "r:R! o:RA! r:PA o:A", opening + "established* established* established established"},
		{"the number that the other acknowledged last", opened + "r:PA= r:R?", opening + "established established*"},
		{"another RST does not prolong", opened + "r:R r:R", opening + "close close*"},
		{"RFC 7857 2.2: the alleged resetter goes on", opened + "r:R r:PA", opening + "close established"},
		{"reset, the other side's late data", opened + "o:R r:PA r:PA", opening + "close close close"},
		{"reset while closing stays closed", opened + "o:FA r:R r:A", opening + "fin-wait close close"},
		{"picked up in the middle", "o:A r:A", "syn-received established"},
		{"picked up, no answer", "o:PA o:PA", "syn-received syn-received"},
		{"picked up, forged answer", "o:PA r:A! r:FA! r:R! r:A", "syn-received syn-received* syn-received* syn-received* established"},
		{"picked up, reset by a server that knows nothing of it", "o:A r:R", "syn-received close"},
		{"FIN before any answer", "o:S o:FA", "syn-sent syn-sent"},
	} {
		k := newTalk(t)
		if strings.HasPrefix(c.name, "picked up") {
			k.heard = [2]uint32{k.next[1], k.next[0]}
		}
		var got []string
		for _, token := range strings.Fields(c.segments) {
			d, p := k.parse(token)
			fits := k.segment(d, p)
			word := k.f.State().String()
			if !fits {
				word += "*"
			}
			got = append(got, word)
		}
		if g := strings.Join(got, " "); g != c.states {
			t.Errorf("%s: %s\n got %s\nwant %s", c.name, c.segments, g, c.states)
		}
	}
}

// The states of the beginnings that TestTCPStates has in common.
const (
	opening = "syn-sent syn-received established "
	closing = opening + "fin-wait last-ack time-wait "
)
