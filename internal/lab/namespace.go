package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Namespace is one network namespace: a host, a gateway or a switch.
type Namespace struct {
	name   string
	handle netns.NsHandle
	nl     *netlink.Handle
}

// quiet are the sysctls every namespace starts with. A new namespace inherits
// IPv4 settings from the machine, which may well be a router itself (Docker
// makes it one): in the lab, nothing forwards unless a test asks for it. IPv6
// stays usable but says nothing by itself, so that captures hold only what a
// test sent.
var quiet = [][2]string{
	{"net/ipv4/ip_forward", "0"},
	{"net/ipv4/conf/all/rp_filter", "0"},
	{"net/ipv4/conf/default/rp_filter", "0"},
	{"net/ipv6/conf/default/accept_dad", "0"},
	{"net/ipv6/conf/default/router_solicitations", "0"},
	{"net/ipv6/conf/default/addr_gen_mode", "1"},
}

// NewNamespace makes the network namespace sluice-<pid>-<name> with lo up, IPv4
// forwarding off and IPv6 silent. A name already in use by this process gets a
// number appended. It needs CAP_SYS_ADMIN.
func NewNamespace(name string) (*Namespace, error) {
	run.Lock()
	defer run.Unlock()
	if err := claim(); err != nil {
		return nil, err
	}
	full := fmt.Sprintf("%s%d-%s", prefix, os.Getpid(), name)
	for i := 2; run.live[full] != nil; i++ {
		full = fmt.Sprintf("%s%d-%s-%d", prefix, os.Getpid(), name, i)
	}
	n := &Namespace{name: full, handle: netns.None()}
	err := n.create()
	if err == nil {
		err = n.prepare()
	}
	if err != nil {
		n.destroy()
		unclaim()
		return nil, err
	}
	run.live[full] = n
	return n, nil
}

// create unshares on a thread of this goroutine's own, names the result and
// goes back.
func (n *Namespace) create() (err error) {
	runtime.LockOSThread()
	here, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("lab: %w", err)
	}
	defer here.Close()
	if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("lab: unshare a network namespace: %w; it needs root with CAP_SYS_ADMIN (in Docker: --privileged)", err)
	}
	defer leave(here, &err)
	if err := mountNamed(n.name); err != nil {
		return err
	}
	if n.handle, err = netns.Get(); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	return nil
}

// leave takes the calling thread back to the namespace it came from. A thread
// that cannot go back stays locked, so that no other goroutine runs on it.
func leave(here netns.NsHandle, err *error) {
	if e := netns.Set(here); e != nil {
		*err = errors.Join(*err, fmt.Errorf("lab: go back to the first network namespace: %w", e))
		return
	}
	runtime.UnlockOSThread()
}

func (n *Namespace) prepare() error {
	nl, err := netlink.NewHandleAt(n.handle, syscall.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("lab: %s: netlink: %w", n.name, err)
	}
	n.nl = nl
	for _, s := range quiet {
		if err := n.Sysctl(s[0], s[1]); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return n.up("lo")
}

func (n *Namespace) destroy() error {
	if n.nl != nil {
		n.nl.Close()
	}
	if n.handle.IsOpen() {
		n.handle.Close()
	}
	return unmountNamed(n.name)
}

// Close removes the namespace and everything in it. Sockets and processes that
// are still inside keep it alive, without a name, until they end. Closing twice
// is harmless.
func (n *Namespace) Close() error {
	run.Lock()
	defer run.Unlock()
	if run.live[n.name] != n {
		return nil
	}
	delete(run.live, n.name)
	err := n.destroy()
	unclaim()
	return err
}

// closeAll removes every namespace of this process.
func closeAll() {
	run.Lock()
	defer run.Unlock()
	for name, n := range run.live {
		delete(run.live, name)
		n.destroy()
	}
	unclaim()
}

// Name is the name that `ip netns exec` takes.
func (n *Namespace) Name() string { return n.name }

// Path is the file that stands for the namespace.
func (n *Namespace) Path() string { return filepath.Join(netnsDir, n.name) }

// Netlink is a route netlink handle that works inside the namespace from any
// goroutine. It is closed with the namespace.
func (n *Namespace) Netlink() *netlink.Handle { return n.nl }

// Do runs f inside the namespace, on the calling goroutine, which is locked to
// its thread meanwhile. Sockets that f opens stay in the namespace; goroutines
// that f starts are not in it. f may panic, end the goroutine (t.FailNow) or
// call Do of another namespace.
func (n *Namespace) Do(f func() error) (err error) {
	runtime.LockOSThread()
	here, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("lab: %w", err)
	}
	defer here.Close()
	if err := netns.Set(n.handle); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("lab: enter %s: %w", n.name, err)
	}
	defer leave(here, &err)
	return f()
}

// Start starts cmd inside the namespace. Only the network namespace changes:
// /sys still shows the devices of the machine, unlike under `ip netns exec`.
func (n *Namespace) Start(cmd *exec.Cmd) error { return n.Do(cmd.Start) }

// Exec runs a program inside the namespace to its end and returns what it
// printed to standard output and standard error.
func (n *Namespace) Exec(name string, args ...string) ([]byte, error) {
	var out []byte
	err := n.Do(func() (err error) {
		out, err = exec.Command(name, args...).CombinedOutput()
		return err
	})
	return out, err
}

// Sysctl sets a file under /proc/sys, for example
// "net/ipv4/conf/eth0/forwarding", inside the namespace.
func (n *Namespace) Sysctl(key, value string) error {
	return n.Do(func() error {
		if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0); err != nil {
			return fmt.Errorf("lab: %s: %w; it needs a writable /proc/sys (in Docker: --privileged)", n.name, err)
		}
		return nil
	})
}
