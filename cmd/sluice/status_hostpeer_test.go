package main

import (
	"net/netip"
	"strings"
	"testing"

	"sluice/internal/control"
)

func TestHostPeerWords(t *testing.T) {
	local, peer := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.9")
	got := hostPeerWords([]control.HostPeer{{Protocol: "47", Address: local, Peer: peer, By: "gre device gre1"}, {Protocol: "89", By: "raw socket"}})
	want := "protocol 47 with 198.51.100.9, by 192.0.2.1: gre device gre1|protocol 89 with anybody, by every address: raw socket"
	if strings.Join(got, "|") != want {
		t.Errorf("%q, want %q", got, want)
	}
	got = hostPeerWords(make([]control.HostPeer, 50))
	if len(got) != hostPeerLines+1 || got[hostPeerLines] != "30 more: `sluice status -o json`" {
		t.Errorf("of 50: %q", got)
	}
}
