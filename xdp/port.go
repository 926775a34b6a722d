package xdp

import (
	"errors"
	"slices"
)

// Port is what one worker has of one NIC: a socket for each RX queue that it
// owns, and its own TX queue. It belongs to the worker's goroutine.
type Port struct {
	nic     *NIC
	sockets []*Socket // all of them, by queue
	rx      []*Socket
	tx      *Socket
	next    int // the RX queue whose turn it is
}

// PortConfig says which queues of a NIC a port has.
type PortConfig struct {
	NIC      *NIC
	RX       []int // queues to receive from
	TX       int   // the queue to send on
	Mode     Mode
	Reason   string // for the mode; "" = it is configured
	RingSize int    // 0 = DefaultRingSize
}

// OpenPort opens the sockets of a port. Errors are *SetupError.
func (u *UMEM) OpenPort(cfg PortConfig) (*Port, error) {
	p := &Port{nic: cfg.NIC}
	queues := slices.Clone(cfg.RX)
	if !slices.Contains(queues, cfg.TX) {
		queues = append(queues, cfg.TX)
	}
	slices.Sort(queues)
	for _, q := range queues {
		s, err := u.Open(SocketConfig{
			NIC: cfg.NIC, Queue: q, Mode: cfg.Mode, Reason: cfg.Reason, RingSize: cfg.RingSize,
			RX: slices.Contains(cfg.RX, q), TX: q == cfg.TX,
		})
		if err != nil {
			return nil, errors.Join(err, p.Close())
		}
		p.sockets = append(p.sockets, s)
		if s.Receives() {
			p.rx = append(p.rx, s)
		}
		if q == cfg.TX {
			p.tx = s
		}
	}
	return p, nil
}

// Receive fetches received frames, at most len(d), from the port's queues in
// turn, and returns how many. They are the caller's until transmitted or freed.
func (p *Port) Receive(d []Desc) int {
	n := 0
	for range p.rx {
		s := p.rx[p.next]
		if p.next++; p.next == len(p.rx) {
			p.next = 0 // the next call begins with another queue, so that a busy one starves none
		}
		if n += s.Receive(d[n:]); n == len(d) {
			break
		}
	}
	return n
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

// Pending is how many queued frames the kernel has not taken yet.
func (p *Port) Pending() int { return p.tx.Pending() }

// Wasted is how many frames the kernel took and dropped instead of sending
// them.
func (p *Port) Wasted() uint64 { return p.tx.Wasted() }

// State may be called from any goroutine.
func (p *Port) State() State { return p.tx.State() }

// SetUp tells the port that its link came up or went down. It is for the
// worker's goroutine. A deleted device does not come back: close the port.
func (p *Port) SetUp(up bool) {
	for _, s := range p.sockets {
		s.SetUp(up)
	}
}

// NIC is the port's interface.
func (p *Port) NIC() *NIC { return p.nic }

// Mode is how frames get there, and why.
func (p *Port) Mode() (mode Mode, reason string) { return p.tx.Mode() }

// Sockets are all sockets of the port, by queue. Those that receive belong in
// the XSKMAP.
func (p *Port) Sockets() []*Socket { return p.sockets }

// Close closes the sockets.
func (p *Port) Close() error {
	var errs []error
	for _, s := range p.sockets {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
