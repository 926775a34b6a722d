package nat

import (
	"bytes"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

var (
	askerMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 7}
	gatewayMAC = [6]byte{2, 0, 0, 0, 0, 9}
)

// arpFrame builds ARP as it is on the wire: 46 bytes of payload with padding.
func arpFrame(t testing.TB, edit func(*layers.Ethernet, *layers.ARP)) []byte {
	eth := &layers.Ethernet{SrcMAC: askerMAC, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP}
	arp := &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
		Operation:       layers.ARPRequest,
		SourceHwAddress: askerMAC, SourceProtAddress: []byte{192, 0, 2, 7},
		DstHwAddress: make([]byte, 6), DstProtAddress: []byte{192, 0, 2, 1},
	}
	if edit != nil {
		edit(eth, arp)
	}
	return serialize(t, eth, arp, gopacket.Payload(make([]byte, 18)))
}

func TestARPReply(t *testing.T) {
	for name, asker := range map[string][]byte{
		"RFC 826: a request":            {192, 0, 2, 7},
		"RFC 5227: a probe asks from 0": {0, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			frame := arpFrame(t, func(_ *layers.Ethernet, a *layers.ARP) { a.SourceProtAddress = asker })
			target, ok := ARPTarget(frame)
			if !ok || target != addr("192.0.2.1") {
				t.Fatalf("ARPTarget = %s, %v", address(target), ok)
			}
			ARPReply(frame, gatewayMAC)
			want := arpFrame(t, func(e *layers.Ethernet, a *layers.ARP) {
				e.SrcMAC, e.DstMAC = gatewayMAC[:], askerMAC
				a.Operation = layers.ARPReply
				a.SourceHwAddress, a.SourceProtAddress = gatewayMAC[:], []byte{192, 0, 2, 1}
				a.DstHwAddress, a.DstProtAddress = askerMAC, asker
			})
			if !bytes.Equal(frame, want) {
				t.Errorf("\n got %x\nwant %x", frame, want)
			}
		})
	}
}

func TestARPTargetRefuses(t *testing.T) {
	for name, edit := range map[string]func(*layers.Ethernet, *layers.ARP){
		"a reply":                      func(_ *layers.Ethernet, a *layers.ARP) { a.Operation = layers.ARPReply },
		"another ethertype":            func(e *layers.Ethernet, _ *layers.ARP) { e.EthernetType = layers.EthernetTypeIPv4 },
		"another hardware":             func(_ *layers.Ethernet, a *layers.ARP) { a.AddrType = layers.LinkTypeTokenRing },
		"another protocol":             func(_ *layers.Ethernet, a *layers.ARP) { a.Protocol = layers.EthernetTypeIPv6 },
		"RFC 5227: an announcement":    func(_ *layers.Ethernet, a *layers.ARP) { a.SourceProtAddress = a.DstProtAddress },
		"a group address as the asker": func(_ *layers.Ethernet, a *layers.ARP) { a.SourceHwAddress = layers.EthernetBroadcast },
	} {
		t.Run(name, func(t *testing.T) {
			if target, ok := ARPTarget(arpFrame(t, edit)); ok {
				t.Errorf("taken for a request for %s", address(target))
			}
		})
	}
	t.Run("a frame that is cut", func(t *testing.T) {
		frame := arpFrame(t, nil)
		for n := range arpEnd {
			if _, ok := ARPTarget(frame[:n]); ok {
				t.Errorf("%d bytes are taken for a request", n)
			}
		}
		if _, ok := ARPTarget(frame[:arpEnd]); !ok {
			t.Error("a request without padding is refused")
		}
	})
}

func TestARPAllocs(t *testing.T) {
	frame := arpFrame(t, nil)
	if n := testing.AllocsPerRun(100, func() {
		ARPTarget(frame)
		ARPReply(frame, gatewayMAC)
	}); n != 0 {
		t.Errorf("ARP allocates %v times", n)
	}
}

func TestARPAnnouncement(t *testing.T) {
	frame := make([]byte, ARPAnnouncementLength)
	for i := range frame {
		frame[i] = 0xaa // of an earlier use
	}
	ARPAnnouncement(frame, gatewayMAC, addr("198.51.100.10"))
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	eth, arp := p.Layer(layers.LayerTypeEthernet).(*layers.Ethernet), p.Layer(layers.LayerTypeARP).(*layers.ARP)
	vip := []byte{198, 51, 100, 10}
	if eth.DstMAC.String() != "ff:ff:ff:ff:ff:ff" || !bytes.Equal(eth.SrcMAC, gatewayMAC[:]) || arp.Operation != layers.ARPRequest ||
		!bytes.Equal(arp.SourceHwAddress, gatewayMAC[:]) || !bytes.Equal(arp.SourceProtAddress, vip) ||
		!bytes.Equal(arp.DstHwAddress, make([]byte, 6)) || !bytes.Equal(arp.DstProtAddress, vip) {
		t.Errorf("%v", p)
	}
}

func TestARPProbe(t *testing.T) {
	frame := make([]byte, ARPAnnouncementLength)
	ARPProbe(frame, gatewayMAC, addr("198.51.100.10"))
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	arp := p.Layer(layers.LayerTypeARP).(*layers.ARP)
	if arp.Operation != layers.ARPRequest || !bytes.Equal(arp.SourceHwAddress, gatewayMAC[:]) || !bytes.Equal(arp.SourceProtAddress, []byte{0, 0, 0, 0}) ||
		!bytes.Equal(arp.DstHwAddress, make([]byte, 6)) || !bytes.Equal(arp.DstProtAddress, []byte{198, 51, 100, 10}) {
		t.Errorf("%v", p)
	}
}
