package bench

import (
	"strings"
	"testing"

	"sluice/internal/packet"
)

// TestKinds: packets of every kind pass the whole gateway, and every byte that
// leaves is right.
func TestKinds(t *testing.T) {
	k, err := newKindRig(1 << 10)
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	for i := range k.chatters {
		c := &k.chatters[i]
		if err := k.verify(c, 200); err != nil {
			t.Error(err)
		}
		if !c.opens(i) {
			continue
		}
		for range 2 { // what is opened and ended can be opened again
			if n, took := k.setUp(c); n != freshFlows || took <= 0 {
				t.Errorf("%s: %d flows in %v", c.name, n, took)
			}
		}
	}
	if err := k.dropped(); err != nil {
		t.Error(err)
	}
}

// TestKindsAreLookedAt: a byte changed anywhere behind the MAC addresses does not
// pass for right.
func TestKindsAreLookedAt(t *testing.T) {
	k, err := newKindRig(1 << 10)
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	for i := range k.chatters {
		c := &k.chatters[i]
		k.keep(true)
		k.step(c)
		d := k.ports[0].kept[0]
		of := &c.bytes[d.Addr/frameStride]
		frame, option := k.sent(d), c.direct() && c.proto == packet.ProtoUDP
		if wrong, _ := c.wrong(frame, of.talk, of.direction, option, 0); wrong != "" {
			t.Fatalf("%s: %s", c.name, wrong)
		}
		for at := 12; at < len(frame); at++ {
			frame[at] ^= 0x10
			wrong, sum := c.wrong(frame, of.talk, of.direction, option, 0)
			if wrong == "" && c.fragments { // the second half tells
				later := k.sent(k.ports[0].kept[1])
				wrong, _ = c.wrong(later, of.talk, of.direction, option, sum)
			}
			if wrong == "" {
				t.Errorf("%s: byte %d changed, and nobody notices", c.name, at)
			}
			frame[at] ^= 0x10
		}
		if c.direct() {
			if wrong, _ := c.wrong(frame, of.talk, of.direction, !option, 0); !strings.Contains(wrong, "option") {
				t.Errorf("%s: %q where the option is not as expected", c.name, wrong)
			}
		}
		k.keep(false)
	}
}
