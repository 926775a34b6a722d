package daemon

import (
	"fmt"
	"net"
	"time"

	"sluice/internal/control"
	"sluice/internal/fib"
	"sluice/xdp"
)

// A listed interface can be deleted and created anew, or another can take its
// name, while the gateway runs. The route mirror tells by the ifindex. Sockets
// and the steering program belong to a device and not to a name, so the control
// goroutine has the workers close theirs when the device goes or a socket fails
// for good (as the driver asavie's do when the link goes down), and when one of
// that name is there, moves the steering program first (fail closed: frames have
// the on-failure verdict from then on) and then has every worker open its
// sockets on it. Flows outlive all of this: they know ports, not devices.

const (
	linkRetry    = time.Second      // when to try an interface again that could not be opened
	linkRetryMax = 30 * time.Second // the wait doubles up to this: every try costs the workers a moment
)

// linkState is what the control goroutine knows of a listed interface.
type linkState struct {
	serving int  // ifindex of the device that the workers have sockets on; 0: none
	up      bool // its link was, when last looked at
	problem error
	undone  control.Degradation // what another process did to its steering program

	tried   device // what could not be opened
	retryAt time.Time
	wait    time.Duration
}

// device is what makes a new try worth while before its time.
type device struct {
	ifindex int
	mtu     uint16
	up      bool
}

// followLinks opens and closes what the routes at hand say has come and gone,
// and tries again what is due. It belongs to the control goroutine.
func (d *Daemon) followLinks(now time.Time) {
	for i := range d.links {
		l := &d.links[i]
		iface := d.routes.Interface(fib.PortID(i))
		is := device{int(iface.Ifindex), iface.MTU, iface.Up}
		d.tellLink(l, iface.Name, is)
		failed := l.serving != 0 && d.plane.failure(i) != nil
		if is.ifindex == l.serving && l.problem == nil && !failed || is == l.tried && now.Before(l.retryAt) {
			continue
		}
		d.follow(l, i, is, now)
	}
}

// tellLink logs that the link of the device in service went down or came up.
func (d *Daemon) tellLink(l *linkState, name string, is device) {
	if l.serving == 0 || is.ifindex != l.serving || is.up == l.up {
		return
	}
	if l.up = is.up; is.up {
		d.log.Info("link is up", "interface", name)
	} else {
		d.log.Warn("link is down: what leaves by it is dropped", "interface", name)
	}
}

// follow brings port i from the device it is on to the one that is there now, if
// any.
func (d *Daemon) follow(l *linkState, i int, is device, now time.Time) {
	name := d.config.Interfaces[i].Name
	d.sockets.Lock()
	defer d.sockets.Unlock()
	var failed error
	if l.serving != 0 {
		if failed = d.plane.failure(i); failed != nil {
			d.log.Warn("sockets failed and are opened anew", "interface", name, "error", failed)
		}
		if err := d.plane.closePort(i); err != nil {
			d.log.Warn("interface is gone, and not all of it could be closed", "interface", name, "error", err)
		}
		l.serving = 0
	}
	if is.ifindex == 0 {
		*l = linkState{}
		d.log.Warn("interface is gone; waiting for one of that name", "interface", name)
		return
	}
	if err := d.plane.movePort(i, name); err != nil {
		if l.tried != is {
			l.wait = linkRetry
			d.log.Warn("interface cannot be used yet, it is tried again", "error", err)
		}
		l.problem, l.tried, l.retryAt, l.wait = err, is, now.Add(l.wait), min(2*l.wait, linkRetryMax)
		return
	}
	*l = linkState{serving: is.ifindex, up: is.up}
	if failed != nil {
		l.tried, l.retryAt = is, now.Add(linkRetry) // should it fail again at once
	}
	d.log.Info("interface is back", "interface", name, "ifindex", is.ifindex)
}

// closePort has every worker close its sockets on port i.
func (p *plane) closePort(i int) error {
	return p.tellPorts(i, func(p port) error { return p.Close() })
}

// movePort takes port i to the device that has its name now. After an error no
// worker has a socket on it.
func (p *plane) movePort(i int, name string) error {
	nic, err := xdp.Probe(name)
	if err != nil {
		return err
	}
	p.nics[i] = nic
	if err := p.steering.Move(i, nic); err != nil {
		return err
	}
	if !nic.Up {
		return fmt.Errorf("%s: it is down: ip link set %s up", name, name)
	}
	if err := p.tellPorts(i, func(p port) error { return p.Reopen(nic) }); err != nil {
		return fmt.Errorf("%w%s", err, suffix(p.closePort(i)))
	}
	return p.connect(i)
}

// linkProblems says in words which interfaces are there and cannot be used, or
// not wholly.
func (d *Daemon) linkProblems() (list []control.Degradation) {
	frame := d.plane.threads[0].umem.FrameSize()
	for i := range d.links {
		if undone := d.links[i].undone; undone.What != "" {
			list = append(list, undone)
		}
		iface := d.routes.Interface(fib.PortID(i))
		switch err := d.links[i].problem; {
		case err != nil:
			list = append(list, control.Degradation{What: err.Error(), Remedy: "it is tried again by itself, within half a minute"})
		case (&xdp.NIC{MTU: int(iface.MTU)}).FrameSize() > frame:
			list = append(list, control.Degradation{
				What:   fmt.Sprintf("interface %s has MTU %d by now, and packets that do not fit in %d bytes are lost", iface.Name, iface.MTU, frame),
				Remedy: "restart, which makes larger frames: `systemctl restart sluice`; or lower the MTU",
			})
		}
	}
	return list
}

// watchSteering notices what others do to the steering program of the devices in
// service: `sluice detach`, above all, which is for when no daemon runs. It is not
// undone, since whoever did it wanted the kernel to have the packets.
func (d *Daemon) watchSteering() {
	for i := range d.links {
		l, before := &d.links[i], d.links[i].undone.What
		l.undone = control.Degradation{}
		if l.serving == 0 || l.serving != int(d.routes.Interface(fib.PortID(i)).Ifindex) {
			continue // its device is gone, or about to be replaced
		}
		name := d.config.Interfaces[i].Name
		switch detached, unpinned, err := d.plane.steering.Undone(i); {
		case err != nil:
			d.log.Warn("whether the steering program is in place is unknown", "error", err)
		case detached && !present(l.serving):
			// The device went, and the routes do not say so yet.
		case detached:
			l.undone = control.Degradation{
				What:   "interface " + name + ": the steering program was taken off (`sluice detach` does that), so the kernel has its packets, untranslated",
				Remedy: "attach it again: `systemctl restart sluice`",
			}
		case unpinned:
			l.undone = control.Degradation{
				What:   "interface " + name + ": the pin of the steering program was removed, so the kernel gets its packets, untranslated, once this process ends",
				Remedy: "pin it again: `systemctl restart sluice`",
			}
		}
		if l.undone.What != "" && l.undone.What != before {
			d.log.Error(l.undone.What, "remedy", l.undone.Remedy)
		}
	}
}

func present(ifindex int) bool {
	_, err := net.InterfaceByIndex(ifindex)
	return err == nil
}

// suffix is what went wrong besides.
func suffix(err error) string {
	if err == nil {
		return ""
	}
	return "; " + err.Error()
}

// tellPorts has f done to port i of every worker, by the worker.
func (p *plane) tellPorts(i int, f func(port) error) error {
	for _, t := range p.threads {
		if err := t.tell(func() error {
			err := f(t.ports[i])
			t.watch()
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// connect makes the workers' sockets on port i the receivers of its queues.
func (p *plane) connect(i int) error {
	for _, t := range p.threads {
		for _, s := range t.ports[i].sockets() {
			if !s.Receives() {
				continue
			}
			if err := p.steering.SetSocket(i, s.Queue(), s.FD()); err != nil {
				return err
			}
		}
	}
	return nil
}

// task is something that only the worker's thread may do, since it touches what
// that thread owns.
type task struct {
	do   func() error
	done chan error
}

// tell has the thread do something between two bursts, waits, and returns its
// error. It belongs to the control goroutine.
func (t *thread) tell(do func() error) error {
	k := &task{do: do, done: make(chan error, 1)}
	t.task.Store(k)
	_ = t.waiter.Wake() // or else its nap ends by itself
	select {
	case err := <-k.done:
		return err
	case <-t.done:
		return fmt.Errorf("worker %d does not run", t.id)
	}
}

// perform does what tell asks for.
func (t *thread) perform(k *task) {
	t.task.Store(nil)
	k.done <- k.do()
}
