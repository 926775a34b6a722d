package asavie

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"sluice/xdp"
)

const (
	bindPatience   = 1500 * time.Millisecond // for a queue that is still being torn down
	reopenPatience = 60 * time.Millisecond   // likewise; the worker's other ports wait meanwhile
)

// burst is the most frames that the worker moves at once.
const burst = 64

// Port is what one worker has of one NIC: a socket for each RX queue that it
// owns, and its own TX queue. It belongs to the worker's goroutine.
type Port struct {
	frames  *xdp.UMEM // the staging area, which all ports of a worker share
	config  xdp.PortConfig
	failed  chan<- struct{}
	sockets []*Socket // all of them, by queue
	rx      []*Socket
	tx      *Socket
	next    int     // the RX queue whose turn it is
	took    []taken // by the last Receive
	wasted  uint64  // by sockets that were closed since
}

// taken says up to which frame of what was received they came from a socket.
type taken struct {
	socket *Socket
	end    int
}

// OpenPorts makes the staging area of a worker and opens its ports, in the order
// of the plan. failed, where it is not nil, gets a value, without blocking,
// whenever a port failed: see Port.Err. Errors are *xdp.SetupError, but for those
// of the memory and of the architecture.
func OpenPorts(plan xdp.WorkerPlan, cfg xdp.PortsConfig, failed chan<- struct{}) (*xdp.UMEM, []*Port, error) {
	if err := checkArch(runtime.GOARCH); err != nil {
		return nil, nil, err
	}
	if cfg.RingSize == 0 {
		cfg.RingSize = xdp.DefaultRingSize
	}
	staging := xdp.UMEMConfig{Frames: cfg.Spare + burst*(2*len(plan)+1), HugePages: cfg.HugePages}
	for _, q := range plan {
		staging.FrameSize = max(staging.FrameSize, q.NIC.FrameSize())
	}
	u, err := xdp.NewUMEM(staging)
	if err != nil {
		return nil, nil, err
	}
	var ports []*Port
	for i, q := range plan {
		p := &Port{frames: u, failed: failed, config: xdp.PortConfig{NIC: q.NIC, RX: q.RX, TX: q.TX, RingSize: cfg.RingSize}}
		if cfg.Modes != nil {
			p.config.Mode = cfg.Modes[i]
		}
		if err := p.open(bindPatience); err != nil {
			return nil, nil, errors.Join(err, ClosePorts(u, ports))
		}
		ports = append(ports, p)
	}
	return u, ports, nil
}

// ClosePorts closes the ports and their staging area.
func ClosePorts(u *xdp.UMEM, ports []*Port) error {
	var errs []error
	for _, p := range ports {
		errs = append(errs, p.Close())
	}
	return errors.Join(append(errs, u.Close())...)
}

// checkArch refuses an architecture whose processors reorder stores. The kernel
// would see an index before what it covers, and send what was in the frame
// before.
func checkArch(arch string) error {
	if arch == "amd64" {
		return nil
	}
	return fmt.Errorf("driver: asavie orders its ring accesses on amd64 only, and this is %s: write driver: native", arch)
}

// open opens the sockets that the configuration asks for, all or none.
func (p *Port) open(patience time.Duration) error {
	cfg := &p.config
	queues := slices.Clone(cfg.RX)
	if !slices.Contains(queues, cfg.TX) {
		queues = append(queues, cfg.TX)
	}
	slices.Sort(queues)
	var sockets, rx []*Socket
	var tx *Socket
	for _, q := range queues {
		s, err := openSocket(cfg, q, p.frames.FrameSize(), slices.Contains(cfg.RX, q), patience)
		if err != nil {
			return errors.Join(err, closeSockets(sockets))
		}
		s.failed = p.failed
		sockets = append(sockets, s)
		if s.receives {
			rx = append(rx, s)
		}
		if q == cfg.TX {
			tx = s
		}
	}
	p.sockets, p.rx, p.tx, p.next = sockets, rx, tx, 0
	p.took = make([]taken, 0, len(rx))
	return nil
}

// Reopen opens the sockets of a closed port anew, on the device that has the
// port's name now. After an error it is as closed as before. The sockets belong
// in the XSKMAP again.
func (p *Port) Reopen(nic *xdp.NIC) error {
	if size := p.frames.FrameSize(); nic.FrameSize() > size {
		return &xdp.SetupError{
			Interface: nic.Name, Queue: -1, Err: fmt.Errorf("MTU %d does not fit the worker's frames of %d bytes", nic.MTU, size),
			Remedy: "lower the MTU, or restart, which makes larger frames",
		}
	}
	old := p.config.NIC
	p.config.NIC = nic
	if err := p.open(reopenPatience); err != nil {
		p.config.NIC = old
		return err
	}
	return nil
}

// Receive fetches received frames, at most len(d), from the port's queues in
// turn, and returns how many. They are the caller's until transmitted or freed.
func (p *Port) Receive(d []xdp.Desc) int {
	n := 0
	p.took = p.took[:0]
	for range p.rx {
		s := p.rx[p.next]
		if p.next++; p.next == len(p.rx) {
			p.next = 0 // the next call begins with another queue, so that a busy one starves none
		}
		n += s.receive(p.frames, d[n:])
		if p.took = append(p.took, taken{s, n}); n == len(d) {
			break
		}
	}
	return n
}

// Queue is the queue that frame i of what Receive returned last came from.
func (p *Port) Queue(i int) int {
	for _, t := range p.took {
		if i < t.end {
			return t.socket.queue
		}
	}
	return -1
}

// Transmit sends frames and returns how many it took, from the first on; the
// rest stay the caller's. A port whose link is down takes none.
func (p *Port) Transmit(d []xdp.Desc) int {
	n := p.tx.transmit(p.frames, d)
	if n < len(d) && p.tx.State() == xdp.StateUp {
		p.tx.flush()
		n += p.tx.transmit(p.frames, d[n:])
	}
	p.frames.Free(d[:n]) // copied
	return n
}

// Flush has the kernel send what is still queued, and takes back what was sent.
func (p *Port) Flush() { p.tx.flush() }

// SetUp tells the port that its link came up or went down.
func (p *Port) SetUp(up bool) {
	for _, s := range p.sockets {
		s.setUp(up)
	}
}

// Err is why the port must be closed and reopened, or nil.
func (p *Port) Err() error {
	for _, s := range p.sockets {
		if err := s.err.Load(); err != nil {
			return *err
		}
	}
	return nil
}

// Up reports whether the port can send, as far as it has found out.
func (p *Port) Up() bool { return p.tx.State() == xdp.StateUp }

// State may be called from any goroutine, but not while the port is reopened.
func (p *Port) State() xdp.State { return p.tx.State() }

// Wasted is how many frames the port took that the kernel then did not take. It
// never decreases. Those that the kernel took and refused are not among them:
// the library keeps EBUSY to itself.
func (p *Port) Wasted() uint64 { return p.wasted + p.tx.wasted }

// Pending is how many queued frames the kernel has not taken yet.
func (p *Port) Pending() int { return p.tx.pending() }

// Descriptors are those of the sockets that receive, for poll.
func (p *Port) Descriptors() (fds []int) {
	for _, s := range p.rx {
		if s.xsk != nil {
			fds = append(fds, s.xsk.FD())
		}
	}
	return fds
}

// NIC is the port's interface.
func (p *Port) NIC() *xdp.NIC { return p.config.NIC }

// Sockets are all sockets of the port, by queue.
func (p *Port) Sockets() []*Socket { return p.sockets }

// Close closes the sockets. A closed port receives nothing and takes nothing;
// closing it again is no error.
func (p *Port) Close() error {
	err := closeSockets(p.sockets)
	p.wasted += p.tx.wasted
	p.tx.wasted = 0
	return err
}

func closeSockets(list []*Socket) error {
	var errs []error
	for _, s := range list {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}
