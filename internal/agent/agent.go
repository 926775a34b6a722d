package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Agent is a running DSR agent.
type Agent struct {
	log     *slog.Logger
	netlink *netlink.Handle
	events  *nl.NetlinkSocket
	changed chan struct{} // full when an event came

	only net.Listener // held while this is the namespace's agent

	mu       sync.Mutex
	config   Config
	classic  bool // clsact filters instead of TCX
	objects  programsObjects
	before   *ebpf.Map // the flows of a table of another size, until they are copied
	pins     pins
	unpinned string // why there are none
	attached map[hook]*attachment
	adopted  map[hook]bool // attached by an earlier process, with its programs

	neighbours map[neighbour]resolved
	names      map[int]string
	missing    []string     // interfaces that are not there
	replies    []string     // where replies are translated
	unresolved []netip.Addr // trusted gateways
	strict     []string     // interfaces of requests with rp_filter 1
	rules      bool         // routing rules ask for the source
	forwards   bool         // the kernel lets programs look routes up
	flows      int          // at the last expiry
	problem    string       // what could not be followed
	taken      []string     // interfaces whose programs another process took off
}

const (
	expiryPeriod = 5 * time.Second
	gather       = 20 * time.Millisecond // events of a burst are one change
	followPeriod = time.Second           // for what comes without an event: a gateway that does not answer
)

// ErrOther says that the namespace has an agent. Two would undo each other's work.
var ErrOther = errors.New("another DSR agent runs in this network namespace: stop it first")

// Open loads the programs, takes over what an earlier process left, and attaches
// them in the network namespace of the calling thread. Interfaces that are not
// there yet are attached when they come, while Run runs.
func Open(c Config, log *slog.Logger) (*Agent, error) {
	a := &Agent{
		log: log, config: c, classic: c.ClassicTC, changed: make(chan struct{}, 1),
		attached: map[hook]*attachment{}, adopted: map[hook]bool{},
		neighbours: map[neighbour]resolved{}, names: map[int]string{},
	}
	if err := a.open(); err != nil {
		if a.pins != "" && len(a.attached) == 0 {
			// Nothing works on the maps, and nobody would take them away.
			err = errors.Join(err, a.pins.remove())
		}
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// onlyName is of an abstract socket, which belongs to the network namespace and goes
// with the process that holds it.
const onlyName = "@sluice/dsr-agent"

func (a *Agent) open() (err error) {
	if a.only, err = net.Listen("unix", onlyName); errors.Is(err, unix.EADDRINUSE) {
		return ErrOther
	} else if err != nil {
		return fmt.Errorf("DSR agent: %w", err)
	}
	if a.netlink, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("DSR agent: open netlink: %w", err)
	}
	if a.events, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_RULE); err != nil {
		return fmt.Errorf("DSR agent: subscribe to events: %w", err)
	}
	a.pins, a.unpinned = openPins()
	if err := a.adopt(); err != nil {
		return err
	}
	if err := a.forgetLeftovers(); err != nil {
		return err
	}
	if err := a.load(); err != nil {
		return err
	}
	err = errors.Join(a.putServices(), a.follow(time.Now()))
	if err != nil {
		err = errors.Join(err, a.handOver())
	}
	return errors.Join(err, a.putSettings()) // no flow waits for a new table any more
}

// forgetLeftovers removes maps that no attached program works on: they are those
// of a namespace that is gone and whose inode this one got.
func (a *Agent) forgetLeftovers() error {
	if a.pins == "" || len(a.attached) > 0 {
		return nil
	}
	if err := a.pins.remove(); err != nil {
		return err
	}
	a.pins, a.unpinned = openPins()
	return nil
}

// follow makes what is attached and believed what the node is like now. What
// cannot be attached is told by Status, and tried again.
func (a *Agent) follow(at time.Time) error {
	n, err := a.readNode()
	if err != nil {
		return fmt.Errorf("DSR agent: read the node's interfaces: %w", err)
	}
	for _, l := range n.links {
		a.names[l.Attrs().Index] = l.Attrs().Name
	}
	if err := errors.Join(a.putOwn(n.own()), a.putGateways(&n, at), a.putArrivals(&n)); err != nil {
		return err
	}
	// Last of what the programs read, and before they are attached: a set that is
	// empty believes nobody unless the settings say that it stands for anybody.
	a.followRules(&n)
	if err := a.putSettings(); err != nil {
		return err
	}
	a.strict = nil
	for _, name := range a.config.Interfaces {
		if strictFilter(name) {
			a.strict = append(a.strict, name)
		}
	}
	return a.attachAll(a.wanted(&n))
}

func (a *Agent) nameOf(ifindex int) string { return a.names[ifindex] }

// Run follows the node's interfaces, addresses and neighbours, and removes flows
// whose time is over, until ctx is done.
func (a *Agent) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, a.events.Close)()
	go a.listen()
	follow, expiry := time.NewTicker(followPeriod), time.NewTicker(expiryPeriod)
	defer follow.Stop()
	defer expiry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.changed:
			time.Sleep(gather)
			a.keepUp()
		case <-follow.C:
			a.keepUp()
		case <-expiry.C:
			left, err := a.expire()
			if err != nil {
				a.log.Warn(err.Error())
			}
			a.mu.Lock()
			a.flows = left
			a.mu.Unlock()
		}
	}
}

// listen reads events until their socket is closed. They are not looked into: they
// say that it is time to look at the node.
func (a *Agent) listen() {
	for {
		_, _, err := a.events.Receive()
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		select {
		case a.changed <- struct{}{}:
		default:
		}
	}
}

// keepUp is follow for the loop: what fails is said once, and tried again.
func (a *Agent) keepUp() {
	a.mu.Lock()
	defer a.mu.Unlock()
	problem := ""
	if err := a.follow(time.Now()); err != nil {
		problem = err.Error()
	}
	if problem != "" && problem != a.problem {
		a.log.Error("the node could not be followed", "error", problem)
	}
	a.problem = problem
	taken := a.takenOff()
	if len(taken) > 0 && !slices.Equal(taken, a.taken) {
		a.log.Error("the DSR agent's programs were taken off", "interfaces", taken)
	}
	a.taken = taken
}

// Apply puts another configuration into force. After an error the old one is. The
// table's size cannot change.
func (a *Agent) Apply(c Config) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	old := a.config
	c.MaxFlows = old.MaxFlows
	a.config = c
	if err := a.apply(); err != nil {
		a.config = old
		return errors.Join(err, a.apply())
	}
	return nil
}

// apply narrows what anybody may do before it takes entries away, and widens it
// after it has added them.
func (a *Agent) apply() error {
	if a.config.settings()&(anyGateway|anyService) == 0 {
		return errors.Join(a.putServices(), a.follow(time.Now()))
	}
	return errors.Join(a.putSettings(), a.putServices(), a.follow(time.Now()))
}

// Status is what an operator has to know.
type Status struct {
	Interfaces      []string     // where requests are learned from
	ReplyInterfaces []string     // where replies are translated
	Missing         []string     // listed, and not there
	TakenOff        []string     // interfaces whose programs another process took off
	Unresolved      []netip.Addr // trusted gateways of which no MAC is known
	StrictFilter    []string     // interfaces of requests with rp_filter 1
	SourceRules     bool         // routing rules ask for the source: replies are looked up again
	NoLookup        bool         // and the kernel refuses that for the node's own servers
	Hook            string       // tcx or clsact
	Pinned          bool         // whether flows outlive the process
	Where           string       // the directory of the pins, or why there are none
	Flows, MaxFlows int
	Problem         string // what could not be followed; "" = nothing
}

// Status returns the state as of the last look at the node.
func (a *Agent) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := Status{
		Interfaces: slices.Clone(a.config.Interfaces), ReplyInterfaces: slices.Clone(a.replies),
		Missing: slices.Clone(a.missing), TakenOff: slices.Clone(a.taken), Unresolved: slices.Clone(a.unresolved), StrictFilter: slices.Clone(a.strict),
		SourceRules: a.rules, NoLookup: a.rules && !a.forwards,
		Hook: "tcx", Pinned: a.pins != "", Where: string(a.pins), Flows: a.flows, MaxFlows: a.config.MaxFlows, Problem: a.problem,
	}
	if a.classic {
		s.Hook = "clsact"
	}
	if !s.Pinned {
		s.Where = a.unpinned
	}
	return s
}

// Close lets go of everything. What is pinned, and filters of clsact, stay and work
// on; Detach takes them away.
func (a *Agent) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var errs []error
	for _, at := range a.attached {
		if at.link != nil {
			errs = append(errs, at.link.Close())
		}
	}
	clear(a.attached)
	if a.events != nil {
		a.events.Close()
	}
	if a.netlink != nil {
		a.netlink.Close()
	}
	if a.objects.Flows != nil {
		errs = append(errs, a.objects.Close())
	}
	if a.only != nil {
		errs = append(errs, a.only.Close())
	}
	return errors.Join(errs...)
}
