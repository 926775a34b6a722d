package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/flowmem"
	"sluice/internal/gateway"
	"sluice/internal/verdict"
	"sluice/nat"
	"sluice/xdp"
)

// now is the time of everything that happens in memory: flows neither age nor
// expire.
const now conntrack.Tick = 1000

// rig is a gateway without a kernel: inside 10.0.0.0/8 behind a router on port
// 0, everything else behind a router on port 1, masqueraded to as many external
// addresses as the flows need.
type rig struct {
	flowMemory  *flowmem.Memory
	frameMemory *flowmem.Memory
	table       *conntrack.Table
	worker      *gateway.Worker
	snapshot    atomic.Pointer[gateway.Snapshot]
	ports       [2]*memoryPort
	frames      []byte
	descs       [group]xdp.Desc
}

// memoryPort receives what it was loaded with, and sends nowhere.
type memoryPort struct {
	queue   [group]xdp.Desc
	head, n int // of queue: the next to be received, and the end
	sent    int
	keep    bool       // what is sent, in kept
	kept    []xdp.Desc // in their order
}

// load has descs arrive.
func (p *memoryPort) load(descs ...xdp.Desc) { p.n += copy(p.queue[p.n:], descs) }

func (p *memoryPort) Receive(descs []xdp.Desc) int {
	n := copy(descs, p.queue[p.head:p.n])
	if p.head += n; p.head == p.n {
		p.head, p.n = 0, 0
	}
	return n
}

func (p *memoryPort) Transmit(descs []xdp.Desc) int {
	p.sent += len(descs)
	if p.keep {
		p.kept = append(p.kept, descs...)
	}
	return len(descs)
}

func (p *memoryPort) Flush()         {}
func (p *memoryPort) SetUp(bool)     {}
func (p *memoryPort) Up() bool       { return true }
func (p *memoryPort) Wasted() uint64 { return 0 }

// frameMemory is a UMEM whose frames are always the same ones: nothing to
// allocate, nothing to free.
type frameMemory []byte

func (m frameMemory) Bytes() []byte           { return m }
func (m frameMemory) Allocate([]xdp.Desc) int { return 0 }
func (m frameMemory) Free([]xdp.Desc)         {}

// minCapacity is the default of conntrack.max-flows: a table for few flows is
// not smaller than what runs in production.
const minCapacity = 1 << 20

// flowsPerAddress leaves room for the unevenness of sources over addresses.
const flowsPerAddress = 50_000

// timeouts are the defaults, but that ports do not rest: set-up is measured by the
// same inside endpoints again and again, more of them than there are ports.
func timeouts() conntrack.Timeouts {
	t := conntrack.DefaultTimeouts()
	t.PortRest = 0
	return t
}

// newRig makes a gateway with room for n flows and a quarter more.
func newRig(n int) (_ *rig, err error) {
	r := &rig{descs: groupDescs()}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	cfg := conntrack.Config{
		MaxFlows: max(minCapacity, n) + max(minCapacity, n)/4, Workers: rigWorkers,
		Timeouts: timeouts(), Seed: [2]uint64{0x5851f42d4c957f2d, 0x14057b7ef767814f},
	}
	if r.flowMemory, err = flowmem.Anonymous(conntrack.Size(cfg)); err != nil {
		return nil, err
	}
	if r.frameMemory, err = flowmem.Anonymous(group * frameStride); err != nil {
		return nil, err
	}
	if r.table, err = conntrack.New(r.flowMemory.Bytes(), cfg); err != nil {
		return nil, err
	}
	var externals []*conntrack.External
	for i := range (n+freshFlows)/flowsPerAddress + 1 {
		x := conntrack.NewExternal(0xcb007100+uint32(i), nil) // 203.0.113.0/24
		if err := r.table.AddExternal(x); err != nil {
			return nil, err
		}
		externals = append(externals, x)
	}
	r.snapshot.Store(memorySnapshot(externals))
	r.start(mainWorker)
	return r, nil
}

// memorySnapshot is the configuration and the routes of the gateway in memory.
func memorySnapshot(externals []*conntrack.External) *gateway.Snapshot {
	inside, uplink := fib.U32(netip.MustParseAddr("172.16.0.2")), fib.U32(netip.MustParseAddr("172.17.0.2"))
	interfaces := []fib.Interface{
		// Virtual: partial checksums are looked for, as on veth and virtio.
		{Port: 0, Name: "inside", Ifindex: 1, MAC: insideMAC, MTU: 1500, Up: true, Virtual: true, Primary: inside - 1,
			Addresses: []netip.Prefix{netip.MustParsePrefix("172.16.0.1/30")}},
		{Port: 1, Name: "outside", Ifindex: 2, MAC: outsideMAC, MTU: 1500, Up: true, Virtual: true, Primary: uplink - 1,
			Addresses: []netip.Prefix{netip.MustParsePrefix("172.17.0.1/30")}},
	}
	var b fib.Builder
	b.SetInterfaces(interfaces)
	b.SetRoutes(append(fib.Connected(interfaces),
		fib.Route{Table: fib.TableMain, Prefix: netip.MustParsePrefix("10.0.0.0/8"), Paths: []fib.Path{{Ifindex: 1, Gateway: inside}}},
		fib.Route{Table: fib.TableMain, Prefix: netip.MustParsePrefix("0.0.0.0/0"), Paths: []fib.Path{{Ifindex: 2, Gateway: uplink}}}))
	b.SetNeighbour(fib.Neighbour{Port: 0, Addr: inside, State: fib.Resolved, MAC: accessMAC})
	b.SetNeighbour(fib.Neighbour{Port: 1, Addr: uplink, State: fib.Resolved, MAC: uplinkMAC})
	s := &gateway.Snapshot{
		Policy: nat.NewPolicy(nat.PolicyConfig{
			Enabled:       true,
			Sources:       []nat.Rule{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}},
			NativeRouting: []nat.Rule{{Prefix: netip.MustParsePrefix("172.16.0.0/12")}},
		}),
		Routes: b.Build(), Ports: nat.DefaultPorts, Hairpin: true, Generation: 1,
	}
	s.Roles[0], s.Roles[1] = gateway.RoleInside, gateway.RoleOutside
	s.Pools[1] = nat.NewPool(externals...)
	return s
}

func (r *rig) close() error {
	var errs []error
	for _, m := range []*flowmem.Memory{r.flowMemory, r.frameMemory} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}

// frame is the i-th frame of the group at hand.
func (r *rig) frame(i int) []byte {
	d := r.descs[i]
	return r.frames[d.Addr : d.Addr+frameLength]
}

// populate sends the first packet of every flow through the gateway, as clients
// would, and an answer.
func (r *rig) populate(flows []flow) error {
	for at := 0; at < len(flows); at += group {
		part := flows[at:min(at+group, len(flows))]
		r.arrive(part, 0)
		for i := range part {
			f := r.frame(i)
			part[i].external = binary.BigEndian.Uint32(f[l3+12:])
			part[i].externalPort = binary.BigEndian.Uint16(f[l4:])
		}
		r.arrive(part, 1)
	}
	if sent := r.ports[0].sent + r.ports[1].sent; sent != 2*len(flows) {
		return errors.Join(fmt.Errorf("bench: %d of the first %d packets of %d flows left", sent, 2*len(flows), len(flows)), r.dropped())
	}
	return nil
}

// arrive has a packet of each flow, at most a group, arrive in a direction, and
// returns how long the gateway took.
func (r *rig) arrive(part []flow, direction int) time.Duration {
	for i := range part {
		v := part[i].arriving(direction)
		writeFrame(r.frame(i), &v, direction)
	}
	r.ports[direction].load(r.descs[:len(part)]...)
	start := time.Now()
	for range (len(part) + burst - 1) / burst {
		r.worker.Step(now)
	}
	return time.Since(start)
}

// setUp opens flows that do not exist yet, and ends them again, untimed.
func (r *rig) setUp(fresh []flow) (packets int, took time.Duration) {
	for at := 0; at < len(fresh); at += group {
		took += r.arrive(fresh[at:min(at+group, len(fresh))], 0)
	}
	// Nobody but the one who ends the flows may be looking at them, or their
	// records would stay in limbo.
	r.worker.Offline()
	for i := range fresh {
		r.table.Look(func(w *conntrack.Worker) {
			if f, _ := w.Find(fresh[i].tuple(0), now); f != nil {
				w.Retire(f, verdict.None)
			}
		})
	}
	r.worker.Online()
	return len(fresh), took
}

// step runs one group of the traffic through the whole gateway.
func (r *rig) step(t *traffic) (packets int, took time.Duration) {
	r.write(t)
	r.ports[0].load(r.descs[:burst]...)
	r.ports[1].load(r.descs[burst : 2*burst]...)
	r.ports[0].load(r.descs[2*burst : 3*burst]...)
	r.ports[1].load(r.descs[3*burst:]...)
	start := time.Now()
	r.worker.Step(now)
	r.worker.Step(now)
	return group, time.Since(start)
}

// write writes the frames of the traffic's next group.
func (r *rig) write(t *traffic) {
	for i := range r.descs {
		t.write(r.frame(i), t.at+i)
	}
	t.at += group
}

// dropped is an error that names what the worker dropped, nil if nothing.
func (r *rig) dropped() error {
	r.worker.Idle(now, 0) // publishes the counters
	var err error
	for reason, n := range r.worker.Counters().Drops {
		if n != 0 {
			err = errors.Join(err, fmt.Errorf("bench: the gateway dropped %d packets as %v", n, verdict.Reason(reason)))
		}
	}
	return err
}
