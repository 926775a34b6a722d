// Package nat decides which packets are masqueraded and carries the decision
// out: the policy, the choice of an external address and port, the rewrite of
// headers, and the rewrite of ICMP errors with the packet they quote.
//
//	Policy     which source towards which destination; the rule and line that said so
//	Pool       the external addresses of one way out; a source keeps its address
//	Allocator  an external port for an inside endpoint; keeps the port where it can
//	Rewrite    addresses, ports, echo identifiers; incremental checksums
//	QuotedTuple, RewriteError   ICMP errors, in both directions
//	ARPTarget, ARPReply         the answer for an external address nobody else holds
//
// It does not own the flows and mappings (conntrack), the parse (internal/packet)
// or the decision which address to answer ARP for (internal/gateway). It knows
// no socket, file, clock or interface: frames, time and the worker's handle to
// the flow table are arguments.
//
// Concurrency: a Policy and a Pool are immutable once made and are shared by all
// workers. An Allocator belongs to one worker. The functions on frames are pure
// and need the frame to themselves. Nothing here takes a lock, and nothing that
// a packet calls allocates.
//
// It follows RFC 4787, 5382, 5508 and 7857 (what a NAT does), RFC 6056 (port
// choice), RFC 1624 (incremental checksums), RFC 4884 (extended ICMP) and RFC
// 826, 5227 (ARP). The policy's order is that of Cilium's
// bpf/lib/nat.h:__snat_v4_needs_masquerade.
package nat
