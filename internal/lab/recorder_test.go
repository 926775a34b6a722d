package lab

import (
	"bytes"
	"testing"
)

// TestRecorderKeepsBothWays records frames of one end of a cable, sent and received,
// whole and in order.
func TestRecorderKeepsBothWays(t *testing.T) {
	a, b := pair(t, VethOptions{})
	r, err := Record(b, "eth0")
	if err != nil {
		t.Fatal(err)
	}
	in := [][]byte{udp(Client1Address, Server1Address), udp(Client2Address, Server1Address)}
	out := udp(Server1Address, Client1Address)
	send(t, a, "eth0", in...)
	send(t, b, "eth0", out)
	frames := r.Close()
	var received [][]byte
	sent := 0
	for _, f := range frames {
		switch {
		case f.Outgoing && bytes.Equal(f.Frame, out):
			sent++
		case !f.Outgoing && (bytes.Equal(f.Frame, in[0]) || bytes.Equal(f.Frame, in[1])):
			received = append(received, f.Frame)
		}
	}
	if sent != 1 || len(received) != 2 || !bytes.Equal(received[0], in[0]) {
		t.Errorf("%d sent, %d received, of %d frames", sent, len(received), len(frames))
	}
	if _, err := Record(b, "eth9"); err == nil {
		t.Error("an interface that does not exist was recorded")
	}
}
