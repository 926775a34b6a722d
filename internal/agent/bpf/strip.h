// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// The option that carries a service address to a backend, and how it is taken out.

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
		return request_bare(skb, v);
	// A later fragment has no ports: the first one is learned from.
	if (!later_fragment(&v->ip)) {
		if (!read_ports(skb, v)) {
			count(OTHER_PROTOCOL);
			return TC_ACT_UNSPEC;
		}
		if (!learn(skb, v, v->ip.daddr, service))
			return TC_ACT_SHOT;
	}
	if (config & STRIP_OPTION && !strip(skb, v, at)) {
		count(REWRITE_FAILED);
		return TC_ACT_SHOT;
	}
	return TC_ACT_UNSPEC;
}

