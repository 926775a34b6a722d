package gateway

import "sluice/conntrack"

// How many ICMP errors of its own a worker sends (RFC 1812 4.3.2.8, RFC 5508
// REQ-10). A tick is a tenth of a second.
const (
	errorsPerTick     = 100 // 1000 a second in all
	errorsBurst       = 100 // and so many at once
	errorsPerPeerTick = 2   // 20 a second to one destination: a traceroute, a ping
	errorsPeerBurst   = 20
	errorPeers        = 256 // destinations told apart, by a keyed hash
)

// errorLimit bounds the ICMP errors of one worker: in all, so that a flood
// costs little, and for each destination, so that one that provokes many
// leaves some for the others.
type errorLimit struct {
	all   bucket
	peers [errorPeers]bucket
}

// bucket holds tokens; each lets one error pass.
type bucket struct {
	at     conntrack.Tick // when it was last filled
	tokens uint32
}

// fill adds what has come in since the last time, at most size tokens in all.
func (b *bucket) fill(now conntrack.Tick, rate, size uint32) {
	age := uint32(now - b.at)
	b.at = now
	b.tokens = min(size, b.tokens+min(age, size)*rate)
}

// allow takes a token for a destination, given by its hash, and reports whether
// there was one.
func (l *errorLimit) allow(hash uint64, now conntrack.Tick) bool {
	peer := &l.peers[hash%errorPeers]
	peer.fill(now, errorsPerPeerTick, errorsPeerBurst)
	l.all.fill(now, errorsPerTick, errorsBurst)
	if peer.tokens == 0 || l.all.tokens == 0 {
		return false
	}
	peer.tokens--
	l.all.tokens--
	return true
}
