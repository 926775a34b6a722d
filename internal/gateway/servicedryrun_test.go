package gateway

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"sluice/conntrack"
	"sluice/dsr"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// TestDryRunForetellsServices is TestDryRunForetells for services: any mode, any
// states of the backends, any history, any packet to, from and beside them.
func TestDryRunForetellsServices(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(150) {
		x := &foreteller{T: t, Rand: rand.New(rand.NewPCG(seed, 2)), seed: seed, seen: seen}
		v := newServed(t, x.anyService())
		x.rig = v.rig
		for range 60 {
			switch x.IntN(30) {
			case 0:
				v.now += conntrack.Tick(x.IntN(4000))
			case 1:
				v.change(func(s *serviceSpec) {
					s.state = [2]dsr.State{dsr.State(x.IntN(3)), dsr.State(x.IntN(3))}
					s.removed, s.drop = x.IntN(12) == 0, x.IntN(3) == 0
				})
				v.settle()
			case 2:
				v.publish(func(s *Snapshot) {
					s.Balance.Sources[insidePort] = pick(x, s.Balance.Sources[outsidePort], v.table.External(gatewayInside), nil)
				})
			default:
				x.try(x.servicePacket())
			}
		}
	}
	for _, what := range []string{"sent", "hit", "answer"} {
		if seen[what] < 30 {
			t.Errorf("%s: only %d times", what, seen[what])
		}
	}
	for _, r := range []verdict.Reason{
		verdict.NoService, verdict.NoBackend, verdict.BackendGone, verdict.SourceRange, verdict.ServiceRemoved, verdict.SpoofedSource,
		verdict.TCPWithoutFlow, verdict.OwnSource, verdict.ExternalAddressMoved, verdict.NoExternalAddress, verdict.TTLExpired,
	} {
		if seen[r.String()] == 0 {
			t.Errorf("never met: %s", r)
		}
	}
}

func (x *foreteller) anyService() serviceSpec {
	s := serviceSpec{
		mode: dsr.Mode(x.IntN(2)), noAgent: x.IntN(4) == 0, masquerade: x.IntN(2) == 0,
		backends: pick(x, backends[:], backends[:], farBackends[:]),
	}
	if x.IntN(4) == 0 {
		s.sources = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	}
	return s
}

// servicePacket is any packet that has to do with the service.
func (x *foreteller) servicePacket() (fib.PortID, []byte) {
	list := pick(x, backends, farBackends)
	f := from{
		src: pick(x, server, server, client, client2, vip, list[0], list[1], ip("203.0.113.99")),
		dst: pick(x, vip, vip, vip, vip2, server, client, gatewayInside, external), ttl: pick(x, uint8(64), 64, 64, 64, 1),
		sport: pick(x, uint16(40000), 40001, servedPort, backendPort), dport: pick(x, uint16(servedPort), servedPort, servedPort, 40000, 9),
	}
	in := pick(x, insidePort, outsidePort)
	switch x.IntN(3) {
	case 0: // a client, at one of two ports
		f.src, f.dst, f.dport, f.ttl, in = server, vip, servedPort, 64, outsidePort
		f.sport = pick(x, uint16(40000), 40001)
	case 1: // a backend, as it may answer
		f.src, f.dst, f.sport, f.ttl, in = list[x.IntN(2)], pick(x, gatewayInside, external, server), backendPort, 64, insidePort
		f.dport = pick(x, uint16(40000), 40001)
		if list == farBackends {
			in = outsidePort
		}
	}
	switch x.IntN(6) {
	case 0, 1:
		return in, f.udp(x)
	case 2:
		return in, f.echo(x, 8, 5)
	case 3:
		return in, f.tcp(x, packet.TCPAck)
	}
	return in, f.tcp(x, pick(x, uint8(packet.TCPSyn), packet.TCPSyn, packet.TCPSyn|packet.TCPAck, packet.TCPRst))
}
