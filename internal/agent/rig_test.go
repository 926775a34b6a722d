package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sluice/internal/lab"
)

// The addresses of the field note that the option's bytes are known from: client
// and service on one network, the pod behind the node.
const (
	clientAddress  = "172.18.0.1"
	vipAddress     = "172.18.0.2"
	otherVIP       = "172.18.0.4"
	nodeAddress    = "172.18.0.3"
	gatewayAddress = "172.18.0.9"
	podAddress     = "10.0.2.123"
	podRouter      = "10.0.2.1"
	vipPort        = 32000
)

// rig is a client, a gateway, a backend's node and a pod on it:
//
//	client ─┬─ switch ─┬─ node ── pod
//	gateway ┘
//
// The gateway is a stand-in that does to a request what Cilium does, with gopacket.
type rig struct {
	t                                   *testing.T
	client, gateway, node, pod, segment *lab.Namespace
	standIn                             *standIn
	toClient, fromGateway, toNode       *tap
}

func newRig(t *testing.T) *rig {
	t.Helper()
	lab.RequireRoot(t)
	r := &rig{t: t}
	for name, ns := range map[string]**lab.Namespace{"client": &r.client, "gw": &r.gateway, "node": &r.node, "pod": &r.pod, "switch": &r.segment} {
		n, err := lab.NewNamespace(name)
		r.must(err)
		t.Cleanup(func() {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		})
		*ns = n
	}
	for name, ns := range map[string]*lab.Namespace{"client": r.client, "gw": r.gateway, "node": r.node} {
		r.must(lab.Veth(ns, "eth0", r.segment, name, lab.VethOptions{}))
	}
	r.must(r.segment.Bridge("br0", "client", "gw", "node"))
	r.must(lab.Veth(r.node, "veth0", r.pod, "eth0", lab.VethOptions{}))
	for _, a := range []struct {
		ns         *lab.Namespace
		name, cidr string
	}{
		{r.client, "eth0", clientAddress + "/24"}, {r.gateway, "eth0", gatewayAddress + "/24"}, {r.node, "eth0", nodeAddress + "/24"},
		{r.node, "veth0", podRouter + "/24"}, {r.pod, "eth0", podAddress + "/24"},
	} {
		r.must(a.ns.AddAddress(a.name, a.cidr))
	}
	r.must(r.pod.AddRoute("default", podRouter))
	r.must(r.node.Sysctl("net/ipv4/ip_forward", "1"))
	for _, vip := range []string{vipAddress, otherVIP} {
		r.neighbour(r.client, vip, r.mac(r.gateway))
	}
	r.toClient = r.tap(r.client)
	r.fromGateway = r.tap(r.gateway)
	r.toNode = r.tap(r.node)
	r.standIn = r.startStandIn()
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) mac(n *lab.Namespace) net.HardwareAddr {
	m, err := n.MAC("eth0")
	r.must(err)
	return m
}

func (r *rig) neighbour(n *lab.Namespace, addr string, mac net.HardwareAddr) {
	l, err := n.Netlink().LinkByName("eth0")
	r.must(err)
	r.must(n.Netlink().NeighSet(&netlink.Neigh{
		LinkIndex: l.Attrs().Index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT,
		IP: net.ParseIP(addr), HardwareAddr: mac,
	}))
}

// agent runs one in the node until it is stopped.
type running struct {
	*Agent
	stop func()
}

func (r *rig) config() Config {
	return Config{
		Interfaces: []string{"eth0"}, StripOption: true, MaxFlows: 1024,
		Gateways: []Gateway{{MAC: r.mac(r.gateway)}},
		Services: []Service{{Prefix: netip.MustParsePrefix(vipAddress + "/32"), Port: vipPort}, {Prefix: netip.MustParsePrefix(otherVIP + "/32")}},
		Timeouts: Timeouts{Opening: time.Minute, Transitory: time.Minute, Closing: time.Minute, Established: time.Hour, TimeWait: time.Minute, Closed: time.Minute, Unreplied: time.Minute, UDP: time.Minute},
	}
}

func (r *rig) start(c Config) *running {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended, began := make(chan struct{}), make(chan error, 1)
	run := &running{}
	go func() {
		defer close(ended)
		err := r.node.Do(func() (err error) {
			run.Agent, err = Open(c, slog.New(slog.DiscardHandler))
			began <- err
			if err != nil {
				return err
			}
			return errors.Join(run.Run(ctx), run.Close())
		})
		if err != nil {
			r.t.Error(err)
		}
	}()
	run.stop = sync.OnceFunc(func() { cancel(); <-ended })
	if err := <-began; err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		run.stop()
		r.must(r.node.Do(func() error { _, err := Detach(); return err }))
	})
	return run
}

// count waits for a counter to reach n.
func (r *rig) count(a *running, name string, n uint64) {
	r.t.Helper()
	var got uint64
	r.await(name, func() bool {
		got = r.counter(a, name)
		return got >= n
	})
	if got != n {
		r.t.Errorf("counter %s is %d, want %d", name, got, n)
	}
}

func (r *rig) counter(a *running, name string) uint64 {
	r.t.Helper()
	counters, err := a.Counters()
	r.must(err)
	for _, c := range counters {
		if c.Name == name {
			return c.Packets
		}
	}
	r.t.Fatalf("no counter %s", name)
	return 0
}

// await gives a busy machine all the time it may need.
func (r *rig) await(what string, f func() bool) {
	r.t.Helper()
	for end := time.Now().Add(15 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("%s: did not come", what)
		}
	}
}

// tap keeps every frame that passes an interface.
type tap struct {
	mu     sync.Mutex
	frames [][]byte
}

func packetSocket(n *lab.Namespace, name string) (fd int, err error) {
	err = n.Do(func() error {
		l, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		all := uint16(unix.ETH_P_ALL)<<8 | unix.ETH_P_ALL>>8
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		tv := unix.NsecToTimeval(int64(20 * time.Millisecond))
		return errors.Join(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Index}),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
	})
	return fd, err
}

// listen reads an interface's frames until the test ends.
func (r *rig) listen(n *lab.Namespace, name string, f func(frame []byte)) {
	fd, err := packetSocket(n, name)
	r.must(err)
	done, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if n, _, err := unix.Recvfrom(fd, buf, 0); err == nil {
				f(bytes.Clone(buf[:n]))
			}
		}
	}()
	r.t.Cleanup(func() { close(stop); <-done; unix.Close(fd) })
}

func (r *rig) tap(n *lab.Namespace) *tap { return r.tapOn(n, "eth0") }

func (r *rig) tapOn(n *lab.Namespace, name string) *tap {
	p := &tap{}
	r.listen(n, name, func(frame []byte) {
		p.mu.Lock()
		p.frames = append(p.frames, frame)
		p.mu.Unlock()
	})
	return p
}

// settle waits until a tap of the client's has kept all that the node sent it by an
// interface before.
func (r *rig) settle(p *tap, name string) {
	r.t.Helper()
	fd, err := packetSocket(r.node, name)
	r.must(err)
	defer unix.Close(fd)
	// To all, of the type for experiments, and with a number of its own.
	mark := binary.BigEndian.AppendUint64([]byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 7, 0x88, 0xb5}, uint64(time.Now().UnixNano()))
	_, err = unix.Write(fd, append(mark, make([]byte, 46)...))
	r.must(err)
	r.await("the tap", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return slices.ContainsFunc(p.frames, func(f []byte) bool { return bytes.HasPrefix(f, mark) })
	})
}

// find returns the packets that f chooses.
func (p *tap) find(f func(*layers.Ethernet, *layers.IPv4, gopacket.Packet) bool) (all [][]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, frame := range p.frames {
		pkt := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
		eth, _ := pkt.LinkLayer().(*layers.Ethernet)
		ip, ok := pkt.NetworkLayer().(*layers.IPv4)
		if ok && f(eth, ip, pkt) {
			all = append(all, frame)
		}
	}
	return all
}

// some is find that waits for the reader of the tap, which may not have come to what
// was answered already.
func (p *tap) some(f func(*layers.Ethernet, *layers.IPv4, gopacket.Packet) bool) (all [][]byte) {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if all = p.find(f); len(all) > 0 || time.Now().After(deadline) {
			return all
		}
	}
}

// checksums turns the offload of transmit checksums of an interface on or off: off,
// what is captured is whole.
func (r *rig) checksums(n *lab.Namespace, name string, on uint32) {
	r.offload(n, name, unix.ETHTOOL_STXCSUM, on)
}

// offload turns an offload of an interface on or off (linux/ethtool.h).
func (r *rig) offload(n *lab.Namespace, name string, which, on uint32) {
	r.t.Helper()
	r.must(n.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		value := struct{ cmd, data uint32 }{which, on}
		var ifr struct {
			name [unix.IFNAMSIZ]byte
			data *struct{ cmd, data uint32 }
			_    [16]byte
		}
		copy(ifr.name[:], name)
		ifr.data = &value
		// ifr is a struct ifreq (linux/if.h), whose ifr_data points to a struct
		// ethtool_value; both live until the call returns.
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); errno != 0 {
			return errno
		}
		return nil
	}))
}

// option is the DSR option byte by byte.
func option(vip string, port uint16) layers.IPv4Option {
	a := netip.MustParseAddr(vip).As4()
	d := binary.LittleEndian.AppendUint16(nil, port)
	return layers.IPv4Option{OptionType: 0x9a, OptionLength: 8, OptionData: append(d, a[3], a[2], a[1], a[0])}
}
