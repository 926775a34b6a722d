// Package gateway is a packet's way through Sluice: a worker takes bursts of
// frames from the ports, and for each burst parses, classifies, looks up,
// decides on what is new, rewrites, finds the next hop and transmits.
//
//	Step ── for every port: Receive ≤ 64 frames
//	  parse     burst.go    malformed → named drop; partial checksums finished
//	  classify  burst.go    flow | ICMP error | fragment | ARP
//	  look up   conntrack   the whole burst at once, memory latency overlapped
//	  ahead     ahead.go    what flows that begin will need, sent for before
//	  miss      miss.go     policy, external address, port → new flow, or a named drop
//	  forward   forward.go  next hop, TTL, MTU, rewrite → out queue of a port,
//	                        in fragments where need be (fragmentout.go)
//	  or drop   error.go    an ICMP error to the sender, where it should know;
//	            punt.go     what is the kernel's goes back there
//	Transmit, Flush, quiesce, sweep
//
// A fragment of what may have to be translated follows the first one of its
// datagram (fragment.go), and waits for it where need be (fragmenthold.go); the
// worker that has the datagram deals with all of them.
//
// While a Trace (trace.go) or a Capture (capture.go) is on, packets that it may
// choose take that way one at a time (look.go).
//
// It owns the stages, the verdict for each packet, the counters of drop reasons
// and the frames that wait for a neighbour. It does not own the flows
// (conntrack), the policy and the translation (nat), the routes (internal/fib),
// nor any socket, file or netlink message: ports and snapshots are handed in,
// time is an argument, so that the whole pipeline runs in tests over a port in
// memory.
//
// Concurrency: a Worker belongs to one goroutine. It shares flows with the other
// workers through conntrack, reads its configuration from an immutable Snapshot
// behind an atomic pointer, and asks for neighbours through a bounded ring. It
// takes no lock, and allocates nothing after New.
//
// It follows RFC 1812 (what a router does with a packet) and RFC 4787, 5382 and
// 5508 (what a NAT does).
package gateway
