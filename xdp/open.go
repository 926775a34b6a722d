package xdp

import (
	"errors"
	"fmt"
	"math/bits"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bindPatience is how long bind retries EBUSY. A queue stays taken for 10 to 15
// ms after its last socket was closed, since the kernel tears the buffer pool
// down from a work queue.
const bindPatience = 1500 * time.Millisecond

// idleRing is the size of a ring that the kernel wants to exist although the
// socket does not use it: completion without TX, fill without RX.
const idleRing = 64

// SocketConfig says what a socket is to be.
type SocketConfig struct {
	NIC      *NIC
	Queue    int
	Mode     Mode
	Reason   string // why it is to be that mode; "" = it is configured
	RingSize int    // entries of each ring, a power of two; 0 = DefaultRingSize
	Backlog  int    // received frames that may wait, the size of the RX ring, a power of two; 0 = RingSize
	RX, TX   bool   // which directions it serves, at least one

	// Patience is how long to wait for a queue that is still being torn down;
	// 0 = 1.5 s.
	Patience time.Duration
}

// Open makes a socket on a queue of a NIC and gives it frames to receive into.
// The first socket registers the UMEM and settles the mode for all of them; the
// later ones share it. A queue that is still being torn down is waited for.
// Errors are *SetupError.
//
// The device and the socket are of the calling thread's network namespace.
func (u *UMEM) Open(cfg SocketConfig) (*Socket, error) {
	if cfg.RingSize == 0 {
		cfg.RingSize = DefaultRingSize
	}
	if cfg.Backlog == 0 {
		cfg.Backlog = cfg.RingSize
	}
	if cfg.Reason == "" {
		cfg.Reason = "configured"
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, setupError(cfg.NIC.Name, cfg.Queue, callSocket, err)
	}
	s := &Socket{umem: u, nic: cfg.NIC, queue: cfg.Queue, fd: fd, budget: txBatch, patience: orDefault(cfg.Patience, bindPatience)}
	u.adopt(s)
	if err := s.open(cfg); err != nil {
		s.discard()
		u.reclaim(s) // it was never bound: the kernel uses none of its frames
		return nil, err
	}
	u.reclaimProven(s)
	return s, nil
}

func (cfg *SocketConfig) check() error {
	name, q := cfg.NIC.Name, cfg.Queue
	switch {
	case !cfg.RX && !cfg.TX:
		return &SetupError{Interface: name, Queue: q, Err: errors.New("a socket for neither receiving nor sending")}
	case cfg.RingSize < idleRing || bits.OnesCount(uint(cfg.RingSize)) != 1:
		return &SetupError{Interface: name, Queue: q, Err: fmt.Errorf("ring size %d", cfg.RingSize),
			Remedy: fmt.Sprintf("ring sizes are powers of two from %d on", idleRing)}
	case cfg.Backlog < cfg.RingSize || bits.OnesCount(uint(cfg.Backlog)) != 1:
		return &SetupError{Interface: name, Queue: q, Err: fmt.Errorf("backlog %d with rings of %d", cfg.Backlog, cfg.RingSize),
			Remedy: "a backlog is a power of two, and at least the ring size"}
	case cfg.RX && q >= cfg.NIC.RXQueues || cfg.TX && q >= cfg.NIC.TXQueues || q < 0:
		return &SetupError{Interface: name, Queue: q,
			Err:    fmt.Errorf("the interface has %d RX and %d TX queues", cfg.NIC.RXQueues, cfg.NIC.TXQueues),
			Remedy: "see `ethtool -l " + name + "`"}
	case cfg.Mode != ModeGeneric && cfg.NIC.FeaturesKnown && !cfg.NIC.NativeXDP:
		return refuse(name, "the driver "+cfg.NIC.Driver+" has no native XDP",
			"use mode generic if its drawbacks are acceptable, or another NIC")
	}
	return nil
}

// adopt gives s an id, and with it its own two places.
func (u *UMEM) adopt(s *Socket) {
	for s.id = 0; s.id < len(u.sockets) && u.sockets[s.id] != nil; s.id++ {
	}
	if s.id == len(u.sockets) {
		u.sockets = append(u.sockets, nil)
	}
	u.sockets[s.id] = s
	s.atFill = placeSockets + place(2*s.id)
	s.atTX = s.atFill + 1
}

// open takes s from a bare descriptor to a bound socket. The fill ring is
// filled before bind, since drivers such as mlx5 and ice look at it there.
func (s *Socket) open(cfg SocketConfig) error {
	sharer := s.umem.sharer(s)
	if sharer == nil {
		if err := s.register(); err != nil {
			return err
		}
	}
	if err := s.makeRings(cfg); err != nil {
		return err
	}
	if cfg.RX {
		s.fillLevel, s.fillMost = cfg.RingSize, cfg.Backlog
		s.fillBatch = 1
		s.Refill()
		s.fillBatch = min(txBatch, cfg.RingSize/4)
	}
	var err error
	if sharer != nil {
		err = s.bindShared(cfg, sharer)
	} else {
		err = s.bindFirst(cfg)
	}
	if err != nil {
		return err
	}
	s.tune(cfg)
	return nil
}

// sharer returns a socket whose registration of the UMEM s can share.
func (u *UMEM) sharer(s *Socket) *Socket {
	for _, o := range u.sockets {
		if o != nil && o != s && !o.closed && o.bound() {
			return o
		}
	}
	return nil
}

// bound reports whether the socket still has its device. It asks the kernel,
// since the device may have gone while nothing was sent.
func (s *Socket) bound() bool {
	if s.State() == StateGone {
		return false
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	if errno == unix.ENXIO {
		s.stop(errno)
	}
	return s.State() != StateGone
}

// register tells the kernel of the UMEM, which pins its pages.
func (s *Socket) register() error {
	u := s.umem
	reg := unix.XDPUmemReg{
		// The area is outside the Go heap, so its address stays what it is.
		Addr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(u.area)))),
		Len:  uint64(len(u.area)),
		Size: uint32(u.FrameSize()),
	}
	if err := setsockopt(s.fd, unix.XDP_UMEM_REG, unsafe.Pointer(&reg), unsafe.Sizeof(reg)); err != nil {
		return setupError(s.nic.Name, s.queue, callRegister, err)
	}
	return nil
}

// makeRings creates and maps the rings.
func (s *Socket) makeRings(cfg SocketConfig) error {
	fill, completion := idleRing, idleRing
	if cfg.RX {
		fill = cfg.RingSize
	}
	if cfg.TX {
		completion = cfg.RingSize
	}
	sizes := []struct {
		option, entries int
		want            bool
	}{
		{unix.XDP_UMEM_FILL_RING, fill, true},
		{unix.XDP_UMEM_COMPLETION_RING, completion, true},
		{unix.XDP_RX_RING, cfg.Backlog, cfg.RX},
		{unix.XDP_TX_RING, cfg.RingSize, cfg.TX},
	}
	for _, r := range sizes {
		if !r.want {
			continue
		}
		if err := unix.SetsockoptInt(s.fd, unix.SOL_XDP, r.option, r.entries); err != nil {
			return setupError(s.nic.Name, s.queue, callRing, err)
		}
	}
	var off unix.XDPMmapOffsets
	if n, err := getsockopt(s.fd, unix.XDP_MMAP_OFFSETS, unsafe.Pointer(&off), unsafe.Sizeof(off)); err != nil || n != unsafe.Sizeof(off) {
		if err == nil { // without the flags word: before Linux 5.4
			err = unix.EINVAL
		}
		return setupError(s.nic.Name, s.queue, callOffsets, err)
	}
	var err error
	if s.fill, s.maps[0], err = mapRing[uint64](s.fd, unix.XDP_UMEM_PGOFF_FILL_RING, &off.Fr, fill); err == nil {
		s.completion, s.maps[1], err = mapRing[uint64](s.fd, unix.XDP_UMEM_PGOFF_COMPLETION_RING, &off.Cr, completion)
	}
	if err == nil && cfg.RX {
		s.rx, s.maps[2], err = mapRing[Desc](s.fd, unix.XDP_PGOFF_RX_RING, &off.Rx, cfg.Backlog)
	}
	if err == nil && cfg.TX {
		s.tx, s.maps[3], err = mapRing[Desc](s.fd, unix.XDP_PGOFF_TX_RING, &off.Tx, cfg.RingSize)
	}
	if err != nil {
		return setupError(s.nic.Name, s.queue, callMap, err)
	}
	return nil
}

// mapRing maps a ring of the kernel's. The pointers into the mapping are aligned
// as the kernel's structs are: the indices to a cache line, the entries likewise
// (struct xdp_ring). They stay valid until the mapping is undone in discard.
func mapRing[T Desc | uint64](fd int, pgoff int64, off *unix.XDPRingOffset, entries int) (ring[T], []byte, error) {
	var entry T
	size := int(off.Desc) + entries*int(unsafe.Sizeof(entry))
	mem, err := unix.Mmap(fd, pgoff, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return ring[T]{}, nil, err
	}
	word := func(offset uint64) *uint32 { return (*uint32)(unsafe.Pointer(&mem[offset])) }
	slots := unsafe.Slice((*T)(unsafe.Pointer(&mem[off.Desc])), entries)
	return newRing(word(off.Producer), word(off.Consumer), word(off.Flags), slots), mem, nil
}

// tune sets what makes copy mode faster, where the kernel has it.
func (s *Socket) tune(cfg SocketConfig) {
	if !cfg.TX {
		return
	}
	if budget := min(256, cfg.RingSize); unix.SetsockoptInt(s.fd, unix.SOL_XDP, unix.XDP_MAX_TX_SKB_BUDGET, budget) == nil {
		s.budget = budget
	}
	// In copy mode every frame under way is an skb charged to the socket's send
	// buffer; let a whole ring of them be. Without CAP_NET_ADMIN the limit is
	// net.core.wmem_max, and full buffers only slow sending down.
	size := cfg.RingSize * s.umem.FrameSize()
	if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, size) != nil {
		unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, size)
	}
}

// Statistics are the kernel's counters of a socket (struct xdp_statistics).
type Statistics struct {
	RXDropped   uint64 // for other reasons than the two below
	RXRingFull  uint64
	RXFillEmpty uint64 // no frame in the fill ring
	RXInvalid   uint64 // invalid descriptors in the fill ring
	TXInvalid   uint64
	TXRingEmpty uint64 // times the kernel found nothing to send
}

// Statistics asks the kernel. It may be called from any goroutine while the
// socket is open.
func (s *Socket) Statistics() (Statistics, error) {
	var k unix.XDPStatistics
	if _, err := getsockopt(s.fd, unix.XDP_STATISTICS, unsafe.Pointer(&k), unsafe.Sizeof(k)); err != nil {
		return Statistics{}, setupError(s.nic.Name, s.queue, "getsockopt(XDP_STATISTICS)", err)
	}
	return Statistics{
		RXDropped: k.Rx_dropped, RXRingFull: k.Rx_ring_full, RXFillEmpty: k.Rx_fill_ring_empty_descs,
		RXInvalid: k.Rx_invalid_descs, TXInvalid: k.Tx_invalid_descs, TXRingEmpty: k.Tx_ring_empty_descs,
	}, nil
}

// setsockopt and getsockopt pass structures that x/sys has no call for. value
// points to size bytes; the kernel copies them during the call and keeps no
// pointer.
func setsockopt(fd, option int, value unsafe.Pointer, size uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option), uintptr(value), size, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func getsockopt(fd, option int, value unsafe.Pointer, size uintptr) (uintptr, error) {
	n := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option), uintptr(value), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return 0, errno
	}
	return uintptr(n), nil
}
