// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// Reading and changing a packet through the helpers, which keep its checksums
// right whatever state they are in: complete, partial, or taken by the NIC.

#pragma once

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define inline static __always_inline

enum {
	IP_MF = 0x2000,
	IP_OFFSET = 0x1fff,
	HEADER_MAX = 60,
	IP_CHECK = 10, // offsets in the IPv4 header
	IP_SADDR = 12,
	IP_DADDR = 16,
	TCP_CHECK = 16,
	UDP_CHECK = 6,
	ICMP_CHECK = 2,
	ICMP_HEADER = 8,
};

enum {
	TCP_FIN = 1,
	TCP_SYN = 2,
	TCP_RST = 4,
	TCP_ACK = 16,
};

// linux/icmp.h needs the headers of a C library for the target.
enum {
	ICMP_DEST_UNREACH = 3,
	ICMP_SOURCE_QUENCH = 4,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETERPROB = 12,
};

// A packet's headers as far as a flow is told by them.
struct view {
	struct iphdr ip;
	__u32 l3, l4; // offsets in the packet
	__be16 sport, dport;
	__u32 headers; // length of both headers
	__be32 seq, ack; // TCP's
	__u8 flags;
};

inline bool later_fragment(const struct iphdr *ip) { return ip->frag_off & bpf_htons(IP_OFFSET); }

inline bool first_fragment(const struct iphdr *ip)
{
	return (ip->frag_off & bpf_htons(IP_OFFSET | IP_MF)) == bpf_htons(IP_MF);
}

// read_ip reads the IPv4 header at l3.
inline bool read_ip(struct __sk_buff *skb, __u32 l3, struct view *v)
{
	if (bpf_skb_load_bytes(skb, l3, &v->ip, sizeof(v->ip)) || v->ip.version != 4 || v->ip.ihl < 5)
		return false;
	v->l3 = l3;
	v->l4 = l3 + v->ip.ihl * 4;
	return true;
}

// read_ports reads ports, and of TCP what else tells connections apart; false where
// there are none.
inline bool read_ports(struct __sk_buff *skb, struct view *v)
{
	__be16 ports[2];
	struct {
		__be32 seq, ack;
		__u8 words, flags;
	} __attribute__((packed)) tcp;

	v->flags = 0;
	if (v->ip.protocol != IPPROTO_TCP && v->ip.protocol != IPPROTO_UDP)
		return false;
	if (bpf_skb_load_bytes(skb, v->l4, ports, sizeof(ports)))
		return false;
	v->sport = ports[0];
	v->dport = ports[1];
	v->headers = v->l4 - v->l3 + sizeof(struct udphdr);
	if (v->ip.protocol == IPPROTO_UDP)
		return true;
	if (bpf_skb_load_bytes(skb, v->l4 + sizeof(ports), &tcp, sizeof(tcp)))
		return false;
	v->headers = v->l4 - v->l3 + (tcp.words >> 4) * 4;
	v->seq = tcp.seq;
	v->ack = tcp.ack;
	v->flags = tcp.flags;
	return true;
}

inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

// updated is a checksum after a change of what it covers (RFC 1624 3).
inline __sum16 updated(__sum16 check, __u32 from, __u32 to)
{
	return ~fold((__u64)(__u16)~check + (__u32)~from + to);
}

// change_address changes the address at an offset of the IPv4 header, and the
// checksums of header and, where check is not 0, transport that cover it.
inline bool change_address(struct __sk_buff *skb, const struct view *v, __u32 at, __be32 from, __be32 to, __u32 check, __u64 flags)
{
	if (check && bpf_l4_csum_replace(skb, check, from, to, BPF_F_PSEUDO_HDR | flags | sizeof(to)))
		return false;
	return !bpf_l3_csum_replace(skb, v->l3 + IP_CHECK, from, to, sizeof(to)) &&
	       !bpf_skb_store_bytes(skb, v->l3 + at, &to, sizeof(to), 0);
}

// transport_check is the offset of the transport checksum, 0 in later fragments,
// and the flags that it takes: 0 in UDP is none, and stays none.
inline __u32 transport_check(const struct view *v, __u64 *flags)
{
	*flags = 0;
	if (later_fragment(&v->ip))
		return 0;
	if (v->ip.protocol == IPPROTO_TCP)
		return v->l4 + TCP_CHECK;
	*flags = BPF_F_MARK_MANGLED_0;
	return v->l4 + UDP_CHECK;
}
