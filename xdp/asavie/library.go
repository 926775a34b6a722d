package asavie

import (
	"errors"
	"sync"
	"time"

	lib "github.com/asavie/xdp"
	"golang.org/x/sys/unix"

	"sluice/xdp"
)

// library is held whenever a socket is opened or closed: the flags of bind are
// a variable of the library, and what it leaves mapped is told apart by what was
// mapped before.
var library sync.Mutex

// retryBind is how long to wait before a queue that is still being torn down is
// tried again.
const retryBind = 5 * time.Millisecond

// newSocket opens one of the library's sockets, and waits for the queue at most
// for patience.
func newSocket(nic *xdp.NIC, queue int, mode xdp.Mode, o *lib.SocketOptions, patience time.Duration) (*lib.Socket, error) {
	library.Lock()
	defer library.Unlock()
	lib.DefaultSocketFlags = bindFlags(mode)
	deadline := time.Now().Add(patience)
	for {
		s, err := tryNewSocket(nic, queue, o)
		if err == nil {
			// The library opens without SOCK_CLOEXEC; a child would keep
			// the queue.
			unix.CloseOnExec(s.FD())
			return s, nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return nil, err
		}
		time.Sleep(retryBind)
	}
}

// tryNewSocket opens a socket, or leaves nothing behind: bind comes last, and
// where it fails the library closes the descriptor and leaves the rings.
func tryNewSocket(nic *xdp.NIC, queue int, o *lib.SocketOptions) (*lib.Socket, error) {
	before, err := ringMappings()
	if err != nil {
		return nil, err
	}
	s, err := lib.NewSocket(nic.Ifindex, queue, o)
	if err == nil {
		return s, nil
	}
	err = openError(nic, queue, err)
	after, problem := ringMappings()
	for inode, list := range after {
		if _, old := before[inode]; !old {
			problem = errors.Join(problem, unmap(list))
		}
	}
	return nil, errors.Join(err, problem)
}

// closeSocket closes a socket wholly: its descriptor, its UMEM and its rings.
func closeSocket(s *lib.Socket) error {
	library.Lock()
	defer library.Unlock()
	inode, err := inodeOf(s.FD())
	if err != nil {
		return errors.Join(err, s.Close())
	}
	rings, err := ringMappings()
	return errors.Join(err, s.Close(), unmap(rings[inode]))
}

// bindFlags is how a mode is asked for. Auto leaves it to the kernel, which
// prefers zero-copy.
func bindFlags(m xdp.Mode) uint16 {
	switch m {
	case xdp.ModeZeroCopy:
		return unix.XDP_ZEROCOPY
	case xdp.ModeCopy, xdp.ModeGeneric:
		return unix.XDP_COPY
	}
	return 0
}
