package xdp

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

const servedTCP, servedUDP = 8080, 8053

// serve makes a service of TCP and one of UDP, on the shared address and on one
// of the pool's.
func (w *world) serve() []ServicePort {
	w.t.Helper()
	var list []ServicePort
	for _, a := range []netip.Addr{sharedAddress, bareAddress} {
		list = append(list, ServicePort{Address: hostOrder(a), Port: servedTCP, Protocol: unix.IPPROTO_TCP}, ServicePort{Address: hostOrder(a), Port: servedUDP, Protocol: unix.IPPROTO_UDP})
	}
	must(w.SetServices(list))
	return list
}

// TestSteeringServices: an address and port of a service is a worker's, whatever
// the host has there, and so is an ICMP error about what left it; the rest of
// the address is as it was.
func TestSteeringServices(t *testing.T) {
	w := newWorld(t, SteeringConfig{})
	defer unix.Close(w.plug(0, 0))
	w.beat(0, 0)
	w.serve()
	defer listen(w, at(sharedAddress, servedTCP)).Close()
	defer bindUDP(w, at(sharedAddress, servedUDP)).Close()
	open := layers.TCP{SYN: true}
	about := func(src netip.AddrPort) []byte {
		return icmp(src.Addr(), 3, 0, quote(tcpSegment(src, at(peerAddress, 443), layers.TCP{ACK: true})))
	}
	for _, a := range []netip.Addr{sharedAddress, bareAddress} {
		rest, verdict := "worker-pool-address", uint32(verdictRedirect)
		if a == sharedAddress {
			rest, verdict = "kernel-host-address", verdictPass
		}
		name := func(what string) string { return fmt.Sprintf("%s %s", a, what) }
		w.expect(name("SYN"), tcpSegment(at(peerAddress, 443), at(a, servedTCP), open), verdictRedirect, "worker-service")
		w.expect(name("segment"), tcp(at(a, servedTCP)), verdictRedirect, "worker-service")
		w.expect(name("datagram"), udp(at(a, servedUDP)), verdictRedirect, "worker-service")
		w.expect(name("options"), udp(at(a, servedUDP), withOptions), verdictRedirect, "worker-service")
		w.expect(name("error"), about(at(a, servedTCP)), verdictRedirect, "worker-service")
		w.expect(name("other protocol's port"), tcp(at(a, servedUDP)), verdict, rest)
		w.expect(name("other port"), tcp(at(a, servedTCP+1)), verdict, rest)
		w.expect(name("other port's error"), about(at(a, servedTCP+1)), verdict, rest)
		w.expect(name("echo"), icmp(a, 8, 7), verdict, rest)
	}
	w.expect("pool address of no service", udp(at(poolAddress, servedUDP)), verdictRedirect, "worker-pool-address")
}

// TestSteeringDispatch: an error about a request that went to a backend in an outer
// header is a worker's. What else there is of these protocols is as it was.
func TestSteeringDispatch(t *testing.T) {
	w := newWorld(t, SteeringConfig{})
	defer unix.Close(w.plug(0, 0))
	w.beat(0, 0)
	const geneve = 6081
	backend := at(peerAddress, geneve)
	ipip := frame(ip(sharedAddress, peerAddress, layers.IPProtocolIPv4), payload)
	about := func(frame []byte) []byte { return icmp(sharedAddress, 3, 0, quote(frame)) }
	tunnel := about(udpDatagram(at(sharedAddress, 50123), backend))
	w.expect("ipip, no dispatch", about(ipip), verdictPass, "kernel-host-address")
	w.expect("Geneve, no dispatch", tunnel, verdictPass, "kernel-host-address")
	must(w.SetServices([]ServicePort{
		{Address: hostOrder(sharedAddress), Protocol: unix.IPPROTO_IPIP, Dispatch: true},
		{Address: hostOrder(sharedAddress), Port: geneve, Protocol: unix.IPPROTO_UDP, Dispatch: true},
	}))
	w.expect("ipip", about(ipip), verdictRedirect, "worker-icmp-error")
	w.expect("Geneve", tunnel, verdictRedirect, "worker-icmp-error")
	w.expect("another port's error", about(udpDatagram(at(sharedAddress, 50123), at(peerAddress, geneve+1))), verdictPass, "kernel-host-address")
	w.expect("a datagram to the port", udp(at(sharedAddress, geneve)), verdictPass, "kernel-host-address")
	w.expect("an error about one from the port", about(udpDatagram(at(sharedAddress, geneve), at(peerAddress, 7))), verdictPass, "kernel-host-address")
	must(w.SetServices(nil))
	w.expect("removed", tunnel, verdictPass, "kernel-host-address")
}

// TestSteeringServiceFragments: on a shared address the later fragments of a
// datagram follow the first one to the service.
func TestSteeringServiceFragments(t *testing.T) {
	w := newWorld(t, SteeringConfig{})
	defer unix.Close(w.plug(0, 0))
	w.beat(0, 0)
	w.serve()
	to := at(sharedAddress, servedUDP)
	w.expect("first", udp(to, withFragment(7, 0, true)), verdictRedirect, "worker-service")
	w.expect("later", udp(to, withFragment(7, 185, false)), verdictRedirect, "worker-fragment")
}

// TestSteeringServiceFailure: what is for a service is never the kernel's, which
// would answer that nobody is there.
func TestSteeringServiceFailure(t *testing.T) {
	w := newWorld(t, SteeringConfig{OnFailure: FailPass})
	w.serve()
	w.expect("no worker", tcp(at(sharedAddress, servedTCP)), verdictDrop, "failure-dropped")
}

// TestSetServices: the set is what it was last told to be; a full map is an
// error that names the limit, and what fits is there.
func TestSetServices(t *testing.T) {
	w := newWorld(t, SteeringConfig{MaxServices: 4})
	defer unix.Close(w.plug(0, 0))
	w.beat(0, 0)
	list := w.serve()
	more := append([]ServicePort{{Address: hostOrder(poolAddress), Port: 1, Protocol: unix.IPPROTO_TCP}}, list...)
	if err := w.SetServices(more); err == nil {
		t.Error("five services fit in a map of four")
	}
	must(w.SetServices(list[2:]))
	w.expect("removed", tcp(at(sharedAddress, servedTCP)), verdictPass, "kernel-host-address")
	w.expect("kept", tcp(at(bareAddress, servedTCP)), verdictRedirect, "worker-service")
	must(w.SetServices(nil))
	w.expect("all removed", tcp(at(bareAddress, servedTCP)), verdictRedirect, "worker-pool-address")
}
