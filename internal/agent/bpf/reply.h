// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// The way back: replies and ICMP errors of a flow leave with the service's address.

#pragma once

#include "route.h"
#include "strip.h"

inline struct flow *flow_of(__be32 client, __be32 backend, __be16 client_port, __be16 backend_port, __u8 protocol)
{
	struct flow_key key = {
		.client = client, .backend = backend,
		.client_port = client_port, .backend_port = backend_port, .protocol = protocol,
	};

	return bpf_map_lookup_elem(&flows, &key);
}

// count_own notes an option that this node sends itself: nothing is learned from
// it, here or by another agent that trusts gateways only.
inline void count_own(struct __sk_buff *skb, const struct view *v)
{
	__u32 from = skb->ingress_ifindex;
	struct endpoint service;

	// What arrived as requests do was judged there.
	if (find_option(skb, v, configured(), &service) >= 0 && !bpf_map_lookup_elem(&arrivals, &from))
		count(OWN_SIDE);
}

// set changes a field of the payload that an ICMP checksum covers.
inline bool set(struct __sk_buff *skb, const struct view *v, __u32 at, __u32 from, __u32 to, __u32 size)
{
	return !bpf_l4_csum_replace(skb, v->l4 + ICMP_CHECK, from, to, size) && !bpf_skb_store_bytes(skb, at, &to, size, 0);
}

// quote_as gives what an ICMP error quotes the destination that the client sent it
// to (RFC 5508 REQ-4), checksums included as far as they are in the quote.
inline bool quote_as(struct __sk_buff *skb, const struct view *v, const struct view *q, const struct flow *f)
{
	__u32 check = q->l4 + (q->ip.protocol == IPPROTO_TCP ? TCP_CHECK : UDP_CHECK);
	__sum16 sum;

	// Before addresses change: of a TCP header 8 bytes may be all there is.
	if (!bpf_skb_load_bytes(skb, check, &sum, sizeof(sum)) && (sum || q->ip.protocol == IPPROTO_TCP)) {
		__sum16 to = updated(updated(sum, q->ip.daddr, f->vip), q->dport, f->vip_port);

		if (q->ip.protocol == IPPROTO_UDP && !to)
			to = 0xffff;
		if (!set(skb, v, check, sum, to, sizeof(sum)))
			return false;
	}
	return set(skb, v, q->l3 + IP_CHECK, q->ip.check, updated(q->ip.check, q->ip.daddr, f->vip), 2) &&
	       set(skb, v, q->l3 + IP_DADDR, q->ip.daddr, f->vip, 4) && set(skb, v, q->l4 + 2, q->dport, f->vip_port, 2);
}

// translate_error is for an ICMP error about a request, whoever on this node made
// it: the client knows no other sender than the service.
inline int translate_error(struct __sk_buff *skb, struct view *v)
{
	struct view q = {};
	struct flow *found, f;
	struct way way;
	__u8 type;

	if (bpf_skb_load_bytes(skb, v->l4, &type, 1))
		return TC_ACT_UNSPEC;
	if (type != ICMP_DEST_UNREACH && type != ICMP_TIME_EXCEEDED && type != ICMP_PARAMETERPROB)
		return TC_ACT_UNSPEC;
	if (!read_ip(skb, v->l4 + ICMP_HEADER, &q) || later_fragment(&q.ip))
		return TC_ACT_UNSPEC;
	if (!read_ports(skb, &q) && q.ip.protocol != IPPROTO_TCP) // of TCP, the flags may be cut off
		return TC_ACT_UNSPEC;
	found = flow_of(q.ip.saddr, q.ip.daddr, q.sport, q.dport, q.ip.protocol);
	if (!found)
		return TC_ACT_UNSPEC;
	f = *found;
	if (!choose(skb, v, f.vip, 0, &way))
		return TC_ACT_SHOT;
	count(ERROR);
	if (quote_as(skb, v, &q, &f) && change_address(skb, v, IP_SADDR, v->ip.saddr, f.vip, 0, 0))
		return leave(skb, v->l3, &way);
	count(REWRITE_FAILED);
	return TC_ACT_SHOT;
}

// unclear is for a fragment of which it cannot be told whether it is a reply: only
// the first one has ports, and nothing can be held here until that one comes.
inline int unclear(const struct view *v)
{
	__be32 source = v->ip.saddr;

	if (v->ip.protocol != IPPROTO_TCP && v->ip.protocol != IPPROTO_UDP)
		return TC_ACT_UNSPEC;
	if (!bpf_map_lookup_elem(&backends, &source))
		return TC_ACT_UNSPEC;
	count(REPLY_FRAGMENT_UNKNOWN);
	return TC_ACT_SHOT;
}

// translate_later is for the fragments after the first of a datagram.
inline int translate_later(struct __sk_buff *skb, struct view *v)
{
	struct sighting *first = recall(v);
	struct way way;
	__be32 vip;

	if (!first)
		return unclear(v);
	vip = first->to;
	if (!vip)
		return TC_ACT_UNSPEC;
	if (!choose(skb, v, vip, 0, &way))
		return TC_ACT_SHOT;
	if (change_address(skb, v, IP_SADDR, v->ip.saddr, vip, 0, 0))
		return leave(skb, v->l3, &way);
	count(REWRITE_FAILED);
	return TC_ACT_SHOT;
}

// translate_flow is for a reply of a flow.
inline int translate_flow(struct __sk_buff *skb, struct view *v, struct flow *f)
{
	__be32 vip = f->vip;
	__be16 port = f->vip_port;
	struct way way;
	__u64 flags;
	__u32 check;

	if (!choose(skb, v, vip, port, &way))
		return TC_ACT_SHOT;
	seen_reply(skb, f, v);
	remember(v, vip);
	check = transport_check(v, &flags);
	if (bpf_l4_csum_replace(skb, check, v->sport, port, flags | sizeof(port)) ||
	    bpf_skb_store_bytes(skb, v->l4, &port, sizeof(port), 0) ||
	    !change_address(skb, v, IP_SADDR, v->ip.saddr, vip, check, flags)) {
		count(REWRITE_FAILED);
		return TC_ACT_SHOT;
	}
	return leave(skb, v->l3, &way);
}

// translate is for what has ports, if it can be read.
inline int translate(struct __sk_buff *skb, struct view *v)
{
	struct flow_key key;
	struct flow *f;

	if (!read_ports(skb, v))
		return first_fragment(&v->ip) ? unclear(v) : TC_ACT_UNSPEC;
	key = (struct flow_key){
		.client = v->ip.daddr, .backend = v->ip.saddr,
		.client_port = v->dport, .backend_port = v->sport, .protocol = v->ip.protocol,
	};
	f = bpf_map_lookup_elem(&flows, &key);
	if (f && !answers_direct(f, v))
		return translate_flow(skb, v, f);
	if (f)
		bpf_map_delete_elem(&flows, &key);
	if (first_fragment(&v->ip) && bpf_map_lookup_elem(&backends, &key.backend))
		remember(v, 0);
	return TC_ACT_UNSPEC;
}

inline int translate_reply(struct __sk_buff *skb, __u32 l3)
{
	struct view v = {};

	if (skb->protocol != bpf_htons(ETH_P_IP) || skb->vlan_present || !read_ip(skb, l3, &v))
		return TC_ACT_UNSPEC;
	if (v.ip.ihl > 5)
		count_own(skb, &v);
	if (later_fragment(&v.ip))
		return translate_later(skb, &v);
	if (v.ip.protocol == IPPROTO_ICMP)
		return translate_error(skb, &v);
	return translate(skb, &v);
}
