package nat

import (
	"bytes"
	"testing"

	"sluice/internal/packet"
)

// TestNoALG: RFC 4787 REQ-10, RFC 5382 REQ-6. Addresses that a protocol carries
// in its payload are not ours to change, in either direction, though they are
// the very ones that are translated in the headers: what cannot cope with a NAT
// copes with it itself (STUN, passive mode), and a gateway that meddles defeats
// it.
func TestNoALG(t *testing.T) {
	for _, tc := range []struct {
		name    string
		proto   uint8
		port    uint16
		payload string
	}{
		{"FTP PORT", packet.ProtoTCP, 21, "PORT 10,20,30,5,156,64\r\n"},
		{"FTP 227", packet.ProtoTCP, 21, "227 Entering Passive Mode (192,0,2,2,4,1)\r\n"},
		{"SIP", packet.ProtoUDP, 5060, "INVITE sip:bob@example.net SIP/2.0\r\nVia: SIP/2.0/UDP 10.20.30.5:40000\r\nContact: <sip:alice@10.20.30.5:40000>\r\n"},
		{"an address in binary, as in STUN", packet.ProtoUDP, 3478, "\x0a\x14\x1e\x05\x9c\x40\xc0\x00\x02\x02"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := datagram{proto: tc.proto, src: client, dst: server, sport: 40000, dport: tc.port, ttl: 9, payload: []byte(tc.payload)}
			outside := d.tuple()
			outside.Src, outside.SrcPort = external, 1025
			for _, way := range []struct{ from, to datagram }{
				{d, d.translated(outside)},
				{d.translated(outside.Reverse()), d.translated(d.tuple().Reverse())},
			} {
				frame := way.from.frame(t)
				p := parse(t, frame)
				Rewrite(frame, &p, way.to.tuple())
				if want := way.to.frame(t); !bytes.Equal(frame, want) {
					t.Errorf("got  %q\nwant %q", frame, want)
				}
			}
		})
	}
}
