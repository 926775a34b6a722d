// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// What Go and the agent's programs share. The Go side of each layout is in
// ../maps.go and ../flows.go. `flows` and `fragments` are pinned and outlive a
// process: a map whose layout changes begins empty, as connections then would.

#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>

#include <bpf/bpf_helpers.h>

// What happened, one counter each. Go derives the published names from these.
enum event {
	LEARNED,           // flows begun
	REQUEST,           // packets of a flow from its client
	REPLY,             // packets of a flow to its client
	ERROR,             // ICMP errors about a flow
	REROUTED,          // of both, by routing rules for the service's address
	STRIPPED,          // options taken out
	DECAPSULATED,      // outer headers taken off
	UNTRUSTED_GATEWAY, // ignored from here on
	UNLISTED_SERVICE,
	OWN_SIDE,
	OPTION_MALFORMED,
	OTHER_PROTOCOL,
	OUTER_FOREIGN,
	OUTER_FRAGMENT,
	FRAGMENT_UNKNOWN,
	DIRECT_SYN,
	DIRECT_DATAGRAM, // dropped from here on
	SERVICE_COLLISION,
	TABLE_FULL,
	HANDING_OVER,
	FLOW_UNKNOWN,
	OUTER_CONGESTION,
	REPLY_FRAGMENT_UNKNOWN,
	REPLY_UNROUTABLE,
	REPLY_TOO_BIG,
	REWRITE_FAILED,
	EVENTS,
};

enum setting {
	STRIP_OPTION = 1,
	ANY_GATEWAY = 2,
	ANY_SERVICE = 4,
	NETWORK_ORDER = 8,
	DISPATCH_IPIP = 16,
	DISPATCH_GENEVE = 32,
	SOURCE_RULES = 64,  // routing rules that ask for the source
	HANDOVER = 128,     // to a new table: what begins a flow is dropped
};

// One word of enum setting, so that a change is one store.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} settings SEC(".maps");

// A frame's sender on an interface.
struct gateway {
	__u32 ifindex;
	__u8 mac[ETH_ALEN];
	__u16 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct gateway);
	__type(value, __u8); // there or not
} gateways SEC(".maps");

// A prefix of an address and a port: up to 32 bits for addresses, 48 for a port.
struct service {
	__u32 length;
	__be32 address;
	__be16 port;
	__u16 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct service);
	__type(value, __u8); // there or not
} services SEC(".maps");

// The node's own addresses: no client's.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __be32);
	__type(value, __u8); // there or not
} own SEC(".maps");

// The interfaces where requests arrive, by index.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u8); // there or not
} arrivals SEC(".maps");

struct flow_key {
	__be32 client, backend;
	__be16 client_port, backend_port;
	__u8 protocol;
	__u8 unused[3];
};

enum flow_state {
	ANSWERED = 1,   // the server sent something
	OPENED = 2,     // and the client something after it
	CLIENT_FIN = 4,
	SERVER_FIN = 8,
	RESET = 16,     // an RST from either side, which nothing contradicted
	DIRECT = 32,    // the client sent a SYN to the backend itself
};

struct flow {
	__be32 vip;
	__be16 vip_port;
	__u16 unused;
	__u32 state; // enum flow_state, changed by atomic operations
	__be32 direct; // with DIRECT: that SYN's sequence number
	__u64 created, seen; // CLOCK_MONOTONIC, ns
	// From the client, from the server. Plain additions: a lost one is allowed.
	__u64 packets[2], bytes[2];
};

// Not an LRU map: a flow that is at work must not be evicted by a flood of new
// ones, since its replies would leave with the backend's address. A full map
// refuses the new one, whose client tries again.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

// The backends of flows, with the time (as in a flow) when one last began. It
// tells whose fragments must not leave before it is clear whether they are
// replies.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __be32);
	__type(value, __u64);
} backends SEC(".maps");

// Datagrams in fragments: the later ones have no ports and follow the first.
struct datagram {
	__be32 src, dst;
	__be16 id;
	__u8 protocol;
	__u8 unused;
};

struct sighting {
	__u64 at;
	__be32 to; // the address that the first fragment got; 0: it kept its own
	__u32 unused;
};

#define REASSEMBLY_TIME (30 * 1000000000ULL) // as net.ipv4.ipfrag_time

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct datagram);
	__type(value, struct sighting);
} fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EVENTS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");
