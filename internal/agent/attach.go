package agent

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sluice/xdp"
)

// hook is a place where a program is attached.
type hook struct {
	ifindex int
	reply   bool // egress
}

func (h hook) String() string {
	if h.reply {
		return fmt.Sprintf("%d-reply", h.ifindex)
	}
	return fmt.Sprintf("%d-request", h.ifindex)
}

func (h hook) attachType() ebpf.AttachType {
	if h.reply {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}

// attachment is a program at a hook.
type attachment struct {
	link   link.Link          // TCX
	path   string             // of its pin
	filter *netlink.BpfFilter // or a filter in the qdisc clsact
}

// Of the clsact filters. The priority leaves room before and behind.
const (
	filterName     = "sluice-agent"
	filterPriority = 0x5c1c
	filterHandle   = 1
)

// adopt takes over what an earlier process attached, so that attachAll gives it
// these programs, each in one step. Links of devices that are gone go.
func (a *Agent) adopt() error {
	found, err := filters(a.netlink)
	if err != nil {
		return fmt.Errorf("look for filters of an earlier DSR agent: %w", err)
	}
	for h, f := range found {
		a.attached[h], a.adopted[h] = f, true
	}
	if a.pins == "" {
		return nil
	}
	links, err := a.pins.pinned()
	if err != nil {
		return err
	}
	for _, l := range links {
		h := hook{ifindex: l.ifindex, reply: l.attach == ebpf.AttachTCXEgress}
		if l.ifindex == 0 || a.attached[h] != nil {
			err = errors.Join(err, l.Detach(), xdp.Unpin(l.path), l.Close())
			continue
		}
		a.attached[h] = &attachment{link: l.Link, path: l.path}
		a.adopted[h] = true
	}
	return err
}

// attachAll makes what is attached that which the node's interfaces want: programs
// that are there already are replaced once, others added, the rest taken away.
func (a *Agent) attachAll(wanted map[hook]*ebpf.Program) error {
	var errs []error
	for _, h := range slices.Collect(maps.Keys(a.attached)) {
		if wanted[h] == nil {
			errs = append(errs, a.detach(h))
		}
	}
	// Replies first: what a request begins must be translated. Unless the flows get
	// another table: then the programs that begin none there yet come first, the
	// old table is complete when it is copied, and the other programs follow.
	replies := a.before == nil
	errs = append(errs, a.attachSome(wanted, replies), a.handOver(), a.attachSome(wanted, !replies))
	return errors.Join(errs...)
}

// attachSome is attachAll for the hooks of replies, or of requests.
func (a *Agent) attachSome(wanted map[hook]*ebpf.Program, replies bool) error {
	var errs []error
	for h, program := range wanted {
		if h.reply != replies {
			continue
		}
		var err error
		switch at := a.attached[h]; {
		case at == nil:
			err = a.attach(h, program)
		case a.adopted[h]:
			err = a.replace(h, at, program)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("attach the DSR agent to %s: %w", a.nameOf(h.ifindex), err))
		}
	}
	return errors.Join(errs...)
}

func (a *Agent) attach(h hook, program *ebpf.Program) error {
	if !a.classic {
		l, err := link.AttachTCX(link.TCXOptions{Interface: h.ifindex, Program: program, Attach: h.attachType()})
		if err == nil {
			at := &attachment{link: l}
			if a.pins != "" {
				at.path = filepath.Join(a.pins.links(), h.String())
				if err := xdp.Pin(l, at.path); err != nil {
					return errors.Join(err, l.Close())
				}
			}
			a.attached[h] = at
			return nil
		}
		if !errors.Is(err, ebpf.ErrNotSupported) {
			return err
		}
		a.classic = true // before Linux 6.6
	}
	return a.attachFilter(h, program)
}

// replace gives an adopted hook this process's program, and its form.
func (a *Agent) replace(h hook, at *attachment, program *ebpf.Program) error {
	var err error
	switch {
	case at.link != nil && !a.classic:
		err = at.link.Update(program)
	case at.filter != nil && a.classic:
		err = a.attachFilter(h, program)
	default:
		// Both at once would do no harm: a packet that is translated belongs
		// to no flow any more.
		err = errors.Join(a.attach(h, program), at.remove(a.netlink))
	}
	if err == nil {
		delete(a.adopted, h)
	}
	return err
}

// attachFilter is for kernels without TCX. The filter replaces that of an earlier
// process, whose maps these are; it stays when the process ends.
func (a *Agent) attachFilter(h hook, program *ebpf.Program) error {
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: h.ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := a.netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add the qdisc clsact: %w", err)
	}
	f := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: h.ifindex, Parent: parentOf(h), Handle: filterHandle,
			Priority: filterPriority, Protocol: unix.ETH_P_IP,
		},
		Fd: program.FD(), Name: filterName, DirectAction: true,
	}
	if err := a.netlink.FilterReplace(f); err != nil {
		return fmt.Errorf("add the filter to clsact: %w", err)
	}
	a.attached[h] = &attachment{filter: f}
	return nil
}

func parentOf(h hook) uint32 {
	if h.reply {
		return netlink.HANDLE_MIN_EGRESS
	}
	return netlink.HANDLE_MIN_INGRESS
}

// detach takes one program away.
func (a *Agent) detach(h hook) error {
	at := a.attached[h]
	delete(a.attached, h)
	delete(a.adopted, h)
	return at.remove(a.netlink)
}

func (at *attachment) remove(h *netlink.Handle) error {
	if at.filter != nil {
		if err := h.FilterDel(at.filter); err != nil && !gone(err) {
			return fmt.Errorf("remove the DSR agent's filter: %w", err)
		}
		return nil
	}
	err := at.link.Detach()
	if errors.Is(err, unix.ENOLINK) { // went with its device
		err = nil
	}
	if at.path != "" {
		err = errors.Join(err, xdp.Unpin(at.path))
	}
	return errors.Join(err, at.link.Close())
}

// gone says that what was to be removed is not there, its device perhaps neither.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL)
}

// filters finds the filters of an earlier process in the namespace.
func filters(h *netlink.Handle) (map[hook]*attachment, error) {
	links, err := h.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, err
	}
	found := map[hook]*attachment{}
	for _, l := range links {
		for _, reply := range []bool{false, true} {
			k := hook{ifindex: l.Attrs().Index, reply: reply}
			list, err := h.FilterList(l, parentOf(k))
			if err != nil {
				continue // no clsact there
			}
			for _, f := range list {
				if b, ok := f.(*netlink.BpfFilter); ok && b.Name == filterName {
					found[k] = &attachment{filter: b}
				}
			}
		}
	}
	return found, nil
}

// Detach takes the programs and pins of an agent out of the caller's network
// namespace, whether its process runs or not, and says whether there were any.
func Detach() (bool, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return false, err
	}
	defer h.Close()
	found, err := filters(h)
	any := len(found) > 0
	errs := []error{err}
	for _, f := range found {
		errs = append(errs, f.remove(h))
	}
	p, why := openPins()
	if why != "" {
		return any, errors.Join(errs...)
	}
	links, err := p.pinned()
	errs = append(errs, err)
	for _, l := range links {
		any = true
		errs = append(errs, (&attachment{link: l.Link, path: l.path}).remove(h))
	}
	return any, errors.Join(append(errs, p.remove())...)
}
