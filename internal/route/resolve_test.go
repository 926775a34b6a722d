package route

import (
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"sluice/internal/fib"
)

func TestNeighboursAreFollowed(t *testing.T) {
	r := newRig(t, time.Hour)
	state := func(dst string, want fib.NeighState) func(*fib.Snapshot) bool {
		return func(s *fib.Snapshot) bool { return hop(s, dst).State == want }
	}
	r.start()
	// Gateways are resolved unasked.
	mac, err := r.server.MAC("eth0")
	r.must(err)
	r.await("gateway resolved", func(s *fib.Snapshot) bool {
		h := hop(s, "1.1.1.1")
		return h.State == fib.Resolved && h.MAC == [6]byte(mac)
	})
	generation := r.mirror.Current().Generation()

	// Hosts on the link on demand.
	mac, err = r.client.MAC("eth0")
	r.must(err)
	if s := r.mirror.Current(); !state("10.0.0.7", fib.Unresolved)(s) {
		t.Fatalf("client known without a word: %+v", hop(s, "10.0.0.7"))
	}
	r.mirror.Resolve(lan, ip("10.0.0.7"))
	r.await("client resolved", func(s *fib.Snapshot) bool {
		h := hop(s, "10.0.0.7")
		return h.State == fib.Resolved && h.MAC == [6]byte(mac)
	})

	// One that is not there fails on the kernel's word.
	r.must(r.gateway.Sysctl("net/ipv4/neigh/lan/retrans_time_ms", "20"))
	r.mirror.Resolve(lan, ip("10.0.0.66"))
	r.await("nobody there", state("10.0.0.66", fib.Failed))

	// The kernel's events: another MAC, gone, back by hand.
	entry := netlink.Neigh{LinkIndex: r.link("lan").Attrs().Index, Family: syscall.AF_INET, State: netlink.NUD_PERMANENT, IP: net.ParseIP("10.0.0.66").To4(), HardwareAddr: net.HardwareAddr{2, 1, 1, 1, 1, 1}}
	r.must(r.nl.NeighSet(&entry))
	s := r.await("entry by hand", state("10.0.0.66", fib.Resolved))
	id, _ := s.Lookup(ip("10.0.0.66"), 0, wan, 0)
	entry.HardwareAddr = net.HardwareAddr{2, 2, 2, 2, 2, 2}
	r.must(r.nl.NeighSet(&entry))
	r.await("another MAC under the same id", func(s *fib.Snapshot) bool {
		return s.Hop(id).MAC == [6]byte{2, 2, 2, 2, 2, 2} && s.Hop(id).State == fib.Resolved
	})
	r.must(r.nl.NeighDel(&entry))
	r.await("entry deleted", func(s *fib.Snapshot) bool { return s.Hop(id).State != fib.Resolved })
	if got := r.mirror.Current().Generation(); got != generation {
		t.Errorf("neighbours changed the generation from %d to %d", generation, got)
	}
}

// A host whose address moves to another MAC without a word is found again,
// though only workers, which the kernel does not see, send to it.
func TestStaleNeighboursAreProbed(t *testing.T) {
	r := newRig(t, 50*time.Millisecond)
	for key, value := range map[string]string{"base_reachable_time_ms": "100", "delay_first_probe_time": "0", "retrans_time_ms": "20"} {
		r.must(r.gateway.Sysctl("net/ipv4/neigh/wan/"+key, value))
	}
	r.must(r.server.Sysctl("net/ipv4/conf/eth0/arp_notify", "0"))
	r.start()
	r.await("gateway resolved", func(s *fib.Snapshot) bool { return hop(s, "1.1.1.1").State == fib.Resolved })
	mac := net.HardwareAddr{2, 7, 7, 7, 7, 7}
	r.must(r.server.Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetHardwareAddr(l, mac)
	}))
	r.await("the gateway's new MAC", func(s *fib.Snapshot) bool {
		h := hop(s, "1.1.1.1")
		return h.State == fib.Resolved && h.MAC == [6]byte(mac)
	})
}

func TestRecent(t *testing.T) {
	var r recent
	now := time.Now()
	at := func(d time.Duration, i uint32) bool { return r.first(target{addr: i}, now.Add(d)) }
	for i, tt := range []struct {
		after time.Duration
		addr  uint32
		want  bool
	}{
		{0, 1, true}, {0, 1, false}, {900 * time.Millisecond, 1, false}, {950 * time.Millisecond, 2, true},
		{1100 * time.Millisecond, 1, true}, {1200 * time.Millisecond, 2, false}, {1960 * time.Millisecond, 2, true}, {2050 * time.Millisecond, 1, false},
	} {
		if got := at(tt.after, tt.addr); got != tt.want {
			t.Errorf("step %d: %d after %v: %v", i, tt.addr, tt.after, got)
		}
	}
	asked := 0
	for i := range uint32(3 * askedMost) {
		if at(10*time.Second, 1000+i) {
			asked++
		}
	}
	if asked != askedMost {
		t.Errorf("%d asked for in a moment, want %d", asked, askedMost)
	}
}
