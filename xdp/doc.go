// Package xdp moves frames between network interfaces and user space over
// AF_XDP sockets, without copying them in user space, and steers the right
// frames there with an XDP program.
//
// It owns the UMEM (the memory that frames live in), the four rings of every
// socket, the sockets and their set-up with every fallback, what can be known
// of a NIC beforehand, the steering program and its maps. It knows nothing of
// NAT, policy, routes or flows, and imports no other package of this module.
//
// # A frame's life
//
// Every worker has one UMEM, and every socket of that worker shares it
// (XDP_SHARED_UMEM), so a frame received on one interface is transmitted on
// another without moving. A frame is always in exactly one place:
//
//	      Refill            kernel           Receive
//	free ────────▶ fill ───────────────▶ (RX ring) ────────▶ rx ──┐
//	 ▲ ▲ ╰──────────────────────── Allocate ─────────────▶ held ──┤
//	 │ ╰────────────────────────────── Free ◀─────────────────────┤
//	 │             kernel                            Transmit     │
//	 ╰── Reap ◀────────────── (completion ring) ◀────── tx ◀──────╯
//
// UMEM.Accounting counts them: free + fill + rx + tx + held = total, whatever
// the kernel, the link or the device does. The place of each frame is kept in a
// word beside the UMEM, so that a descriptor which the kernel or a caller has
// no right to give is counted and ignored instead of corrupting a frame.
//
// # Concurrency
//
// A UMEM, its sockets and ports belong to one goroutine, the worker. Exceptions
// say so: Waiter.Wake, Port.State and Socket.Statistics may be called from
// anywhere. Nothing here takes a lock, and Receive, Transmit, Kick, Reap,
// Refill, Flush and Wait allocate nothing.
//
// # Sources
//
// The kernel's side is net/xdp/xsk.c, net/xdp/xsk_queue.h (memory order of the
// rings), net/xdp/xdp_umem.c and net/xdp/xsk_buff_pool.c; its description
// Documentation/networking/af_xdp.rst. Linux 5.15 or newer is required.
package xdp
