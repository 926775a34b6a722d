// Package attack holds a gateway with ten thousand live connections against what
// attackers try on both sides of it: floods from one inside host, forged ICMP
// errors and resets, fragments without a first one. Real kernels hold the ends of
// the connections; every one must go on, memory must stay bounded, and the operator
// must see who it is.
//
// It is a test: package faults breaks what the gateway stands on, this one what
// comes over the wire. Floods in memory, which need no kernel, are
// internal/gateway's. It has no code of its own.
package attack
