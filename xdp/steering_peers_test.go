package xdp

import (
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"sluice/internal/packet"
)

// TestPeers: the program takes for NAT's what is counted, and nothing else: by
// address, peer and protocol, whole packets and fragments in any order, and errors
// about them.
func TestPeers(t *testing.T) {
	w := newWorld(t, SteeringConfig{})
	defer unix.Close(w.plug(0, 0))
	w.beat(0, 0)
	slots, seed := w.Peers()
	const protocol = packet.ProtoGRE
	slot := &slots[packet.PeerSlot(seed, hostOrder(sharedAddress), hostOrder(peerAddress), protocol)]
	other := netip.MustParseAddr("1.1.1.2")
	raw := func(src, dst netip.Addr, proto uint8, options ...func(*layers.IPv4)) []byte {
		return frame(ip(src, dst, layers.IPProtocol(proto), options...), payload)
	}
	later := func(h *layers.IPv4) { h.FragOffset = 5 }
	whole := raw(peerAddress, sharedAddress, protocol)
	about := icmp(sharedAddress, 3, 0, gopacket.Payload(raw(sharedAddress, peerAddress, protocol)[14:][:24]))

	w.expect("no flow", whole, verdictPass, "kernel-host-address")
	w.expect("no flow, error", about, verdictPass, "kernel-host-address")
	atomic.AddUint32(slot, 1)
	w.expect("a flow", whole, verdictRedirect, "worker-held-peer")
	w.expect("a later fragment", raw(peerAddress, sharedAddress, protocol, later), verdictRedirect, "worker-held-peer")
	w.expect("an error about it", about, verdictRedirect, "worker-icmp-error")
	w.expect("another peer", raw(other, sharedAddress, protocol), verdictPass, "kernel-host-address")
	w.expect("another protocol", raw(peerAddress, sharedAddress, packet.ProtoESP), verdictPass, "kernel-host-address")
	w.expect("the host's own address", raw(peerAddress, hostAddress, protocol), verdictPass, "kernel-host-address")
	w.expect("an address of NAT's own", raw(other, poolAddress, protocol), verdictRedirect, "worker-pool-address")
	p := Steered{Destination: hostOrder(sharedAddress), Kind: AddrShared, Peered: true}
	if toWorker, name, _ := p.Foretell(); !toWorker || name != "worker-held-peer" {
		t.Errorf("foretold %v, %s", toWorker, name)
	}
	// Without a worker the host must not see it: it would answer.
	atomic.StoreUint64(w.Heartbeat(0), 0)
	if err := w.SetOnFailure(FailPass); err != nil {
		t.Fatal(err)
	}
	w.expect("no worker", whole, verdictDrop, "failure-dropped")
	atomic.AddUint32(slot, ^uint32(0))
	w.expect("the flow has ended", whole, verdictPass, "kernel-host-address")
}

// TestPeersHash: the flow table's function and the program's agree on any endpoint.
func TestPeersHash(t *testing.T) {
	w := newWorld(t, SteeringConfig{})
	defer unix.Close(w.plug(0, 0))
	w.beat(0, 0)
	slots, seed := w.Peers()
	for i := range uint32(300) {
		peer, proto := 0x08000000+i*0x01030507%0x50000000, uint8(18+i%80)
		slot := &slots[packet.PeerSlot(seed, hostOrder(sharedAddress), peer, proto)]
		src := netip.AddrFrom4([4]byte{byte(peer >> 24), byte(peer >> 16), byte(peer >> 8), byte(peer)})
		f := frame(ip(src, sharedAddress, layers.IPProtocol(proto)), payload)
		atomic.StoreUint32(slot, 1)
		w.expect(src.String(), f, verdictRedirect, "worker-held-peer")
		atomic.StoreUint32(slot, 0)
		w.expect(src.String(), f, verdictPass, "kernel-host-address")
	}
}
