package daemon

import (
	"errors"
	"fmt"

	"sluice/internal/config"
	"sluice/internal/gateway"
	"sluice/xdp"
	"sluice/xdp/asavie"
)

// port is a worker's end of an interface, whatever driver opened it. Besides
// what the gateway does with it, the daemon closes and reopens it with its
// device, and shows it in status.
type port interface {
	gateway.Port
	xdp.Waitable

	Reopen(nic *xdp.NIC) error
	Close() error

	// Err is why the port stopped for good and must be reopened, or nil. It
	// may be called from any goroutine while the port is not being reopened.
	Err() error

	sockets() []socket
}

// socket is one AF_XDP socket of a port.
type socket interface {
	FD() int
	Queue() int
	Receives() bool
	Mode() (mode xdp.Mode, reason string)
	State() xdp.State
	Traffic() xdp.Traffic
	RingLevels() xdp.RingLevels
	Statistics() (xdp.Statistics, error)
}

// nativePort is a port of package xdp. It stops for good only when its device
// is deleted, which the route mirror tells.
type nativePort struct{ *xdp.Port }

func (nativePort) Err() error          { return nil }
func (p nativePort) sockets() []socket { return asSockets(p.Port.Sockets()) }

// asaviePort is a port on the sockets of github.com/asavie/xdp.
type asaviePort struct{ *asavie.Port }

func (p asaviePort) sockets() []socket { return asSockets(p.Port.Sockets()) }

func asSockets[S socket](list []S) (all []socket) {
	for _, s := range list {
		all = append(all, s)
	}
	return all
}

// openPorts opens a worker's ports with the driver that is configured. The UMEM
// is the memory that the worker's frames live in: with asavie no socket shares
// it. A port that fails announces it on failed.
func openPorts(driver config.Driver, plan xdp.WorkerPlan, cfg xdp.PortsConfig, failed chan<- struct{}) (*xdp.UMEM, []port, error) {
	var ports []port
	if driver == config.DriverAsavie {
		u, opened, err := asavie.OpenPorts(plan, cfg, failed)
		for _, p := range opened {
			ports = append(ports, asaviePort{p})
		}
		return u, ports, err
	}
	u, opened, err := xdp.OpenPorts(plan, cfg)
	for _, p := range opened {
		ports = append(ports, nativePort{p})
	}
	return u, ports, err
}

// closePorts closes ports and the memory of their worker.
func closePorts(u *xdp.UMEM, ports []port) error {
	var errs []error
	for _, p := range ports {
		errs = append(errs, p.Close())
	}
	return errors.Join(append(errs, u.Close())...)
}

// watch makes the worker wait for its ports as they are now.
func (t *thread) watch() {
	list := make([]xdp.Waitable, len(t.ports))
	for i, p := range t.ports {
		list[i] = p
	}
	t.waiter.Watch(list)
}

// failure is why a port of interface i stopped for good, or nil.
func (p *plane) failure(i int) error {
	for _, t := range p.threads {
		if err := t.ports[i].Err(); err != nil {
			return fmt.Errorf("worker %d: %w", t.id, err)
		}
	}
	return nil
}

// driverNotes are the limits of a driver that an operator should know of.
func driverNotes(driver config.Driver) []string {
	if driver == config.DriverAsavie {
		return []string{asavie.Limits}
	}
	return nil
}
