// Package route mirrors what the kernel knows about forwarding IPv4 in one
// network namespace: interfaces, addresses, routes, policy rules, neighbours. It
// publishes each state as an immutable fib.Snapshot, so that no packet and no
// flow costs a system call.
//
// It owns the netlink sockets and the state between two snapshots. It does not
// know what forwards by the snapshots, and changes nothing in the kernel, but for
// asking it to resolve neighbours.
//
// How it stays true: it subscribes first and reads the tables after, so that
// nothing can fall in between. An event of a link, an address, a route or a rule
// only marks a table as changed; the table is read again as a whole, since the
// kernel does not announce everything (it removes the routes of a link that went
// down, or of a source address that is gone, in silence) and since replayed
// deltas drift. Events come in bursts and are gathered for some milliseconds;
// where reading takes long (a microsecond or two a route), it takes at most half
// of the time. Neighbour events are frequent and complete, so they are applied
// one by one and wait for no table. When the kernel says that events were lost
// (ENOBUFS), everything is read again.
//
// Neighbours belong to the kernel: it sends the ARP requests, and a hop is
// Failed on its word only. But packets that workers send do not count as use of
// its entries, so the mirror itself asks for them: the gateways of routes out of
// listed interfaces are resolved from the beginning, and every neighbour of a
// listed interface that has been stale for Config.Refresh is probed, so that an
// address that moved to another host is noticed and idle entries stay fresh.
//
// A listed interface is its name: a device that gets it is the interface from
// then on, one that is gone leaves it without. A device that is renamed counts as
// down until the name is back or another's. It is not one that the kernel may
// forward by, since nobody decided that.
//
// Concurrency: Run owns everything that changes and calls onChange from its own
// goroutine. Current, Unsupported, Resolve and HostPorts may be called from any
// goroutine. All sockets are opened by New, on the calling thread: the mirror
// belongs to that thread's network namespace for good.
//
// It follows rtnetlink(7), net/ipv4/fib_frontend.c, net/core/fib_rules.c,
// net/core/neighbour.c and net/ipv4/inet_diag.c.
package route
