package xdp

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sluice/internal/lab"
)

// gateway is a namespace with one NIC to steer, cabled to a peer.
type gateway struct {
	*lab.Namespace
	peer *lab.Namespace
	nic  *NIC
}

func newGateway(t *testing.T, queues int) *gateway {
	t.Helper()
	g := &gateway{Namespace: namespace(t, "gw"), peer: namespace(t, "peer")}
	cable(t, g.Namespace, "gw0", g.peer, "peer0", lab.VethOptions{Queues: queues, MACA: gatewayMAC, MACB: peerMAC})
	g.nic = probe(t, g.Namespace, "gw0")
	t.Cleanup(func() {
		in(t, g.Namespace, func() error {
			_, err := DetachPinned(0)
			return err
		})
	})
	return g
}

// steering loads the program for the gateway's NIC.
func (g *gateway) steering(t *testing.T, config SteeringConfig) *Steering {
	t.Helper()
	if config.Ports == nil {
		config.Ports = []SteeringPort{{NIC: g.nic, Queues: g.nic.RXQueues}}
	}
	config.Workers = max(config.Workers, 1)
	var s *Steering
	in(t, g.Namespace, func() (err error) {
		s, err = LoadSteering(config)
		return err
	})
	t.Cleanup(func() { s.Close() })
	return s
}

func (g *gateway) attach(t *testing.T, s *Steering) {
	t.Helper()
	in(t, g.Namespace, func() error { return s.Attach(0) })
}

// program is the id of the program on the NIC, and whether it is generic; 0
// where there is none.
func (g *gateway) program(t *testing.T) (id uint32, generic bool) {
	t.Helper()
	l, err := g.Netlink().LinkByName("gw0")
	if err != nil {
		t.Fatal(err)
	}
	x := l.Attrs().Xdp
	return x.ProgId, x.AttachMode == attachedGeneric
}

func (g *gateway) detach(t *testing.T, ifindex int) (names []string) {
	t.Helper()
	in(t, g.Namespace, func() (err error) {
		names, err = DetachPinned(ifindex)
		return err
	})
	return names
}

func (s *Steering) programID(t *testing.T) uint32 {
	t.Helper()
	about, err := s.programs[0].Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := about.ID()
	return uint32(id)
}

func requirePinned(t *testing.T, s *Steering) {
	t.Helper()
	if pinned, why := s.Pinned(); !pinned {
		t.Fatalf("not pinned: %s", why)
	}
}

// TestPinnedProgramSurvives: the program outlives the process, the next one
// takes the link over in one step, and detach removes everything.
func TestPinnedProgramSurvives(t *testing.T) {
	g := newGateway(t, 1)
	first := g.steering(t, SteeringConfig{})
	g.attach(t, first)
	requirePinned(t, first)
	path := first.attached[0].path
	if id, generic := g.program(t); id != first.programID(t) || generic {
		t.Fatalf("program %d on the NIC, generic %v; want %d, native", id, generic, first.programID(t))
	}
	old := first.programID(t)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if id, _ := g.program(t); id != old {
		t.Fatalf("after the process program %d is on the NIC, want %d", id, old)
	}

	second := g.steering(t, SteeringConfig{})
	g.attach(t, second)
	requirePinned(t, second)
	if got := second.attached[0].path; got != path {
		t.Errorf("adopted %s, want %s", got, path)
	}
	if id, _ := g.program(t); id != second.programID(t) {
		t.Errorf("program %d is on the NIC, want the second one's %d", id, second.programID(t))
	}
	if err := second.Attach(0); err == nil {
		t.Error("a port was attached twice")
	}

	if names := g.detach(t, g.nic.Ifindex+1); names != nil {
		t.Errorf("detached %v of another interface", names)
	}
	if names := g.detach(t, g.nic.Ifindex); !slices.Equal(names, []string{"gw0"}) {
		t.Errorf("detached %v, want gw0", names)
	}
	if id, _ := g.program(t); id != 0 {
		t.Errorf("program %d is still on the NIC", id)
	}
	if _, err := os.Stat(filepath.Dir(filepath.Dir(path))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the namespace's directory is still there: %v", err)
	}
	if names := g.detach(t, 0); names != nil {
		t.Errorf("detached %v again", names)
	}
}

// TestDetach: the port's program and pin go, and it can be attached again.
func TestDetach(t *testing.T) {
	g := newGateway(t, 1)
	s := g.steering(t, SteeringConfig{})
	for range 2 {
		g.attach(t, s)
		path := s.attached[0].path
		for range 2 { // the second finds nothing to do
			if err := s.Detach(0); err != nil {
				t.Fatal(err)
			}
		}
		if id, _ := g.program(t); id != 0 {
			t.Fatalf("program %d is still on the NIC", id)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("%s is still there", path)
		}
	}
	if pinned, why := s.Pinned(); pinned || why != "nothing is attached" {
		t.Errorf("pinned %v, %q", pinned, why)
	}
}

// TestModeChanges: a pinned link of the other mode is replaced by a new one.
func TestModeChanges(t *testing.T) {
	g := newGateway(t, 1)
	for _, mode := range []Mode{ModeAuto, ModeGeneric, ModeGeneric, ModeCopy} {
		s := g.steering(t, SteeringConfig{Ports: []SteeringPort{{NIC: g.nic, Queues: 1, Mode: mode}}})
		g.attach(t, s)
		requirePinned(t, s)
		if id, generic := g.program(t); id != s.programID(t) || generic != (mode == ModeGeneric) {
			t.Errorf("%s: program %d, generic %v; want %d", mode, id, generic, s.programID(t))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDeadPins: a pin whose device is gone is removed by the next that attaches,
// in whatever network namespace it was.
func TestDeadPins(t *testing.T) {
	dead := newGateway(t, 1)
	s := dead.steering(t, SteeringConfig{})
	dead.attach(t, s)
	requirePinned(t, s)
	path := s.attached[0].path
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	nl := dead.Netlink()
	nic, err := nl.LinkByName("gw0")
	if err != nil {
		t.Fatal(err)
	}
	// From here on any process of this machine that attaches may remove the pin,
	// the tests of other packages too: nothing may be said of it before ours did.
	if err := nl.LinkDel(nic); err != nil {
		t.Fatal(err)
	}

	alive := newGateway(t, 1)
	other := alive.steering(t, SteeringConfig{})
	alive.attach(t, other)
	requirePinned(t, other)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", path, err)
	}
}

// TestRenamedInterface: a link is found by its device, not by the name that the
// device had; names with a dot are pinned as well.
func TestRenamedInterface(t *testing.T) {
	g := newGateway(t, 1)
	g.nic.Name = "gw0.100"
	s := g.steering(t, SteeringConfig{})
	g.attach(t, s)
	requirePinned(t, s)
	path := s.attached[0].path
	if !strings.HasSuffix(path, "-gw0_100/link") {
		t.Errorf("pinned at %s", path)
	}
	s.Close()
	g.nic.Name = "gw0"
	s = g.steering(t, SteeringConfig{})
	g.attach(t, s)
	requirePinned(t, s)
	if s.attached[0].path != path {
		t.Errorf("adopted %s, want %s", s.attached[0].path, path)
	}
}

// TestPrivateMountNamespace: where pins cannot last, the program is attached
// all the same, says so, and goes with the process.
func TestPrivateMountNamespace(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func() error
	}{
		{"no bpffs", func() error {
			for isBPFFS() {
				if err := unix.Unmount(bpffsPath, unix.MNT_DETACH); err != nil {
					return err
				}
			}
			return nil
		}},
		{"a bpffs of its own", func() error { return unix.Mount("bpf", bpffsPath, "bpf", 0, "") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGateway(t, 1)
			s := g.steering(t, SteeringConfig{})
			done := make(chan error)
			go func() {
				// Never unlocked: the thread ends with the goroutine.
				runtime.LockOSThread()
				err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS)
				if err == nil {
					err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
				}
				if err == nil {
					err = c.prepare()
				}
				if err == nil {
					err = g.Do(func() error { return s.Attach(0) })
				}
				done <- err
			}()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if pinned, why := s.Pinned(); pinned || !strings.Contains(why, "private mount namespace") {
				t.Errorf("pinned %v: %q", pinned, why)
			}
			if id, _ := g.program(t); id != s.programID(t) {
				t.Errorf("program %d is on the NIC, want %d", id, s.programID(t))
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if id, _ := g.program(t); id != 0 {
				t.Errorf("program %d is still on the NIC", id)
			}
		})
	}
}

func TestMountListed(t *testing.T) {
	const mounts = `22 28 0:21 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
33 22 0:31 / /sys/fs/bpf rw,nosuid,nodev,noexec,relatime shared:11 - bpf bpf rw,mode=700
34 22 0:32 / /mnt/bpf rw - bpf bpf rw
`
	for _, c := range []struct {
		path         string
		major, minor uint32
		want         bool
	}{
		{"/sys/fs/bpf", 0, 31, true},
		{"/sys/fs/bpf", 0, 32, false},
		{"/sys/fs/bp", 0, 31, false},
		{"/mnt/bpf", 0, 32, true},
		{"/sys/fs/bpf", 3, 1, false},
	} {
		got, err := mountListed(strings.NewReader(mounts), c.path, c.major, c.minor)
		if err != nil || got != c.want {
			t.Errorf("%s on %d:%d: %v, %v", c.path, c.major, c.minor, got, err)
		}
	}
}

// TestAttachErrors: each refusal names interface, call and remedy, in one line.
func TestAttachErrors(t *testing.T) {
	gw, peer := namespace(t, "gw"), namespace(t, "peer")
	nl := gw.Netlink()
	add := func(name string, change func(*netlink.Veth)) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		v := netlink.NewVeth(attrs)
		v.PeerName, v.NumRxQueues, v.NumTxQueues = name+"p", 1, 1
		change(v)
		if err := nl.LinkAdd(v); err != nil {
			t.Fatal(err)
		}
	}
	add("jumbo", func(v *netlink.Veth) { v.PeerMTU = 9000 })
	add("narrow", func(v *netlink.Veth) { v.PeerNumTxQueues, v.PeerNumRxQueues = 4, 4 })
	add("taken", func(*netlink.Veth) {})
	cable(t, gw, "down", peer, "down", lab.VethOptions{})
	if err := gw.Bridge("br0"); err != nil {
		t.Fatal(err)
	}
	index := func(name string) int {
		l, err := nl.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		return l.Attrs().Index
	}
	occupy(t, gw, index("taken"))

	for _, c := range []struct {
		name   string
		mode   Mode
		errno  unix.Errno
		remedy string
	}{
		{"taken", ModeAuto, unix.EBUSY, "ip link set taken xdp off"},
		{"taken", ModeGeneric, unix.EEXIST, "ip link set taken xdp off"},
		{"jumbo", ModeAuto, unix.ERANGE, "PEER mtu 3506"},
		{"narrow", ModeAuto, unix.ENOSPC, "numrxqueues"},
		{"br0", ModeAuto, unix.EOPNOTSUPP, "mode generic"},
	} {
		nic := &NIC{Name: c.name, Ifindex: index(c.name), RXQueues: 1}
		s, err := LoadSteering(SteeringConfig{Workers: 1, Ports: []SteeringPort{{NIC: nic, Queues: 1, Mode: c.mode}}})
		if err != nil {
			t.Fatal(err)
		}
		err = gw.Do(func() error { return s.Attach(0) })
		var setup *SetupError
		switch {
		case !errors.As(err, &setup) || !errors.Is(err, c.errno):
			t.Errorf("%s, %s: %v, want a SetupError of %v", c.name, c.mode, err, c.errno)
		case setup.Interface != c.name || !strings.Contains(setup.Call, "attach") || !strings.Contains(setup.Remedy, c.remedy) || strings.Contains(err.Error(), "\n"):
			t.Errorf("%s, %s: %q", c.name, c.mode, err)
		}
		s.Close()
	}
}

// occupy attaches a program that is not Sluice's.
func occupy(t *testing.T, ns *lab.Namespace, ifindex int) {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdictPass), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { prog.Close() })
	in(t, ns, func() error {
		l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: ifindex, Flags: link.XDPDriverMode})
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	})
}
