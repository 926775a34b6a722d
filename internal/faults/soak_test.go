package faults

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"sluice/internal/lab"
)

// The soak's length and its seed, for `make soak` and to repeat a run.
const (
	soakEnv = "SLUICE_SOAK"      // a duration; short where unset
	seedEnv = "SLUICE_SOAK_SEED" // a number; random where unset

	shortSoak = 4 * time.Second  // and the last life, of 20 s
	soakFlows = 2048             // what the tables hold
	rough     = 3 * time.Second  // of faults, before the gateway is killed or stopped
	drained   = 30 * time.Second // until the table is empty: an idle gateway takes 10 s to look at every record
)

// soak is a gateway that lives on, killed and started again, while flows fill its
// tables and things break at random.
type soak struct {
	*world
	random    *rand.Rand
	state     string // the state file
	one, two  []net.IP
	reloads   int
	restarts  int
	flows     int64 // begun
	faultsRun map[string]int
}

// TestSoak breaks things at random under traffic that fills the tables, with a
// kill or a stop every few seconds, and holds the gateway to its accounts when all
// is quiet: every packet, every frame, every record, and what the process takes of
// the machine.
func TestSoak(t *testing.T) {
	length, seed := shortSoak, rand.Uint64()
	for env, set := range map[string]func(string) error{
		soakEnv: func(v string) (err error) { length, err = time.ParseDuration(v); return err },
		seedEnv: func(v string) (err error) { seed, err = strconv.ParseUint(v, 10, 64); return err },
	} {
		if v := os.Getenv(env); v != "" {
			if err := set(v); err != nil {
				t.Fatalf("%s: %v", env, err)
			}
		}
	}
	s := newSoak(t, seed)
	t.Logf("%v; to repeat it: %s=%d", length, seedEnv, seed)
	for began := time.Now(); time.Since(began) < length; {
		s.roughLife()
	}
	s.lastLife()
	t.Logf("%d flows begun, %d restarts; faults: %v", s.flows, s.restarts, s.faultsRun)
}

func newSoak(t *testing.T, seed uint64) *soak {
	t.Helper()
	r := newRig(t)
	r.echoTCP(r.top.Server2)
	scratch, err := lab.Scratch()
	r.must(err)
	s := &soak{world: &world{rig: r}, random: rand.New(rand.NewPCG(seed, 0)), state: filepath.Join(scratch, "flows"), faultsRun: map[string]int{}}
	s.one, s.two = r.addCrowd()
	return s
}

// config has small tables, and timeouts that let a table be filled and emptied.
func (s *soak) config(more string) string {
	return fmt.Sprintf(`interfaces:
  - {name: %s, role: inside}
  - {name: %s, role: outside}
masquerade:
  sources: [%s]
  native-routing-cidrs: [%s]
%sstate-file: %s
conntrack:
  max-flows: %d
  timeouts: {tcp-established: 3s, tcp-transitory: 2s, tcp-syn: 2s, tcp-close: 1s, tcp-time-wait: 1s, udp: 2s, udp-unreplied: 1s, icmp: 1s, other: 1s}
`, lab.InsideNIC, lab.OutsideNIC, lab.InsideNetwork, lab.ExcludedNetwork, more, s.state, soakFlows)
}

// birth starts the gateway, which walks its tables when it has adopted them, and
// again when it is told to stop.
func (s *soak) birth(args ...string) {
	s.Helper()
	s.g = s.start(s.config(""), append(args, "--verify-flows")...)
}

// churn starts traffic of everybody.
func (s *soak) churn(k kind, n int, pause time.Duration) *churn {
	c := &churn{}
	servers := []net.IP{net.ParseIP(lab.Server1Address), net.ParseIP(farAddress)}
	c.start(s.rig, n, s.top.Client1, k, s.one, servers, pause, s.random.Uint64())
	c.start(s.rig, n, s.top.Client2, k, s.two, servers, pause, s.random.Uint64())
	return c
}

// mix is churn of every kind, inwards too.
func (s *soak) mix() *churn {
	c := s.churn(mixed, 8, time.Millisecond)
	c.start(s.rig, 2, s.top.Client1, mixed, s.one, []net.IP{net.ParseIP(lab.ExcludedAddress)}, time.Millisecond, s.random.Uint64())
	c.start(s.rig, 2, s.top.Excluded, mixed, []net.IP{net.ParseIP(lab.ExcludedAddress)}, append(s.one, s.two...), time.Millisecond, s.random.Uint64())
	return c
}

// roughLife ends in the middle of everything.
func (s *soak) roughLife() {
	s.Helper()
	s.birth()
	c := s.mix()
	defer func() { s.flows += c.end() }()
	s.breakThings(rough)
	s.restarts++
	if s.random.IntN(3) == 0 {
		s.g.stop()
		return
	}
	s.g.signal(syscall.SIGKILL)
	<-s.g.done
}

// lastLife ends in order, with every account checked.
func (s *soak) lastLife() {
	s.Helper()
	s.birth("--detach-on-exit")
	c := s.mix()
	s.breakThings(rough)
	s.flows += c.end()
	s.mend()
	first := s.g.settle()
	s.balance(first, first)
	s.g.healthy()

	// Once more, to see what grows.
	c = s.mix()
	s.breakThings(rough)
	s.flows += c.end()
	s.mend()
	second := s.g.settle()
	s.balance(second, first)
	s.flat(second.process, first.process)

	// To capacity, with datagrams alone, and nothing breaking.
	full := s.g.drops("flow-table-full")
	c = s.churn(answered, 8, 0)
	s.g.dropped("flow-table-full", full)
	s.flows += c.end()
	third := s.g.settle()
	s.balance(third, second)
	s.delivered(third, second)

	s.empty()
	s.g.healthy()
	s.noLeak()
	s.end(s.g)
}

// empty waits until the last flow has gone, and everything with it.
func (s *soak) empty() {
	s.Helper()
	for deadline := time.Now().Add(drained); ; time.Sleep(100 * time.Millisecond) {
		st := s.g.status()
		held := 0
		for _, a := range st.Masquerade.Addresses {
			held += a.InUse.TCP + a.InUse.UDP + a.InUse.ICMP
		}
		if st.Flows.Used+st.Mappings.Used+st.Sources.Used+held == 0 {
			return
		}
		if time.Now().After(deadline) {
			s.Fatalf("left after %v: %d flows, %d mappings, %d sources, %d ports", drained, st.Flows.Used, st.Mappings.Used, st.Sources.Used, held)
		}
	}
}

// breakThings does one thing after another.
func (s *soak) breakThings(span time.Duration) {
	s.Helper()
	faults := []struct {
		name string
		do   func()
	}{
		{"good reload", s.reloadGood}, {"bad reload", s.reloadBad}, {"link", s.flap}, {"carrier", s.flapCarrier},
		{"second address", s.secondAddress}, {"address", s.loseAddress}, {"neighbours", s.forgetNeighbours}, {"stop", s.pauseProcess},
	}
	for began := time.Now(); time.Since(began) < span; {
		f := faults[s.random.IntN(len(faults))]
		f.do()
		s.faultsRun[f.name]++
		s.wait(200 * time.Millisecond)
	}
}

// wait gives what was done a moment, of random length, to do its worst.
func (s *soak) wait(longest time.Duration) {
	time.Sleep(time.Duration(s.random.Int64N(int64(longest))))
}

// mend leaves the configuration in force and the machine as they were.
func (s *soak) mend() {
	s.Helper()
	s.reload(s.config(""))
	s.g.healthy()
}

func (s *soak) reloadGood() {
	s.reloads++
	s.reload(s.config(fmt.Sprintf("  no-nat-sources: [10.20.30.%d/32]\n", 240+s.reloads%10)))
}

func (s *soak) reloadBad() {
	s.write(s.g.config, s.config("")+"masquerade-everything: true\n")
	if exit, text := s.g.sluice("reload"); exit != 1 {
		s.Errorf("a bad file was taken: exit status %d:\n%s", exit, text)
	}
}

func (s *soak) nic() string { return []string{lab.InsideNIC, lab.OutsideNIC}[s.random.IntN(2)] }

func (s *soak) flap() {
	nic := s.nic()
	routes := s.routesOf(nic)
	s.must(s.top.Gateway.SetDown(nic))
	s.wait(100 * time.Millisecond)
	s.must(s.top.Gateway.SetUp(nic))
	s.restore(routes)
}

func (s *soak) flapCarrier() {
	sw := s.switchOf(s.nic())
	s.must(sw.SetDown(toGateway))
	s.wait(100 * time.Millisecond)
	s.must(sw.SetUp(toGateway))
}

func (s *soak) secondAddress() {
	a := s.address(secondAddress + "/24")
	s.must(s.netlink().AddrAdd(s.link(lab.OutsideNIC), a))
	s.wait(100 * time.Millisecond)
	s.must(s.netlink().AddrDel(s.link(lab.OutsideNIC), a))
}

// loseAddress takes the external address away: its flows end.
func (s *soak) loseAddress() {
	outside, a := s.link(lab.OutsideNIC), s.address(lab.GatewayOutside+"/24")
	routes := s.routesOf(lab.OutsideNIC)
	s.must(s.netlink().AddrDel(outside, a))
	s.wait(100 * time.Millisecond)
	s.must(s.netlink().AddrAdd(outside, a))
	s.restore(routes)
}

// forgetNeighbours has the gateway's kernel ask for all of them again.
func (s *soak) forgetNeighbours() {
	list, err := s.netlink().NeighList(s.link(s.nic()).Attrs().Index, syscall.AF_INET)
	s.must(err)
	for i := range list {
		_ = s.netlink().NeighDel(&list[i]) // it may have gone by itself
	}
}

func (s *soak) pauseProcess() {
	s.g.signal(syscall.SIGSTOP)
	s.wait(300 * time.Millisecond)
	s.g.signal(syscall.SIGCONT)
}
