// SPDX-License-Identifier: Apache-2.0
//
// The steering program decides for every frame that an interface receives
// whether a Sluice worker gets it, through the AF_XDP socket of the queue it
// came in by, or the kernel, as if Sluice were not there. It changes no byte.
//
// It asks, in this order, and the first that answers decides:
//
//   1. not IPv4 (VLAN tags count as that), a group address or another station's
//      address on the link, a group address in IPv4        -> kernel
//   2. to an address that NAT uses, alone (pool) or with the host (shared):
//      a later fragment of a datagram that went to a worker -> worker
//      any other later fragment: shared -> kernel, pool     -> worker
//      a port or echo identifier that NAT holds, or an ICMP error that quotes
//      one: the host's own socket, if it has one            -> kernel
//                                                    else   -> worker
//      anything else: shared -> kernel, pool                -> worker
//   3. to an address that only the host uses                -> kernel
//   4. routed to an interface of Sluice's                   -> worker
//   5. everything else                                      -> kernel
//
// A worker that is dead (no socket in the slot) or hung (its heartbeat is old)
// gets nothing. Its frames are then dropped or passed to the kernel, as the
// port's flags say; those for ports that NAT holds are always dropped, since
// the host would answer them with a reset and end the connection.
//
// What Go configures: constants before loading, maps at any time. The program
// needs no CO-RE, no loop and only helpers that Linux 5.15 has for any licence.

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char __license[] SEC("license") = "Apache-2.0";

#define inline static __always_inline

// linux/icmp.h needs the headers of a C library for the target.
enum {
	ICMP_ECHOREPLY = 0,
	ICMP_DEST_UNREACH = 3,
	ICMP_SOURCE_QUENCH = 4,
	ICMP_ECHO = 8,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETERPROB = 12,
};

struct icmphdr {
	__u8 type, code;
	__sum16 checksum;
	__be16 id, sequence; // echo; unused in errors, but for the next hop's MTU
};

// linux/ip.h has no names for these bits of frag_off.
enum {
	IP_MF = 0x2000,
	IP_OFFSET = 0x1fff,
};

// Why a frame went where it went: one counter each. Go derives the published
// names from these, so the order may change but not a name. A frame counts
// exactly once.
enum reason {
	KERNEL_NOT_IPV4,
	KERNEL_MULTICAST,
	KERNEL_OTHER_MAC,
	KERNEL_TRUNCATED,
	KERNEL_FRAGMENT,
	KERNEL_HOST_SOCKET,
	KERNEL_HOST_ADDRESS,
	KERNEL_UNLISTED_ROUTE,
	KERNEL_NO_ROUTE,
	WORKER_FRAGMENT,
	WORKER_HELD_PORT,
	WORKER_ICMP_ERROR,
	WORKER_POOL_ADDRESS,
	WORKER_ROUTED,
	FAILURE_DROPPED,
	FAILURE_PASSED,
	REASONS,
};

// Set by Go before loading, one program per port.
const volatile __u32 port;          // index in `ports`
const volatile __u32 first_slot;    // the port's first slot in `sockets`
const volatile __u32 queues;        // how many slots it has
const volatile __u32 workers = 1;   // queue q belongs to worker q mod workers
const volatile __u64 stale_after;   // ns after which a heartbeat is old

enum port_flags {
	PASS_ON_FAILURE = 1,
};

// 8 bytes, so that a change of MAC is one store.
struct port {
	__u8 mac[ETH_ALEN];
	__u16 flags;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct port);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

// A worker stores CLOCK_MONOTONIC here; 0 is "not yet". A cache line each.
struct heartbeat {
	__u64 at;
	__u64 unused[7];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct heartbeat);
} heartbeats SEC(".maps");

enum address_kind {
	ADDRESS_HOST = 1, // the host's alone
	ADDRESS_SHARED,   // the host's and NAT's
	ADDRESS_POOL,     // NAT's alone
};

struct address {
	__u32 kind;
	__u32 held; // index in `held_ports`; beyond its end: NAT holds nothing here
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, __be32);
	__type(value, struct address);
} addresses SEC(".maps");

// One bit per port (or echo identifier) that a mapping of NAT claims, in host
// byte order: bit p % 64 of word p / 64. The port allocator writes them through
// a mapping of this memory, before the first packet leaves from the port.
struct held_ports {
	__u64 tcp[1024];
	__u64 udp[1024];
	__u64 icmp[1024];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct held_ports);
} held_ports SEC(".maps");

struct prefix {
	__u32 length;
	__be32 address;
};

enum route {
	ROUTE_KERNEL,
	ROUTE_WORKER,
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct prefix);
	__type(value, __u32);
} routes SEC(".maps");

// Datagrams to a shared address whose first fragment went to a worker: the
// later ones have no port to decide by and must follow it.
struct datagram {
	__be32 src, dst;
	__be16 id;
	__u8 protocol;
	__u8 unused;
};

#define REASSEMBLY_TIME (30 * 1000000000ULL) // as net.ipv4.ipfrag_time

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct datagram);
	__type(value, __u64); // when the first fragment came
} fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

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

// to_worker hands the frame to the worker of its queue. held says that it is
// for a port that NAT holds, so the kernel must not see it even on failure.
inline int to_worker(struct xdp_md *ctx, struct port *self, enum reason reason, bool held)
{
	__u32 queue = ctx->rx_queue_index;
	int verdict = !held && self->flags & PASS_ON_FAILURE ? XDP_PASS : XDP_DROP;

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

// A packet's endpoints as a socket of ours would see them. An ICMP error
// stands for the packet it quotes, seen from the other side; an echo reply has
// its identifier as the local port.
struct endpoints {
	struct bpf_sock_tuple tuple; // s: remote, d: local
	__u8 protocol;
	bool syn;    // opens a TCP connection
	bool quoted; // read from an ICMP error
};

// read_quoted reads what an ICMP error quotes: the IPv4 header and 8 bytes
// (RFC 792) of a packet that we sent, so its source is our end.
inline bool read_quoted(struct iphdr *ip, void *end, __be32 local, struct endpoints *e)
{
	__be16 *l4;

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return false;
	l4 = (void *)ip + ip->ihl * 4;
	if ((void *)(l4 + 4) > end || ip->frag_off & bpf_htons(IP_OFFSET))
		return false;
	// RFC 5508 REQ-4: the error must be addressed to whom it concerns.
	if (ip->saddr != local)
		return false;

	e->protocol = ip->protocol;
	e->tuple.ipv4.saddr = ip->daddr;
	e->quoted = true;
	switch (ip->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		e->tuple.ipv4.dport = l4[0];
		e->tuple.ipv4.sport = l4[1];
		return true;
	case IPPROTO_ICMP:
		e->tuple.ipv4.dport = l4[2];
		return *(__u8 *)l4 == ICMP_ECHO;
	}
	return false;
}

inline bool read_icmp(struct icmphdr *icmp, void *end, __be32 local, struct endpoints *e)
{
	if ((void *)(icmp + 1) > end)
		return false;
	switch (icmp->type) {
	case ICMP_ECHOREPLY:
		e->tuple.ipv4.dport = icmp->id;
		return true;
	case ICMP_DEST_UNREACH:
	case ICMP_SOURCE_QUENCH:
	case ICMP_TIME_EXCEEDED:
	case ICMP_PARAMETERPROB:
		return read_quoted((void *)(icmp + 1), end, local, e);
	}
	// Echo requests are for the host, and so are redirects, which are about
	// its routes.
	return false;
}

// read_endpoints returns false where there is no port to decide by: another
// protocol, a header that is cut short or makes no sense.
inline bool read_endpoints(struct iphdr *ip, void *end, struct endpoints *e)
{
	void *l4 = (void *)ip + ip->ihl * 4;

	if (ip->version != 4 || ip->ihl < 5)
		return false;
	e->protocol = ip->protocol;
	e->tuple.ipv4.saddr = ip->saddr;
	e->tuple.ipv4.daddr = ip->daddr;
	switch (ip->protocol) {
	case IPPROTO_TCP: {
		struct tcphdr *tcp = l4;

		if ((void *)(tcp + 1) > end)
			return false;
		e->tuple.ipv4.sport = tcp->source;
		e->tuple.ipv4.dport = tcp->dest;
		e->syn = tcp->syn && !tcp->ack;
		return true;
	}
	case IPPROTO_UDP: {
		struct udphdr *udp = l4;

		if ((void *)(udp + 1) > end)
			return false;
		e->tuple.ipv4.sport = udp->source;
		e->tuple.ipv4.dport = udp->dest;
		return true;
	}
	case IPPROTO_ICMP:
		return read_icmp(l4, end, ip->daddr, e);
	}
	return false;
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

// to_nat_address decides for a packet to an address that NAT uses.
inline int to_nat_address(struct xdp_md *ctx, struct port *self, struct iphdr *ip, void *end,
			  const struct address *address)
{
	bool shared = address->kind == ADDRESS_SHARED;
	bool fragment = ip->frag_off & bpf_htons(IP_MF | IP_OFFSET);
	struct endpoints e = {};
	struct datagram datagram = {
		.src = ip->saddr,
		.dst = ip->daddr,
		.id = ip->id,
		.protocol = ip->protocol,
	};
	enum reason reason = WORKER_POOL_ADDRESS;
	__u64 at;

	if (ip->frag_off & bpf_htons(IP_OFFSET)) {
		__u64 *first = bpf_map_lookup_elem(&fragments, &datagram);

		if (first && now() - *first < REASSEMBLY_TIME)
			return to_worker(ctx, self, WORKER_FRAGMENT, true);
		if (shared)
			return to_kernel(KERNEL_FRAGMENT);
		return to_worker(ctx, self, WORKER_FRAGMENT, false);
	}

	if (read_endpoints(ip, end, &e) && held(address, &e)) {
		if (!shared || !host_socket(ctx, &e)) {
			if (shared && fragment) {
				at = now();
				bpf_map_update_elem(&fragments, &datagram, &at, BPF_ANY);
			}
			return to_worker(ctx, self, e.quoted ? WORKER_ICMP_ERROR : WORKER_HELD_PORT, true);
		}
		reason = KERNEL_HOST_SOCKET;
	} else if (shared) {
		reason = fragment ? KERNEL_FRAGMENT : KERNEL_HOST_ADDRESS;
	}

	if (!shared)
		return to_worker(ctx, self, reason, false);
	// The sender may use an identification again, now for the host.
	if (fragment)
		bpf_map_delete_elem(&fragments, &datagram);
	return to_kernel(reason);
}

inline int by_route(struct xdp_md *ctx, struct port *self, __be32 destination)
{
	struct prefix prefix = { .length = 32, .address = destination };
	__u32 *route = bpf_map_lookup_elem(&routes, &prefix);

	if (!route)
		return to_kernel(KERNEL_NO_ROUTE);
	if (*route != ROUTE_WORKER)
		return to_kernel(KERNEL_UNLISTED_ROUTE);
	return to_worker(ctx, self, WORKER_ROUTED, false);
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

SEC("xdp")
int steer(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);
	__u32 index = port;
	struct port *self = bpf_map_lookup_elem(&ports, &index);
	struct address *address;
	__be32 destination;

	if (!self || (void *)(eth + 1) > end)
		return to_kernel(KERNEL_TRUNCATED);
	if (eth->h_proto != bpf_htons(ETH_P_IP))
		return to_kernel(KERNEL_NOT_IPV4);
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

	// Place of the services: an address and port of theirs is decided here,
	// before NAT and the host are asked.

	address = bpf_map_lookup_elem(&addresses, &destination);
	if (!address)
		return by_route(ctx, self, destination);
	if (address->kind == ADDRESS_HOST)
		return to_kernel(KERNEL_HOST_ADDRESS);
	return to_nat_address(ctx, self, ip, end, address);
}
