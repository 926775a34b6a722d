package attack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"sluice/internal/lab"
	"sluice/internal/packet"
)

const (
	floodedConnections = 200
	floodedFlows       = 16384  // that the table has room for: less than there are ports
	floodSYNs          = 40_000 // more than that
	floodSources       = 12     // inside, each with its limit of flows
	silentNetwork      = "203.0.113.0/24"
	silentAddress      = "203.0.113.5" // routed to a host that answers nothing for it
)

// TestSYNFlood: a flood of SYNs from forged inside sources fills the table of flows
// more than once, and one from outside goes at every port, those of connections
// among them. Connections between real kernels go on throughout, others are opened,
// the table and the memory stay bounded, and the operator sees who it is.
func TestSYNFlood(t *testing.T) {
	r := newRig(t, floodedFlows)
	r.serveMany()
	if err := r.Gateway.AddRoute(silentNetwork, lab.Server2Address); err != nil {
		t.Fatal(err)
	}
	m := r.openMany(floodedConnections)
	r.talk(m)
	r.established(floodedConnections)
	memory := r.memory()

	r.floodSYNsInside(m)
	flows := r.status().Flows.Usage
	if flows.Used > flows.Capacity || flows.Used < flows.Capacity*9/10 {
		t.Errorf("%d flows of %d: the flood was to fill the table", flows.Used, flows.Capacity)
	}
	r.eventually("the flood is seen", func() error {
		if r.status().Router.EarlyDrops == 0 {
			return fmt.Errorf("no unanswered flow made room for another")
		}
		p, err := r.client.Pools(context.Background(), 3)
		if err != nil {
			return err
		}
		for _, s := range p.Sources {
			if last := s.Address.As4()[3]; last < 100 || last >= 100+floodSources || s.Flows < 1000 {
				return fmt.Errorf("the top sources are %+v", p.Sources)
			}
		}
		if len(p.Sources) != 3 {
			return fmt.Errorf("%d top sources", len(p.Sources))
		}
		return nil
	})

	r.floodSYNsOutside(m)
	r.established(floodedConnections)
	if after := r.memory(); after > memory+64<<20 {
		t.Errorf("the gateway grew from %d to %d MB", memory>>20, after>>20)
	}
	if err := r.Checker.Report().Err(); err != nil {
		t.Error(err)
	}
}

// floodSYNsInside sends them from as many addresses of the inside as it takes, each
// port once. All along the connections talk, and another host opens a new one.
func (r *rig) floodSYNsInside(m *many) {
	r.Helper()
	f := r.syns(r.Client1, silentAddress)
	for i := range floodSYNs {
		f.send(netip.AddrFrom4([4]byte{10, 20, 30, byte(100 + i%floodSources)}), netip.MustParseAddr(silentAddress), uint16(1024+i/floodSources), 443)
		if i%(floodSYNs/4) == floodSYNs/8 {
			r.talk(m)
			r.dial()
		}
	}
	r.talk(m)
	r.dial()
}

// floodSYNsOutside sends them from everywhere to all ports of the external address,
// and in the server's name to the ports of its connections.
func (r *rig) floodSYNsOutside(m *many) {
	r.Helper()
	f := r.syns(r.Server2, lab.GatewayOutside)
	external, server := netip.MustParseAddr(lab.GatewayOutside), netip.MustParseAddr(lab.Server1Address)
	const serverPort = 7007
	for i := range floodSYNs / 4 {
		f.send(netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + i%250)}), external, uint16(rand.IntN(1<<16)), m.external[i%len(m.external)].Port())
		f.send(netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + i%250)}), external, uint16(rand.IntN(1<<16)), uint16(1024+i))
		f.send(server, external, serverPort, m.external[i%len(m.external)].Port())
		if i%5000 == 2500 {
			r.talk(m)
			r.dial()
		}
	}
	r.talk(m)
	r.dial()
	r.eventually("strangers are filtered", func() error {
		if n := r.dropped("filtered"); n == 0 {
			return fmt.Errorf("nothing was dropped as filtered")
		}
		return nil
	})
}

// dial opens and closes a connection.
func (r *rig) dial() {
	r.Helper()
	if err := r.Client2.Do(func() error {
		c, err := net.DialTimeout("tcp4", lab.Server1Address+port, patience)
		if err == nil {
			err = c.Close()
		}
		return err
	}); err != nil {
		r.Fatal(err)
	}
}

// synFlood sends SYNs of anybody's by a raw socket, as fast as it can: it changes one
// segment's addresses and ports.
type synFlood struct {
	*raw
	segment []byte
	to      syscall.SockaddrInet4
}

func (r *rig) syns(host *lab.Namespace, to string) *synFlood {
	r.Helper()
	ip := ipv4(lab.Client1Address, to, layers.IPProtocolTCP)
	tcp := &layers.TCP{SYN: true, Window: 1000}
	if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
		r.Fatal(err)
	}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{ComputeChecksums: true, FixLengths: true}, ip, tcp); err != nil {
		r.Fatal(err)
	}
	return &synFlood{raw: r.raw(host), segment: b.Bytes(), to: syscall.SockaddrInet4{Addr: netip.MustParseAddr(to).As4()}}
}

func (f *synFlood) send(src, dst netip.Addr, sport, dport uint16) {
	const sum, tcp = 10, packet.IPv4MinLength // the kernel fills in the header's checksum
	b := f.segment
	s, d := src.As4(), dst.As4()
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	binary.BigEndian.PutUint16(b[tcp:], sport)
	binary.BigEndian.PutUint16(b[tcp+2:], dport)
	binary.BigEndian.PutUint32(b[tcp+4:], rand.Uint32())
	binary.BigEndian.PutUint16(b[sum:], 0)
	binary.BigEndian.PutUint16(b[tcp+16:], 0)
	pseudo := packet.PseudoSum(binary.BigEndian.Uint32(s[:]), binary.BigEndian.Uint32(d[:]), packet.ProtoTCP, len(b)-tcp)
	binary.BigEndian.PutUint16(b[tcp+16:], ^packet.Fold(packet.Sum(b[tcp:], uint32(pseudo))))
	if err := syscall.Sendto(f.fd, b, 0, &f.to); err != nil && !errors.Is(err, syscall.ENOBUFS) {
		f.r.Fatal(err)
	}
}
