package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"sluice/internal/lab"
	"sluice/xdp"
)

const (
	inspected   = 50_000 // packets of which each is looked at
	floodRounds = 5
	warmUp      = 100 * time.Millisecond
)

// contest is peers that take turns over veth.
type contest struct {
	name  string
	peers []Peer
	pairs [][2]Peer     // whose ratios count
	least Peer          // without which there is nothing to report
	share int           // of the rounds asked for, one in so many is taken
	most  time.Duration // for pairs and floods; a machine on which samples are repeated over and over gets fewer of them
}

var masquerading = contest{
	name:  "over veth",
	peers: []Peer{PeerSluice, PeerRouter, PeerForwarder, PeerKernel, PeerNFT, PeerAsavie},
	pairs: [][2]Peer{{PeerSluice, PeerRouter}, {PeerSluice, PeerForwarder}, {PeerSluice, PeerKernel}, {PeerSluice, PeerNFT}, {PeerSluice, PeerAsavie}},
	least: PeerSluice, share: 1, most: 4 * time.Minute,
}

// balancing has half the rounds: two peers of five are told apart by factors.
var balancing = contest{
	name:  "services over veth",
	peers: []Peer{PeerSluice, PeerDSR, PeerDNAT, PeerSNAT, PeerFullNAT},
	pairs: [][2]Peer{{PeerDSR, PeerSluice}, {PeerDSR, PeerDNAT}, {PeerSNAT, PeerFullNAT}},
	least: PeerSluice, share: 2, most: 90 * time.Second,
}

// wireRun measures over veth.
type wireRun struct {
	opened    []*lane // all
	lanes     []*lane // those that packets pass
	base      *lane
	generator []reading // ns per packet of the generator alone
	processor *processor
	contest   *contest
	o         *Options
	progress  *progress
	until     time.Time
	leftOut   []string
}

// runWire measures a contest over veth. It needs root. What cannot take part is
// added to leftOut.
func runWire(ctx context.Context, c *contest, o *Options, progress *progress, leftOut *[]string) (_ *WireReport, err error) {
	s, err := clearSite(o)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(s.dir)
	w := &wireRun{o: o, contest: c, progress: progress, processor: newProcessor(), until: time.Now().Add(c.most)}
	defer func() { err = errors.Join(err, w.close()) }()
	progress.begin(c.name, 2*len(c.peers)+w.pairs()+floodRounds)
	if w.base, err = w.open(ctx, s, peerBaseline); err != nil {
		return nil, err
	}
	if w.base.pktgen == nil {
		w.leaveOut("floods of the kernel's generator: it has no " + pktgenDir + ": modprobe pktgen")
	}
	for _, peer := range c.peers {
		progress.note("starting " + string(peer))
		if err := w.start(ctx, s, peer); err != nil {
			if peer == c.least || ctx.Err() != nil {
				return nil, err
			}
			w.leaveOut(fmt.Sprintf("%s: %v", peer, err))
		}
	}
	if err := pinned(s.generatorCPU, func() error { return w.measure(ctx) }); err != nil {
		return nil, err
	}
	*leftOut = append(*leftOut, w.leftOut...)
	return w.report(), nil
}

// pairs is how many rounds there are.
func (w *wireRun) pairs() int { return max(minPairs, w.o.Pairs/w.contest.share) }

func (w *wireRun) leaveOut(what string) { w.leftOut = append(w.leftOut, what) }

// start opens the lane of a peer and waits until packets pass.
func (w *wireRun) start(ctx context.Context, s *site, peer Peer) error {
	if needsNFT[peer] {
		if _, err := exec.LookPath("nft"); err != nil {
			return errors.New("there is no nft: apt-get install nftables")
		}
	}
	l, err := w.open(ctx, s, peer)
	if err != nil {
		return err
	}
	return w.first(l)
}

// open opens a lane that close closes.
func (w *wireRun) open(ctx context.Context, s *site, peer Peer) (*lane, error) {
	l, err := s.open(ctx, peer)
	if err == nil {
		w.opened = append(w.opened, l)
	}
	return l, err
}

// clearSite is newSite where nothing of an earlier run is left. It needs root.
func clearSite(o *Options) (*site, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("network namespaces need root: %w", errNotHere)
	}
	if err := lab.Sweep(); err != nil {
		return nil, err
	}
	return newSite(o)
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
