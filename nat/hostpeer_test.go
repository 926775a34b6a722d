package nat

import (
	"testing"

	"pgregory.net/rapid"
)

// TestHostPeersAgainstModel: Find says what going through the list says, whatever
// is exact and whatever stands for any address or anybody.
func TestHostPeersAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		proto := rapid.SampledFrom([]uint8{4, 47, 50})
		address := rapid.Uint32Range(0, 4)
		list := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) HostPeer {
			return HostPeer{Proto: proto.Draw(t, "proto"), Local: address.Draw(t, "local"), Peer: address.Draw(t, "peer"), By: "x"}
		}), 0, 12).Draw(t, "list")
		h := NewHostPeers(list)
		for _, p := range []uint8{4, 47, 50, 51} {
			for local := uint32(1); local <= 5; local++ {
				for peer := uint32(1); peer <= 5; peer++ {
					want := false
					for _, x := range list {
						want = want || x.Proto == p && (x.Local == 0 || x.Local == local) && (x.Peer == 0 || x.Peer == peer)
					}
					got := h.Find(p, local, peer)
					if (got != nil) != want {
						t.Fatalf("protocol %d, %d from %d: %v of %v", p, local, peer, got, list)
					}
					if got != nil && (got.Proto != p || got.Local != 0 && got.Local != local || got.Peer != 0 && got.Peer != peer) {
						t.Fatalf("protocol %d, %d from %d: found %v", p, local, peer, got)
					}
				}
			}
		}
		if !h.Equal(NewHostPeers(append(list[len(list)/2:], list[:len(list)/2]...))) {
			t.Fatalf("the order of %v matters", list)
		}
	})
}

func TestNoHostPeers(t *testing.T) {
	var none *HostPeers
	if none.Find(47, 1, 2) != nil || none.All() != nil || !none.Equal(NewHostPeers(nil)) {
		t.Error("a nil table has something")
	}
	if none.Equal(NewHostPeers([]HostPeer{{Proto: 47}})) {
		t.Error("one entry equals none")
	}
}
