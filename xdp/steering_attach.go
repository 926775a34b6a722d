package xdp

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// attachedGeneric is the value of IFLA_XDP_ATTACHED (include/uapi/linux/if_link.h)
// for a program in generic mode, XDP_ATTACHED_SKB.
const attachedGeneric = 2

// Names of the steps that change an attached program, for errors.
const (
	callReplace = "replace the pinned XDP program"
	callDetach  = "detach the XDP program"
)

// attachment is the link that holds a port's program on its interface.
type attachment struct {
	link.Link
	path     string // of the pin; empty where there is none
	unpinned string // why there is none
	taken    bool   // over from an earlier process
}

// remove detaches the program and removes the pin.
func (a *attachment) remove() error {
	err := a.Detach()
	if a.path != "" {
		err = errors.Join(err, Unpin(a.path))
	}
	return errors.Join(err, a.Close())
}

// Attach starts steering a port, in the caller's network namespace. A link of
// an earlier process that is still pinned is taken over: the program changes in
// one step, no frame misses it. A new link is pinned where pins last; where
// they do not, Pinned says why. Errors are *SetupError.
func (s *Steering) Attach(port int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &s.config.Ports[port]
	if s.attached[port] != nil {
		return refuse(p.NIC.Name, "it is steered already", "")
	}
	dir, why := PinDirectory()
	if why == "" {
		removeDeadPins()
		adopted, err := s.adopt(port, dir)
		if err != nil || adopted {
			return err
		}
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: s.programs[port], Interface: p.NIC.Ifindex, Flags: p.flags()})
	if err != nil {
		return setupError(p.NIC.Name, -1, p.call(), err)
	}
	a := &attachment{Link: l, unpinned: why}
	if why == "" {
		a.path, a.unpinned = pin(l, dir, p.NIC)
	}
	s.attached[port] = a
	return nil
}

// adopt takes over the pinned link of the port's interface, if there is one.
func (s *Steering) adopt(port int, dir string) (bool, error) {
	p := &s.config.Ports[port]
	a, err := pinnedLink(dir, p.NIC.Ifindex)
	if err != nil {
		return false, setupError(p.NIC.Name, -1, callReplace, err)
	}
	if a == nil {
		return false, nil
	}
	generic, err := attachedGenerically(p.NIC.Ifindex)
	switch {
	case err != nil:
	case generic != (p.Mode == ModeGeneric):
		// A link keeps its mode for life, and the configured one is
		// another now.
		err = a.remove()
		if err == nil {
			return false, nil
		}
	default:
		err = a.Update(s.programs[port])
		if err == nil {
			a.taken = true
			s.attached[port] = a
			return true, nil
		}
	}
	a.Close()
	return false, setupError(p.NIC.Name, -1, callReplace, err)
}

// Detach stops steering a port: the program leaves the interface, and the pin
// goes. A port that is not attached is no error.
func (s *Steering) Detach(port int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.attached[port]
	if a == nil {
		return nil
	}
	s.attached[port] = nil
	if err := a.remove(); err != nil {
		return setupError(s.config.Ports[port].NIC.Name, -1, callDetach, err)
	}
	return nil
}

// Abandon is for a start that failed: what Attach attached is detached, and what
// it took over from an earlier process stays attached, with the on-failure
// verdict, since packets were held back before this start and still have to be.
func (s *Steering) Abandon() error {
	var errs []error
	for i := range s.config.Ports {
		s.mu.Lock()
		a := s.attached[i]
		s.mu.Unlock()
		if a != nil && !a.taken {
			errs = append(errs, s.Detach(i))
		}
	}
	return errors.Join(errs...)
}

// Move makes nic the device of a port: one of the same name came in the place of
// the last. The program is attached to it first of all, so that nothing passes
// by; until SetSocket is called its frames have the on-failure verdict. The old
// device, if it is still there under another name, is left to the kernel. After
// an error the port has the new device, and calling again goes on from there.
// Errors are *SetupError.
func (s *Steering) Move(port int, nic *NIC) error {
	if q := s.config.Ports[port].Queues; nic.RXQueues != q {
		return refuse(nic.Name, fmt.Sprintf("it has %d RX queues and had %d when Sluice started", nic.RXQueues, q),
			fmt.Sprintf("ethtool -L %s combined %d, or restart", nic.Name, q))
	}
	if !s.steers(port, nic.Ifindex) {
		if err := s.Detach(port); err != nil {
			return err
		}
		s.mu.Lock()
		s.config.Ports[port].NIC = nic
		s.mu.Unlock()
	}
	if err := s.SetMAC(port, nic.MAC); err != nil {
		return err
	}
	if s.steers(port, nic.Ifindex) {
		return nil // the name was away, the device never was
	}
	return s.Attach(port)
}

// steers reports whether a port's program is on the device of an ifindex.
func (s *Steering) steers(port, ifindex int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attached[port] != nil && s.config.Ports[port].NIC.Ifindex == ifindex
}

// Pinned says whether the program outlives the process on every attached port,
// and the directory of the pins, or why it does not. What another process took off
// an interface is attached no more.
func (s *Steering) Pinned() (pinned bool, where string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	where = "nothing is attached"
	for _, a := range s.attached {
		if a == nil {
			continue
		}
		off, err := a.detached()
		switch {
		case off && err == nil:
		case a.path == "":
			return false, a.unpinned
		case !exists(a.path):
			return false, a.path + " was removed"
		default:
			pinned, where = true, filepath.Dir(filepath.Dir(a.path))
		}
	}
	return pinned, where
}

func (p *SteeringPort) flags() link.XDPAttachFlags {
	if p.Mode == ModeGeneric {
		return link.XDPGenericMode
	}
	return link.XDPDriverMode
}

func (p *SteeringPort) call() string {
	if p.Mode == ModeGeneric {
		return callAttachSKB
	}
	return callAttach
}

// attachedGenerically says whether the interface has a program in generic mode.
func attachedGenerically(ifindex int) (bool, error) {
	l, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return false, fmt.Errorf("RTM_GETLINK: %w", err)
	}
	x := l.Attrs().Xdp
	return x != nil && x.AttachMode == attachedGeneric, nil
}
