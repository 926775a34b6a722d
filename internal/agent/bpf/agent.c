// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// The agent's two programs, at the TC hooks of a backend node:
//
//   request  ingress: learns from which service address a client's flow came,
//            takes what carried it out of the packet
//   reply    egress: gives the flow's replies that address as their source
//
// What a packet must be to be learned from, in this order: from a trusted
// gateway, not from the node itself, naming a listed service. Whatever is not is
// left as it came, and counted. Between the two hooks the packet is one between
// client and backend, for netfilter and for sockets.

#include "learn.h"
#include "unwrap.h"
#include "reply.h"

char __license[] SEC("license") = "Dual BSD/GPL";

// PACKET_HOST of linux/if_packet.h: to our MAC, and no group's.
enum { PACKET_HOST = 0 };

SEC("tc")
int request(struct __sk_buff *skb)
{
	struct view v = {};
	__u32 config = configured();
	struct endpoint service = {};

	// A frame with a tag comes again on the VLAN's own interface. One that was seen
	// comes again where a bridge or bond and its ports are listed.
	if (skb->tc_index == SEEN)
		return TC_ACT_UNSPEC;
	if (skb->protocol != bpf_htons(ETH_P_IP) || skb->pkt_type != PACKET_HOST || skb->vlan_present)
		return TC_ACT_UNSPEC;
	if (!read_ip(skb, ETH_HLEN, &v))
		return TC_ACT_UNSPEC;
	if (config & DISPATCH_IPIP && v.ip.protocol == IPPROTO_IPIP)
		return request_ipip(skb, &v, config);
	if (config & DISPATCH_GENEVE && v.ip.protocol == IPPROTO_UDP && to_geneve(skb, &v))
		return request_geneve(skb, &v, config);
	if (v.ip.ihl > 5 && !(config & (DISPATCH_IPIP | DISPATCH_GENEVE))) {
		int at = find_option(skb, &v, config, &service);

		if (at >= 0)
			return request_option(skb, &v, config, &service, at);
	}
	return request_bare(skb, &v);
}

// The reply's link-layer header is Ethernet's, or there is none.
SEC("tc")
int reply(struct __sk_buff *skb) { return translate_reply(skb, ETH_HLEN); }

SEC("tc")
int reply_bare(struct __sk_buff *skb) { return translate_reply(skb, 0); }
