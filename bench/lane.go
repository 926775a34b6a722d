package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"sluice/internal/fib"
	"sluice/internal/lab"
	"sluice/xdp"
)

// A lane is a network of its own for each peer, so that all can be up at the
// same time and take turns in an instant:
//
//	client ── inside  gateway  outside ── server
//	10.20.30.11    .1          198.51.100.2    .11
//
// The generator sends on the client's interface, the sink is on the server's.
type lane struct {
	peer                    Peer
	expect                  expectation
	sight                   sight
	client, gateway, server *lab.Namespace
	from, to                *endpoint
	sink                    *program
	tester                  *tester
	child                   *child
	forwarder               *forwarder
	helpers                 []*program // of lanes with answers: at the server, and at the gateway

	check                  Check
	latency                Latency
	pktgen                 *pktgen // nil where the kernel has none
	rate, cpu, flood, loss []reading
	byKernel, lossByKernel []reading
	lost                   int64 // in the samples that were to be without
	inProgram              []reading
	inUser                 time.Duration // of passed packets
	passed                 int64
}

const (
	clientAddress  = "10.20.30.11"
	gatewayInside  = "10.20.30.1"
	gatewayOutside = "198.51.100.2"
	serverAddress  = "198.51.100.11"

	laneNIC = "eth0"
)

func address(s string) uint32 { return fib.U32(netip.MustParseAddr(s)) }

// site is where lanes are built.
type site struct {
	binary                 string // the sluice program
	dir                    string
	generatorCPU, otherCPU int
	operator               bool // the gateway has room for many flows, and routes to them
}

// open builds the lane of a peer.
func (s *site) open(ctx context.Context, peer Peer) (l *lane, err error) {
	l = &lane{peer: peer, sight: plainSight, expect: expectation{
		src: address(clientAddress), dst: address(serverAddress), to: address(serverAddress), port: discardPort, ttl: 63}}
	if served[peer] {
		l.expectService()
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	if err := l.wire(); err != nil {
		return l, err
	}
	if l.from, err = openEndpoint(l.client, laneNIC); err != nil {
		return l, err
	}
	at, name := l.server, laneNIC
	switch {
	case peer == peerBaseline:
		at, name = l.gateway, lab.InsideNIC
	case l.expect.answered:
		at = l.client
		if err := l.reflect(); err != nil {
			return l, err
		}
	}
	receiver := l.from
	if !l.expect.answered {
		if l.to, err = openEndpoint(l.server, laneNIC); err != nil {
			return l, err
		}
		receiver = l.to
	}
	if l.sink, err = attach(at, name, func(nic *xdp.NIC) (*program, error) { return attachSink(nic, l.sight) }); err != nil {
		return l, err
	}
	mac, err := l.gateway.MAC(lab.InsideNIC)
	if err != nil {
		return l, err
	}
	l.pktgen = newPktgen(l.client, s.generatorCPU, mac)
	l.tester = newTester(l.from, receiver, l.sink, l.from.ports[0].NIC().MAC, mac, &l.expect)
	return l, s.start(ctx, l)
}

// wire makes the lane's network.
func (l *lane) wire() (err error) {
	for _, n := range []struct {
		ns   **lab.Namespace
		name string
	}{{&l.client, "client"}, {&l.gateway, "gateway"}, {&l.server, "server"}} {
		if *n.ns, err = lab.NewNamespace(n.name); err != nil {
			return err
		}
	}
	return errors.Join(
		lab.Veth(l.client, laneNIC, l.gateway, lab.InsideNIC, lab.VethOptions{}),
		lab.Veth(l.gateway, lab.OutsideNIC, l.server, laneNIC, lab.VethOptions{}),
		l.client.AddAddress(laneNIC, clientAddress+"/24"),
		l.gateway.AddAddress(lab.InsideNIC, gatewayInside+"/24"),
		l.gateway.AddAddress(lab.OutsideNIC, gatewayOutside+"/24"),
		l.server.AddAddress(laneNIC, serverAddress+"/24"),
	)
}

// start starts what forwards.
func (s *site) start(ctx context.Context, l *lane) (err error) {
	masquerade := func() { l.expect.src, l.expect.translated = address(gatewayOutside), true }
	switch l.peer {
	case PeerSluice, PeerAsavie:
		masquerade()
		return s.sluice(ctx, l, true)
	case PeerRouter:
		return s.sluice(ctx, l, false)
	case PeerDSR, PeerSNAT:
		return s.balance(ctx, l)
	case PeerDNAT, PeerFullNAT:
		return l.kernelService()
	case PeerForwarder:
		l.expect.ttl = 64 // it forwards frames, not packets
		l.forwarder, err = startForwarder(l.gateway, s.otherCPU, lab.InsideNIC, lab.OutsideNIC)
		return err
	case PeerNFT:
		masquerade()
		out, err := l.gateway.Exec("nft", "add table ip nat; add chain ip nat out { type nat hook postrouting priority 100; }; "+
			"add rule ip nat out oifname "+lab.OutsideNIC+" masquerade")
		if err != nil {
			return fmt.Errorf("bench: nft: %w: %s", err, out)
		}
		fallthrough
	case PeerKernel:
		return l.gateway.Sysctl("net/ipv4/ip_forward", "1")
	}
	return nil
}

// sluice starts the gateway on the lane.
func (s *site) sluice(ctx context.Context, l *lane, masquerade bool) (err error) {
	driver := "native"
	if l.peer == PeerAsavie {
		driver = "asavie"
	}
	config := s.config(l, driver, masquerade)
	if s.operator {
		if err := l.gateway.AddRoute(operatorRoute, serverAddress); err != nil {
			return err
		}
		config = s.operatorConfig(l)
	}
	return s.run(ctx, l, config)
}

// run starts the gateway on the lane with a configuration.
func (s *site) run(ctx context.Context, l *lane, config string) (err error) {
	l.child, err = startChild(ctx, l.gateway, s.binary, s.dir, filepath.Base(l.gateway.Name()), config)
	return err
}

// config is the gateway's configuration. The table is small, since an idle
// gateway sweeps it all the time, and those whose turn it is not are idle.
func (s *site) config(l *lane, driver string, masquerade bool) string {
	return fmt.Sprintf(`interfaces:
  - {name: %s, role: inside}
  - {name: %s, role: outside}
masquerade: {enabled: %v, sources: [10.20.30.0/24]}
driver: %s
`, lab.InsideNIC, lab.OutsideNIC, masquerade, driver) + s.common(l)
}

// common is what the configurations of all lanes share.
func (s *site) common(l *lane) string {
	return fmt.Sprintf(`conntrack: {max-flows: 16384}
state-file: ""
cpus: [%d]
control: {socket: %s}
`, s.otherCPU, s.socket(l))
}

// pids are the processes besides ours that belong to the lane.
func (l *lane) pids() []int {
	if l.child == nil {
		return nil
	}
	return []int{l.child.pid()}
}

func (l *lane) close() error {
	var errs []error
	if l.child != nil {
		errs = append(errs, l.child.stop())
	}
	if l.forwarder != nil {
		errs = append(errs, l.forwarder.close())
	}
	for _, p := range append(l.helpers, l.sink) {
		if p != nil {
			p.close()
		}
	}
	errs = append(errs, l.from.close(), l.to.close())
	for _, n := range []*lab.Namespace{l.client, l.gateway, l.server} {
		if n != nil {
			errs = append(errs, n.Close())
		}
	}
	return errors.Join(errs...)
}

// needsNFT are the peers that need the program nft.
var needsNFT = map[Peer]bool{PeerNFT: true, PeerDNAT: true, PeerFullNAT: true}
