package conntrack

import (
	"regexp"
	"strings"
	"testing"

	"sluice/internal/packet"
)

// segments are written as "o:S" for a SYN from the original side, "r:SA" for a
// SYN+ACK from the other; F and R are FIN and RST.
func flagsOf(t *testing.T, s string) (Direction, uint8) {
	t.Helper()
	var flags uint8
	for _, c := range s[2:] {
		flags |= map[rune]uint8{'S': packet.TCPSyn, 'A': packet.TCPAck, 'F': packet.TCPFin, 'R': packet.TCPRst, 'P': packet.TCPPsh}[c]
	}
	if s[0] == 'r' {
		return Reply, flags
	}
	return Original, flags
}

func TestTCPStates(t *testing.T) {
	for _, c := range []struct{ name, segments, states string }{
		{"three-way handshake", "o:S r:SA o:A", "syn-sent syn-received established"},
		{"retransmitted SYN", "o:S o:S r:SA r:SA o:A", "syn-sent syn-sent syn-received syn-received established"},
		{"data completes the handshake", "o:S r:SA o:PA", "syn-sent syn-received established"},
		{"RFC 5382 REQ-2: simultaneous open", "o:S r:S o:SA r:SA", "syn-sent syn-received syn-received established"},
		{"simultaneous open, a SYN+ACK lost", "o:S r:S o:SA r:A", "syn-sent syn-received syn-received established"},
		{"RFC 5961 4: challenge ACK to a SYN", "o:S r:A o:R o:S r:SA o:A", "syn-sent syn-sent close syn-sent syn-received established"},
		{"challenge ACK while opening", "o:S r:SA r:A o:A", "syn-sent syn-received syn-received established"},
		{"RFC 5961 4: SYN on a live connection", "o:S r:SA o:A o:S r:A", "syn-sent syn-received established established established"},
		{"active close", "o:S r:SA o:A o:FA r:A r:FA o:A", "syn-sent syn-received established fin-wait fin-wait last-ack time-wait"},
		{"passive close", "o:S r:SA o:A r:FA o:A o:FA r:A", "syn-sent syn-received established fin-wait fin-wait last-ack time-wait"},
		{"FIN and ACK in one", "o:S r:SA o:A o:FA r:FA o:A", "syn-sent syn-received established fin-wait last-ack time-wait"},
		{"simultaneous close", "o:S r:SA o:A o:FA r:FA r:A o:A", "syn-sent syn-received established fin-wait last-ack last-ack time-wait"},
		{"half closed, data goes on", "o:S r:SA o:A o:FA r:PA r:PA o:A", "syn-sent syn-received established fin-wait fin-wait fin-wait fin-wait"},
		{"FIN with the handshake's ACK", "o:S r:SA o:FA r:A", "syn-sent syn-received fin-wait fin-wait"},
		{"retransmitted FIN", "o:S r:SA o:A o:FA o:FA r:FA o:FA o:A", "syn-sent syn-received established fin-wait fin-wait last-ack last-ack time-wait"},
		{"late ACK and FIN after the close", "o:S r:SA o:A o:FA r:FA o:A r:FA o:A", "syn-sent syn-received established fin-wait last-ack time-wait time-wait time-wait"},
		{"port used again after TIME-WAIT", "o:S r:SA o:A o:FA r:FA o:A o:S r:SA o:A", "syn-sent syn-received established fin-wait last-ack time-wait syn-sent syn-received established"},
		{"used again from the other side", "o:S r:SA o:A o:FA r:FA o:A r:S o:SA r:A", "syn-sent syn-received established fin-wait last-ack time-wait syn-sent syn-received established"},
		{"refused", "o:S r:RA", "syn-sent close"},
		{"refused, tried again", "o:S r:RA o:S r:SA o:A", "syn-sent close syn-sent syn-received established"},
		{"reset", "o:S r:SA o:A r:R", "syn-sent syn-received established close"},
		{"RFC 7857 2.2: forged reset, its alleged sender goes on", "o:S r:SA o:A r:R r:PA", "syn-sent syn-received established close established"},
		{"reset, the other side's late data", "o:S r:SA o:A o:R r:PA r:PA", "syn-sent syn-received established close close close"},
		{"reset while closing stays closed", "o:S r:SA o:A o:FA r:R r:A", "syn-sent syn-received established fin-wait close close"},
		{"second reset from the other side", "o:S r:SA o:A r:R o:R r:A", "syn-sent syn-received established close close established"},
		{"picked up in the middle", "o:A r:A", "syn-received established"},
		{"picked up, no answer", "o:PA o:PA", "syn-received syn-received"},
		{"picked up at its SYN+ACK", "o:SA r:A", "syn-received established"},
		{"begins with a reset", "o:R", "close"},
		{"FIN before any answer", "o:S o:FA", "syn-sent syn-sent"},
	} {
		var s status
		var got []string
		for i, seg := range strings.Fields(c.segments) {
			d, flags := flagsOf(t, seg)
			if i == 0 {
				s = initial(packet.ProtoTCP, Original, flags) | phaseLive
			} else {
				s = s.next(packet.ProtoTCP, d, flags)
			}
			got = append(got, s.state().String())
			if s.phase() != phaseLive {
				t.Errorf("%s: %s changed the phase", c.name, seg)
			}
		}
		if g := strings.Join(got, " "); g != c.states {
			t.Errorf("%s: %s\n got %s\nwant %s", c.name, c.segments, g, c.states)
		}
	}
}

// The shortcut past the state machine must never change what happens: every
// status that can be reached, every packet.
func TestMovesIsNext(t *testing.T) {
	type node struct {
		s     status
		proto uint8
	}
	var open []node
	seen := map[node]bool{}
	visit := func(n node) {
		if !seen[n] {
			seen[n] = true
			open = append(open, n)
		}
	}
	for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoICMP, 47} {
		for flags := range 64 {
			visit(node{initial(proto, Original, uint8(flags)) | phaseLive, proto})
		}
	}
	for len(open) > 0 {
		n := open[len(open)-1]
		open = open[:len(open)-1]
		for flags := range 64 {
			if n.proto != packet.ProtoTCP && flags != 0 {
				break
			}
			for _, d := range []Direction{Original, Reply} {
				next := n.s.next(n.proto, d, uint8(flags))
				if !moves[n.s.state()][flags] && next != n.s {
					t.Fatalf("nothing moves %v in %#x, but %v with flags %#x leads to %#x", n.s.state(), n.s, d, flags, next)
				}
				visit(node{next, n.proto})
			}
		}
	}
	if len(seen) < 20 {
		t.Errorf("only %d statuses are reached", len(seen))
	}
}

func TestOtherProtocolStates(t *testing.T) {
	for _, c := range []struct {
		proto        uint8
		first, after State
	}{
		{packet.ProtoUDP, UDPUnreplied, UDPReplied},
		{packet.ProtoICMP, ICMPQuery, ICMPQuery},
		{47, OtherProtocol, OtherProtocol},
	} {
		s := initial(c.proto, Original, 0)
		if s.state() != c.first {
			t.Errorf("protocol %d begins %v", c.proto, s.state())
		}
		if s = s.next(c.proto, Original, 0); s.state() != c.first {
			t.Errorf("protocol %d goes on %v", c.proto, s.state())
		}
		if s = s.next(c.proto, Reply, 0); s.state() != c.after {
			t.Errorf("protocol %d is answered %v", c.proto, s.state())
		}
	}
}

func TestWords(t *testing.T) {
	word := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	seen := map[string]bool{}
	for s := range States {
		if !word.MatchString(s.String()) || seen[s.String()] {
			t.Errorf("state %d is called %q", s, s)
		}
		seen[s.String()] = true
	}
	for k := range kinds {
		if !word.MatchString(k.String()) || seen[k.String()] {
			t.Errorf("kind %d is called %q", k, k)
		}
		seen[k.String()] = true
	}
}

// Each state has a time-out, and it is the configuration's.
func TestTimeouts(t *testing.T) {
	d := DefaultTimeouts()
	for s, want := range map[State]Tick{
		TCPSynSent: 240, TCPSynReceived: 240, TCPEstablished: 7440, TCPFinWait: 240, TCPLastAck: 240,
		TCPTimeWait: 120, TCPClose: 240, UDPUnreplied: 120, UDPReplied: 300, ICMPQuery: 60, OtherProtocol: 600,
	} {
		if got := d.limits()[s]; got != want*TicksPerSecond {
			t.Errorf("%v ends after %d ticks, want %d s", s, got, want)
		}
	}
	for s := StateNone + 1; s < States; s++ {
		if d.limits()[s] == 0 {
			t.Errorf("%v has no time-out", s)
		}
	}
	l := d.limits()
	for _, c := range []struct {
		seen, now Tick
		want      bool
	}{
		{100, 700, false},
		{100, 701, true},
		{100, 99, false},         // another worker's clock is ahead
		{0xffffff00, 300, false}, // across the wrap
		{0xffffff00, 400, true},
	} {
		if got := l.expired(ICMPQuery, c.seen, c.now); got != c.want {
			t.Errorf("seen %d, now %d: expired %v", c.seen, c.now, got)
		}
	}
}
