// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// The steering program decides for every frame that an interface receives
// whether a Sluice worker gets it, through the AF_XDP socket of the queue it
// came in by, or the kernel, as if Sluice were not there. It changes no byte.
//
// It asks, in this order, and the first that answers decides:
//
//   1. an ARP request for a pool address                    -> worker
//      (ARP of another station that says it has one is noted, too)
//      not IPv4 (VLAN tags count as that), a group address or another station's
//      address on the link, a group address in IPv4        -> kernel
//   2. to an address that NAT or a service uses, alone (pool) or with the host
//      (shared):
//      a later fragment goes where the first one of its datagram went; one that
//      came before that                                     -> worker, which waits
//      a service's port, or an ICMP error that quotes one, or a request on its
//      way to a backend in an outer header                  -> worker
//      a port or echo identifier that NAT holds, or an ICMP error that quotes
//      one: the host's own socket, if it has one            -> kernel
//                                                    else   -> worker
//      of a protocol without ports, from a peer that NAT has a flow of it
//      with, or an ICMP error that quotes one                -> worker
//      anything else: shared -> kernel, pool                -> worker
//   3. to an address that only the host uses                -> kernel
//   4. routed to an interface of Sluice's                   -> worker
//   5. everything else                                      -> kernel
//
// What 4 gave a worker is remembered, and not looked up again until an address or
// a route changes.
//
// A worker that is dead (no socket in the slot) or hung (its heartbeat is old)
// gets nothing. Its frames are then dropped or passed to the kernel, as the
// port's flags say; those for ports that NAT holds are always dropped, since
// the host would answer them with a reset and end the connection.
//
// What Go configures: constants before loading, maps at any time. The program
// needs no CO-RE, no loop and only helpers that Linux 5.15 has.

#include "endpoints.h"
#include "maps.h"

char __license[] SEC("license") = "Dual BSD/GPL";

// A function of its own, so that the object's BTF has the enum, which Go reads.
static __attribute__((noinline)) void count(enum reason reason)
{
	__u32 index = reason;
	__u64 *n = bpf_map_lookup_elem(&counters, &index);

	if (n)
		*n += 1; // per CPU, and softirq does not nest: no atomic needed
}

inline int to_kernel(enum reason reason)
{
	count(reason);
	return XDP_PASS;
}

// now is the coarse CLOCK_MONOTONIC: it lags by up to a tick, which is nothing
// against the limits here, and costs a load instead of reading the TSC.
inline __u64 now(void)
{
	return bpf_ktime_get_coarse_ns();
}

inline bool alive(__u32 worker)
{
	struct heartbeat *heartbeat = bpf_map_lookup_elem(&heartbeats, &worker);
	__u64 at;

	if (!heartbeat)
		return false;
	at = *(volatile __u64 *)&heartbeat->at;
	// Signed: the worker's clock is not coarse, so `at` can be ahead.
	return at && (__s64)(now() - at) <= (__s64)stale_after;
}

// to_worker_or hands the frame to the worker of its queue; verdict is for when there
// is none.
inline int to_worker_or(struct xdp_md *ctx, enum reason reason, int verdict)
{
	__u32 queue = ctx->rx_queue_index;

	// For an empty slot the helper returns the verdict it was given.
	if (queue < queues && alive(queue % workers))
		verdict = bpf_redirect_map(&sockets, first_slot + queue, verdict);
	if (verdict == XDP_DROP)
		reason = FAILURE_DROPPED;
	else if (verdict == XDP_PASS)
		reason = FAILURE_PASSED;
	count(reason);
	return verdict;
}

// to_worker hands the frame to the worker of its queue. for_nat says that it is
// for a port that NAT holds, so the kernel must not see it even on failure.
inline int to_worker(struct xdp_md *ctx, struct port *self, enum reason reason, bool for_nat)
{
	return to_worker_or(ctx, reason, !for_nat && self->flags & PASS_ON_FAILURE ? XDP_PASS : XDP_DROP);
}

// held says whether NAT holds the local port of e on the address.
inline bool held(const struct address *address, const struct endpoints *e)
{
	__u16 local = bpf_ntohs(e->tuple.ipv4.dport);
	__u32 index = address->held;
	struct held_ports *ports = bpf_map_lookup_elem(&held_ports, &index);
	volatile __u64 *words;

	if (!ports)
		return false;
	switch (e->protocol) {
	case IPPROTO_TCP:
		words = ports->tcp;
		break;
	case IPPROTO_UDP:
		words = ports->udp;
		break;
	default:
		words = ports->icmp;
		break;
	}
	return words[local / 64] >> local % 64 & 1;
}

// peered says whether NAT has a flow of a protocol without ports between the
// address and a peer, or another that shares its slot. conntrack's peers.slot is
// the same function.
inline bool peered(__be32 local, __be32 peer, __u8 protocol)
{
	__u64 x = (__u64)bpf_ntohl(local) << 32 | bpf_ntohl(peer);
	__u32 index = 0;
	struct peers *all = bpf_map_lookup_elem(&peers, &index);

	if (!all)
		return false;
	x = (x + protocol * 0x9e3779b97f4a7c15ULL) ^ peer_seed;
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ULL;
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ULL;
	x ^= x >> 32;
	return *(volatile __u32 *)&all->slots[x & 0xffff];
}

inline struct state *stated(void)
{
	__u32 index = 0;

	return bpf_map_lookup_elem(&state, &index);
}

inline bool services_listed(void)
{
	struct state *now = stated();

	return !now || *(volatile __u64 *)&now->services;
}

// service says whether e is about an address and port that a service has. A
// service takes all of its port: sockets of the host are not asked for.
inline bool service(const struct endpoints *e, __be32 local)
{
	struct service key = {
		.address = local,
		.port = e->tuple.ipv4.dport,
		.protocol = e->protocol,
	};

	// A gateway that only masquerades has none.
	return services_listed() && bpf_map_lookup_elem(&services, &key);
}

// dispatched says whether e is an error about a request on its way to a backend.
inline bool dispatched(const struct endpoints *e, __be32 local)
{
	struct service key = {
		.address = local,
		.port = e->tuple.ipv4.sport,
		.protocol = e->protocol,
		.dispatch = 1,
	};

	return e->quoted && bpf_map_lookup_elem(&services, &key);
}

// host_socket says whether the host itself is the receiver of a packet to a
// port that NAT holds as well: it has a connection with exactly these
// endpoints, or listens and this opens a connection, or has a UDP socket there.
inline bool host_socket(struct xdp_md *ctx, struct endpoints *e)
{
	struct bpf_sock_tuple *tuple = &e->tuple;
	struct bpf_sock *sk;
	bool listener;

	switch (e->protocol) {
	case IPPROTO_TCP:
		// The skc form also finds connections that are being opened and
		// those in TIME-WAIT.
		sk = bpf_skc_lookup_tcp(ctx, tuple, sizeof(tuple->ipv4), BPF_F_CURRENT_NETNS, 0);
		if (!sk)
			return false;
		listener = sk->state == BPF_TCP_LISTEN;
		bpf_sk_release(sk);
		return !listener || e->syn;
	case IPPROTO_UDP:
		sk = bpf_sk_lookup_udp(ctx, tuple, sizeof(tuple->ipv4), BPF_F_CURRENT_NETNS, 0);
		if (!sk)
			return false;
		bpf_sk_release(sk);
		return true;
	}
	return false;
}

inline struct datagram datagram_of(const struct iphdr *ip)
{
	return (struct datagram){
		.src = ip->saddr,
		.dst = ip->daddr,
		.id = ip->id,
		.protocol = ip->protocol,
	};
}

// remember notes where a datagram goes, when its first fragment does, and says
// whether fragments of it have come before and wait at a worker. Forgetting those
// matters: the sender uses identifications again.
inline bool remember(const struct iphdr *ip, enum recipient to)
{
	struct datagram datagram = datagram_of(ip);
	struct sighting first = { .at = now(), .to = to };
	__u64 *early = bpf_map_lookup_elem(&waiting, &datagram);
	bool wait = early && first.at - *early < REASSEMBLY_TIME;

	bpf_map_update_elem(&fragments, &datagram, &first, BPF_ANY);
	if (early)
		bpf_map_delete_elem(&waiting, &datagram);
	return wait;
}

// later_fragment decides for a fragment without ports. One on a shared address that
// comes before its first one may be NAT's or the host's; a worker waits for that,
// and gives the kernel what turns out to be the host's. Without a worker the kernel
// has it, which does nothing with it but wait.
inline int later_fragment(struct xdp_md *ctx, struct port *self, const struct iphdr *ip, bool shared)
{
	struct datagram datagram = datagram_of(ip);
	struct sighting *first;
	__u64 at = now();

	if (!shared)
		return to_worker(ctx, self, WORKER_FRAGMENT, false);
	first = bpf_map_lookup_elem(&fragments, &datagram);
	if (first && at - first->at < REASSEMBLY_TIME) {
		if (first->to == TO_WORKER)
			return to_worker(ctx, self, WORKER_FRAGMENT, true);
		return to_kernel(KERNEL_FRAGMENT);
	}
	bpf_map_update_elem(&waiting, &datagram, &at, BPF_ANY);
	return to_worker_or(ctx, WORKER_FRAGMENT, XDP_PASS);
}

// to_nat_address decides for a packet to an address that NAT or a service uses.
inline int to_nat_address(struct xdp_md *ctx, struct port *self, struct iphdr *ip, void *end,
			  const struct address *address)
{
	bool shared = address->kind == ADDRESS_SHARED;
	bool fragment = ip->frag_off & bpf_htons(IP_MF | IP_OFFSET);
	struct endpoints e = {};
	bool has_port, for_nat, for_host, awaited = false;

	// All that decides is in every fragment, too.
	if (portless(ip->protocol)) {
		for_nat = peered(ip->daddr, ip->saddr, ip->protocol);
		if (!shared)
			return to_worker(ctx, self, WORKER_POOL_ADDRESS, for_nat);
		return for_nat ? to_worker(ctx, self, WORKER_HELD_PEER, true) : to_kernel(KERNEL_HOST_ADDRESS);
	}
	if (ip->frag_off & bpf_htons(IP_OFFSET))
		return later_fragment(ctx, self, ip, shared);

	has_port = read_endpoints(ip, end, &e);
	if (has_port && service(&e, ip->daddr)) {
		if (shared && fragment)
			remember(ip, TO_WORKER);
		return to_worker(ctx, self, WORKER_SERVICE, true);
	}
	if (has_port && dispatched(&e, ip->daddr))
		return to_worker(ctx, self, WORKER_ICMP_ERROR, false);
	if (has_port && portless(e.protocol)) // quoted
		for_nat = peered(ip->daddr, e.tuple.ipv4.saddr, e.protocol);
	else
		for_nat = has_port && held(address, &e);
	for_host = for_nat && shared && host_socket(ctx, &e);
	if (for_host)
		for_nat = false;
	if (shared && fragment)
		awaited = remember(ip, for_nat ? TO_WORKER : TO_KERNEL);

	if (for_nat)
		return to_worker(ctx, self, e.quoted ? WORKER_ICMP_ERROR : WORKER_HELD_PORT, true);
	if (!shared)
		return to_worker(ctx, self, WORKER_POOL_ADDRESS, false);
	if (for_host)
		return to_kernel(KERNEL_HOST_SOCKET); // a worker gives it the others when it has waited
	if (awaited)
		return to_worker_or(ctx, WORKER_FRAGMENT, XDP_PASS);
	return to_kernel(fragment ? KERNEL_FRAGMENT : KERNEL_HOST_ADDRESS);
}

// by_route decides for a destination that is nobody's here, and remembers it in
// slot as sighted, if it is a worker's.
inline int by_route(struct xdp_md *ctx, struct port *self, __be32 destination, __u64 *slot, __u64 sighted)
{
	struct prefix prefix = { .length = 32, .address = destination };
	__u32 *route = bpf_map_lookup_elem(&routes, &prefix);

	if (!route)
		return to_kernel(KERNEL_NO_ROUTE);
	if (*route != ROUTE_WORKER)
		return to_kernel(KERNEL_ROUTED);
	if (slot)
		*slot = sighted;
	return to_worker(ctx, self, WORKER_ROUTED, false);
}

// slot_of is where a destination is remembered on this CPU.
inline __u64 *slot_of(__be32 destination)
{
	__u32 index = 0;
	struct recent *all = bpf_map_lookup_elem(&recent, &index);

	return all ? &all->slots[destination * 0x9e3779b1U >> 16 & (RECENT_SLOTS - 1)] : 0;
}

inline bool same_mac(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const __u16 *)a, *y = (const __u16 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
}

// group_address is true for 224.0.0.0/4 and 255.255.255.255.
inline bool group_address(__be32 address)
{
	return (address & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) || address == bpf_htonl(0xffffffff);
}

inline bool pool_address(__be32 address)
{
	struct address *known = bpf_map_lookup_elem(&addresses, &address);

	return known && known->kind == ADDRESS_POOL;
}

// note_conflict remembers who says in ARP, whatever it asks or answers, that it has
// an address of ours. The kernel does not have the address, and would not notice.
inline void note_conflict(const struct port *self, const struct arp *arp)
{
	struct conflict key = {.address = arp->sender, .port = port};
	__u64 one = 1, *n;

	if (!key.address || same_mac(arp->sender_mac, self->mac) || !pool_address(key.address))
		return;
	__builtin_memcpy(key.mac, arp->sender_mac, ETH_ALEN);
	n = bpf_map_lookup_elem(&conflicts, &key);
	if (n)
		__sync_fetch_and_add(n, 1);
	else
		bpf_map_update_elem(&conflicts, &key, &one, BPF_ANY);
}

// not_ipv4 decides for everything else. The kernel does not answer for addresses
// that it does not have, so the workers do.
inline int not_ipv4(struct xdp_md *ctx, struct port *self, struct ethhdr *eth, void *end)
{
	struct arp *arp = (void *)(eth + 1);

	if (eth->h_proto != bpf_htons(ETH_P_ARP) || (void *)(arp + 1) > end)
		return to_kernel(KERNEL_NOT_IPV4);
	note_conflict(self, arp);
	if (arp->operation != bpf_htons(ARP_REQUEST) || !pool_address(arp->target))
		return to_kernel(KERNEL_NOT_IPV4);
	return to_worker(ctx, self, WORKER_ARP, false);
}

SEC("xdp")
int steer(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);
	__u32 index = port;
	struct port *self = bpf_map_lookup_elem(&ports, &index);
	struct state *present = stated();
	struct address *address;
	__be32 destination;
	__u64 *slot, sighted;

	if (!self || !present || (void *)(eth + 1) > end)
		return to_kernel(KERNEL_TRUNCATED);
	if (eth->h_proto != bpf_htons(ETH_P_IP))
		return not_ipv4(ctx, self, eth, end);
	if (eth->h_dest[0] & 1)
		return to_kernel(KERNEL_MULTICAST);
	if (!same_mac(eth->h_dest, self->mac))
		return to_kernel(KERNEL_OTHER_MAC);

	// The base header has the destination. Whatever else is wrong with the
	// packet, who gets it is clear, and a worker drops it by name.
	if ((void *)(ip + 1) > end)
		return to_kernel(KERNEL_TRUNCATED);
	destination = ip->daddr;
	if (group_address(destination))
		return to_kernel(KERNEL_MULTICAST);

	// The generation is read before the maps: what they say may be newer than it,
	// and is then forgotten with it, but never older. Between a change of theirs
	// and the next generation there is the end of a system call, which no
	// reordering of these loads reaches over.
	sighted = (__u64)destination << 32 | (__u32) * (volatile __u64 *)&present->generation;
	slot = slot_of(destination);
	if (slot && *slot == sighted)
		return to_worker(ctx, self, WORKER_ROUTED, false);

	address = bpf_map_lookup_elem(&addresses, &destination);
	if (!address)
		return by_route(ctx, self, destination, slot, sighted);
	if (address->kind == ADDRESS_HOST)
		return to_kernel(KERNEL_HOST_ADDRESS);
	return to_nat_address(ctx, self, ip, end, address);
}
