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
static __attribute__((noinline)) void count(enum event event)
{
	__u32 index = event;
	__u64 *n = bpf_map_lookup_elem(&counters, &index);

	if (n)
		*n += 1; // per CPU, and softirq does not nest: no atomic needed
}

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

inline void seen(struct flow *f, int side, __u32 length, __u32 state)
{
	f->seen = now();
	f->packets[side] += 1;
	f->bytes[side] += length;
	if ((f->state & state) != state)
		__sync_fetch_and_or(&f->state, state);
}

inline void seen_request(struct flow *f, const struct view *v)
{
	__u32 state = 0;

	if (f->state & ANSWERED && !(v->flags & TCP_SYN))
		state |= OPENED;
	if (v->flags & TCP_FIN)
		state |= CLIENT_FIN;
	if (v->flags & TCP_RST)
		state |= RESET;
	seen(f, 0, bpf_ntohs(v->ip.tot_len), state);
	count(REQUEST);
}

inline void seen_reply(struct flow *f, const struct view *v, __u32 length)
{
	__u32 state = ANSWERED;

	if (v->flags & TCP_FIN)
		state |= SERVER_FIN;
	if (v->flags & TCP_RST)
		state |= RESET;
	else if (f->state & RESET)
		// The server goes on: it did not believe the client's RST.
		__sync_fetch_and_and(&f->state, ~RESET);
	seen(f, 1, length, state);
	count(REPLY);
}

// learn begins or follows the flow of a request that names its service. Where it
// returns false the packet must not be delivered, since its reply would leave
// with the wrong source.
inline bool learn(const struct view *v, __be32 backend, const struct endpoint *service)
{
	struct flow_key key = {
		.client = v->ip.saddr, .backend = backend,
		.client_port = v->sport, .backend_port = v->dport, .protocol = v->ip.protocol,
	};
	struct flow *f = bpf_map_lookup_elem(&flows, &key);
	struct flow fresh = {.vip = service->address, .vip_port = service->port};

	if (f) {
		bool same = f->vip == service->address && f->vip_port == service->port;
		bool again = (v->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && closed(f);

		if (same && !again) {
			seen_request(f, v);
			return true;
		}
		// Segments without the option carry the same addresses and ports for
		// both services: only one of them can be answered.
		if (!same && !gives_way(f, key.protocol, now())) {
			count(SERVICE_COLLISION);
			return false;
		}
	}
	fresh.created = fresh.seen = now();
	if (v->flags & TCP_RST)
		fresh.state = RESET;
	fresh.packets[0] = 1;
	fresh.bytes[0] = bpf_ntohs(v->ip.tot_len);
	if (bpf_map_update_elem(&flows, &key, &fresh, BPF_ANY)) {
		count(TABLE_FULL);
		return false;
	}
	count(LEARNED);
	count(REQUEST);
	return true;
}

inline bool read_bare(struct __sk_buff *skb, struct view *v)
{
	return !later_fragment(&v->ip) && read_ports(skb, v);
}

// follow_request is for a packet that names no service. A new connection without
// a service ends a flow that is over: its client speaks to the backend itself.
inline void follow_request(struct __sk_buff *skb, const struct view *v)
{
	struct flow_key key = {
		.client = v->ip.saddr, .backend = v->ip.daddr,
		.client_port = v->sport, .backend_port = v->dport, .protocol = v->ip.protocol,
	};
	struct flow *f = bpf_map_lookup_elem(&flows, &key);

	if (!f)
		return;
	if ((v->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && gives_way(f, key.protocol, now())) {
		bpf_map_delete_elem(&flows, &key);
		return;
	}
	if (key.protocol == IPPROTO_UDP && !(configured() & (DISPATCH_IPIP | DISPATCH_GENEVE))) {
		// Every datagram of a service has the option, so this one is to the
		// backend itself; where the flow rests, its answer is as well.
		if (gives_way(f, key.protocol, now()))
			bpf_map_delete_elem(&flows, &key);
		return;
	}
	seen_request(f, v);
}

// remember has the later fragments of a datagram get the same address.
inline void remember(const struct view *v, __be32 to)
{
	struct datagram key = {
		.src = v->ip.saddr, .dst = v->ip.daddr, .id = v->ip.id, .protocol = v->ip.protocol,
	};
	struct sighting first = {.at = now(), .to = to};

	if (first_fragment(&v->ip))
		bpf_map_update_elem(&fragments, &key, &first, BPF_ANY);
}

// recall is the address that the first fragment of a later one got, or 0.
inline __be32 recall(const struct view *v)
{
	struct datagram key = {
		.src = v->ip.saddr, .dst = v->ip.daddr, .id = v->ip.id, .protocol = v->ip.protocol,
	};
	struct sighting *first = bpf_map_lookup_elem(&fragments, &key);

	if (!first || (__s64)(now() - first->at) > (__s64)REASSEMBLY_TIME)
		return 0;
	return first->to;
}
