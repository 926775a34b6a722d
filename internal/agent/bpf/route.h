// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// The way out of what gets a service's address as its source. The kernel chose one
// for the backend's address; where routing rules ask for the source, it would have
// chosen another.

#pragma once

#include "learn.h"

enum {
	AF_INET = 2,
	EINVAL = 22,
	LOOPBACK_IFINDEX = 1,
	FIB_LOOKUP_MARK = 32, // BPF_FIB_LOOKUP_MARK, Linux 6.10
};

// A way out: by which interface, to which neighbour.
struct way {
	__u32 ifindex; // 0: as the kernel chose
	__be32 next;
	bool unresolved; // the neighbour
};

// look_up asks for the route of a reply with a source, from where the reply comes
// in: the interface of a pod, or the host itself, which rules know as lo.
inline long look_up(struct __sk_buff *skb, const struct view *v, __be32 source, __be16 port, struct way *way)
{
	__u32 mark = skb->mark;
	struct bpf_fib_lookup q = {
		.family = AF_INET, .ifindex = skb->ingress_ifindex ?: LOOPBACK_IFINDEX, .tos = v->ip.tos,
		.l4_protocol = v->ip.protocol, .sport = port, .dport = v->dport, .ipv4_src = source, .ipv4_dst = v->ip.daddr,
	};
	long found;

	__builtin_memcpy(q.smac, &mark, sizeof(mark)); // in a union with it since 6.10
	found = bpf_fib_lookup(skb, &q, sizeof(q), FIB_LOOKUP_MARK);
	if (found == -EINVAL)
		found = bpf_fib_lookup(skb, &q, sizeof(q), 0);
	way->ifindex = q.ifindex;
	way->next = q.ipv4_dst;
	way->unresolved = found == BPF_FIB_LKUP_RET_NO_NEIGH;
	return found;
}

inline bool is_way(long found)
{
	return found == BPF_FIB_LKUP_RET_SUCCESS || found == BPF_FIB_LKUP_RET_NO_NEIGH || found == BPF_FIB_LKUP_RET_FRAG_NEEDED;
}

// choose sets the way of a reply with a service's address and port, and says whether
// there is one. The kernel's choice stands where rules make no difference, and where
// it did not come from them: a socket bound to a device, a VRF.
inline bool choose(struct __sk_buff *skb, const struct view *v, __be32 vip, __be16 port, struct way *way)
{
	struct way chosen;
	long found;

	way->ifindex = 0;
	if (!(configured() & SOURCE_RULES))
		return true;
	if (!is_way(look_up(skb, v, v->ip.saddr, v->sport, &chosen)) || chosen.ifindex != skb->ifindex)
		return true;
	found = look_up(skb, v, vip, port, way);
	// BLACKHOLE, UNREACHABLE, PROHIBIT; NOT_FWDED where no rule has a route.
	if (found >= BPF_FIB_LKUP_RET_BLACKHOLE && found <= BPF_FIB_LKUP_RET_NOT_FWDED) {
		count(REPLY_UNROUTABLE);
		return false;
	}
	if (!is_way(found) || (way->ifindex == chosen.ifindex && way->next == chosen.next)) {
		way->ifindex = 0;
		return true;
	}
	if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED) {
		count(REPLY_TOO_BIG);
		return false;
	}
	return true;
}

// leave has a packet that was translated go its way. On another interface it passes
// that one's hook, which finds no flow of the service's address.
inline int leave(struct __sk_buff *skb, __u32 l3, const struct way *way)
{
	struct bpf_redir_neigh next = {.nh_family = AF_INET, .ipv4_nh = way->next};
	struct bpf_tunnel_key none = {};
	__be16 protocol = bpf_htons(ETH_P_IP);

	if (!way->ifindex)
		return TC_ACT_UNSPEC;
	// The kernel fills the Ethernet header in, and wants room for it.
	if (!l3 && (bpf_skb_change_head(skb, ETH_HLEN, 0) ||
		    bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &protocol, sizeof(protocol), 0))) {
		count(REWRITE_FAILED);
		return TC_ACT_SHOT;
	}
	// A neighbour that has to be resolved first keeps the packet, and then gives it
	// to the one of the packet's dst (neigh_update), the kernel's first choice. The
	// dst of a tunnel's metadata, which nobody reads, has none.
	if (way->unresolved)
		bpf_skb_set_tunnel_key(skb, &none, sizeof(none), 0);
	add(REROUTED, segments(skb));
	return bpf_redirect_neigh(way->ifindex, &next, sizeof(next), 0);
}
