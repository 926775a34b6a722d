package xdp

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// SetupError says which step of setting up an interface failed, and what to do
// about it. It prints as one line:
//
//	eth1 queue 0: bind(AF_XDP, copy): device or resource busy: another socket holds the queue; …
type SetupError struct {
	Interface string
	Queue     int    // -1 where the step is not about one queue
	Call      string // the system call or step that failed, with what distinguishes it
	Err       error
	Remedy    string // what the operator can do; empty where nothing is known
}

func (e *SetupError) Error() string {
	var b strings.Builder
	b.WriteString(e.Interface)
	if e.Queue >= 0 {
		fmt.Fprintf(&b, " queue %d", e.Queue)
	}
	if e.Call != "" {
		b.WriteString(": " + e.Call)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.Remedy != "" {
		b.WriteString(": " + e.Remedy)
	}
	return b.String()
}

func (e *SetupError) Unwrap() error { return e.Err }

// Names of the set-up steps, as they appear in errors.
const (
	callProbe       = "probe"
	callSocket      = "socket(AF_XDP)"
	callRegister    = "setsockopt(XDP_UMEM_REG)"
	callRing        = "setsockopt(ring sizes)"
	callOffsets     = "getsockopt(XDP_MMAP_OFFSETS)"
	callMap         = "mmap(ring)"
	callBindZero    = "bind(AF_XDP, zero-copy)"
	callBindCopy    = "bind(AF_XDP, copy)"
	callBindShared  = "bind(AF_XDP, shared UMEM)"
	callOptions     = "getsockopt(XDP_OPTIONS)"
	callMapCreate   = "bpf(BPF_MAP_CREATE)"
	callProgramLoad = "bpf(BPF_PROG_LOAD)"
	callAttach      = "attach XDP program, native mode"
	callAttachSKB   = "attach XDP program, generic mode"
)

// anyCall matches every step in the table of remedies.
const anyCall = ""

// remedies are tried in order; the first row whose call and errno match gives
// the remedy.
var remedies = []struct {
	call   string
	errno  unix.Errno
	remedy string
}{
	{callSocket, unix.EPERM, "CAP_NET_RAW is missing: run as root or grant it (systemd: AmbientCapabilities=)"},
	{callSocket, unix.EAFNOSUPPORT, "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS): use Linux 5.15 or newer built with it"},
	{callSocket, unix.EMFILE, "too many open files: raise RLIMIT_NOFILE (systemd: LimitNOFILE=)"},

	{callRegister, unix.ENOBUFS, "the UMEM exceeds RLIMIT_MEMLOCK: grant CAP_IPC_LOCK or raise the limit (systemd: LimitMEMLOCK=infinity)"},
	{callRegister, unix.ENOMEM, "the kernel could not pin the UMEM: free memory or use smaller rings"},
	{callRegister, unix.EPERM, "CAP_NET_RAW and CAP_IPC_LOCK are needed: run as root or grant them (systemd: AmbientCapabilities=)"},
	{callRegister, unix.EINVAL, "the kernel does not take this frame size: frames are 2048 or 4096 bytes and at most a page"},

	{callRing, unix.EINVAL, "ring sizes must be powers of two"},
	{callRing, unix.ENOMEM, "the kernel has no memory for rings of this size: use smaller ones"},
	{callOffsets, unix.EINVAL, "this kernel's AF_XDP is too old: Linux 5.15 or newer is needed"},

	{callBindZero, unix.EOPNOTSUPP, "the driver has no zero-copy: use mode auto or copy"},
	{callBindZero, unix.EINVAL, "the driver refuses zero-copy with this queue or frame size: use mode auto or copy"},
	{callBindShared, unix.EOPNOTSUPP, "another interface of this worker is in zero-copy mode and this driver has none: use mode copy on all of them"},
	{callBindShared, unix.EBADF, "the socket that registered the UMEM lost its device: open all ports of the worker anew"},
	{anyCall, unix.ENODEV, "the interface is gone"},
	{anyCall, unix.ENETDOWN, "the interface is down: ip link set NAME up"},

	{callMapCreate, unix.EPERM, "CAP_BPF and CAP_NET_ADMIN are missing, or RLIMIT_MEMLOCK is too low: run as root or grant them (systemd: AmbientCapabilities=)"},
	{callMapCreate, unix.ENOMEM, "the kernel has no memory for the map: lower its size or raise RLIMIT_MEMLOCK"},
	{callProgramLoad, unix.EPERM, "CAP_BPF and CAP_NET_ADMIN are missing: run as root or grant them (systemd: AmbientCapabilities=)"},
	{callProgramLoad, unix.EINVAL, "this kernel does not take the program: Linux 5.15 or newer is needed"},

	{callAttach, unix.EPERM, "CAP_NET_ADMIN is missing: run as root or grant it (systemd: AmbientCapabilities=)"},
	{callAttachSKB, unix.EPERM, "CAP_NET_ADMIN is missing: run as root or grant it (systemd: AmbientCapabilities=)"},
	{callAttach, unix.EOPNOTSUPP, "the driver has no native XDP: use mode generic if its drawbacks are acceptable, or another NIC"},
	{callAttach, unix.ERANGE, "the MTU is too large for native XDP: on a veth lower the PEER's MTU to 3506 or less (ip link set PEER mtu 3506)"},
	{callAttach, unix.ENOSPC, "the interface has fewer RX queues than its peer has TX queues: create the veth with equal numrxqueues and numtxqueues"},
	{callAttach, unix.EBUSY, "another XDP program is attached: find it with `bpftool net`, remove it with `ip link set NAME xdp off`, or stop its owner"},
	{callAttachSKB, unix.EBUSY, "another XDP program is attached: find it with `bpftool net`, remove it with `ip link set NAME xdpgeneric off`, or stop its owner"},
	{callAttach, unix.EEXIST, "an XDP program in the other mode is attached: remove it with `ip link set NAME xdpgeneric off`"},
	{callAttachSKB, unix.EEXIST, "an XDP program in the other mode is attached: remove it with `ip link set NAME xdp off`"},
	{callAttach, unix.EINVAL, "the driver refuses XDP in its present configuration: lower the MTU, turn LRO off (ethtool -K NAME lro off), and see dmesg"},
	{callAttach, unix.ENOMEM, "the driver has no memory or queues left for XDP: lower its queues (ethtool -L NAME combined N)"},

	{callBindZero, unix.EBUSY, remedyQueueTaken},
	{callBindCopy, unix.EBUSY, remedyQueueTaken},
	{callBindShared, unix.EBUSY, remedyQueueTaken},
	{callBindZero, unix.EPERM, remedyNetRaw},
	{callBindCopy, unix.EPERM, remedyNetRaw},
	{callBindShared, unix.EPERM, remedyNetRaw},
	{callBindCopy, unix.EINVAL, "the interface has no such queue: see `ethtool -l NAME`"},
	{callBindShared, unix.EINVAL, "the interface has no such queue: see `ethtool -l NAME`"},
	{callBindCopy, unix.EOPNOTSUPP, "the driver does not allow AF_XDP on this queue"},
}

const (
	remedyQueueTaken = "another socket holds the queue: stop the process that `ss --xdp -ap` shows for it"
	remedyNetRaw     = "CAP_NET_RAW is missing: run as root or grant it (systemd: AmbientCapabilities=)"
)

// setupError wraps err with where it happened and the remedy that the table
// knows. A queue of -1 means that the step is not about one queue.
func setupError(ifname string, queue int, call string, err error) *SetupError {
	e := &SetupError{Interface: ifname, Queue: queue, Call: call, Err: err}
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return e
	}
	for _, r := range remedies {
		if (r.call == anyCall || r.call == call) && r.errno == errno {
			e.Remedy = strings.ReplaceAll(r.remedy, "NAME", ifname)
			return e
		}
	}
	return e
}

// refuse is a set-up error about what the interface is, not about a call.
func refuse(ifname, what, remedy string) *SetupError {
	return &SetupError{Interface: ifname, Queue: -1, Err: errors.New(what), Remedy: remedy}
}
