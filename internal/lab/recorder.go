package lab

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Recorded is one frame on an interface.
type Recorded struct {
	Frame    []byte // from the Ethernet header on, without a VLAN tag
	Outgoing bool   // sent by the interface's host; else received by it
}

// Recorder keeps every frame of an interface, in the order in which they passed,
// for as long as an exchange of a few packets takes: memory bounds it, not disk.
type Recorder struct {
	file *os.File
	done chan struct{}

	mu     sync.Mutex
	frames []Recorded
}

// Record starts to keep the frames of ifname in n.
func Record(n *Namespace, ifname string) (*Recorder, error) {
	file, err := packetSocket(n, ifname, nil)
	if err != nil {
		return nil, err
	}
	r := &Recorder{file: file, done: make(chan struct{})}
	go r.read()
	return r, nil
}

// Close stops, and returns every frame that passed before the call.
func (r *Recorder) Close() []Recorded {
	r.file.SetReadDeadline(time.Unix(1, 0))
	<-r.done
	r.file.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.frames)
}

func (r *Recorder) read() {
	defer close(r.done)
	raw, err := r.file.SyscallConn()
	if err != nil {
		return
	}
	buffer := make([]byte, 1<<16)
	for err == nil {
		// The deadline ends the wait; what is queued by then is read after it.
		err = raw.Read(func(fd uintptr) bool { return r.drain(int(fd), buffer) })
	}
	raw.Control(func(fd uintptr) { r.drain(int(fd), buffer) })
}

// drain keeps frames until none is queued. It returns false, which has the runtime
// wait for the next.
func (r *Recorder) drain(fd int, buffer []byte) bool {
	for {
		n, from, err := syscall.Recvfrom(fd, buffer, 0)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err != syscall.EAGAIN
		}
		link, ok := from.(*syscall.SockaddrLinklayer)
		r.mu.Lock()
		r.frames = append(r.frames, Recorded{slices.Clone(buffer[:n]), ok && link.Pkttype == syscall.PACKET_OUTGOING})
		r.mu.Unlock()
	}
}

// packetSocket opens a packet socket on ifname in n that receives what the filter
// passes, or every frame if it is nil.
func packetSocket(n *Namespace, ifname string, filter []syscall.SockFilter) (*os.File, error) {
	link, err := n.link(ifname)
	if err != nil {
		return nil, err
	}
	fd := -1
	err = n.Do(func() (err error) {
		// Protocol 0: nothing is received until the filter is in place and
		// bind names the protocol.
		fd, err = syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("lab: packet socket in %s: %w", n.name, err)
	}
	if filter != nil {
		err = attachFilter(fd, filter)
	}
	err = errors.Join(err,
		syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUFFORCE, receiveBuffer),
		syscall.Bind(fd, &syscall.SockaddrLinklayer{Protocol: networkOrder(syscall.ETH_P_ALL), Ifindex: link.Attrs().Index}),
	)
	if err != nil {
		syscall.Close(fd)
		return nil, fmt.Errorf("lab: watch %s in %s: %w", ifname, n.name, err)
	}
	return os.NewFile(uintptr(fd), "packet:"+ifname), nil
}
