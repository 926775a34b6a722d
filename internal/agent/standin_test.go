package agent

import (
	"net"
	"net/netip"
	"sync"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// standIn is a gateway in a test: it translates what comes to a service address to
// the backend's and adds the option as Cilium does, to SYNs and to every datagram.
type standIn struct {
	rig *rig
	fd  int

	mu       sync.Mutex
	backends map[netip.AddrPort]netip.AddrPort
	dispatch Dispatch
}

func (r *rig) startStandIn() *standIn {
	s := &standIn{rig: r, backends: map[netip.AddrPort]netip.AddrPort{}}
	fd, err := packetSocket(r.gateway, "eth0")
	r.must(err)
	r.t.Cleanup(func() { unix.Close(fd) })
	s.fd = fd
	mac := r.mac(r.gateway).String()
	r.listen(r.gateway, "eth0", func(frame []byte) {
		p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
		eth, _ := p.LinkLayer().(*layers.Ethernet)
		ip, ok := p.NetworkLayer().(*layers.IPv4)
		if ok && eth.DstMAC.String() == mac {
			s.balance(ip, p)
		}
	})
	return s
}

func (s *standIn) serve(vip, backend string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.backends[netip.MustParseAddrPort(vip)] = netip.MustParseAddrPort(backend)
}

func (s *standIn) use(d Dispatch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dispatch = d
}

func (s *standIn) balance(ip *layers.IPv4, p gopacket.Packet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	addr, _ := netip.AddrFromSlice(ip.DstIP.To4())
	out := *ip
	out.TTL--
	var l4 gopacket.SerializableLayer
	var vip, backend netip.AddrPort
	informs := true
	switch t := p.TransportLayer().(type) {
	case *layers.TCP:
		vip = netip.AddrPortFrom(addr, uint16(t.DstPort))
		backend = s.backends[vip]
		seg := *t
		seg.DstPort = layers.TCPPort(backend.Port())
		informs = t.SYN
		_ = seg.SetNetworkLayerForChecksum(&out)
		l4 = &seg
	case *layers.UDP:
		vip = netip.AddrPortFrom(addr, uint16(t.DstPort))
		backend = s.backends[vip]
		dgram := *t
		dgram.DstPort = layers.UDPPort(backend.Port())
		_ = dgram.SetNetworkLayerForChecksum(&out)
		l4 = &dgram
	}
	if !backend.IsValid() {
		return
	}
	if s.dispatch == IPIP { // the packet inside goes to the service
		inner := *ip
		inner.TTL--
		seg := *p.TransportLayer().(*layers.TCP)
		_ = seg.SetNetworkLayerForChecksum(&inner)
		s.send(s.rig.mac(s.rig.gateway), &layers.IPv4{
			Version: 4, TTL: 64, Protocol: layers.IPProtocolIPv4, Flags: inner.Flags, Id: inner.Id,
			SrcIP: net.ParseIP(gatewayAddress).To4(), DstIP: backend.Addr().AsSlice(),
		}, &inner, &seg, gopacket.Payload(seg.Payload))
		return
	}
	out.DstIP = backend.Addr().AsSlice()
	if informs && s.dispatch == Option {
		out.Options = []layers.IPv4Option{option(vip.Addr().String(), vip.Port())}
	}
	payload := gopacket.Payload(p.TransportLayer().LayerPayload())
	s.send(s.rig.mac(s.rig.gateway), &out, l4, payload)
}

// send sends a packet to the node, lengths and checksums filled in.
func (s *standIn) send(from net.HardwareAddr, l ...gopacket.SerializableLayer) {
	to, err := s.rig.node.MAC("eth0")
	if err != nil {
		return // lost, as the interface is
	}
	eth := &layers.Ethernet{SrcMAC: from, DstMAC: to, EthernetType: layers.EthernetTypeIPv4}
	b := gopacket.NewSerializeBuffer()
	o := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(b, o, append([]gopacket.SerializableLayer{eth}, l...)...); err != nil {
		s.rig.t.Error(err)
		return
	}
	if _, err := unix.Write(s.fd, b.Bytes()); err != nil {
		s.rig.t.Error(err)
	}
}
