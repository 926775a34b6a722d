package xdp

import (
	"testing"

	"sluice/internal/lab"
)

// TestBacklog: what the worker has not fetched yet does not eat up what the kernel
// has to receive into, up to the backlog; what is beyond is counted as lost; and
// once it is fetched no more frames go round than before.
func TestBacklog(t *testing.T) {
	const ring, backlog, some = 256, 1024, 64
	nsA, nsG := namespace(t, "a"), namespace(t, "g")
	cable(t, nsA, "a0", nsG, "g0", lab.VethOptions{})
	g0 := probe(t, nsG, "g0")
	plan := WorkerPlan{{NIC: g0, RX: []int{0}}}
	w := &worker{}
	in(t, nsG, func() (err error) {
		w.u, w.ports, err = OpenPorts(plan, PortsConfig{RingSize: ring, Backlog: backlog})
		return err
	})
	t.Cleanup(func() {
		if err := ClosePorts(w.u, w.ports); err != nil {
			t.Error(err)
		}
	})
	port := w.ports[0]
	s := port.Sockets()[0]
	redirect(t, nsG, g0, port)
	sender := open(t, nsA, WorkerPlan{{NIC: probe(t, nsA, "a0")}}, ring)

	var held []Desc
	flood := func(frames int) {
		for seq := 0; seq < frames; seq += some {
			if sent := sender.send(t, sender.ports[0], uint64(seq), some, length); sent != some {
				t.Fatalf("queued %d of %d", sent, some)
			}
			sender.ports[0].Flush()
			settle(t, sender) // all of them have arrived, or are lost
			// As little as tells the worker that there is more.
			var one [1]Desc
			if port.Receive(one[:]) == 1 {
				held = append(held, one[0])
			}
			port.Flush()
			if a := w.u.Accounting(); !a.Balanced() || a.Fill != s.filled || a.Fill > backlog || a.Strays != 0 {
				t.Fatalf("%+v", a)
			}
		}
	}
	flood(512)
	if stats, err := s.Statistics(); err != nil || stats.RXFillEmpty != 0 {
		t.Fatalf("512 frames, with room for %d: %+v, %v", backlog, stats, err)
	}
	flood(2 * backlog)
	stats, err := s.Statistics()
	if err != nil {
		t.Fatal(err)
	}
	if lost := int(stats.RXFillEmpty); lost == 0 || s.filled <= backlog-txBatch || len(held)+s.filled+lost != 512+2*backlog {
		t.Errorf("%d came, %d wait, %d lost of %d", len(held), s.filled, lost, 512+2*backlog)
	}

	var d [some]Desc
	for n := port.Receive(d[:]); n > 0; n = port.Receive(d[:]) {
		w.u.Free(d[:n])
		port.Flush()
	}
	w.u.Free(held)
	// What was given for the backlog is not given again.
	if s.filled > ring {
		t.Errorf("%d frames go round, with rings of %d", s.filled, ring)
	}
	if a := w.u.Accounting(); !a.Balanced() || a.RX != 0 {
		t.Errorf("%+v", a)
	}
}

// TestBacklogOfModes: only where the kernel copies there is a backlog, and the
// memory is what the frames need.
func TestBacklogOfModes(t *testing.T) {
	zero := &NIC{Name: "zero", FeaturesKnown: true, NativeXDP: true, ZeroCopy: true}
	veth := &NIC{Name: "veth", FeaturesKnown: true, NativeXDP: true}
	unknown := &NIC{Name: "unknown"}
	for _, c := range []struct {
		name   string
		nic    *NIC
		mode   Mode
		asked  PortsConfig
		want   int
		frames int
	}{
		{"no zero-copy", veth, ModeAuto, PortsConfig{}, 8192, 2*8192 + 2048 + 256},
		{"zero-copy", zero, ModeAuto, PortsConfig{}, 2048, 3*2048 + 256},
		{"not known", unknown, ModeAuto, PortsConfig{}, 2048, 3*2048 + 256},
		{"copy asked for", zero, ModeCopy, PortsConfig{}, 8192, 2*8192 + 2048 + 256},
		{"generic", unknown, ModeGeneric, PortsConfig{}, 8192, 2*8192 + 2048 + 256},
		{"small rings", veth, ModeAuto, PortsConfig{RingSize: 64, Spare: 10}, 64, 3*64 + 10 + 256},
		{"both given", veth, ModeAuto, PortsConfig{RingSize: 64, Backlog: 128}, 128, 2*128 + 64 + 256},
	} {
		plan := WorkerPlan{{NIC: c.nic, RX: []int{0, 1}}}
		choices := []choice{{mode: c.mode}}
		c.asked.complete()
		if got := plan.backlog(0, c.asked, choices); got != c.want {
			t.Errorf("%s: a backlog of %d, want %d", c.name, got, c.want)
		}
		if got := plan.umem(c.asked, choices).Frames; got != c.frames {
			t.Errorf("%s: %d frames, want %d", c.name, got, c.frames)
		}
	}
}
