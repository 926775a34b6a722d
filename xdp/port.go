package xdp

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Port is what one worker has of one NIC: a socket for each RX queue that it
// owns, and its own TX queue. It belongs to the worker's goroutine.
type Port struct {
	umem    *UMEM
	config  PortConfig
	sockets []*Socket // all of them, by queue
	rx      []*Socket
	tx      *Socket
	next    int     // the RX queue whose turn it is
	took    []taken // by the last Receive
	wasted  uint64  // by sockets that were closed since
}

// PortConfig says which queues of a NIC a port has.
type PortConfig struct {
	NIC      *NIC
	RX       []int // queues to receive from
	TX       int   // the queue to send on
	Mode     Mode
	Reason   string // for the mode; "" = it is configured
	RingSize int    // 0 = DefaultRingSize
	Backlog  int    // 0 = RingSize
}

// taken says up to which frame of what was received they came from a socket.
type taken struct {
	socket *Socket
	end    int
}

// OpenPort opens the sockets of a port. Errors are *SetupError.
func (u *UMEM) OpenPort(cfg PortConfig) (*Port, error) {
	p := &Port{umem: u, config: cfg}
	if err := p.open(0); err != nil {
		return nil, err
	}
	return p, nil
}

// reopenPatience is how long Reopen waits for a queue: long enough for the
// kernel to let go of one that was just closed, short enough for the worker's
// other ports not to overflow meanwhile.
const reopenPatience = 150 * time.Millisecond

// Reopen opens the sockets of a closed port anew: the same queues with the same
// settings, on the device that has the port's name now. Whoever has the port can
// go on using it. After an error it is as closed as before. Errors are
// *SetupError.
func (p *Port) Reopen(nic *NIC) error {
	if size := p.umem.FrameSize(); nic.FrameSize() > size {
		return refuse(nic.Name, fmt.Sprintf("MTU %d does not fit the worker's frames of %d bytes", nic.MTU, size),
			"lower the MTU, or restart, which makes larger frames")
	}
	old := p.config.NIC
	p.config.NIC = nic
	if err := p.open(reopenPatience); err != nil {
		p.config.NIC = old
		return err
	}
	return nil
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
		s, err := p.umem.Open(SocketConfig{
			NIC: cfg.NIC, Queue: q, Mode: cfg.Mode, Reason: cfg.Reason, RingSize: cfg.RingSize, Backlog: cfg.Backlog, Patience: patience,
			RX: slices.Contains(cfg.RX, q), TX: q == cfg.TX,
		})
		if err != nil {
			return errors.Join(err, closeSockets(sockets))
		}
		sockets = append(sockets, s)
		if s.Receives() {
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

// Receive fetches received frames, at most len(d), from the port's queues in
// turn, and returns how many. They are the caller's until transmitted or freed.
func (p *Port) Receive(d []Desc) int {
	n := 0
	p.took = p.took[:0]
	for range p.rx {
		s := p.rx[p.next]
		if p.next++; p.next == len(p.rx) {
			p.next = 0 // the next call begins with another queue, so that a busy one starves none
		}
		n += s.Receive(d[n:])
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

// Transmit queues frames for sending and returns how many it took, from the
// first on; the rest stay the caller's. A port whose link is down takes none.
// Where the ring is too full it first sends what is in it.
func (p *Port) Transmit(d []Desc) int {
	n := p.tx.Transmit(d)
	if n < len(d) && p.tx.State() == StateUp {
		p.tx.Kick()
		p.tx.Reap()
		n += p.tx.Transmit(d[n:])
	}
	return n
}

// Flush makes the kernel send what is queued, takes back what was sent and
// gives free frames to the receive side. A port whose link is down costs no
// system call, but for one attempt every 100 ms.
func (p *Port) Flush() {
	if p.tx.State() == StateDown {
		p.tx.retry()
	}
	p.tx.Kick()
	p.tx.Reap()
	for _, s := range p.rx {
		s.Refill()
	}
}

// Descriptors are those of the sockets that receive, for poll.
func (p *Port) Descriptors() (fds []int) {
	for _, s := range p.rx {
		fds = append(fds, s.fd)
	}
	return fds
}

// Pending is how many queued frames the kernel has not taken yet.
func (p *Port) Pending() int { return p.tx.Pending() }

// Wasted is how many frames the port took that were then not sent: the kernel
// dropped them, or the device went away under them. It never decreases.
func (p *Port) Wasted() uint64 { return p.wasted + p.tx.Wasted() }

// State may be called from any goroutine, but not while the port is reopened.
func (p *Port) State() State { return p.tx.State() }

// Up reports whether the port can send, as far as it has found out.
func (p *Port) Up() bool { return p.tx.State() == StateUp }

// SetUp tells the port that its link came up or went down. It is for the
// worker's goroutine. A deleted device does not come back: close the port, and
// reopen it on the next of that name.
func (p *Port) SetUp(up bool) {
	for _, s := range p.sockets {
		s.SetUp(up)
	}
}

// NIC is the port's interface.
func (p *Port) NIC() *NIC { return p.config.NIC }

// Mode is how frames get there, and why.
func (p *Port) Mode() (mode Mode, reason string) { return p.tx.Mode() }

// Sockets are all sockets of the port, by queue. Those that receive belong in
// the XSKMAP.
func (p *Port) Sockets() []*Socket { return p.sockets }

// Close closes the sockets. A closed port receives nothing and takes nothing;
// closing it again is no error.
func (p *Port) Close() error {
	if p.tx.closed {
		return nil
	}
	err := closeSockets(p.sockets)
	p.wasted += p.tx.wasted
	p.tx.wasted = 0
	return err
}

func closeSockets(list []*Socket) error {
	var errs []error
	for _, s := range list {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
