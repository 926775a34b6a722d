package xdp

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Failure is what happens to frames for workers while their worker does not
// run. Frames for ports that NAT holds are dropped in either case.
type Failure uint8

const (
	FailDrop Failure = iota // a private source cannot leak
	FailPass                // the kernel gets them, untranslated
)

// AddressKind says who uses an IPv4 address.
type AddressKind uint32

const (
	AddrHost   AddressKind = iota + 1 // the host alone
	AddrShared                        // the host, and NAT as an external address or a service
	AddrPool                          // NAT or a service alone
)

// Words of a HeldPorts bitmap: 65536 bits for each of TCP, UDP and ICMP echo
// identifiers, in this order; bit p%64 of word p/64 is port p.
const (
	heldWordsPerProtocol = 1 << 16 / 64
	heldWords            = 3 * heldWordsPerProtocol
)

// SteeringPort is one interface to steer.
type SteeringPort struct {
	NIC    *NIC
	Queues int  // RX queues with sockets: 0 to Queues-1
	Mode   Mode // ModeGeneric attaches in generic mode, all others in the driver
}

// SteeringConfig has what cannot change while the program is loaded. A zero in
// the fields below Workers means the default.
type SteeringConfig struct {
	Ports   []SteeringPort
	Workers int // queue q of any port belongs to worker q mod Workers

	OnFailure     Failure
	StaleAfter    time.Duration // age at which a heartbeat means that the worker hangs; default 1 s
	MaxAddresses  int           // default 4096
	MaxRoutes     int           // default 2^20; room is taken as they come
	MaxServices   int           // addresses and ports of services, default 4096; room is taken as they come
	HeldAddresses int           // bitmaps of held ports, 24 KiB each, allocated at once; default 64
}

// Defaults of SteeringConfig.
const (
	DefaultStaleAfter    = time.Second
	defaultMaxAddresses  = 4096
	defaultMaxRoutes     = 1 << 20
	defaultMaxServices   = 4096
	defaultHeldAddresses = 64
)

// SteeringRoute says where frames to a prefix go.
type SteeringRoute struct {
	Prefix   netip.Prefix // IPv4
	ToWorker bool         // false: the kernel
}

// Steering is the loaded steering program, one instance per port over shared
// maps, and the links that attach it. Its methods may be called concurrently;
// the words that Heartbeat and HeldPorts return are shared with the program
// and accessed atomically, without any method.
type Steering struct {
	config     SteeringConfig
	slots      int // XSKMAP slots per port
	maps       steerMaps
	programs   []*ebpf.Program // by port
	heartbeats []uint64
	held       []uint64
	peers      []uint64 // two slots a word
	state      []uint64 // struct state of the C source
	peerSeed   uint64

	mu       sync.Mutex // guards what follows
	ports    []portEntry
	routes   map[netip.Prefix]bool
	services map[ServicePort]bool
	attached []*attachment // by port, nil where detached
	memory   [][]byte      // what Close unmaps
}

// portEntry is struct port of the C source.
type portEntry struct {
	MAC   [6]byte
	Flags uint16
}

const passOnFailure = 1 // PASS_ON_FAILURE

// heartbeatWords is the size of struct heartbeat, a cache line, in words.
const heartbeatWords = 8

// LoadSteering loads the program and creates its maps. Nothing is attached yet:
// fill sockets, addresses and routes in first. Errors are *SetupError.
func LoadSteering(config SteeringConfig) (*Steering, error) {
	if err := config.complete(); err != nil {
		return nil, err
	}
	s := &Steering{
		config:   config,
		ports:    make([]portEntry, len(config.Ports)),
		routes:   make(map[netip.Prefix]bool),
		services: make(map[ServicePort]bool),
		attached: make([]*attachment, len(config.Ports)),
		peerSeed: rand.Uint64(),
	}
	for _, p := range config.Ports {
		s.slots = max(s.slots, p.Queues)
	}
	if err := s.load(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// complete fills in the defaults and refuses what cannot work.
func (c *SteeringConfig) complete() error {
	if len(c.Ports) == 0 || c.Workers < 1 {
		return fmt.Errorf("steering needs a port and a worker, got %d and %d", len(c.Ports), c.Workers)
	}
	for _, p := range c.Ports {
		if p.Queues < 1 {
			return refuse(p.NIC.Name, "no queue to steer to", "use at least one")
		}
	}
	c.StaleAfter = orDefault(c.StaleAfter, DefaultStaleAfter)
	c.MaxAddresses = orDefault(c.MaxAddresses, defaultMaxAddresses)
	c.MaxRoutes = orDefault(c.MaxRoutes, defaultMaxRoutes)
	c.MaxServices = orDefault(c.MaxServices, defaultMaxServices)
	c.HeldAddresses = orDefault(c.HeldAddresses, defaultHeldAddresses)
	return nil
}

func orDefault[T int | time.Duration](v, or T) T {
	if v <= 0 {
		return or
	}
	return v
}

// load creates the maps with the first port's program and lets the others use
// them too; only the constants (.rodata) are each program's own.
func (s *Steering) load() error {
	spec, err := loadSteer()
	if err != nil {
		return err
	}
	s.size(spec.Maps)
	var shared map[string]*ebpf.Map
	for i := range s.config.Ports {
		name := s.config.Ports[i].NIC.Name
		instance := spec.Copy()
		if err := s.setConstants(instance.Variables, i); err != nil {
			return setupError(name, -1, callProgramLoad, err)
		}
		var loaded steerObjects
		if err := instance.LoadAndAssign(&loaded, &ebpf.CollectionOptions{MapReplacements: shared}); err != nil {
			return setupError(name, -1, loadCall(err), verifierLine(err))
		}
		s.programs = append(s.programs, loaded.Steer)
		if i == 0 {
			s.maps = loaded.steerMaps
			shared = s.shared()
		} else if err := loaded.steerMaps.Close(); err != nil { // duplicates of the shared ones
			return setupError(name, -1, callMapCreate, err)
		}
	}
	for i := range s.config.Ports {
		s.ports[i].MAC = s.config.Ports[i].NIC.MAC
	}
	if err := s.SetOnFailure(s.config.OnFailure); err != nil {
		return err
	}
	if s.heartbeats, err = s.words(s.maps.Heartbeats, s.config.Workers*heartbeatWords); err != nil {
		return err
	}
	if s.held, err = s.words(s.maps.HeldPorts, s.config.HeldAddresses*heldWords); err != nil {
		return err
	}
	if s.state, err = s.words(s.maps.State, stateWords); err != nil {
		return err
	}
	s.changed() // generation 0 is that of empty slots
	s.peers, err = s.words(s.maps.Peers, peerSlots/2)
	return err
}

// Words of struct state of the C source.
const (
	stateGeneration = iota
	stateServices
	stateWords
)

// changed has the program forget what it remembers of addresses and routes.
func (s *Steering) changed() { atomic.AddUint64(&s.state[stateGeneration], 1) }

// size sets the number of entries of each map.
func (s *Steering) size(maps map[string]*ebpf.MapSpec) {
	entries := map[string]int{
		steerMapPorts:      len(s.config.Ports),
		steerMapSockets:    len(s.config.Ports) * s.slots,
		steerMapHeartbeats: s.config.Workers,
		steerMapAddresses:  s.config.MaxAddresses,
		steerMapHeldPorts:  s.config.HeldAddresses,
		steerMapRoutes:     s.config.MaxRoutes,
		steerMapServices:   s.config.MaxServices,
	}
	for name, n := range entries {
		maps[name].MaxEntries = uint32(n)
	}
}

// shared are the maps that all ports' programs use.
func (s *Steering) shared() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		steerMapAddresses: s.maps.Addresses, steerMapCounters: s.maps.Counters,
		steerMapFragments: s.maps.Fragments, steerMapHeartbeats: s.maps.Heartbeats,
		steerMapHeldPorts: s.maps.HeldPorts, steerMapPeers: s.maps.Peers, steerMapPorts: s.maps.Ports,
		steerMapRoutes: s.maps.Routes, steerMapServices: s.maps.Services, steerMapSockets: s.maps.Sockets,
		steerMapConflicts: s.maps.Conflicts, steerMapWaiting: s.maps.Waiting, steerMapState: s.maps.State, steerMapRecent: s.maps.Recent,
	}
}

func (s *Steering) setConstants(v map[string]*ebpf.VariableSpec, port int) error {
	return errors.Join(
		v[steerVarPort].Set(uint32(port)),
		v[steerVarFirstSlot].Set(uint32(port*s.slots)),
		v[steerVarQueues].Set(uint32(s.config.Ports[port].Queues)),
		v[steerVarPeerSeed].Set(s.peerSeed),
		v[steerVarWorkers].Set(uint32(s.config.Workers)),
		v[steerVarStaleAfter].Set(uint64(s.config.StaleAfter)),
	)
}

// words maps the first n words of an array map with BPF_F_MMAPABLE.
func (s *Steering) words(m *ebpf.Map, n int) ([]uint64, error) {
	b, err := unix.Mmap(m.FD(), 0, n*8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, setupError(s.config.Ports[0].NIC.Name, -1, "mmap(BPF array)", err)
	}
	s.memory = append(s.memory, b)
	// The kernel lays values of an mmap-able array out without a gap from a
	// page boundary on (kernel/bpf/arraymap.c), so the words are aligned.
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(b))), n), nil
}

// loadCall tells from cilium/ebpf's error which of its steps failed.
func loadCall(err error) string {
	if strings.Contains(err.Error(), "map create") {
		return callMapCreate
	}
	return callProgramLoad
}

// verifierLine keeps an error from the kernel's verifier to one line.
func verifierLine(err error) error {
	var v *ebpf.VerifierError
	if !errors.As(err, &v) || len(v.Log) == 0 {
		return err
	}
	return fmt.Errorf("%w (verifier: %s)", v.Cause, strings.Join(v.Log[max(0, len(v.Log)-2):], "; "))
}

// Close releases programs and maps. Attached ports whose links are pinned stay
// attached with the on-failure verdict, all others are detached. No worker may
// run any more and nothing use the words that Heartbeat and HeldPorts returned:
// their memory goes.
func (s *Steering) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for i, a := range s.attached {
		if a != nil {
			errs = append(errs, a.Close())
			s.attached[i] = nil
		}
	}
	for _, p := range s.programs {
		errs = append(errs, p.Close())
	}
	if s.maps != (steerMaps{}) {
		errs = append(errs, s.maps.Close())
	}
	for _, b := range s.memory {
		errs = append(errs, unix.Munmap(b))
	}
	s.programs, s.memory, s.heartbeats, s.held, s.peers = nil, nil, nil, nil, nil
	return errors.Join(errs...)
}
