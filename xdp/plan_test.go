package xdp

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sluice/internal/lab"
)

func TestPlan(t *testing.T) {
	a := &NIC{Name: "a", RXQueues: 4, TXQueues: 4}
	b := &NIC{Name: "b", RXQueues: 3, TXQueues: 2}
	c := &NIC{Name: "c", RXQueues: 1, TXQueues: 8}
	for _, tt := range []struct {
		nics []*NIC
		cpus int
		want []WorkerPlan
	}{
		{[]*NIC{a, b}, 8, []WorkerPlan{
			{{NIC: a, RX: []int{0, 2}, TX: 0}, {NIC: b, RX: []int{0, 2}, TX: 0}},
			{{NIC: a, RX: []int{1, 3}, TX: 1}, {NIC: b, RX: []int{1}, TX: 1}},
		}},
		{[]*NIC{a, b}, 1, []WorkerPlan{
			{{NIC: a, RX: []int{0, 1, 2, 3}, TX: 0}, {NIC: b, RX: []int{0, 1, 2}, TX: 0}},
		}},
		{[]*NIC{c}, 2, []WorkerPlan{
			{{NIC: c, RX: []int{0}, TX: 0}},
			{{NIC: c, TX: 1}},
		}},
	} {
		got, err := Plan(tt.nics, tt.cpus)
		if err != nil {
			t.Error(err)
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%d CPUs: %s", tt.cpus, d)
		}
	}
}

// TestPlanCoversEveryQueue: every RX queue has exactly one worker, w = q mod W,
// and no two workers send on one queue.
func TestPlanCoversEveryQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		queues := rapid.IntRange(1, 70)
		var nics []*NIC
		least := 1 << 30
		for range rapid.IntRange(1, 5).Draw(t, "nics") {
			n := &NIC{RXQueues: queues.Draw(t, "rx"), TXQueues: queues.Draw(t, "tx")}
			nics, least = append(nics, n), min(least, n.TXQueues)
		}
		cpus := queues.Draw(t, "cpus")
		plans, err := Plan(nics, cpus)
		if err != nil || len(plans) != min(cpus, least) {
			t.Fatalf("%d workers of %d CPUs and %d queues, %v", len(plans), cpus, least, err)
		}
		for i, n := range nics {
			owner := make(map[int]int)
			for w, p := range plans {
				if p[i].NIC != n || p[i].TX != w || p[i].TX >= n.TXQueues {
					t.Fatalf("worker %d sends on queue %d of %d", w, p[i].TX, n.TXQueues)
				}
				for _, q := range p[i].RX {
					if _, taken := owner[q]; taken || q%len(plans) != w {
						t.Fatalf("queue %d is worker %d's", q, w)
					}
					owner[q] = w
				}
			}
			if len(owner) != n.RXQueues {
				t.Fatalf("%d of %d queues have a worker", len(owner), n.RXQueues)
			}
		}
	})
}

func TestPlanRefuses(t *testing.T) {
	ok := &NIC{Name: "a", RXQueues: 1, TXQueues: 1}
	for _, c := range []struct {
		nics []*NIC
		cpus int
		want string
	}{
		{nil, 1, "no interfaces"},
		{[]*NIC{ok}, 0, "0 CPUs"},
		{[]*NIC{ok, {Name: "b", RXQueues: 1}}, 1, "b: it has 1 RX and 0 TX queues"},
	} {
		if _, err := Plan(c.nics, c.cpus); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
}

// TestChooseModes settles the modes of NICs that share a UMEM.
func TestChooseModes(t *testing.T) {
	zero := QueuePlan{NIC: &NIC{Name: "ice0", Driver: "ice", FeaturesKnown: true, NativeXDP: true, ZeroCopy: true}}
	copies := QueuePlan{NIC: &NIC{Name: "veth0", Driver: "veth", FeaturesKnown: true, NativeXDP: true}}
	unknown := QueuePlan{NIC: &NIC{Name: "old0", Driver: "ixgbe"}}
	auto := choice{}
	asked := func(m Mode) choice { return choice{mode: m} }
	because := func(of string) choice {
		return choice{ModeCopy, "the worker's UMEM is shared with " + of + ", in copy mode"}
	}
	for _, c := range []struct {
		name  string
		plan  WorkerPlan
		asked []Mode
		want  []choice
		err   string
	}{
		{"all can", WorkerPlan{zero, unknown}, nil, []choice{auto, auto}, ""},
		{"one cannot", WorkerPlan{zero, copies, unknown}, nil, []choice{because("veth0"), auto, because("veth0")}, ""},
		{"one shall not", WorkerPlan{zero, zero}, []Mode{ModeAuto, ModeCopy}, []choice{because("ice0"), asked(ModeCopy)}, ""},
		{"generic", WorkerPlan{zero, copies}, []Mode{ModeAuto, ModeGeneric}, []choice{because("veth0"), asked(ModeGeneric)}, ""},
		{"asked for, and can", WorkerPlan{zero, unknown}, []Mode{ModeZeroCopy, ModeAuto}, []choice{asked(ModeZeroCopy), auto}, ""},
		{"asked for, but one cannot", WorkerPlan{zero, copies}, []Mode{ModeZeroCopy, ModeAuto}, nil,
			"ice0: mode zero-copy is asked for, but a worker's sockets share one UMEM and veth0 cannot have it or is configured otherwise: use mode auto or copy"},
		{"a mode short", WorkerPlan{zero, copies}, []Mode{ModeCopy}, nil, "plan: 1 modes for 2 interfaces"},
	} {
		got, err := c.plan.choose(c.asked)
		switch {
		case c.err != "":
			if err == nil || err.Error() != c.err {
				t.Errorf("%s: error %v, want %q", c.name, err, c.err)
			}
		case err != nil || !slices.Equal(got, c.want):
			t.Errorf("%s: %v, %v; want %v", c.name, got, err, c.want)
		}
	}
}

// TestModeReasons opens ports whose drivers announce something or nothing, and
// asks each for its mode and the reason.
func TestModeReasons(t *testing.T) {
	nsA, nsG := namespace(t, "a"), namespace(t, "g")
	cable(t, nsA, "a0", nsG, "g0", lab.VethOptions{})
	cable(t, nsA, "a1", nsG, "g1", lab.VethOptions{})
	announced, silent := *probe(t, nsG, "g0"), *probe(t, nsG, "g1")
	announced.FeaturesKnown, announced.NativeXDP = true, true
	silent.FeaturesKnown = false

	for _, c := range []struct {
		name   string
		nics   [2]*NIC
		asked  []Mode
		modes  [2]Mode
		reason [2]string
	}{
		{"announced first", [2]*NIC{&announced, &silent}, nil, [2]Mode{ModeCopy, ModeCopy},
			[2]string{"the driver veth has no zero-copy", "the worker's UMEM is shared with g0, in copy mode"}},
		{"tried", [2]*NIC{&silent, &silent}, nil, [2]Mode{ModeCopy},
			[2]string{"the driver veth refuses zero-copy: operation not supported"}},
		{"asked", [2]*NIC{&announced, &silent}, []Mode{ModeCopy, ModeGeneric}, [2]Mode{ModeCopy, ModeGeneric},
			[2]string{"configured", "configured"}},
	} {
		plan := WorkerPlan{{NIC: c.nics[0], RX: []int{0}}}
		if c.nics[1] != c.nics[0] {
			plan = append(plan, QueuePlan{NIC: c.nics[1], RX: []int{0}})
		}
		in(t, nsG, func() error {
			u, ports, err := OpenPorts(plan, PortsConfig{Modes: c.asked, RingSize: 64})
			if err != nil {
				return err
			}
			for i, p := range ports {
				if mode, reason := p.Mode(); mode != c.modes[i] || reason != c.reason[i] {
					t.Errorf("%s, port %d: %v (%s), want %v (%s)", c.name, i, mode, reason, c.modes[i], c.reason[i])
				}
			}
			return ClosePorts(u, ports)
		})
	}
}
