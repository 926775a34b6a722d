// Package lab makes networks out of Linux network namespaces: hosts, switches
// and veth cables, and the topology on which the demo, the kernel-facing tests
// and the benchmarks run the gateway. It also watches: Watch reads every frame
// on a segment and holds the rule that no inside source leaves untranslated.
//
// It owns what it makes and nothing else: namespaces are called
// sluice-<pid>-<name>, bind-mounted under /run/netns as iproute2 does, so that
// `ip netns exec` works in them. It uses netlink and no external program, and
// it imports nothing of ours: what it says about frames is independent of the
// code under test.
//
// A run is alive as long as it holds the lock on its file in /run/sluice-lab.
// The kernel gives that lock back however the process ends, so Sweep can tell
// a dead run's namespaces from those of one at work, whatever became of the
// pid. Two runs side by side do not meet.
//
// Concurrency: a Namespace may be used by several goroutines. Do binds the
// calling goroutine to a thread inside the namespace while its function runs;
// goroutines that the function starts run outside.
package lab
