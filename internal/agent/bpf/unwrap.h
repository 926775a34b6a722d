// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// The two dispatches that put an outer header before a request, ipip and geneve,
// and how it is taken off.

#pragma once

#include "learn.h"
#include "strip.h"

enum { // the lower two bits of the type of service (RFC 3168 5)
	ECN_NONE = 0,
	ECN_ECT1 = 1,
	ECN_CE = 3,
	ECN_MASK = 3,
};

inline bool is_fragment(const struct iphdr *ip) { return ip->frag_off & bpf_htons(IP_OFFSET | IP_MF); }

// ignored counts an outer header that a gateway sent and that is left to the kernel.
inline int ignored(struct __sk_buff *skb, __u32 config, enum event event)
{
	if (trusted(skb, config))
		count(event);
	return TC_ACT_UNSPEC;
}

// congested says whether a router on the way signalled congestion to a packet whose
// ends do not understand that: a loss is what they do understand (RFC 6040 4.2).
inline bool congested(const struct iphdr *outer, const struct iphdr *inner)
{
	if ((outer->tos & ECN_MASK) != ECN_CE || (inner->tos & ECN_MASK) != ECN_NONE)
		return false;
	count(OUTER_CONGESTION);
	return true;
}

// hand_down gives the packet inside what happened to its outer header on the way
// (RFC 6040 4.2, figure 4).
inline bool hand_down(struct __sk_buff *skb, struct view *v, __u8 outer)
{
	__u8 inner = v->ip.tos, tos = (inner & ~ECN_MASK) | (outer & ECN_MASK);

	if (!(outer & ECN_ECT1) || (inner & ECN_MASK) == ECN_NONE || (inner & ECN_MASK) == ECN_CE || tos == inner)
		return true;
	v->ip.tos = tos;
	return !bpf_l3_csum_replace(skb, v->l3 + IP_CHECK, bpf_htons(inner), bpf_htons(tos), 2) &&
	       !bpf_skb_store_bytes(skb, v->l3 + 1, &tos, sizeof(tos), 0);
}

// unwrap takes bytes off behind the Ethernet header, and reads what is inside.
inline bool unwrap(struct __sk_buff *skb, __u32 bytes, struct view *v, __u8 outer)
{
	if (bpf_skb_adjust_room(skb, -(__s32)bytes, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return false;
	count(DECAPSULATED);
	return read_ip(skb, ETH_HLEN, v) && hand_down(skb, v, outer);
}

// learn_ipip learns from the packet inside, which goes from the client to the
// service; the outer header's destination is the backend, whose port is the
// service's.
inline int learn_ipip(struct __sk_buff *skb, struct view *v, __be32 backend, __u32 config)
{
	struct endpoint service = {.address = v->ip.daddr};

	if (later_fragment(&v->ip)) {
		struct sighting *first = recall(v);

		if (first && first->to == backend && trusted(skb, config))
			return TC_ACT_OK;
		count(FRAGMENT_UNKNOWN);
		return TC_ACT_UNSPEC;
	}
	if (!read_ports(skb, v)) {
		count(OTHER_PROTOCOL);
		return TC_ACT_UNSPEC;
	}
	service.port = v->dport;
	if (!believed(skb, v, v->ip.saddr, &service, config))
		return TC_ACT_UNSPEC;
	if (!learn(skb, v, backend, &service))
		return TC_ACT_SHOT;
	remember(v, backend);
	return TC_ACT_OK;
}

inline int request_ipip(struct __sk_buff *skb, const struct view *outer, __u32 config)
{
	struct view v = {};
	__be32 backend = outer->ip.daddr;
	__u64 flags;
	__u32 check;
	int verdict;

	if (is_fragment(&outer->ip))
		return ignored(skb, config, OUTER_FRAGMENT);
	if (!read_ip(skb, outer->l4, &v) || !header_sound(skb, outer))
		return ignored(skb, config, OUTER_FOREIGN);
	verdict = learn_ipip(skb, &v, backend, config);
	if (verdict != TC_ACT_OK)
		return verdict;
	if (congested(&outer->ip, &v.ip))
		return TC_ACT_SHOT;
	if (!unwrap(skb, outer->ip.ihl * 4, &v, outer->ip.tos))
		goto failed;
	check = transport_check(&v, &flags);
	if (!change_address(skb, &v, IP_DADDR, v.ip.daddr, backend, check, flags))
		goto failed;
	return TC_ACT_UNSPEC;
failed:
	count(REWRITE_FAILED);
	return TC_ACT_SHOT;
}

struct geneve {
	__be16 udp[4];
	__u8 words; // version and length of the options
	__u8 flags;
	__be16 protocol;
	__u8 vni[3], reserved;
} __attribute__((packed));

struct geneve_option {
	__be16 class;
	__u8 type, words;
	__be32 address;
	__be16 port, unused;
};

enum {
	GENEVE_PORT = 6081,
	GENEVE_CONTROL = 0x80,
	GENEVE_BRIDGING = 0x6558,  // what is inside: Ethernet
	GENEVE_WORLD = 2,          // the VNI: Cilium's identity of what is outside a cluster,
	GENEVE_WORLD_IPV4 = 9,     // and of a cluster that has IPv6, too
	GENEVE_CLASS = 0x014b,     // Cilium's
	GENEVE_TYPE = 0x81,        // critical, 1
	GENEVE_WORDS = 2,
};

inline bool to_geneve(struct __sk_buff *skb, const struct view *outer)
{
	__be16 port;

	return !later_fragment(&outer->ip) && !bpf_skb_load_bytes(skb, outer->l4 + 2, &port, sizeof(port)) &&
	       port == bpf_htons(GENEVE_PORT);
}

// read_geneve returns how many bytes are before the packet inside, 0 where it is no
// Geneve packet of a gateway's: other tunnels may use the port as well, and tell
// themselves apart by the VNI. Of options, only the service's is expected: one that
// is unknown could be critical (RFC 8926 3.5).
inline __u32 read_geneve(struct __sk_buff *skb, const struct view *outer, struct endpoint *service)
{
	struct geneve g;
	struct geneve_option o;
	__u32 options;

	if (bpf_skb_load_bytes(skb, outer->l4, &g, sizeof(g)))
		return 0;
	options = (g.words & 0x3f) * 4;
	if (g.words >> 6 || g.flags & GENEVE_CONTROL || g.protocol != bpf_htons(GENEVE_BRIDGING))
		return 0;
	if (g.vni[0] || g.vni[1] || (g.vni[2] != GENEVE_WORLD && g.vni[2] != GENEVE_WORLD_IPV4))
		return 0;
	if (options) {
		if (options != sizeof(o) || bpf_skb_load_bytes(skb, outer->l4 + sizeof(g), &o, sizeof(o)))
			return 0;
		if (o.class != bpf_htons(GENEVE_CLASS) || o.type != GENEVE_TYPE || (o.words & 0x1f) != GENEVE_WORDS)
			return 0;
		service->address = o.address;
		service->port = o.port;
	}
	return outer->ip.ihl * 4 + sizeof(g) + options + ETH_HLEN;
}

// follow is for a packet that an outer header brought and that names no service, as
// its flow is known. Without one, what answers it would leave with the backend's
// address.
inline bool follow(struct __sk_buff *skb, const struct view *v)
{
	struct flow_key key;
	struct flow *f;

	key_of_request(&key, v, v->ip.daddr);
	f = bpf_map_lookup_elem(&flows, &key);
	if (!f) {
		count(FLOW_UNKNOWN);
		return false;
	}
	seen_request(skb, f, v);
	return true;
}

// learn_geneve learns from the packet inside, which has the backend's address and
// port already.
inline int learn_geneve(struct __sk_buff *skb, struct view *v, const struct endpoint *service, __u32 config)
{
	if (!trusted(skb, config)) {
		count(UNTRUSTED_GATEWAY);
		return TC_ACT_UNSPEC;
	}
	if (later_fragment(&v->ip))
		return TC_ACT_OK;
	if (!read_ports(skb, v)) {
		count(OTHER_PROTOCOL);
		return TC_ACT_UNSPEC;
	}
	if (!service->address)
		return follow(skb, v) ? TC_ACT_OK : TC_ACT_SHOT;
	if (!believed(skb, v, v->ip.saddr, service, config))
		return TC_ACT_UNSPEC;
	return learn(skb, v, v->ip.daddr, service) ? TC_ACT_OK : TC_ACT_SHOT;
}

inline int request_geneve(struct __sk_buff *skb, struct view *outer, __u32 config)
{
	struct view v = {};
	struct endpoint service = {};
	__u32 bytes;
	int verdict;

	if (is_fragment(&outer->ip))
		return ignored(skb, config, OUTER_FRAGMENT);
	bytes = read_geneve(skb, outer, &service);
	if (!bytes || !read_ip(skb, ETH_HLEN + bytes, &v) || !header_sound(skb, outer))
		return ignored(skb, config, OUTER_FOREIGN);
	verdict = learn_geneve(skb, &v, &service, config);
	if (verdict != TC_ACT_OK)
		return verdict;
	if (congested(&outer->ip, &v.ip))
		return TC_ACT_SHOT;
	if (!unwrap(skb, bytes, &v, outer->ip.tos)) {
		count(REWRITE_FAILED);
		return TC_ACT_SHOT;
	}
	return TC_ACT_UNSPEC;
}
