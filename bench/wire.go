package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"sluice/internal/lab"
	"sluice/xdp"
)

const (
	inspected   = 50_000 // packets of which each is looked at
	floodRounds = 5
	warmUp      = 100 * time.Millisecond

	// wireTime is how long the pairs and floods may take in all; a machine on
	// which samples are repeated over and over gets fewer of them.
	wireTime = 5 * time.Minute
)

// wireRun measures over veth.
type wireRun struct {
	opened    []*lane // all
	lanes     []*lane // those that packets pass
	base      *lane
	generator []reading // ns per packet of the generator alone
	processor *processor
	o         *Options
	progress  *progress
	until     time.Time
	leftOut   []string
}

// runWire measures over veth. It needs root.
func (r *Report) runWire(ctx context.Context, o *Options, progress *progress) (err error) {
	if os.Geteuid() != 0 {
		return fmt.Errorf("network namespaces need root: %w", errNotHere)
	}
	if err := lab.Sweep(); err != nil {
		return err
	}
	s, err := newSite(o)
	if err != nil {
		return err
	}
	defer os.RemoveAll(s.dir)
	w := &wireRun{o: o, progress: progress, processor: newProcessor(), until: time.Now().Add(wireTime)}
	defer func() { err = errors.Join(err, w.close()) }()
	list, leftOut := s.peers()
	r.LeftOut = append(r.LeftOut, leftOut...)
	progress.begin("over veth", 2*len(list)+o.Pairs+floodRounds)
	if w.base, err = w.open(ctx, s, peerBaseline); err != nil {
		return err
	}
	if w.base.pktgen == nil {
		r.LeftOut = append(r.LeftOut, "floods of the kernel's generator: it has no "+pktgenDir+": modprobe pktgen")
	}
	for _, peer := range list {
		progress.note("starting " + string(peer))
		l, err := w.open(ctx, s, peer)
		if err == nil {
			err = w.first(l)
		}
		if err != nil {
			if peer == PeerSluice || ctx.Err() != nil {
				return err
			}
			r.LeftOut = append(r.LeftOut, fmt.Sprintf("%s: %v", peer, err))
		}
	}
	if err := pinned(s.generatorCPU, func() error { return w.measure(ctx) }); err != nil {
		return err
	}
	r.LeftOut = append(r.LeftOut, w.leftOut...)
	r.Wire = w.report()
	return nil
}

// open opens a lane that close closes.
func (w *wireRun) open(ctx context.Context, s *site, peer Peer) (*lane, error) {
	l, err := s.open(ctx, peer)
	if err == nil {
		w.opened = append(w.opened, l)
	}
	return l, err
}

// newSite chooses the CPUs: the generator has one to itself where there are two.
func newSite(o *Options) (*site, error) {
	cpus, err := xdp.AllowedCPUs()
	if err != nil {
		return nil, err
	}
	s := &site{binary: o.Binary, generatorCPU: cpus[0], otherCPU: cpus[len(cpus)-1]}
	if s.binary == "" {
		if s.binary, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("bench: find the running program: %w", err)
		}
	}
	if s.dir, err = os.MkdirTemp("", "sluice-bench-"); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	return s, nil
}
