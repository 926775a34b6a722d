// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// The flows: how one begins, is followed, and gives way to another.

#pragma once

#include "maps.h"
#include "packet.h"

// A collision that is this old is none any more: nobody waits for an answer.
#define COLLISION_TIME (10 * 1000000000ULL)

struct endpoint {
	__be32 address;
	__be16 port;
	__u16 unused;
};

// A function of its own, so that the object's BTF has the enum, which Go reads.
static __attribute__((noinline)) void add(enum event event, __u32 packets)
{
	__u32 index = event;
	__u64 *n = bpf_map_lookup_elem(&counters, &index);

	if (n)
		*n += packets; // per CPU, and softirq does not nest: no atomic needed
}

inline void count(enum event event) { add(event, 1); }

inline __u64 now(void) { return bpf_ktime_get_coarse_ns(); }

inline __u32 configured(void)
{
	__u32 zero = 0;
	__u32 *settings_ = bpf_map_lookup_elem(&settings, &zero);

	return settings_ ? *settings_ : 0;
}

inline bool trusted(struct __sk_buff *skb, __u32 config)
{
	struct gateway from = {.ifindex = skb->ingress_ifindex};

	if (config & ANY_GATEWAY)
		return true;
	if (bpf_skb_load_bytes(skb, ETH_ALEN, from.mac, ETH_ALEN))
		return false;
	return bpf_map_lookup_elem(&gateways, &from);
}

inline bool listed(const struct endpoint *service, __u32 config)
{
	struct service key = {.length = 48, .address = service->address, .port = service->port};

	return config & ANY_SERVICE || bpf_map_lookup_elem(&services, &key);
}

// believed says whether a flow may be learned from the packet.
inline bool believed(struct __sk_buff *skb, const struct view *v, __be32 client, const struct endpoint *service, __u32 config)
{
	if (!trusted(skb, config)) {
		count(UNTRUSTED_GATEWAY);
		return false;
	}
	if (bpf_map_lookup_elem(&own, &client)) {
		count(OWN_SIDE);
		return false;
	}
	if (!listed(service, config)) {
		count(UNLISTED_SERVICE);
		return false;
	}
	return true;
}

inline bool closed(const struct flow *f)
{
	return f->state & RESET || (f->state & (CLIENT_FIN | SERVER_FIN)) == (CLIENT_FIN | SERVER_FIN);
}

// gives_way says whether a flow that another service address now claims is over:
// a closed connection, an opening that nothing came of, or a UDP flow at rest.
inline bool gives_way(const struct flow *f, __u8 protocol, __u64 at)
{
	if (protocol == IPPROTO_TCP && closed(f))
		return true;
	if (protocol == IPPROTO_TCP && f->state & ANSWERED)
		return false;
	return (__s64)(at - f->seen) > (__s64)COLLISION_TIME;
}

// segments is how many packets the wire had, or will have: a super-frame is one
// until something cuts it.
inline __u32 segments(struct __sk_buff *skb) { return skb->gso_segs ?: 1; }

// octets is their length, each with headers of its own. The header of a super-frame
// of more than 64 KiB says 0 (BIG TCP).
inline __u64 octets(struct __sk_buff *skb, const struct view *v)
{
	__u32 length = bpf_ntohs(v->ip.tot_len) ?: skb->len - v->l3;

	return length + (__u64)(segments(skb) - 1) * v->headers;
}

inline void seen(struct __sk_buff *skb, struct flow *f, int side, const struct view *v, __u32 state)
{
	f->seen = now();
	f->packets[side] += segments(skb);
	f->bytes[side] += octets(skb, v);
	if ((f->state & state) != state)
		__sync_fetch_and_or(&f->state, state);
	add(side ? REPLY : REQUEST, segments(skb));
}

inline void seen_request(struct __sk_buff *skb, struct flow *f, const struct view *v)
{
	__u32 state = 0;

	if (f->state & ANSWERED && !(v->flags & TCP_SYN))
		state |= OPENED;
	if (v->flags & TCP_FIN)
		state |= CLIENT_FIN;
	if (v->flags & TCP_RST)
		state |= RESET;
	seen(skb, f, 0, v, state);
}

inline void seen_reply(struct __sk_buff *skb, struct flow *f, const struct view *v)
{
	__u32 state = ANSWERED;

	if (v->flags & TCP_FIN)
		state |= SERVER_FIN;
	if (v->flags & TCP_RST)
		state |= RESET;
	else if (f->state & RESET)
		// The server goes on: it did not believe the client's RST.
		__sync_fetch_and_and(&f->state, ~RESET);
	seen(skb, f, 1, v, state);
}

inline void key_of_request(struct flow_key *key, const struct view *v, __be32 backend)
{
	*key = (struct flow_key){
		.client = v->ip.saddr, .backend = backend,
		.client_port = v->sport, .backend_port = v->dport, .protocol = v->ip.protocol,
	};
}

inline bool begin(struct __sk_buff *skb, const struct view *v, const struct flow_key *key, const struct endpoint *service)
{
	__u64 at = now();
	struct flow fresh = {
		.vip = service->address, .vip_port = service->port, .created = at, .seen = at,
		.state = v->flags & TCP_RST ? RESET : 0,
		.packets[0] = segments(skb), .bytes[0] = octets(skb, v),
	};

	if (configured() & HANDOVER) {
		count(HANDING_OVER);
		return false;
	}
	if (bpf_map_update_elem(&backends, &key->backend, &at, BPF_ANY) ||
	    bpf_map_update_elem(&flows, key, &fresh, BPF_ANY)) {
		count(TABLE_FULL);
		return false;
	}
	count(LEARNED);
	add(REQUEST, segments(skb));
	return true;
}

// SEEN is the tc_index of a request that named its service: without that it would look
// like one to the backend itself.
enum { SEEN = 0x5c1c };

// learn begins or follows the flow of a request that names its service. Where it
// returns false the packet must not be delivered, since its reply would leave
// with the wrong source.
inline bool learn(struct __sk_buff *skb, const struct view *v, __be32 backend, const struct endpoint *service)
{
	struct flow_key key;
	struct flow *f;

	skb->tc_index = SEEN;
	key_of_request(&key, v, backend);
	f = bpf_map_lookup_elem(&flows, &key);
	if (f) {
		bool same = f->vip == service->address && f->vip_port == service->port;
		bool again = (v->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && closed(f);

		if (same && !again) {
			seen_request(skb, f, v);
			return true;
		}
		// Segments without the option carry the same addresses and ports for
		// both services: only one of them can be answered.
		if (!same && !gives_way(f, key.protocol, now())) {
			count(SERVICE_COLLISION);
			return false;
		}
	}
	return begin(skb, v, &key, service);
}

// request_bare is for a packet that names no service. Where it is on a flow's tuple
// and not of the flow, its client speaks to the backend itself from the same port,
// and the server's answers to both look alike.
inline int request_bare(struct __sk_buff *skb, struct view *v)
{
	struct flow_key key;
	struct flow *f;

	if (later_fragment(&v->ip) || !read_ports(skb, v))
		return TC_ACT_UNSPEC;
	key_of_request(&key, v, v->ip.daddr);
	f = bpf_map_lookup_elem(&flows, &key);
	if (!f)
		return TC_ACT_UNSPEC;
	if (key.protocol == IPPROTO_UDP) {
		// Every datagram of a service names it. The flow has the port until
		// it rests: an answer to the other one would leave with its source.
		if (gives_way(f, key.protocol, now())) {
			bpf_map_delete_elem(&flows, &key);
			return TC_ACT_UNSPEC;
		}
		count(DIRECT_DATAGRAM);
		return TC_ACT_SHOT;
	}
	if ((v->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN) {
		// Every SYN of a service names it as well. The server decides: it
		// has one connection, which this ends or not (see answers_direct).
		f->direct = v->seq;
		__sync_fetch_and_or(&f->state, DIRECT);
		count(DIRECT_SYN);
		return TC_ACT_UNSPEC;
	}
	seen_request(skb, f, v);
	return TC_ACT_UNSPEC;
}

// answers_direct says whether the server's segment answers the client's SYN to the
// backend itself, by taking or refusing it. The flow is over then. An answer that
// acknowledges what the flow's client sent, as to a SYN that somebody made up
// (RFC 5961 4), is the flow's. With data in the SYN more is acknowledged.
inline bool answers_direct(const struct flow *f, const struct view *v)
{
	return f->state & DIRECT && v->flags & TCP_ACK && v->flags & (TCP_SYN | TCP_RST) &&
	       bpf_ntohl(v->ack) - bpf_ntohl(f->direct) - 1 <= 0xffff;
}

// remember has the later fragments of a datagram get the same address, 0 for their
// own.
inline void remember(const struct view *v, __be32 to)
{
	struct datagram key = {
		.src = v->ip.saddr, .dst = v->ip.daddr, .id = v->ip.id, .protocol = v->ip.protocol,
	};
	struct sighting first = {.at = now(), .to = to};

	if (first_fragment(&v->ip))
		bpf_map_update_elem(&fragments, &key, &first, BPF_ANY);
}

// recall is the first fragment of a later one, if it came.
inline struct sighting *recall(const struct view *v)
{
	struct datagram key = {
		.src = v->ip.saddr, .dst = v->ip.daddr, .id = v->ip.id, .protocol = v->ip.protocol,
	};
	struct sighting *first = bpf_map_lookup_elem(&fragments, &key);

	if (!first || (__s64)(now() - first->at) > (__s64)REASSEMBLY_TIME)
		return 0;
	return first;
}
