// Package agent owns the DSR agent of a backend node: two eBPF programs at the TC
// hooks and what tells them whom to believe.
//
// The ingress program learns from a request which service address its client's
// flow came to (from the IPv4 option, anywhere in the list, or from an ipip or
// Geneve header), and takes what carried it out of the packet, so that netfilter,
// sockets and pods see a packet from the client to the backend. Segments without
// the option belong to the flow that was learned. The egress program gives the
// replies the service address as their source: those of the node's own sockets
// and those forwarded for pods and virtual machines, with their ICMP errors and
// fragments. It changes no length, so segmentation offload stays whole, and it
// works through the kernel's helpers, so a checksum may be complete, partial or
// the NIC's to make.
//
//	bpf/          the programs; agent_bpfel.o is made of them by go generate
//	agent.go      start, reload, the loop that follows the node
//	attach.go     TCX links, or clsact filters where the kernel (before 6.6) has none
//	pin.go        what outlives the process
//	maps.go       trusted gateways, services, the node's addresses
//	flows.go      the flows: listing and expiry
//	node.go       what is read of the node: links, addresses, neighbours, rules, rp_filter
//
// TC and not XDP: XDP sees nothing of what the node's own sockets send, and the
// reply's half must be at TC. With both halves there, one flow map and one order of
// things hold for host and pods, and the kernel has made its choice of route.
//
// The wire formats are Cilium's (bpf/lib/nodeport.h); they are read here a second
// time since package dsr, which writes them, is Go. Package agent knows no
// configuration file, no socket of a client and nothing of the gateway.
//
// # Concurrency
//
// The methods of an Agent may be called by several goroutines. The programs run on
// any CPU: what changes in a flow is single aligned words, its counters may lose an
// increment, and a flow is replaced whole. All calls are made in the network
// namespace of the agent.
package agent
