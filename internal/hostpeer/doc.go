// Package hostpeer watches which protocols without ports the host itself speaks,
// and with whom, so that NAT leaves the answers to the host on addresses that both
// have. It publishes each state as an immutable nat.HostPeers.
//
// It reads what the kernel tells:
//
//	tunnel devices that are up   gre, gretap, erspan, ipip, sit, vti (rtnetlink)
//	IPsec                        states and policies (xfrm)
//	sockets                      raw ones (/proc/net/raw), SCTP, DCCP and UDP-Lite (sock_diag)
//
// Devices and IPsec are followed by their events, sockets are read every
// Config.Poll. What runs inside UDP (NAT-T, FOU, VXLAN) has a port, which is the
// business of internal/route's HostPorts. Unseen stay what the kernel lists
// nowhere: PPTP and L2TP over IP that it ends itself, what a raw socket of
// IPPROTO_RAW sends, and packet sockets.
//
// It owns its netlink sockets, and changes nothing in the kernel.
//
// Concurrency: Run owns everything that changes and calls onChange from its own
// goroutine; Current may be called from any. All sockets and files are opened by
// New, on the calling thread: the Watcher belongs to that thread's network
// namespace for good.
//
// It follows include/uapi/linux/if_tunnel.h, linux/xfrm.h, linux/inet_diag.h and
// net/ipv4/raw.c:raw_sock_seq_show.
package hostpeer
