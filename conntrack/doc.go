// Package conntrack owns the flow memory: sources, mappings and flows as fixed
// records over one byte slice, the index that finds them, the states of TCP,
// UDP and ICMP, time-outs and expiry.
//
//	Source   an inside address: its external address, its mappings and flows
//	Mapping  protocol and inside endpoint ↔ external endpoint, counted by flows
//	Flow     both five-tuples, state, counters, next hops, the mapping it uses
//
//	key.go       the tuple, its words, the keyed hash: all that a key is
//	layout.go    where header, index and records lie in the bytes
//	index.go     cache-line buckets of tagged ids; look-up
//	insert.go    the insert that leaves one of several racing twins
//	lookup.go    a whole burst at once, memory latency overlapped
//	ahead.go     what is sent for before flows begin
//	prefetch.go  memory sent for ahead: assembly, with plain Go elsewhere
//	create.go    birth and end of flows;  mapping.go, source.go, external.go
//	state.go     the TCP state machine;  timeouts.go
//	sequence.go  which segments it believes;  syn.go  how connections begin
//	earlydrop.go flows without an answer yield in a full table
//	pool.go, epoch.go   where records come from and when they may be reused
//	header.go    what the memory says of itself
//	rebuild.go   adoption of what another process left;  remap.go, grow.go, report.go
//	verify.go    the check of everything, at rest
//
// It knows no frame, socket, file, configuration or clock: memory, time (in
// Ticks) and the random seed are handed in. Policy and the choice of ports are
// nat's.
//
// # What a crash leaves
//
// The memory may be a file's, and the process may be killed at any instruction.
// A flow that was live is then a whole record: its identity was written before
// its status said so, and a check sum seals it. Everything else, the index, the
// references, the ports and the free records, can be in the middle of anything,
// and is made again from the flows by whoever adopts the memory: see Remains. A
// flow that was not complete is dropped: nothing had been sent for it yet, and
// its first packet comes again.
//
// # Concurrency
//
// Any number of Workers, each owned by one goroutine, look up, create, change
// and end any record at the same time; nobody takes a lock. The rules:
//
//   - What identifies a record (tuples, mapping, ports, ids) is written before
//     its index entry is published and never again before it is reused.
//   - State changes by compare-and-swap on one word. Counters and the time last
//     seen are plain stores: concurrent ones may lose an increment, no more.
//   - A look-up never waits. A creator waits for another that is in the middle of
//     creating the same flow, but not for long: what was left half done for too
//     long is aborted, and its creator begins again when it gets to run.
//   - A flow ends for exactly one caller: the one whose swap of the status word
//     from live to dead succeeded. Expiry must in addition have swapped the
//     time last seen that it judged by, so that a packet that refreshed the flow
//     in between keeps it.
//   - A pointer to a record is good until its worker's next Quiesce or Offline.
//     An ended record is reused no sooner than every worker has passed one, and
//     then under a new generation.
//   - A full table refuses what is new. It never ends what is there, except that
//     EarlyDrop ends a flow that was never answered.
//   - What is known of TCP's numbers changes by plain stores, too, of words that
//     only packets of one direction write: see sequence.go.
//
// Methods of Table are for the control plane and may be called from any
// goroutine unless they say otherwise.
//
// It follows RFC 4787, 5382, 5508 and 7857 (time-outs, what keeps a mapping),
// RFC 6146 3.5.2, RFC 5961 and Linux' net/netfilter/nf_conntrack_proto_tcp.c (the
// TCP states, which segments they follow), and K. Fraser, "Practical lock-freedom" (2004), for the epochs.
package conntrack
