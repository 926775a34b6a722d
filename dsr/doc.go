// Package dsr owns the balancing of services over backends and how the address of
// a service travels to a backend that answers the client itself (Direct Server
// Return):
//
//	service.go   services, backends, their states; the table that workers read
//	ids.go       numbers of services and backends, stable over reloads
//	choose.go    which backend a new flow gets;  maglev.go, hash.go, affinity.go
//	option.go    the IPv4 option that carries VIP and port to a backend
//	ipip.go, geneve.go   the two other dispatches
//
// It knows no socket, eBPF, file or clock: what is sent, probed or configured is
// others'. Selection by maglev, the option, and both encapsulations are Cilium's,
// byte for byte (pkg/maglev, bpf/lib/lb.h, bpf/lib/nodeport.h), so that a gateway can
// stand beside Cilium's nodes and in front of its backends.
//
// # Concurrency
//
// A Table is immutable, and any number of workers read it; a change of
// configuration, health or an operator's mind makes another one. What does change
// under way are the round-robin counter of a service and the Affinity, both by
// atomics. An Ids belongs to whoever makes tables.
package dsr
