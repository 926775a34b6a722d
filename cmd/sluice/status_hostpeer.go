package main

import (
	"fmt"

	"sluice/internal/control"
)

// hostPeerLines is how many uses of protocols by the host people are shown.
const hostPeerLines = 20

// hostPeerWords says what the host itself speaks, and with whom.
func hostPeerWords(list []control.HostPeer) (words []string) {
	for i, h := range list {
		if i == hostPeerLines {
			return append(words, fmt.Sprintf("%d more: `sluice status -o json`", len(list)-i))
		}
		with, at := "anybody", "every address"
		if h.Peer.IsValid() {
			with = h.Peer.String()
		}
		if h.Address.IsValid() {
			at = h.Address.String()
		}
		words = append(words, fmt.Sprintf("protocol %s with %s, by %s: %s", h.Protocol, with, at, h.By))
	}
	return words
}
