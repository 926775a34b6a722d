// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// Reading a packet's ports and identifiers, with every bound checked: the
// header's length is the packet's word, and the frame can end anywhere.

#pragma once

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

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

// RFC 826, for Ethernet and IPv4; linux/if_arp.h leaves the addresses out. What
// the formats say, a worker checks.
enum { ARP_REQUEST = 1 };

struct arp {
	__u8 formats[6];
	__be16 operation;
	__u8 sender_mac[6];
	__be32 sender;
	__u8 target_mac[6];
	__be32 target;
} __attribute__((packed));

// linux/ip.h has no names for these bits of frag_off.
enum {
	IP_MF = 0x2000,
	IP_OFFSET = 0x1fff,
};

// A packet's endpoints as a socket of ours would see them. An ICMP error
// stands for the packet it quotes, seen from the other side; an echo reply has
// its identifier as the local port.
struct endpoints {
	struct bpf_sock_tuple tuple; // s: remote, d: local
	__u8 protocol;
	bool syn;    // opens a TCP connection
	bool quoted; // read from an ICMP error
};

// portless says whether flows of a protocol are told apart by addresses alone.
inline bool portless(__u8 protocol)
{
	return protocol != IPPROTO_TCP && protocol != IPPROTO_UDP && protocol != IPPROTO_ICMP;
}

// read_quoted reads what an ICMP error quotes: the IPv4 header and 8 bytes
// (RFC 792) of a packet that we sent, so its source is our end.
inline bool read_quoted(struct iphdr *ip, void *end, __be32 local, struct endpoints *e)
{
	__be16 *l4;

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return false;
	l4 = (void *)ip + ip->ihl * 4;
	if (ip->frag_off & bpf_htons(IP_OFFSET))
		return false;
	// An error goes to the sender of what it quotes; anything else is made up.
	if (ip->saddr != local)
		return false;

	e->protocol = ip->protocol;
	e->tuple.ipv4.saddr = ip->daddr;
	e->quoted = true;
	if (portless(ip->protocol))
		return true;
	if ((void *)(l4 + 4) > end)
		return false;
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
