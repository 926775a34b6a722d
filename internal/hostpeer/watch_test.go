package hostpeer

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"sluice/internal/lab"
	"sluice/nat"
)

// rig is a namespace with the address 10.0.0.1, and a Watcher that belongs to it.
type rig struct {
	*testing.T
	host    *lab.Namespace
	watcher *Watcher
	changes chan *nat.HostPeers
	ended   chan error // of Run
}

func newRig(t *testing.T) *rig {
	t.Helper()
	lab.RequireRoot(t)
	r := &rig{T: t, changes: make(chan *nat.HostPeers, 64), ended: make(chan error, 1)}
	var err error
	if r.host, err = lab.NewNamespace("host"); err != nil {
		t.Fatal(err)
	}
	other, err := lab.NewNamespace("other")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.host.Close(); other.Close() })
	if err := lab.Veth(r.host, "eth0", other, "eth0", lab.VethOptions{}); err != nil {
		t.Fatal(err)
	}
	r.do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 0, 0, 1), Mask: net.CIDRMask(24, 32)}}); err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	})
	r.do(func() (err error) {
		r.watcher, err = New(Config{Poll: 20 * time.Millisecond})
		return err
	})
	ctx, cancel := context.WithCancel(context.Background())
	go func() { r.ended <- r.watcher.Run(ctx, func(h *nat.HostPeers) { r.changes <- h }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-r.ended; err != nil && !t.Failed() {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) do(f func() error) {
	r.Helper()
	if err := r.host.Do(f); err != nil {
		r.Fatal(err)
	}
}

// await waits until the host speaks a protocol with 192.0.2.2 by what is said, or
// no more where that is "".
func (r *rig) await(what string, proto uint8, by string) {
	r.Helper()
	deadline := time.After(10 * time.Second)
	for {
		got := ""
		if p := r.watcher.Current().Find(proto, host, peer); p != nil {
			got = p.By
		}
		if got == by {
			return
		}
		select {
		case <-r.changes:
		case <-deadline:
			r.Fatalf("%s: protocol %d is spoken by %q, want %q; all: %v", what, proto, got, by, r.watcher.Current().All())
		}
	}
}

// socket opens one in the namespace, bound to 10.0.0.1 and connected to 192.0.2.2
// where asked.
func (r *rig) socket(kind, proto int, connect bool) (fd int) {
	r.Helper()
	r.do(func() (err error) {
		if fd, err = syscall.Socket(syscall.AF_INET, kind|syscall.SOCK_CLOEXEC, proto); err != nil {
			return err
		}
		if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{10, 0, 0, 1}, Port: 99}); err != nil {
			return err
		}
		if connect {
			return syscall.Connect(fd, &syscall.SockaddrInet4{Addr: [4]byte{10, 0, 0, 2}, Port: 99})
		}
		return nil
	})
	return fd
}

// TestSockets: raw sockets that the host opens and closes are followed, and those
// of protocols with sockets of their own.
func TestSockets(t *testing.T) {
	r := newRig(t)
	if got := r.watcher.Current().All(); len(got) != 0 {
		t.Fatalf("a new namespace speaks %v", got)
	}
	fd := r.socket(syscall.SOCK_RAW, protoGRE, false)
	r.await("a raw socket", protoGRE, "raw socket")
	connected := r.socket(syscall.SOCK_RAW, protoIPIP, true) // to another peer
	for !hasPeer(r.watcher.Current(), protoIPIP, 0x0a000002) {
		<-r.changes
	}
	if p := r.watcher.Current().Find(protoIPIP, host, peer); p != nil {
		t.Errorf("a socket that is connected to 10.0.0.2 speaks with 192.0.2.2: %v", p)
	}
	for _, fd := range []int{fd, connected} {
		if err := syscall.Close(fd); err != nil {
			t.Fatal(err)
		}
	}
	r.await("closed", protoGRE, "")
	const protoUDPLite = 136
	lite, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, protoUDPLite)
	if errors.Is(err, syscall.EPROTONOSUPPORT) {
		t.Log("this kernel has no UDP-Lite")
		return
	}
	if err == nil {
		err = syscall.Close(lite)
	}
	if err != nil {
		t.Fatal(err)
	}
	lite = r.socket(syscall.SOCK_DGRAM, protoUDPLite, false)
	r.await("UDP-Lite", protoUDPLite, "UDP-Lite socket")
	if err := syscall.Close(lite); err != nil {
		t.Fatal(err)
	}
	r.await("UDP-Lite, closed", protoUDPLite, "")
}

func hasPeer(h *nat.HostPeers, proto uint8, peer uint32) bool {
	for _, p := range h.All() {
		if p.Proto == proto && p.Peer == peer {
			return true
		}
	}
	return false
}

// TestIPsec: states and policies of a real kernel are followed by their events. A
// state that IKE has only just asked for counts: it needs no cipher to exist.
func TestIPsec(t *testing.T) {
	r := newRig(t)
	local, remote := net.IPv4(10, 0, 0, 1), net.IPv4(192, 0, 2, 2)
	policy := &netlink.XfrmPolicy{
		Src: prefix(t, "10.1.0.0/16"), Dst: prefix(t, "10.2.0.0/16"), Dir: netlink.XFRM_DIR_OUT,
		Tmpls: []netlink.XfrmPolicyTmpl{{Src: local, Dst: remote, Proto: netlink.XFRM_PROTO_ESP, Mode: netlink.XFRM_MODE_TUNNEL}},
	}
	r.do(func() error { return netlink.XfrmPolicyAdd(policy) })
	r.await("a policy", protoESP, "IPsec policy (esp)")
	var state *netlink.XfrmState
	r.do(func() (err error) {
		state, err = netlink.XfrmStateAllocSpi(&netlink.XfrmState{Src: remote, Dst: local, Proto: netlink.XFRM_PROTO_ESP, Mode: netlink.XFRM_MODE_TUNNEL})
		return err
	})
	r.do(func() error { return netlink.XfrmPolicyDel(policy) })
	r.await("a state alone", protoESP, "IPsec state (esp)")
	r.do(func() error { return netlink.XfrmStateDel(state) })
	r.await("neither", protoESP, "")
}

func prefix(t *testing.T, s string) *net.IPNet {
	t.Helper()
	p := netip.MustParsePrefix(s)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}

// TestTunnelDevices: devices of a real kernel, where it has those kinds.
func TestTunnelDevices(t *testing.T) {
	r := newRig(t)
	local, remote := net.IPv4(10, 0, 0, 1).To4(), net.IPv4(192, 0, 2, 2).To4()
	for proto, link := range map[uint8]netlink.Link{
		protoGRE:  &netlink.Gretun{LinkAttrs: netlink.LinkAttrs{Name: "t1"}, Local: local, Remote: remote},
		protoIPIP: &netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Name: "t2"}, Local: local, Remote: remote},
		protoIPv6: &netlink.Sittun{LinkAttrs: netlink.LinkAttrs{Name: "t3"}, Local: local, Remote: remote, Proto: protoIPv6},
		protoAH:   &netlink.Vti{LinkAttrs: netlink.LinkAttrs{Name: "t4"}, Local: local, Remote: remote, IKey: 1, OKey: 1},
	} {
		err := r.host.Do(func() error { return netlink.LinkAdd(link) })
		if errors.Is(err, syscall.EOPNOTSUPP) {
			t.Logf("this kernel has no %s devices: TestDevices has their messages", link.Type())
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		r.do(func() error { return netlink.LinkSetUp(link) })
		r.await(link.Type(), proto, link.Type()+" device "+link.Attrs().Name)
		r.do(func() error { return netlink.LinkDel(link) })
		r.await(link.Type(), proto, "")
	}
}

// TestCloseEndsRun: also from elsewhere, and more than once.
func TestCloseEndsRun(t *testing.T) {
	r := newRig(t)
	r.watcher.Close()
	r.watcher.Close()
	if err := <-r.ended; err == nil {
		t.Error("Run was closed and says that its context ended")
	}
	r.ended <- nil // for the rig's own end
	if _, err := r.watcher.readDevices(); err == nil {
		t.Error("a closed Watcher still reads")
	}
}
