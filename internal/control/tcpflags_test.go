package control

import (
	"net/url"
	"strings"
	"testing"

	"sluice/internal/packet"
)

func TestQuestionFlags(t *testing.T) {
	ask := func(proto, flags string) (Question, error) {
		v := url.Values{"proto": {proto}, "src": {"10.0.0.5:1"}, "dst": {"1.1.1.1:2"}}
		if flags != "" {
			v.Set("flags", flags)
		}
		return ParseQuestion(v)
	}
	for flags, want := range map[string]uint8{
		"": packet.TCPSyn, "syn": packet.TCPSyn, "ack": packet.TCPAck, "rst,ack": packet.TCPRst | packet.TCPAck, "none": 0,
		"fin,syn,rst,psh,ack,urg,ece,cwr": 0xff,
	} {
		q, err := ask("tcp", flags)
		if err != nil || q.TCPFlags() != want {
			t.Errorf("%q: %02x, %v; want %02x", flags, q.TCPFlags(), err, want)
		}
		again, err := ParseQuestion(q.Values())
		if err != nil || again != q {
			t.Errorf("%q, written and read: %+v, %v; want %+v", flags, again, err, q)
		}
	}
	for flags, want := range map[string]string{"SYN": `"SYN" is no flag of TCP`, "syn,": `"" is no flag`, "syn ack": `"syn ack"`, "none,syn": `"none"`} {
		if _, err := ask("tcp", flags); err == nil || !strings.HasPrefix(err.Error(), "flags: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", flags, err)
		}
	}
	if _, err := ask("udp", "syn"); err == nil || !strings.Contains(err.Error(), "udp has none") {
		t.Errorf("flags of UDP: %v", err)
	}
}
