package daemon

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"

	"sluice/conntrack"
	"sluice/dsr"
	"sluice/internal/config"
	"sluice/internal/fib"
	"sluice/internal/gateway"
	"sluice/nat"
	"sluice/xdp"
)

// publisher turns what the control plane knows (configuration, routes,
// addresses) into what the data plane reads: the workers' Snapshot and the
// steering program's maps. It belongs to the daemon's control goroutine.
type publisher struct {
	log      *slog.Logger
	table    *conntrack.Table
	steering *xdp.Steering
	pointer  *atomic.Pointer[gateway.Snapshot]
	adopted  func(*gateway.Snapshot)  // returns when every worker uses it
	inForce  *atomic.Pointer[inForce] // for others than the control goroutine

	config    *config.Config
	policy    *nat.Policy
	agent     agentFile
	routes    *fib.Snapshot
	host      *nat.HostPeers // what the host itself speaks without ports
	externals map[uint32]*external
	draining  map[uint32]*external // removed, but flows still hold ports of them
	held      []bool               // indices of the steering program's bitmaps in use
	balancer  *balancer
	steered   uint16 // generation of the routes in the steering program
	macs      [gateway.MaxPorts][6]byte

	static     *nat.Static    // port-forwards in force
	forwardsOf *config.Config // that it was made from
	refused    int            // entries of it that clash with others
	now        func() conntrack.Tick

	left struct { // for what the flows that take from the host were last looked for
		host   *nat.HostPeers
		shared []uint32
	}

	pools [gateway.MaxPorts]struct {
		list []*conntrack.External
		pool *nat.Pool
	}
}

// inForce is what the workers use, and the configuration that it was made from.
type inForce struct {
	config   *config.Config
	snapshot *gateway.Snapshot
	states   map[backendKey]backendState
	since    map[dsr.BackendID]gateway.BackendCounters
}

// external is an address that sources are translated to, with the bitmap by
// which the steering program knows its held ports.
type external struct {
	*conntrack.External
	words []uint64 // of the steering program's map
	held  int      // their index in it
	kind  xdp.AddressKind
	ports []fib.PortID // the outside ports whose masqueraded flows use it
	of    fib.PortID   // the interface whose address it is, where it is not the pool's
	pool  bool         // listed in the configuration, not taken as an interface's own
	snat  bool         // services' flows use it
}

// maxExternals bounds the external addresses: of the pool, of port-forwards and of
// the interfaces together.
const maxExternals = 2*config.MaxExternals + gateway.MaxPorts

func newPublisher(log *slog.Logger, table *conntrack.Table, steering *xdp.Steering, pointer *atomic.Pointer[gateway.Snapshot]) *publisher {
	return &publisher{
		log: log, table: table, steering: steering, pointer: pointer,
		externals: map[uint32]*external{}, draining: map[uint32]*external{}, held: make([]bool, maxExternals),
		inForce: new(atomic.Pointer[inForce]),
	}
}

// publish makes the configuration and the routes at hand take effect. The order
// is that of the packets: an address is known to the steering program and to the
// flow table before a worker can use it, and forgotten only after every worker
// has stopped.
func (p *publisher) publish() error {
	wanted := p.wanted()
	if err := p.addExternals(wanted); err != nil {
		return err
	}
	p.reserveServicePorts()
	if err := p.steerServices(); err != nil {
		return err
	}
	if err := p.steer(); err != nil {
		return err
	}
	if err := p.steering.SetOnFailure(failure(p.config.OnFailure)); err != nil {
		return err
	}
	p.table.SetTimeouts(timeouts(&p.config.Conntrack.Timeouts))
	p.table.SetSourceLimit(p.config.Masquerade.MaxFlowsPerSource)
	first, static := p.pointer.Load() == nil, p.forwardTable()
	if first || static != p.static {
		p.holdForwards(p.static, static)
	}
	next := p.build(wanted, static)
	p.pointer.Store(next)
	p.adopted(next)
	p.settleForwards(static, first)
	p.leaveToHost(next)
	p.inForce.Store(&inForce{p.config, next, maps.Clone(p.balancer.states), maps.Clone(p.balancer.since)})
	if err := p.dropExternals(wanted); err != nil {
		return err
	}
	return p.steerServices() // an address may be a service's alone now
}

// wanted lists the external addresses that the configuration asks for, as the
// interfaces stand now, with the ports that use each.
func (p *publisher) wanted() map[uint32]*external {
	wanted := map[uint32]*external{}
	use := func(addr uint32, port fib.PortID, pool bool) {
		w := wanted[addr]
		if w == nil {
			w = &external{}
			wanted[addr] = w
		}
		w.pool = w.pool || pool
		if !pool {
			w.of, w.pool = port, false
		}
		w.ports = append(w.ports, port)
	}
	list, _ := forwards(p.config, p.primary)
	for _, f := range list {
		wanted[f.External] = &external{pool: true}
	}
	p.wantSources(wanted)
	m := &p.config.Masquerade
	if !m.Enabled {
		return wanted
	}
	for i := range p.config.Interfaces {
		port := fib.PortID(i)
		if role(p.config.Interfaces[i].Role) == gateway.RoleInside {
			continue
		}
		for _, a := range m.Addresses {
			if !a.Auto {
				eachAddress(a.Prefix, func(addr uint32) { use(addr, port, true) })
			} else if addr := p.primary(port); addr != noAddress {
				use(addr, port, false)
			}
		}
	}
	return wanted
}

// primary is the address of an interface, noAddress where it has none.
func (p *publisher) primary(port fib.PortID) uint32 {
	if iface := p.routes.Interface(port); iface != nil {
		return iface.Primary
	}
	return noAddress
}

// eachAddress calls f with every address of a prefix.
func eachAddress(prefix netip.Prefix, f func(uint32)) {
	first := fib.U32(prefix.Masked().Addr())
	for i := range uint32(1) << (32 - prefix.Bits()) {
		f(first + i)
	}
}

// kind is what the steering program has to know about an external address.
func (p *publisher) kind(addr uint32) xdp.AddressKind {
	if p.routes.Local(addr) {
		return xdp.AddrShared
	}
	return xdp.AddrPool
}

func (p *publisher) addExternals(wanted map[uint32]*external) error {
	p.reuseDrained()
	for addr, w := range wanted {
		x, kind := p.externals[addr], p.kind(addr)
		if x == nil {
			var err error
			if x, err = p.newExternal(addr); err != nil {
				return err
			}
			p.log.Info("external address added", "address", fib.Addr(addr), "shared", kind == xdp.AddrShared)
		}
		if x.kind != kind {
			if err := p.steering.SetAddress(addr, kind, x.held); err != nil {
				return err
			}
			x.kind = kind
		}
		x.ports, x.of, x.pool, x.snat = w.ports, w.of, w.pool, w.snat
	}
	return nil
}

// newExternal makes an address known to the flow table. One that comes back
// before its last flow has ended comes back as it was.
func (p *publisher) newExternal(addr uint32) (*external, error) {
	x := p.draining[addr]
	if x == nil {
		held := slices.Index(p.held, false)
		if held < 0 {
			return nil, fmt.Errorf("masquerade.addresses: more than %d external addresses; list fewer", maxExternals)
		}
		p.held[held] = true
		words := p.steering.HeldPorts(held)
		x = &external{External: conntrack.NewExternal(addr, words), words: words, held: held}
	}
	x.kind = 0
	delete(p.draining, addr)
	if err := p.table.AddExternal(x.External); err != nil {
		return nil, err
	}
	p.externals[addr] = x
	return x, nil
}

// dropExternals ends the addresses that are no longer wanted; their flows end
// with them.
func (p *publisher) dropExternals(wanted map[uint32]*external) error {
	for addr, x := range p.externals {
		if wanted[addr] != nil {
			continue
		}
		delete(p.externals, addr)
		p.table.RemoveExternal(x.External)
		p.draining[addr] = x
		p.log.Info("external address removed, its flows end", "address", fib.Addr(addr))
		if err := p.steering.DeleteAddress(addr); err != nil {
			return err
		}
	}
	return nil
}

// reuseDrained frees the bitmaps of removed addresses whose last mapping is
// gone: until then its release still clears bits there.
func (p *publisher) reuseDrained() {
	for addr, x := range p.draining {
		if x.Claimed() == 0 {
			p.held[x.held] = false
			delete(p.draining, addr)
		}
	}
}

// steer brings the steering program up to date with the routes and the
// interfaces.
func (p *publisher) steer() error {
	if p.routes.Generation() == p.steered {
		return nil // only neighbours changed
	}
	var routes []xdp.SteeringRoute
	for _, r := range p.routes.Steer() {
		routes = append(routes, xdp.SteeringRoute{Prefix: r.Prefix, ToWorker: r.ToWorker})
	}
	if err := p.steering.SetRoutes(routes); err != nil {
		return err
	}
	for i := range p.config.Interfaces {
		iface := p.routes.Interface(fib.PortID(i))
		if iface == nil || iface.Ifindex == 0 || iface.MAC == p.macs[i] {
			continue
		}
		if err := p.steering.SetMAC(i, iface.MAC); err != nil {
			return err
		}
		p.macs[i] = iface.MAC
	}
	p.steered = p.routes.Generation()
	return nil
}

// build makes the workers' snapshot.
func (p *publisher) build(wanted map[uint32]*external, static *nat.Static) *gateway.Snapshot {
	m := &p.config.Masquerade
	last := p.pointer.Load()
	s := &gateway.Snapshot{
		Policy: p.policy, Routes: p.routes, Static: static, Other: otherProtocols(m.OtherProtocols), Host: p.host,
		Behaviour: behaviour(m),
		Ports:     nat.PortRange{Low: m.PortRange.First, High: m.PortRange.Last}, Hairpin: m.Hairpin, OutboundUDP: !m.InboundRefresh, DropOptions: m.IPOptions == config.OptionsDrop,
		DropForeign: m.ForeignSources == config.ForeignDrop,
		PickUp:      m.TCPPickup == config.PickupOutbound, MSS: mss(m.MSSClamp),
	}
	for i := range p.config.Interfaces {
		s.Roles[i] = role(p.config.Interfaces[i].Role)
	}
	s.Balance = p.balance()
	for i := range p.config.Interfaces {
		s.Pools[i] = p.pool(fib.PortID(i), wanted)
	}
	if last != nil {
		s.Generation = last.Generation
		if !s.DecidesLike(last) {
			s.Generation++
		}
	}
	return s
}

// mss is masquerade.mss-clamp as workers know it.
func mss(c config.MSSClamp) uint16 {
	switch c {
	case config.ClampOff:
		return 0
	case config.ClampAuto:
		return gateway.MSSAuto
	}
	return uint16(c)
}

// pool returns the external addresses of flows that leave by port: the same
// pool as before, if its addresses are the same.
func (p *publisher) pool(port fib.PortID, wanted map[uint32]*external) *nat.Pool {
	var list []*conntrack.External
	for addr, w := range wanted {
		if slices.Contains(w.ports, port) {
			list = append(list, p.externals[addr].External)
		}
	}
	slices.SortFunc(list, func(a, b *conntrack.External) int { return cmp.Compare(a.Address(), b.Address()) })
	if slices.Equal(list, p.pools[port].list) {
		return p.pools[port].pool
	}
	p.pools[port].list, p.pools[port].pool = list, nil
	if len(list) > 0 {
		p.pools[port].pool = nat.NewPool(list...)
	}
	return p.pools[port].pool
}
