// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// What Go and the steering program share: constants, set before loading; maps,
// changed at any time by Go (all but fragments and counters) or by the program.
// The Go side of each layout is in ../steering_maps.go and its neighbours.

#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>

#include <bpf/bpf_helpers.h>

// Why a frame went where it went: one counter each. Go derives the published
// names from these, so the order may change but not a name. A frame counts
// exactly once.
enum reason {
	KERNEL_NOT_IPV4,
	KERNEL_MULTICAST,
	KERNEL_OTHER_MAC,
	KERNEL_TRUNCATED,
	KERNEL_FRAGMENT,
	KERNEL_HOST_SOCKET,
	KERNEL_HOST_ADDRESS,
	KERNEL_ROUTED,
	KERNEL_NO_ROUTE,
	WORKER_ARP,
	WORKER_FRAGMENT,
	WORKER_SERVICE,
	WORKER_HELD_PORT,
	WORKER_HELD_PEER,
	WORKER_ICMP_ERROR,
	WORKER_POOL_ADDRESS,
	WORKER_ROUTED,
	FAILURE_DROPPED,
	FAILURE_PASSED,
	REASONS,
};

// Set by Go before loading, one program per port.
const volatile __u32 port;          // index in `ports`
const volatile __u32 first_slot;    // the port's first slot in `sockets`
const volatile __u32 queues;        // how many slots it has
const volatile __u32 workers = 1;   // queue q belongs to worker q mod workers
const volatile __u64 peer_seed;     // keys the hash of `peers`
const volatile __u64 stale_after;   // ns after which a heartbeat is old

enum port_flags {
	PASS_ON_FAILURE = 1,
};

// 8 bytes, so that a change of MAC is one store.
struct port {
	__u8 mac[ETH_ALEN];
	__u16 flags;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct port);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

// A worker stores CLOCK_MONOTONIC here; 0 is "not yet". A cache line each.
struct heartbeat {
	__u64 at;
	__u64 unused[7];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct heartbeat);
} heartbeats SEC(".maps");

enum address_kind {
	ADDRESS_HOST = 1, // the host's alone
	ADDRESS_SHARED,   // the host's, and NAT's or a service's
	ADDRESS_POOL,     // NAT's or a service's alone
};

struct address {
	__u32 kind;
	__u32 held; // index in `held_ports`; beyond its end: NAT holds nothing here
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, __be32);
	__type(value, struct address);
} addresses SEC(".maps");

// One bit per port (or echo identifier) that a mapping of NAT claims, in host
// byte order: bit p % 64 of word p / 64. The port allocator writes them through
// a mapping of this memory, before the first packet leaves from the port.
struct held_ports {
	__u64 tcp[1024];
	__u64 udp[1024];
	__u64 icmp[1024];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct held_ports);
} held_ports SEC(".maps");

// An address and port that a service is reached at. With `dispatch` it is another
// thing: the address sends requests on to backends in outer headers of the
// protocol, to this port (0 where it has none), and errors about them are a
// worker's.
struct service {
	__be32 address;
	__be16 port;
	__u8 protocol;
	__u8 dispatch;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct service);
	__type(value, __u8); // there or not
} services SEC(".maps");

// How many flows of protocols without ports NAT has by a keyed hash of external
// address, peer and protocol. Workers count up before the first packet leaves, and
// down when the flow has ended. Two may share a slot: a worker hands back what it
// then gets of the host's.
struct peers {
	__u32 slots[1 << 16];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct peers);
} peers SEC(".maps");

// Who else says by ARP that it has a pool address, and how often: RFC 5227 2.4. A
// forger can fill the map; then those not heard of for the longest time go.
struct conflict {
	__be32 address;
	__u8 mac[ETH_ALEN];
	__u16 port; // that it was heard on
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 64);
	__type(key, struct conflict);
	__type(value, __u64);
} conflicts SEC(".maps");

struct prefix {
	__u32 length;
	__be32 address;
};

enum route {
	ROUTE_KERNEL,
	ROUTE_WORKER,
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct prefix);
	__type(value, __u32);
} routes SEC(".maps");

// What Go says of the maps above, by plain aligned words.
struct state {
	__u64 generation; // counted up after every change of `addresses` and `routes`
	__u64 services;   // entries of `services`; never fewer than there are
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct state);
} state SEC(".maps");

// Destinations that were found to be routed to a worker, so that the usual packet
// needs neither `addresses` nor `routes`: each in the slot that it hashes to, with
// the generation in its lower half.
#define RECENT_SLOTS 2048

struct recent {
	__u64 slots[RECENT_SLOTS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct recent);
} recent SEC(".maps");

// Datagrams to a shared address, and where their first fragment went: the later
// ones have no port to decide by and must follow it.
struct datagram {
	__be32 src, dst;
	__be16 id;
	__u8 protocol;
	__u8 unused;
};

enum recipient {
	TO_WORKER = 1,
	TO_KERNEL,
};

struct sighting {
	__u64 at; // when the first fragment came
	__u32 to; // enum recipient
	__u32 unused;
};

#define REASSEMBLY_TIME (30 * 1000000000ULL) // as net.ipv4.ipfrag_time

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct datagram);
	__type(value, struct sighting);
} fragments SEC(".maps");

// Those whose first fragment has not come, and when another one did. They are kept
// apart: whoever sends such fragments only, pushes out nobody else's datagrams.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct datagram);
	__type(value, __u64);
} waiting SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");
