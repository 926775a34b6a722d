package xdp

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// TestSteeringConflicts: RFC 5227 2.4: ARP of another station with a pool address as
// its sender is noted, whatever it is about and whoever gets it; nothing else is.
func TestSteeringConflicts(t *testing.T) {
	w := newWorld(t, SteeringConfig{})
	defer unix.Close(w.plug(0, 0))
	say := func(operation uint16, mac net.HardwareAddr, sender, target netip.Addr) []byte {
		return serialize(
			&layers.Ethernet{SrcMAC: mac, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP},
			&layers.ARP{
				AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
				Operation: operation, SourceHwAddress: mac, SourceProtAddress: sender.AsSlice(),
				DstHwAddress: make([]byte, 6), DstProtAddress: target.AsSlice(),
			})
	}
	none := netip.IPv4Unspecified()
	for _, c := range []struct {
		name    string
		frame   []byte
		verdict uint32
		reason  string
		counts  bool
	}{
		{"an announcement", say(1, peerMAC, poolAddress, poolAddress), verdictRedirect, "worker-arp", true},
		{"an answer", say(2, peerMAC, poolAddress, peerAddress), verdictPass, "kernel-not-ipv4", true},
		{"a request for the host", say(1, peerMAC, poolAddress, sharedAddress), verdictPass, "kernel-not-ipv4", true},
		{"a request of a client", say(1, peerMAC, peerAddress, poolAddress), verdictRedirect, "worker-arp", false},
		{"a probe", say(1, peerMAC, none, poolAddress), verdictRedirect, "worker-arp", false},
		{"our own", say(1, gatewayMAC, poolAddress, poolAddress), verdictRedirect, "worker-arp", false},
		{"about an address of the host", say(1, peerMAC, sharedAddress, sharedAddress), verdictPass, "kernel-not-ipv4", false},
		{"cut short", say(1, peerMAC, poolAddress, poolAddress)[:41], verdictPass, "kernel-not-ipv4", false},
	} {
		key := Conflict{Address: hostOrder(poolAddress), MAC: [6]byte(peerMAC)}
		before, err := w.Conflicts()
		if err != nil {
			t.Fatal(err)
		}
		w.beat(0, 0)
		w.expect(c.name, c.frame, c.verdict, c.reason)
		after, err := w.Conflicts()
		if err != nil {
			t.Fatal(err)
		}
		if counted := after[key] == before[key]+1; counted != c.counts || len(after) > 1 {
			t.Errorf("%s: %v, was %v", c.name, after, before)
		}
	}
	// Many forged ones are forgotten, and the maps of ours stay as they are.
	for i := range 300 {
		w.beat(0, 0)
		w.expect("a flood", say(1, net.HardwareAddr{2, 9, 9, 9, byte(i >> 8), byte(i)}, poolAddress, poolAddress), verdictRedirect, "worker-arp")
	}
	if all, err := w.Conflicts(); err != nil || len(all) > 64 {
		t.Errorf("%d remembered, %v", len(all), err)
	}
}
