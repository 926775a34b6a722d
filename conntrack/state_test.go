package conntrack

import (
	"regexp"
	"testing"

	"sluice/internal/packet"
)

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
		if s = s.next(c.proto, Original); s.state() != c.first {
			t.Errorf("protocol %d goes on %v", c.proto, s.state())
		}
		if s = s.next(c.proto, Reply); s.state() != c.after {
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
