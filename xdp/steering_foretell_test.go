package xdp

import (
	"net/netip"
	"testing"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// TestForetellIsTheProgram: for packets to every kind of destination, with and
// without a held port and a socket of the host, Foretell says what the program
// then does and counts.
func TestForetellIsTheProgram(t *testing.T) {
	w := newWorld(t, SteeringConfig{})
	defer unix.Close(w.plug(0, 0))
	w.beat(0, 0)
	defer listen(w, at(sharedAddress, heldTCP)).Close()
	defer bindUDP(w, at(sharedAddress, heldUDP)).Close()
	w.serve()
	kinds := map[netip.Addr]AddressKind{hostAddress: AddrHost, sharedAddress: AddrShared, poolAddress: AddrPool, bareAddress: AddrPool}
	met := map[string]bool{}
	for _, dst := range []string{
		hostAddress.String(), sharedAddress.String(), poolAddress.String(), bareAddress.String(),
		"10.1.1.1", "10.9.1.1", "10.9.9.1", "9.9.9.9", "224.0.0.1", "239.1.2.3", "255.255.255.255",
	} {
		dst := netip.MustParseAddr(dst)
		p := Steered{Destination: hostOrder(dst), Kind: kinds[dst]}
		for _, r := range steeringRoutes { // from the shortest to the longest
			if r.Prefix.Contains(dst) {
				p.Routed, p.ToWorker = true, r.ToWorker
			}
		}
		bitmap := dst == sharedAddress || dst == poolAddress
		for _, port := range []uint16{heldTCP, heldUDP, heldEcho, servedTCP, 7} {
			for protocol, frame := range map[uint16][]byte{
				heldTCP:  tcpSegment(at(peerAddress, 555), at(dst, port), layers.TCP{SYN: true}),
				heldUDP:  udpDatagram(at(peerAddress, 555), at(dst, port)),
				heldEcho: icmp(dst, 0, port),
			} {
				p.Held = bitmap && port == protocol
				p.Service = (dst == sharedAddress || dst == bareAddress) && port == servedTCP && protocol == heldTCP
				p.HostSocket = dst == sharedAddress && port != heldEcho
				toWorker, name, text := p.Foretell()
				verdict := uint32(verdictPass)
				if toWorker {
					verdict = verdictRedirect
				}
				w.expect(dst.String(), frame, verdict, name)
				if text == "" {
					t.Errorf("%s has no text", name)
				}
				met[name] = true
			}
		}
	}
	if len(met) != 9 {
		t.Errorf("%d answers were met, want 9: %v", len(met), met)
	}
}
