// Package daemon is `sluice run`: it builds the gateway out of its parts, feeds
// the data plane from the control plane, answers the control socket, and takes
// everything down again.
//
//	config ─┐
//	routes ─┼→ publisher → Snapshot → workers (one thread each)
//	reload ─┘            → steering maps → XDP program
//
// It owns the order in which things start, change and stop, the worker threads
// and their pinning. It decides about no packet: that is gateway, nat and the
// steering program.
//
// Concurrency: one control goroutine owns the publisher; route changes, reloads
// and periodic work reach it as messages. Worker threads read an atomic pointer.
// Status is assembled by the goroutine that asks, from atomics and from what the
// control goroutine last published.
package daemon
