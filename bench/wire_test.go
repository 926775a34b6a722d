package bench

import (
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"sluice/internal/lab"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/xdp"
)

func plainTester() *tester {
	e := plainInspector(0).expectation
	return newTester(nil, nil, nil, strangeMAC, net.HardwareAddr(insideMAC[:]), &e)
}

func plainInspector(n int) *inspector {
	server := address(serverAddress)
	return newInspector(expectation{to: server, port: discardPort, src: address(clientAddress), dst: server, ttl: 64}, 1<<40, n)
}

// TestInspector: a frame as it was sent passes, whatever its number; one with any
// byte changed behind the MAC addresses does not.
func TestInspector(t *testing.T) {
	w := plainTester()
	const first = 1 << 40
	var b [frameLength]byte
	i := plainInspector(5000)
	for seq := range uint64(5000) {
		w.write(b[:], first+seq)
		if i.look(b[:]); i.check.Wrong != 0 {
			t.Fatalf("frame %d: %s", seq, i.check.First)
		}
	}
	if i.check.Received != 5000 || i.check.Reordered != 0 {
		t.Errorf("%+v", i.check)
	}
	for at := 12; at < frameLength; at++ {
		i := plainInspector(1)
		w.write(b[:], first)
		b[at] ^= 0x10
		if i.look(b[:]); i.check.Wrong != 1 {
			t.Errorf("byte %d changed, and the frame passes", at)
		}
	}
}

// TestInspectorOrder: doubles, strangers, disorder.
func TestInspectorOrder(t *testing.T) {
	w := plainTester()
	i := plainInspector(10)
	look := func(seq uint64) string {
		var b [frameLength]byte
		w.write(b[:], seq)
		i.check.First = ""
		i.look(b[:])
		return i.check.First
	}
	const first = 1 << 40
	for _, seq := range []uint64{first, first + 2, first + 1} {
		if wrong := look(seq); wrong != "" {
			t.Errorf("%d: %s", seq-first, wrong)
		}
	}
	if i.check.Reordered != 1 {
		t.Errorf("%d reordered, want 1", i.check.Reordered)
	}
	for seq, want := range map[uint64]string{first + 1: "twice", first + 10: "not sent", first - 1: "not sent"} {
		if wrong := look(seq); !strings.Contains(wrong, want) {
			t.Errorf("%d: %q, want %q", int64(seq-first), wrong, want)
		}
	}
}

// TestInspectorPorts: a translated flow has one port, and no other flow has it.
func TestInspectorPorts(t *testing.T) {
	i := plainInspector(10)
	i.translated = true
	for _, c := range []struct {
		flow uint64
		port uint16
		want string
	}{{1, 5000, ""}, {2, 5001, ""}, {1, 5000, ""}, {1, 5002, "changed"}, {3, 5001, "share"}} {
		if wrong := i.wrongPort(c.flow, c.port); (wrong == "") != (c.want == "") || !strings.Contains(wrong, c.want) {
			t.Errorf("flow %d port %d: %q, want %q", c.flow, c.port, wrong, c.want)
		}
	}
	i.translated = false
	if i.wrongPort(7, firstPort+8) == "" {
		t.Error("a port that nobody may change was changed")
	}
}

// TestTraffic: the frames in memory are good, those of different flows are
// different, and the flows repeat no endpoint.
func TestTraffic(t *testing.T) {
	flows := makeFlows(0, 1<<14)
	seen := map[endpoints]bool{}
	for i := range flows {
		seen[flows[i].endpoints] = true
	}
	for _, f := range makeFlows(1<<14+portsPerHost, 1<<10) {
		seen[f.endpoints] = true
	}
	if len(seen) != 1<<14+1<<10 {
		t.Errorf("%d different flows, want %d", len(seen), 1<<14+1<<10)
	}
	var b [frameLength]byte
	for i := range flows {
		v := flows[i].arriving(0)
		writeFrame(b[:], &v, 0)
		var p packet.Packet
		if r := packet.Parse(b[:], &p); r != verdict.None || p.Src != v.src || p.DstPort != v.dport {
			t.Fatalf("flow %d: %v, %+v", i, r, p)
		}
		if packet.Fold(packet.Sum(b[l4:], uint32(packet.PseudoSum(p.Src, p.Dst, p.Proto, udpLength)))) != 0xffff {
			t.Fatalf("flow %d: wrong UDP checksum", i)
		}
	}
	top := map[endpoints]int{}
	for _, v := range newTraffic(flows, Zipf).vectors {
		top[v]++
	}
	most := 0
	for _, n := range top {
		most = max(most, n)
	}
	if most < packets/100 {
		t.Errorf("the most frequent flow of a Zipf distribution has %d of %d packets", most, packets)
	}
}

// TestGeneratorAndSink sends over lanes that need no gateway, and looks at what
// the sink says: all there and right; wrong where the expectation is.
func TestGeneratorAndSink(t *testing.T) {
	lab.RequireRoot(t)
	s, err := newSite(&Options{Binary: "/bin/false"})
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(s.dir)
	w := &wireRun{processor: newProcessor(), o: &Options{Sample: 50 * time.Millisecond}}
	defer func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	}()
	for _, peer := range []Peer{PeerKernel, PeerForwarder} {
		l, err := w.open(t.Context(), s, peer)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.first(l); err != nil {
			t.Fatal(err)
		}
		if l.check.Sent != inspected || l.check.Received != inspected || l.check.Wrong != 0 {
			t.Errorf("%s: %+v", peer, l.check)
		}
		lie := l.expect
		lie.ttl++
		c, err := l.tester.inspect(lie, 100)
		if err != nil {
			t.Fatal(err)
		}
		if c.Wrong != 100 || !strings.Contains(c.First, "TTL") {
			t.Errorf("%s: one too few hops went unnoticed: %+v", peer, c)
		}
		// Windowed, every packet that was sent arrives.
		if p := l.tester.run(w.o.Sample, window); p.sent == 0 || p.received != p.sent || p.wall < w.o.Sample || p.waited > p.wall {
			t.Errorf("%s: %+v", peer, p)
		}
		if p := l.tester.number(1000); p.sent != 1000 || p.received != p.sent {
			t.Errorf("%s: %+v, want 1000 packets", peer, p)
		}
		// Paced, it sends no more than it is told, whoever holds it up.
		const pace = 20_000
		if p := l.tester.paced(w.o.Sample, pace); p.sent == 0 || p.sent > int64(p.wall.Seconds()*pace)+burst || p.received > p.sent {
			t.Errorf("%s: %+v at %d packets/s", peer, p, pace)
		}
		lat, err := l.tester.latency(100*time.Millisecond, 0)
		if err != nil {
			t.Fatal(err)
		}
		if lat.Sent != 1000 || lat.Lost != 0 || lat.P50 <= 0 || lat.P50 > lat.P99 || lat.P99 > lat.Max {
			t.Errorf("%s: %+v", peer, lat)
		}
	}
	if _, err := w.open(t.Context(), s, PeerSluice); err == nil || !strings.Contains(err.Error(), "before it was ready") {
		t.Errorf("a gateway that does not start: %v", err)
	}
}

// TestProcessor: CPU time that this process uses is counted as ours, and no
// more than the CPUs have is counted as anybody's.
func TestProcessor(t *testing.T) {
	cpus, err := xdp.AllowedCPUs()
	if err != nil {
		t.Fatal(err)
	}
	p := newProcessor()
	before := p.of()
	start := time.Now()
	err = pinned(cpus[0], func() error {
		first, _ := schedstat(ownSchedstat)
		for ran := first; ran-first < 50e6 && time.Since(start) < 5*time.Second; ran, _ = schedstat(ownSchedstat) {
			continue
		}
		after := p.of()
		ran, others := after.since(before)
		all := int64(runtime.NumCPU()) * after.at.Sub(before.at).Nanoseconds()
		// To some ticks.
		if ran < 40e6 || ran > all+40e6 || others > all || others < -80e6 {
			t.Errorf("50 ms of work count as %d ns, others' as %d, of %d", ran, others, all)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
