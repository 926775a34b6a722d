package bench

import (
	"slices"
	"strings"
)

// Peer is a way to forward packets over veth.
type Peer string

const (
	PeerSluice    Peer = "Sluice" // masquerading
	PeerRouter    Peer = "Sluice, no masquerade"
	PeerAsavie    Peer = "Sluice, asavie driver"
	PeerForwarder Peer = "bare AF_XDP forwarder"
	PeerKernel    Peer = "kernel forwarding"
	PeerNFT       Peer = "kernel, nft masquerade"
	PeerDSR       Peer = "Sluice, service-dsr"
	PeerDNAT      Peer = "kernel, nft DNAT"
	PeerSNAT      Peer = "Sluice, service-snat, answered"
	PeerFullNAT   Peer = "kernel, nft DNAT and masquerade, answered"
	peerBaseline  Peer = "generator alone" // whose packets are dropped where they arrive
)

// ours reports whether the peer is Sluice.
func (p Peer) ours() bool { return strings.HasPrefix(string(p), string(PeerSluice)) }

// WireReport is what was measured over veth.
type WireReport struct {
	Frame     int          `json:"frame"` // bytes
	Flows     int          `json:"flows"`
	Window    int          `json:"window"`    // packets under way at most in the run without loss
	Generator Summary      `json:"generator"` // ns of CPU per packet sent, taken off the others
	Results   []WireResult `json:"results"`
	Ratios    []Ratio      `json:"ratios"`
}

// WireResult is what was measured of one peer.
type WireResult struct {
	Peer Peer `json:"peer"`

	// With as many packets under way as the window allows: the most that
	// passes without loss.
	Rate Summary `json:"rate"` // packets a second
	CPU  Summary `json:"cpu"`  // ns of the whole machine per forwarded packet, less the generator's own
	Lost int64   `json:"lost"` // packets, all samples together

	// Of CPU; nothing where the kernel alone forwards.
	Program Summary `json:"program"` // ns per packet in the gateway's XDP program
	User    float64 `json:"user"`    // ns per packet in the worker's user mode, all samples together

	// With all that the generator can send.
	Flood     Summary `json:"flood"`      // packets a second that came through
	FloodLoss Summary `json:"flood_loss"` // share of those sent

	// The same with the kernel's generator; without samples where it has none.
	Pktgen     Summary `json:"pktgen"`
	PktgenLoss Summary `json:"pktgen_loss"`

	Check   Check   `json:"check"`
	Latency Latency `json:"latency"`
}

// Check is a stretch of traffic of which every frame was looked at.
type Check struct {
	Sent      int    `json:"sent"`
	Received  int    `json:"received"`
	Wrong     int    `json:"wrong"` // in any byte: addresses, checksums, payload
	Reordered int    `json:"reordered"`
	First     string `json:"first"` // the first thing that was wrong
}

// Latency is of a paced stream, in microseconds from the generator's kick to the
// sink's receipt.
type Latency struct {
	Pace int     `json:"pace"` // packets a second
	Sent int     `json:"sent"`
	Lost int     `json:"lost"`
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// Ratio compares two peers by the samples of the same round.
type Ratio struct {
	Of   Peer    `json:"of"`
	To   Peer    `json:"to"`
	CPU  Summary `json:"cpu"`
	Rate Summary `json:"rate"`
}

// ratio is that of CPU times.
func (w *WireReport) ratio(of, to Peer) (Summary, bool) {
	for _, r := range w.Ratios {
		if r.Of == of && r.To == to {
			return r.CPU, true
		}
	}
	return Summary{}, false
}

// results are the peers', none of a report that there is not.
func (w *WireReport) results() []WireResult {
	if w == nil {
		return nil
	}
	return w.Results
}

// answered reports whether the packets of a peer pass it twice.
func (w *WireReport) answered() bool {
	return slices.ContainsFunc(w.Results, func(r WireResult) bool { return r.Peer == PeerSNAT || r.Peer == PeerFullNAT })
}
