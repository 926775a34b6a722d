package bench

import (
	"errors"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"sluice/internal/lab"
	"sluice/xdp"
)

// forwarder is the bare AF_XDP forwarder: it moves frames from one interface to
// the other and back, without looking at them, over the same rings and with the
// same waiting as the gateway. What the gateway takes beyond it is the gateway's
// doing.
type forwarder struct {
	*endpoint
	programs []*program
	waiter   *xdp.Waiter
	stop     atomic.Bool
	thread   int // that it runs on
	done     chan error
}

func startForwarder(ns *lab.Namespace, cpu int, a, b string) (f *forwarder, err error) {
	f = &forwarder{done: make(chan error, 1)}
	running := make(chan int, 1)
	defer func() {
		if err != nil {
			err = errors.Join(err, f.release())
		}
	}()
	if f.endpoint, err = openEndpoint(ns, a, b); err != nil {
		return nil, err
	}
	for i, name := range []string{a, b} {
		p, err := attach(ns, name, attachRedirect)
		if err != nil {
			return nil, err
		}
		f.programs = append(f.programs, p)
		if err := p.deliver(f.ports[i]); err != nil {
			return nil, err
		}
	}
	if f.waiter, err = xdp.NewWaiter(xdp.WaiterConfig{Ports: f.ports}); err != nil {
		return nil, err
	}
	go func() {
		runtime.LockOSThread()
		if err := xdp.PinThread(cpu); err != nil {
			running <- 0
			f.done <- err
			return
		}
		running <- syscall.Gettid()
		f.run()
		f.done <- nil
	}()
	f.thread = <-running
	return f, nil
}

func (f *forwarder) run() {
	var d [burst]xdp.Desc
	for !f.stop.Load() {
		n := f.move(d[:], f.ports[0], f.ports[1]) + f.move(d[:], f.ports[1], f.ports[0])
		f.ports[0].Flush()
		f.ports[1].Flush()
		f.waiter.Wait(n > 0, 100*time.Millisecond)
	}
}

func (f *forwarder) move(d []xdp.Desc, from, to *xdp.Port) int {
	n := from.Receive(d)
	if n > 0 {
		sent := to.Transmit(d[:n])
		f.umem.Free(d[sent:n])
	}
	return n
}

func (f *forwarder) close() error {
	f.stop.Store(true)
	err := f.waiter.Wake()
	return errors.Join(err, <-f.done, f.release())
}

func (f *forwarder) release() error {
	for _, p := range f.programs {
		p.close()
	}
	var err error
	if f.waiter != nil {
		err = f.waiter.Close()
	}
	return errors.Join(err, f.endpoint.close())
}
