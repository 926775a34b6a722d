package gateway

import (
	"testing"

	"github.com/google/gopacket/layers"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/nat"
)

func hostSpeaks(list ...nat.HostPeer) rigOption {
	return func(_ *rig, s *Snapshot) { s.Host = nat.NewHostPeers(list) }
}

// TestHostPeer: what the host itself speaks with a peer, on the address that it
// shares with NAT, no inside host begins; it is told (RFC 5508 REQ-8). Other
// protocols, peers and addresses stay NAT's.
func TestHostPeer(t *testing.T) {
	gre := func(src, dst uint32) func(t testing.TB) []byte {
		return func(t testing.TB) []byte { return from{src: src, dst: dst}.raw(t, packet.ProtoGRE, "a") }
	}
	for name, c := range map[string]struct {
		host   nat.HostPeer
		frame  func(t testing.TB) []byte
		passes bool
	}{
		"exactly this":           {nat.HostPeer{Proto: packet.ProtoGRE, Local: external, Peer: server}, gre(client, server), false},
		"from any address":       {nat.HostPeer{Proto: packet.ProtoGRE, Peer: server}, gre(client, server), false},
		"with anybody":           {nat.HostPeer{Proto: packet.ProtoGRE, Local: external}, gre(client, server), false},
		"any with anybody":       {nat.HostPeer{Proto: packet.ProtoGRE}, gre(client, server), false},
		"another peer":           {nat.HostPeer{Proto: packet.ProtoGRE, Local: external, Peer: server + 1}, gre(client, server), true},
		"by another address":     {nat.HostPeer{Proto: packet.ProtoGRE, Local: gatewayInside, Peer: server}, gre(client, server), true},
		"another protocol":       {nat.HostPeer{Proto: packet.ProtoESP}, gre(client, server), true},
		"to an excluded network": {nat.HostPeer{Proto: packet.ProtoGRE}, gre(client, excluded), true},
		"a protocol with ports": {nat.HostPeer{Proto: packet.ProtoUDP}, func(t testing.TB) []byte {
			return from{src: client, dst: server, sport: 1, dport: 2}.udp(t)
		}, true},
	} {
		r := newRig(t, hostSpeaks(c.host))
		r.send(insidePort, c.frame(t))
		if c.passes {
			r.one(outsidePort)
			continue
		}
		told := r.ports[insidePort].sent()
		if out := r.ports[outsidePort].sent(); len(out) != 0 || r.drops(verdict.HostPeer) != 1 || len(told) != 1 {
			t.Errorf("%s: %d frames left, %d answers, drops %v", name, len(out), len(told), r.allDrops())
		} else if v := decode(t, told[0]); v.icmp == nil || v.icmp.TypeCode != layers.CreateICMPv4TypeCode(3, 13) {
			t.Errorf("%s: told %v", name, v.icmp)
		}
	}
}

// TestHostPeerTakesAnotherAddress: an address of the pool that is NAT's alone has
// no answers of the host's.
func TestHostPeerTakesAnotherAddress(t *testing.T) {
	r := newRig(t, hostSpeaks(nat.HostPeer{Proto: packet.ProtoGRE}))
	x := conntrack.NewExternal(pooled, nil)
	if err := r.table.AddExternal(x); err != nil {
		t.Fatal(err)
	}
	r.publish(func(s *Snapshot) { s.Pools[outsidePort] = nat.NewPool(r.ext, x) })
	for _, host := range []uint32{client, client2} {
		r.send(insidePort, from{src: host, dst: server}.raw(t, packet.ProtoGRE, "a"))
		out := r.ports[outsidePort].sent()
		if host == client2 {
			// The one address is taken by then, and the other is the host's.
			if len(out) != 0 || r.drops(verdict.PeerTaken)+r.drops(verdict.HostPeer) != 1 {
				t.Errorf("%d frames left, drops %v", len(out), r.allDrops())
			}
			continue
		}
		if len(out) != 1 || decode(t, out[0]).packet.Src != pooled {
			t.Errorf("%d frames left, drops %v", len(out), r.allDrops())
		}
	}
}

// TestHostPeerStatic: nor does a host with an address of its own one-to-one, if
// the host has that, too; and what arrives for the host is the kernel's, not the
// forward's.
func TestHostPeerStatic(t *testing.T) {
	r := newRig(t, hostSpeaks(nat.HostPeer{Proto: packet.ProtoGRE, Local: external, Peer: server}), func(_ *rig, s *Snapshot) {
		s.Static = nat.NewStatic([]nat.PortForward{{External: external, Last: 65535, Inside: client, Out: nat.AnyOut}})
	})
	r.send(insidePort, from{src: client, dst: server}.raw(t, packet.ProtoGRE, "a"))
	if r.drops(verdict.HostPeer) != 1 || len(r.ports[outsidePort].sent()) != 0 {
		t.Errorf("from inside: drops %v", r.allDrops())
	}
	r.ports[insidePort].sent()
	r.send(outsidePort, from{src: server, dst: external}.raw(t, packet.ProtoGRE, "a"))
	r.none(verdict.HostOwned)
	r.send(outsidePort, from{src: server + 1, dst: external}.raw(t, packet.ProtoGRE, "a"))
	if got := r.one(insidePort).packet.Dst; got != client {
		t.Errorf("another peer reaches %08x", got)
	}
}

// TestHostPeerFragments: the fragments of what arrives for the host are the
// kernel's, whichever comes first.
func TestHostPeerFragments(t *testing.T) {
	r := newRig(t, hostSpeaks(nat.HostPeer{Proto: packet.ProtoGRE, Peer: server}))
	punts := withPunts(r)
	f := from{src: server, dst: external}
	for i, offset := range []uint16{1, 0, 2} {
		l := f.ipv4(layers.IPProtocol(packet.ProtoGRE))
		l.FragOffset = offset
		if offset != 2 {
			l.Flags = layers.IPv4MoreFragments
		}
		r.send(outsidePort, f.frame(t, l, payload("8 bytes.")))
		if i == 0 {
			continue // it may wait for the first one
		}
		if len(punts.got) != i+1 {
			t.Errorf("after %d fragments the kernel has %d; drops %v", i+1, len(punts.got), r.allDrops())
		}
	}
}

// TestTakesFromHost: flows from before the host spoke the protocol with the peer
// are told from others.
func TestTakesFromHost(t *testing.T) {
	r := newRig(t)
	for _, dst := range []uint32{server, server + 1, excluded} {
		r.send(insidePort, from{src: client, dst: dst}.raw(t, packet.ProtoGRE, "a"))
		r.one(outsidePort)
	}
	r.send(insidePort, from{src: client, dst: server, sport: 1, dport: 2}.udp(t))
	r.one(outsidePort)
	hostSpeaks(nat.HostPeer{Proto: packet.ProtoGRE, Peer: server}, nat.HostPeer{Proto: packet.ProtoGRE, Peer: excluded})(nil, r.pointer.Load())
	taken := map[uint32]bool{}
	var cursor conntrack.Cursor
	r.table.Each(&cursor, func(f conntrack.Snapshot) bool {
		if r.pointer.Load().TakesFromHost(&f) {
			taken[f.Original.Dst] = true
		}
		return true
	})
	if len(taken) != 1 || !taken[server] {
		t.Errorf("flows towards %v take the host's answers", taken)
	}
}
