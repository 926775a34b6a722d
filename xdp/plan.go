package xdp

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// QueuePlan says which queues of one NIC a worker has.
type QueuePlan struct {
	NIC *NIC
	RX  []int // may be empty: a worker can have nothing to receive on a NIC
	TX  int
}

// WorkerPlan says which queues a worker has, for every NIC in the order given
// to Plan.
type WorkerPlan []QueuePlan

// Plan shares the queues of the NICs out to workers, and returns a plan for
// each. There are as many workers as CPUs allowed, but no more than the TX
// queues of any NIC, so that each has its own on every NIC and none needs a
// lock. Worker w sends on queue w and receives from the queues q with
// q mod workers = w.
func Plan(nics []*NIC, cpus int) ([]WorkerPlan, error) {
	if len(nics) == 0 {
		return nil, errors.New("plan: no interfaces")
	}
	if cpus < 1 {
		return nil, fmt.Errorf("plan: %d CPUs for workers: at least one is needed", cpus)
	}
	workers := cpus
	for _, n := range nics {
		if n.RXQueues < 1 || n.TXQueues < 1 {
			return nil, refuse(n.Name, fmt.Sprintf("it has %d RX and %d TX queues", n.RXQueues, n.TXQueues), "ethtool -L "+n.Name+" combined 1")
		}
		workers = min(workers, n.TXQueues)
	}
	plans := make([]WorkerPlan, workers)
	for w := range plans {
		for _, n := range nics {
			q := QueuePlan{NIC: n, TX: w}
			for rx := w; rx < n.RXQueues; rx += workers {
				q.RX = append(q.RX, rx)
			}
			plans[w] = append(plans[w], q)
		}
	}
	return plans, nil
}

// PortsConfig says how OpenPorts sets a worker up.
type PortsConfig struct {
	Modes     []Mode // for every NIC of the plan; nil = auto on all
	RingSize  int    // 0 = DefaultRingSize
	Backlog   int    // of NICs in copy mode; 0 = DefaultBacklog, or RingSize where that is given
	Spare     int    // frames beyond those that the rings can take up, for the caller to hold
	HugePages bool
}

// OpenPorts makes the UMEM of a worker, large enough for its rings, and opens
// its ports, in the order of the plan. Auto becomes zero-copy only where every
// NIC of the worker can, since they share the UMEM. Errors are *SetupError, but
// for those of the memory itself.
func OpenPorts(plan WorkerPlan, cfg PortsConfig) (*UMEM, []*Port, error) {
	choices, err := plan.choose(cfg.Modes)
	if err != nil {
		return nil, nil, err
	}
	u, ports, err := plan.open(cfg, choices)
	var refusal *SetupError
	if errors.Is(err, unix.EOPNOTSUPP) && errors.As(err, &refusal) && plan.toCopy(choices, refusal.Interface) {
		// A driver that announced nothing refused what the first one took.
		u, ports, err = plan.open(cfg, choices)
	}
	return u, ports, err
}

// choice is the mode to ask for, and why, where not the configuration says so.
type choice struct {
	mode   Mode
	reason string
}

// choose settles what is asked of each NIC, as far as it is known before trying.
func (plan WorkerPlan) choose(asked []Mode) ([]choice, error) {
	if asked != nil && len(asked) != len(plan) {
		return nil, fmt.Errorf("plan: %d modes for %d interfaces", len(asked), len(plan))
	}
	choices := make([]choice, len(plan))
	var zero, other []string
	for i, m := range asked {
		choices[i].mode = m
	}
	for i, c := range choices {
		n := plan[i].NIC
		switch {
		case c.mode == ModeZeroCopy:
			zero = append(zero, n.Name)
		case c.mode != ModeAuto || n.FeaturesKnown && !n.ZeroCopy:
			other = append(other, n.Name)
		}
	}
	if len(zero) > 0 && len(other) > 0 {
		return nil, refuse(zero[0], "mode zero-copy is asked for, but a worker's sockets share one UMEM and "+
			strings.Join(other, ", ")+" cannot have it or is configured otherwise", "use mode auto or copy")
	}
	if len(other) > 0 {
		plan.toCopy(choices, strings.Join(other, ", "))
	}
	return choices, nil
}

// toCopy turns auto into copy on account of other NICs, and reports whether
// there was any. A NIC that is known to have no zero-copy keeps auto, which
// leads to copy for that reason.
func (plan WorkerPlan) toCopy(choices []choice, others string) bool {
	changed := false
	for i, c := range choices {
		if c.mode == ModeAuto && (!plan[i].NIC.FeaturesKnown || plan[i].NIC.ZeroCopy) {
			choices[i] = choice{ModeCopy, "the worker's UMEM is shared with " + others + ", in copy mode"}
			changed = true
		}
	}
	return changed
}

// open makes the UMEM and opens the ports with the given modes.
func (plan WorkerPlan) open(cfg PortsConfig, choices []choice) (*UMEM, []*Port, error) {
	cfg.complete()
	u, err := NewUMEM(plan.umem(cfg, choices))
	if err != nil {
		return nil, nil, err
	}
	var ports []*Port
	for i, q := range plan {
		p, err := u.OpenPort(PortConfig{
			NIC: q.NIC, RX: q.RX, TX: q.TX, RingSize: cfg.RingSize, Backlog: plan.backlog(i, cfg, choices),
			Mode: choices[i].mode, Reason: choices[i].reason,
		})
		if err != nil {
			return nil, nil, errors.Join(err, ClosePorts(u, ports))
		}
		ports = append(ports, p)
	}
	return u, ports, nil
}

// complete fills in the defaults.
func (cfg *PortsConfig) complete() {
	if cfg.RingSize == 0 {
		cfg.RingSize = DefaultRingSize
		cfg.Backlog = orDefault(cfg.Backlog, DefaultBacklog)
	}
	cfg.Backlog = orDefault(cfg.Backlog, cfg.RingSize)
}

// backlog is that of the i-th NIC. A driver that fills the frames itself has a
// ring of its own in front, and as many frames as the fill ring.
func (plan WorkerPlan) backlog(i int, cfg PortsConfig, choices []choice) int {
	nic, mode := plan[i].NIC, choices[i].mode
	if mode == ModeCopy || mode == ModeGeneric || mode == ModeAuto && nic.FeaturesKnown && !nic.ZeroCopy {
		return cfg.Backlog
	}
	return cfg.RingSize
}

// umem sizes the UMEM: for every RX queue the frames to receive into and those that
// wait, for every TX queue a ring of frames to send, what the caller holds, and a
// burst on the way.
func (plan WorkerPlan) umem(cfg PortsConfig, choices []choice) UMEMConfig {
	c := UMEMConfig{FrameSize: smallFrame, Frames: cfg.Spare + 256, HugePages: cfg.HugePages}
	for i, q := range plan {
		c.Frames += len(q.RX)*plan.backlog(i, cfg, choices) + cfg.RingSize
		c.FrameSize = max(c.FrameSize, q.NIC.FrameSize())
	}
	return c
}

// ClosePorts closes the ports and their UMEM.
func ClosePorts(u *UMEM, ports []*Port) error {
	var errs []error
	for _, p := range ports {
		errs = append(errs, p.Close())
	}
	return errors.Join(append(errs, u.Close())...)
}
