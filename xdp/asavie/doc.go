// Package asavie is a driver on the sockets of github.com/asavie/xdp: what the
// configuration's `driver: asavie` selects in place of package xdp's own. It is
// there for comparison, in tests, where two implementations that share no code
// must forward alike, and in measurements.
//
// It owns the library's sockets and what makes them safe to use. The steering
// program and its maps stay those of package xdp: the library's program, which
// drops everything once its process dies, is never loaded, and the sockets'
// descriptors go into our map.
//
// # Two copies
//
// The library has one private UMEM a socket, so a frame cannot leave by another
// interface than it came by. What the gateway works on is a staging area, an
// xdp.UMEM that no socket knows: Receive copies each frame there and Transmit
// copies it into the UMEM of the socket that sends it. Addresses of descriptors
// are therefore the staging area's, whatever socket a frame came from.
//
//	RX ring ── copy ──▶ staging area (rx, held, free) ── copy ──▶ TX ring
//
// # How its faults are met
//
//   - Receive marks frames as free that the caller still reads, and a later Fill
//     can give them to the kernel. Here a frame goes back to the fill ring in the
//     very call that received and copied it; between calls every frame of the
//     receive half is the kernel's, and what is free is there to be sent.
//   - It looks for free frames one by one, from the first. The half to be sent
//     from therefore comes first, so that the search ends soon.
//   - Transmit panics on an errno that it does not know, such as ENETDOWN, and
//     Complete and Receive do on an address outside the UMEM. Every call of the
//     library is made under a recover: the socket is then at its end, Port.Err
//     says why, and the port is to be closed and opened anew.
//   - Transmit kicks once, and a kick in copy mode sends 32 frames. Flush kicks
//     until the ring is empty or the kernel takes no more.
//   - Close leaves the rings mapped. A mapping holds a reference to the socket, so
//     the queue would stay taken for as long as the process lives. They are found
//     in /proc/self/maps by the socket's inode and unmapped (mapping.go).
//   - The flags of bind are a variable of the package. It is set under a lock,
//     which all opening and closing takes.
//   - Errors do not wrap their cause. It is told by its words (errors.go).
//
// What cannot be met from outside is in Limits. One thing is a condition: the
// library reads and writes ring indices without atomics and with its fences
// commented out, which is sound on processors that keep stores in order, and so
// Open refuses all but amd64.
//
// # Concurrency
//
// As in package xdp, a Port belongs to its worker's goroutine. State, Err,
// Traffic, RingLevels and Statistics may be called from anywhere while the port
// is open. While ports are opened or closed nothing else in the process may open
// AF_XDP sockets. Receive, Transmit and Flush take no lock and allocate nothing.
package asavie

// Limits is what the library cannot do, for status and documentation.
const Limits = "driver asavie copies every frame twice and has no need-wakeup, shared UMEM, multi-buffer frames or transmit batches over 32; " +
	"frames that the kernel refuses to send are not counted"
