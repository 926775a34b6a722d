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
