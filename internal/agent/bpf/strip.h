// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// The three ways in which a service address comes to a backend (option, ipip,
// geneve), and how what carried it is taken away.

#pragma once

#include "learn.h"

enum {
	OPTION_TYPE = 0x9a, // copied into fragments, class 0, number 26
	OPTION_LEN = 8,
	OPTIONS_MAX = HEADER_MAX - sizeof(struct iphdr),
	TAIL_MAX = OPTIONS_MAX - OPTION_LEN,
};

// hide keeps the compiler from reckoning with a value before its bounds are
// checked, so that the verifier sees them checked on the register that is used.
#define hide(x) asm volatile("" : "+r"(x))

// find_option looks for the option anywhere in the list and returns where in the
// list it begins, or -1. A list that is malformed is read as far as it makes sense.
inline int find_option(struct __sk_buff *skb, const struct view *v, __u32 config, struct endpoint *service)
{
	__u8 list[64 + OPTION_LEN] = {}; // so that a masked offset cannot leave it
	__u32 n = v->ip.ihl * 4 - sizeof(struct iphdr);
	__u32 at = 0;

	hide(n);
	if (n < OPTION_LEN || n > OPTIONS_MAX || bpf_skb_load_bytes(skb, v->l3 + sizeof(struct iphdr), list, n))
		return -1;
	for (int i = 0; i <= TAIL_MAX; i++) {
		__u8 type, length;

		// The mask makes all ways here one for the verifier.
		at &= 63;
		if (at > TAIL_MAX)
			return -1;
		type = list[at];
		length = list[at + 1];
		if (type == 1) { // no operation
			at += 1;
			continue;
		}
		if (type == 0 || length < 2 || at + length > n) // end of list, or no list
			return -1;
		if (type == OPTION_TYPE && length == OPTION_LEN) {
			__builtin_memcpy(&service->port, list + at + 2, 2);
			__builtin_memcpy(&service->address, list + at + 4, 4);
			if (!(config & NETWORK_ORDER)) {
				service->port = __builtin_bswap16(service->port);
				service->address = __builtin_bswap32(service->address);
			}
			return at;
		}
		at += length;
	}
	return -1;
}

// header_sound checks what the kernel will check only after this hook.
inline bool header_sound(struct __sk_buff *skb, const struct view *v)
{
	__u8 header[HEADER_MAX] = {};
	__u32 n = v->ip.ihl * 4;

	hide(n);
	if (n < sizeof(struct iphdr) || n > HEADER_MAX || bpf_skb_load_bytes(skb, v->l3, header, n))
		return false;
	return fold(bpf_csum_diff(0, 0, (void *)header, sizeof(header), 0)) == 0xffff &&
	       bpf_ntohs(v->ip.tot_len) >= n && v->l3 + bpf_ntohs(v->ip.tot_len) <= skb->len;
}

// strip takes the option at an offset of the list out of the header.
inline bool strip(struct __sk_buff *skb, struct view *v, __u32 at)
{
	__u8 header[HEADER_MAX] = {};
	__u32 options = v->l3 + sizeof(struct iphdr);
	__u32 n = v->ip.ihl * 4 - OPTION_LEN;
	struct iphdr *ip = (void *)header;

	hide(n);
	hide(at);
	if (at > TAIL_MAX || n < sizeof(struct iphdr) || n > HEADER_MAX - OPTION_LEN)
		return false;
	if (at > 0) { // what is before the option moves towards what is after it
		if (bpf_skb_load_bytes(skb, options, header, at) ||
		    bpf_skb_store_bytes(skb, options + OPTION_LEN, header, at, BPF_F_RECOMPUTE_CSUM))
			return false;
	}
	// In the mode NET bytes go right after the base header.
	if (bpf_skb_adjust_room(skb, -OPTION_LEN, BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO))
		return false;
	__builtin_memset(header, 0, sizeof(header));
	if (bpf_skb_load_bytes(skb, v->l3, header, n))
		return false;
	ip->ihl = n / 4;
	ip->tot_len = bpf_htons(bpf_ntohs(ip->tot_len) - OPTION_LEN);
	ip->check = 0;
	ip->check = ~fold(bpf_csum_diff(0, 0, (void *)header, sizeof(header), 0));
	count(STRIPPED);
	return !bpf_skb_store_bytes(skb, v->l3, header, sizeof(struct iphdr), BPF_F_RECOMPUTE_CSUM);
}

inline int request_option(struct __sk_buff *skb, struct view *v, __u32 config, const struct endpoint *service, int at)
{
	if (!header_sound(skb, v)) {
		count(OPTION_MALFORMED);
		return TC_ACT_UNSPEC;
	}
	if (!believed(skb, v, v->ip.saddr, service, config))
		return TC_ACT_UNSPEC;
	// A later fragment has no ports: the first one is learned from.
	if (!later_fragment(&v->ip)) {
		if (!read_ports(skb, v)) {
			count(OTHER_PROTOCOL);
			return TC_ACT_UNSPEC;
		}
		if (!learn(v, v->ip.daddr, service))
			return TC_ACT_SHOT;
	}
	if (config & STRIP_OPTION && !strip(skb, v, at)) {
		count(REWRITE_FAILED);
		return TC_ACT_SHOT;
	}
	return TC_ACT_UNSPEC;
}

// unwrap takes bytes off behind the Ethernet header, and reads what is inside.
inline bool unwrap(struct __sk_buff *skb, __u32 bytes, struct view *v)
{
	if (bpf_skb_adjust_room(skb, -(__s32)bytes, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return false;
	count(DECAPSULATED);
	return read_ip(skb, ETH_HLEN, v);
}

// request_ipip: the packet inside goes from the client to the service; the outer
// header's destination is the backend, whose port is the service's.
inline int request_ipip(struct __sk_buff *skb, const struct view *outer, __u32 config)
{
	struct view v = {};
	struct endpoint service = {};
	__be32 backend = outer->ip.daddr;
	__u64 flags;
	__u32 check;

	if (outer->ip.frag_off & bpf_htons(IP_OFFSET | IP_MF) || !read_ip(skb, outer->l4, &v))
		return TC_ACT_UNSPEC;
	service.address = v.ip.daddr;
	if (later_fragment(&v.ip)) {
		if (recall(&v) != backend || !trusted(skb, config)) {
			count(FRAGMENT_UNKNOWN);
			return TC_ACT_UNSPEC;
		}
	} else {
		if (!read_ports(skb, &v)) {
			count(OTHER_PROTOCOL);
			return TC_ACT_UNSPEC;
		}
		service.port = v.dport;
		if (!believed(skb, &v, v.ip.saddr, &service, config))
			return TC_ACT_UNSPEC;
		if (!learn(&v, backend, &service))
			return TC_ACT_SHOT;
		remember(&v, backend);
	}
	if (!unwrap(skb, outer->ip.ihl * 4, &v))
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
	GENEVE_BRIDGING = 0x6558, // what is inside: Ethernet
	GENEVE_CLASS = 0x014b,    // Cilium's
	GENEVE_TYPE = 0x81,       // critical, 1
	GENEVE_WORDS = 2,
};

// read_geneve returns how many bytes are before the packet inside, 0 where it is no
// Geneve packet of Cilium's kind. Of options, only the service's is expected: one
// that is unknown could be critical (RFC 8926 3.5.1).
inline __u32 read_geneve(struct __sk_buff *skb, const struct view *outer, struct endpoint *service)
{
	struct geneve g;
	struct geneve_option o;
	__u32 options;

	if (outer->ip.frag_off & bpf_htons(IP_OFFSET | IP_MF) || bpf_skb_load_bytes(skb, outer->l4, &g, sizeof(g)))
		return 0;
	options = (g.words & 0x3f) * 4;
	if (g.udp[1] != bpf_htons(GENEVE_PORT) || g.words >> 6 || g.protocol != bpf_htons(GENEVE_BRIDGING))
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

// request_geneve: the packet inside has the backend's address and port already.
// One whose flow is known names no service.
inline int request_geneve(struct __sk_buff *skb, struct view *outer, __u32 config)
{
	struct view v = {};
	struct endpoint service = {};
	__u32 bytes = read_geneve(skb, outer, &service);

	if (!bytes) {
		if (read_bare(skb, outer))
			follow_request(skb, outer);
		return TC_ACT_UNSPEC;
	}
	if (!read_ip(skb, ETH_HLEN + bytes, &v))
		return TC_ACT_UNSPEC;
	if (!trusted(skb, config)) {
		count(UNTRUSTED_GATEWAY);
		return TC_ACT_UNSPEC;
	}
	if (!later_fragment(&v.ip)) {
		if (!read_ports(skb, &v)) {
			count(OTHER_PROTOCOL);
			return TC_ACT_UNSPEC;
		}
		if (!service.address)
			follow_request(skb, &v);
		else if (!believed(skb, &v, v.ip.saddr, &service, config))
			return TC_ACT_UNSPEC;
		else if (!learn(&v, v.ip.daddr, &service))
			return TC_ACT_SHOT;
	}
	if (!unwrap(skb, bytes, &v)) {
		count(REWRITE_FAILED);
		return TC_ACT_SHOT;
	}
	return TC_ACT_UNSPEC;
}
