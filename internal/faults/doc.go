// Package faults breaks things under a gateway that forwards: links, devices,
// addresses, routes, neighbours, the process itself, what it has memory for. It
// has only tests. They run the program as operators do, in a lab of network
// namespaces, with traffic that never stops, and hold it to four things:
//
//   - what the fault does not touch goes on, and what it does touch goes on by
//     itself, within a second of the fault's end;
//   - no inside source is seen outside, though the gateway's kernel would
//     forward (ip_forward is on), so that a frame which gets past is seen;
//   - every frame of every worker is in one place afterwards;
//   - SIGTERM ends it with exit status 0, and nothing is left.
//
// The soak breaks things at random, from a seed that it prints, under flows that
// fill small tables, and kills the program every few seconds. It is short unless
// SLUICE_SOAK says how long. When all is quiet it holds what hosts, cables,
// steering program, sockets and workers have counted against each other: not one
// packet may be missing. The program itself walks its flow table whenever that is
// at rest (run --verify-flows).
package faults
