package xdp

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sluice/internal/lab"
)

// TestSetupErrorTexts has the errors that cannot be provoked everywhere.
func TestSetupErrorTexts(t *testing.T) {
	for _, c := range []struct {
		queue int
		call  string
		err   error
		want  string
	}{
		{0, callSocket, unix.EPERM,
			"eth1 queue 0: socket(AF_XDP): operation not permitted: CAP_NET_RAW is missing: run as root or grant it (systemd: AmbientCapabilities=)"},
		{0, callSocket, unix.EAFNOSUPPORT,
			"eth1 queue 0: socket(AF_XDP): address family not supported by protocol: this kernel has no AF_XDP (CONFIG_XDP_SOCKETS): use Linux 5.15 or newer built with it"},
		{3, callRegister, unix.ENOBUFS,
			"eth1 queue 3: setsockopt(XDP_UMEM_REG): no buffer space available: the UMEM exceeds RLIMIT_MEMLOCK: grant CAP_IPC_LOCK or raise the limit (systemd: LimitMEMLOCK=infinity)"},
		{0, callBindZero, unix.EOPNOTSUPP,
			"eth1 queue 0: bind(AF_XDP, zero-copy): operation not supported: the driver has no zero-copy: use mode auto or copy"},
		{2, callBindCopy, unix.EBUSY,
			"eth1 queue 2: bind(AF_XDP, copy): device or resource busy: another socket holds the queue: stop the process that `ss --xdp -ap` shows for it"},
		{2, callBindCopy, unix.ENODEV,
			"eth1 queue 2: bind(AF_XDP, copy): no such device: the interface is gone"},
		{9, callBindCopy, unix.EINVAL,
			"eth1 queue 9: bind(AF_XDP, copy): invalid argument: the interface has no such queue: see `ethtool -l eth1`"},
		{1, callBindShared, unix.ENETDOWN,
			"eth1 queue 1: bind(AF_XDP, shared UMEM): network is down: the interface is down: ip link set eth1 up"},
		{0, callOffsets, unix.EINVAL,
			"eth1 queue 0: getsockopt(XDP_MMAP_OFFSETS): invalid argument: this kernel's AF_XDP is too old: Linux 5.15 or newer is needed"},
		{-1, callMapCreate, unix.EPERM,
			"eth1: bpf(BPF_MAP_CREATE): operation not permitted: CAP_BPF and CAP_NET_ADMIN are missing, or RLIMIT_MEMLOCK is too low: run as root or grant them (systemd: AmbientCapabilities=)"},
		{-1, callProgramLoad, unix.EPERM,
			"eth1: bpf(BPF_PROG_LOAD): operation not permitted: CAP_BPF and CAP_NET_ADMIN are missing: run as root or grant them (systemd: AmbientCapabilities=)"},
		{-1, callAttach, unix.EPERM,
			"eth1: attach XDP program, native mode: operation not permitted: CAP_NET_ADMIN is missing: run as root or grant it (systemd: AmbientCapabilities=)"},
		{-1, callAttach, unix.EOPNOTSUPP,
			"eth1: attach XDP program, native mode: operation not supported: the driver has no native XDP: use mode generic if its drawbacks are acceptable, or another NIC"},
		{-1, callAttach, unix.ERANGE,
			"eth1: attach XDP program, native mode: numerical result out of range: the MTU is too large for native XDP: on a veth lower the PEER's MTU to 3506 or less (ip link set PEER mtu 3506)"},
		{-1, callAttach, unix.ENOSPC,
			"eth1: attach XDP program, native mode: no space left on device: the interface has fewer RX queues than its peer has TX queues: create the veth with equal numrxqueues and numtxqueues"},
		{-1, callAttach, unix.EBUSY,
			"eth1: attach XDP program, native mode: device or resource busy: another XDP program is attached: find it with `bpftool net`, remove it with `ip link set eth1 xdp off`, or stop its owner"},
		{-1, callAttachSKB, unix.EEXIST,
			"eth1: attach XDP program, generic mode: file exists: an XDP program in the other mode is attached: remove it with `ip link set eth1 xdp off`"},
		{0, callMap, unix.ENOMEM, "eth1 queue 0: mmap(ring): cannot allocate memory"},
		{0, callMap, errors.New("something else"), "eth1 queue 0: mmap(ring): something else"},
	} {
		err := setupError("eth1", c.queue, c.call, c.err)
		if err.Error() != c.want {
			t.Errorf("\n got %q\nwant %q", err, c.want)
		}
		if !errors.Is(err, c.err) {
			t.Errorf("%v does not wrap %v", err, c.err)
		}
	}
}

// TestRemediesAreReachable: no row of the table is hidden by one before it.
func TestRemediesAreReachable(t *testing.T) {
	for i, r := range remedies {
		call := r.call
		if call == anyCall {
			call = callMap
		}
		want := strings.ReplaceAll(r.remedy, "NAME", "eth1")
		if got := setupError("eth1", 0, call, r.errno).Remedy; got != want {
			t.Errorf("row %d (%s, %v) gives %q", i, r.call, r.errno, got)
		}
	}
}

// without runs f on a thread of its own that lacks a capability. The thread ends
// with it.
func without(t *testing.T, n *lab.Namespace, capability uint, f func() error) error {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: Go ends the thread with the goroutine
		done <- func() error {
			return n.Do(func() error {
				hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
				var data [2]unix.CapUserData
				if err := unix.Capget(&hdr, &data[0]); err != nil {
					return err
				}
				before := data
				data[capability/32].Effective &^= 1 << (capability % 32)
				if err := unix.Capset(&hdr, &data[0]); err != nil {
					return err
				}
				err := f()
				// The way back to the first namespace needs the rest.
				return errors.Join(err, unix.Capset(&hdr, &before[0]))
			})
		}()
	}()
	return <-done
}

// TestSetupErrorsProvoked meets the errors that any kernel can be made to give.
func TestSetupErrorsProvoked(t *testing.T) {
	nsA, nsG := namespace(t, "a"), namespace(t, "g")
	cable(t, nsA, "a0", nsG, "g0", lab.VethOptions{})
	g0 := probe(t, nsG, "g0")
	u, err := NewUMEM(UMEMConfig{Frames: 1024, FrameSize: smallFrame})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	cfg := func(change func(*SocketConfig)) func() error {
		c := SocketConfig{NIC: g0, RingSize: 64, RX: true, TX: true}
		change(&c)
		return func() error {
			s, err := u.Open(c)
			if err != nil {
				return err
			}
			return errors.Join(errors.New("it opened"), s.Close())
		}
	}
	nic := func(change func(*NIC)) *NIC {
		n := *g0
		change(&n)
		return &n
	}
	plain := cfg(func(*SocketConfig) {})
	for name, c := range map[string]struct {
		err  error
		want []string
	}{
		"no CAP_NET_RAW": {without(t, nsG, unix.CAP_NET_RAW, plain),
			[]string{"g0 queue 0: socket(AF_XDP): operation not permitted", "CAP_NET_RAW is missing"}},
		"memlock": {memlocked(t, 64<<10, func() error { return without(t, nsG, unix.CAP_IPC_LOCK, plain) }),
			[]string{"g0 queue 0: setsockopt(XDP_UMEM_REG)", "RLIMIT_MEMLOCK", "CAP_IPC_LOCK"}},
		"zero-copy": {nsG.Do(cfg(func(c *SocketConfig) { c.Mode = ModeZeroCopy })),
			[]string{"g0 queue 0: bind(AF_XDP, zero-copy): operation not supported", "use mode auto or copy"}},
		"no such queue": {nsG.Do(cfg(func(c *SocketConfig) { c.Queue = 1 })),
			[]string{"g0 queue 1: the interface has 1 RX and 1 TX queues", "ethtool -l g0"}},
		"fewer queues than probed": {nsG.Do(cfg(func(c *SocketConfig) {
			c.Queue, c.NIC = 1, nic(func(n *NIC) { n.RXQueues, n.TXQueues = 2, 2 })
		})), []string{"g0 queue 1: bind(AF_XDP, copy): invalid argument", "no such queue"}},
		"device gone": {nsG.Do(cfg(func(c *SocketConfig) { c.NIC = nic(func(n *NIC) { n.Ifindex = 4711 }) })),
			[]string{"g0 queue 0: bind(AF_XDP, copy): no such device", "the interface is gone"}},
		"driver without XDP": {nsG.Do(cfg(func(c *SocketConfig) {
			c.NIC = nic(func(n *NIC) { n.FeaturesKnown, n.NativeXDP, n.Driver = true, false, "dummy" })
		})), []string{"g0: the driver dummy has no native XDP", "use mode generic"}},
		"ring size": {nsG.Do(cfg(func(c *SocketConfig) { c.RingSize = 100 })),
			[]string{"g0 queue 0: ring size 100", "powers of two"}},
		"no direction": {nsG.Do(cfg(func(c *SocketConfig) { c.RX, c.TX = false, false })),
			[]string{"g0 queue 0: a socket for neither"}},
	} {
		var e *SetupError
		if !errors.As(c.err, &e) {
			t.Errorf("%s: %v", name, c.err)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(c.err.Error(), w) {
				t.Errorf("%s: %q lacks %q", name, c.err, w)
			}
		}
		if strings.Contains(c.err.Error(), "\n") {
			t.Errorf("%s: more than one line: %q", name, c.err)
		}
	}
	if a := audit(t, u); a.Free != a.Total {
		t.Errorf("failed set-ups kept frames: %+v", a)
	}
}

// memlocked runs f under a small RLIMIT_MEMLOCK.
func memlocked(t *testing.T, limit uint64, f func() error) error {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: limit, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_MEMLOCK, &before)
	return f()
}

// TestPeerMTU: a program that does not take fragments cannot be attached while
// the peer of a veth has a large MTU.
func TestPeerMTU(t *testing.T) {
	nsA, nsG := namespace(t, "a"), namespace(t, "g")
	cable(t, nsA, "a0", nsG, "g0", lab.VethOptions{})
	g0 := probe(t, nsG, "g0")
	peer, err := nsA.Netlink().LinkByName("a0")
	if err != nil {
		t.Fatal(err)
	}
	if err := nsA.Netlink().LinkSetMTU(peer, maxVethMTU+1); err != nil {
		t.Fatal(err)
	}
	err = attachOnce(nsG, g0)
	var e *SetupError
	if !errors.As(err, &e) || !errors.Is(err, unix.ERANGE) || !strings.Contains(e.Remedy, "3506") {
		t.Errorf("one byte over the limit: %v", err)
	}
	if err := nsA.Netlink().LinkSetMTU(peer, maxVethMTU); err != nil {
		t.Fatal(err)
	}
	if err := attachOnce(nsG, g0); err != nil {
		t.Errorf("at the limit: %v", err)
	}
}
