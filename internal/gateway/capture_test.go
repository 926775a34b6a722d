package gateway

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/filter"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// frameSeen is a record with its bytes.
type frameSeen struct {
	Captured
	bytes []byte
}

// capturing starts a capture, and returns a function that takes what was recorded
// since its last call.
func (r *rig) capturing(text string, c CaptureConfig, points ...Point) (*Capture, func() []frameSeen) {
	r.t.Helper()
	f, err := filter.Parse(text)
	if err != nil {
		r.t.Fatal(err)
	}
	c.Filter, c.Workers = f, 1
	clock := int64(0)
	c.Clock = func() int64 { clock++; return clock }
	for _, p := range points {
		c.Points[p] = true
	}
	t := NewCapture(c)
	r.capture = t
	r.look()
	return t, func() (list []frameSeen) {
		for {
			var s frameSeen
			var ok bool
			if s.bytes, ok = t.Read(0, &s.Captured, nil); !ok {
				return list
			}
			list = append(list, s)
		}
	}
}

var allPoints = []Point{PointRX, PointTX, PointDrop, PointPunt}

// TestCaptureMasquerade: byte for byte what arrived and what left, of both
// directions of a connection, and of no other.
func TestCaptureMasquerade(t *testing.T) {
	r := newRig(t)
	_, read := r.capturing("host 10.0.0.5", CaptureConfig{}, allPoints...)
	out := from{src: client, dst: server, sport: 4000, dport: 53}.udp(t)
	r.send(insidePort, from{src: client2, dst: server, sport: 4001, dport: 53}.udp(t), out)
	left := r.ports[outsidePort].sent()
	back := from{src: server, dst: external, sport: 53, dport: 4000}.udp(t)
	r.send(outsidePort, from{src: server, dst: external, sport: 53, dport: 4001}.udp(t), back)
	list := read()
	if len(list) != 4 || len(left) != 2 {
		t.Fatalf("%d frames: %+v", len(list), list)
	}
	want := []struct {
		point  Point
		port   fib.PortID
		bytes  []byte
		before conntrack.Tuple
		state  conntrack.State
	}{
		{PointRX, insidePort, out, tuple(client, 4000, server, 53, packet.ProtoUDP), conntrack.UDPUnreplied},
		{PointTX, outsidePort, left[1], tuple(client, 4000, server, 53, packet.ProtoUDP), conntrack.UDPUnreplied},
		{PointRX, outsidePort, back, tuple(server, 53, external, 4000, packet.ProtoUDP), conntrack.UDPReplied},
		{PointTX, insidePort, r.ports[insidePort].sent()[1], tuple(server, 53, external, 4000, packet.ProtoUDP), conntrack.UDPReplied},
	}
	for i, w := range want {
		x := list[i]
		if x.Point != w.point || x.Port != w.port || !bytes.Equal(x.bytes, w.bytes) || x.Before != w.before || !x.IPv4 || !x.Left || x.Fate != Sent ||
			!x.HasFlow || x.Flow.State != w.state || x.Flow.Kind != conntrack.Masquerade || x.ID == 0 || x.ID != list[0].ID || x.Queue != -1 {
			t.Errorf("frame %d: %+v", i, x)
		}
		if i%2 == 1 && (x.Packet != list[i-1].Packet || x.At <= list[i-1].At) {
			t.Errorf("frame %d: packet %d at %d after packet %d at %d", i, x.Packet, x.At, list[i-1].Packet, list[i-1].At)
		}
	}
	if list[0].Packet == list[2].Packet || list[1].After != tuple(external, 4000, server, 53, packet.ProtoUDP) {
		t.Errorf("%+v", list)
	}
}

// TestCapturePoints: what each point shows of what was dropped, sent in fragments,
// and answered with an error.
func TestCapturePoints(t *testing.T) {
	hidden := from{src: server, dst: external, sport: 9, dport: 4000}.udp(t)
	expired := from{src: client, dst: server, sport: 1, dport: 2, ttl: 1}.udp(t)
	short := from{src: client, dst: server, sport: 1, dport: 2}.udp(t)[:20]
	long := from{src: client, dst: server, sport: 5, dport: 2, payload: string(make([]byte, 700))}.udp(t)
	for _, tt := range []struct {
		name  string
		on    fib.PortID
		frame []byte
		want  []Point
		check func(Captured) bool
	}{
		{"dropped", outsidePort, hidden, []Point{PointRX, PointDrop}, func(c Captured) bool { return c.Reason == verdict.Filtered && !c.Left }},
		{"malformed", insidePort, short, []Point{PointRX, PointDrop}, func(c Captured) bool { return c.Reason == verdict.FrameTooShort && !c.IPv4 }},
		{"an error to the sender", insidePort, expired, []Point{PointRX, PointDrop, PointTX}, func(c Captured) bool { return c.Error == TimeExceeded && !c.Left }},
		{"in fragments", insidePort, long, []Point{PointRX, PointTX, PointTX}, func(c Captured) bool { return c.Fragments == 2 && c.Left }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, func(r *rig, s *Snapshot) { r.mtu = 576; r.interfaces(true); s.Routes = r.builder.Build() })
			r.send(insidePort, from{src: client, dst: server, sport: 4000, dport: 53}.udp(t))
			for _, p := range allPoints {
				_, read := r.capturing("", CaptureConfig{}, p)
				r.send(tt.on, tt.frame)
				n := 0
				for _, w := range tt.want {
					if w == p {
						n++
					}
				}
				if list := read(); len(list) != n {
					t.Errorf("%s: %d frames, want %d", p, len(list), n)
				}
				r.now += 20 // errors are limited
			}
			_, read := r.capturing("", CaptureConfig{}, allPoints...)
			r.send(tt.on, tt.frame)
			list := read()
			if len(list) != len(tt.want) {
				t.Fatalf("%d frames: %+v", len(list), list)
			}
			for i, x := range list {
				if x.Point != tt.want[i] || x.Packet != list[0].Packet || !tt.check(x.Captured) {
					t.Errorf("frame %d: %+v", i, x.Captured)
				}
				if x.Point != PointTX && !bytes.Equal(x.bytes, tt.frame) {
					t.Errorf("frame %d: %x arrived, %x captured", i, tt.frame, x.bytes)
				}
			}
		})
	}
}

// TestCaptureAfterWaiting: a frame that waited for its neighbour is seen when it
// leaves.
func TestCaptureAfterWaiting(t *testing.T) {
	r := newRig(t)
	_, read := r.capturing("host 10.0.0.5", CaptureConfig{}, PointRX, PointTX)
	r.send(insidePort, from{src: client, dst: silent, sport: 1, dport: 2}.udp(t))
	if list := read(); len(list) != 1 || list[0].Fate != Held || list[0].Point != PointRX {
		t.Fatalf("%+v", list)
	}
	r.builder.SetNeighbour(fib.Neighbour{Port: outsidePort, Addr: silent, State: fib.Resolved, MAC: routerMAC})
	r.publish(func(s *Snapshot) { s.Routes = r.builder.Build() })
	r.step()
	list := read()
	left := r.ports[outsidePort].sent()
	if len(list) != 1 || len(left) != 1 || list[0].Point != PointTX || list[0].In != fib.NoPort || !bytes.Equal(list[0].bytes, left[0]) ||
		!list[0].HasFlow || list[0].Flow.Direction != conntrack.Original || list[0].Flow.Original.Src != client {
		t.Errorf("%d left, captured %+v", len(left), list)
	}
}

// TestCaptureBounds: count, snaplen, sampling, and rings that nobody reads.
func TestCaptureBounds(t *testing.T) {
	r := newRig(t)
	frame := from{src: client, dst: server, sport: 4000, dport: 53, payload: string(big(1000))}.udp(t)
	capture, read := r.capturing("", CaptureConfig{Count: 3, Snaplen: 60}, PointRX, PointTX)
	for i := range 5 {
		if capture.Done() != (i >= 3) {
			t.Errorf("done after %d packets: %v", i, capture.Done())
		}
		r.send(insidePort, frame)
	}
	list := read()
	if len(list) != 6 {
		t.Errorf("%d frames of 3 packets", len(list))
	}
	for _, x := range list {
		if len(x.bytes) != 60 || int(x.Length) != len(frame) || x.Point == PointRX && !bytes.Equal(x.bytes, frame[:60]) {
			t.Errorf("%d bytes of %d", len(x.bytes), x.Length)
		}
	}
	for snaplen, limit := range map[int]int{64: captureRecords, 0: captureBytes / len(frame)} {
		capture, read = r.capturing("", CaptureConfig{Snaplen: snaplen}, PointRX)
		const sent = captureRecords + 100
		for range sent {
			r.send(insidePort, frame)
			r.ports[outsidePort].sent()
		}
		if n, lost := len(read()), capture.Lost(insidePort, PointRX); n != limit || int(lost) != sent-limit || capture.Lost(outsidePort, PointRX) != 0 {
			t.Errorf("snaplen %d: %d frames, %d lost, want %d", snaplen, n, lost, limit)
		}
		r.send(insidePort, frame) // there is room again
		if list := read(); len(list) != 1 || snaplen == 0 && !bytes.Equal(list[0].bytes, frame) {
			t.Errorf("snaplen %d, after reading: %+v", snaplen, list)
		}
	}
	_, read = r.capturing("", CaptureConfig{Sample: 10, Snaplen: 64}, PointRX)
	for range 4000 {
		r.send(insidePort, frame)
		r.ports[outsidePort].sent()
	}
	if n := len(read()); n < 300 || n > 500 {
		t.Errorf("%d of 4000 packets, one in 10 was asked for", n)
	}
	r.capture = nil
	r.look()
	r.send(insidePort, frame)
	if n := len(read()); n != 0 {
		t.Errorf("%d frames after the end", n)
	}
}

// TestCaptureChangesNothing: whatever is captured, beside a trace or alone, what
// leaves and what is counted is the same. See TestTraceChangesNothing.
func TestCaptureChangesNothing(t *testing.T) {
	addresses := []uint32{client, client2, server, excluded, external, router, silent, gatewayInside, 0}
	rapid.Check(t, func(rt *rapid.T) {
		plain, looked := newRig(t), newRig(t)
		text := rapid.SampledFrom([]string{"", "dropped", "host 10.0.0.5", "port 1", "not icmp"}).Draw(rt, "filter")
		_, read := looked.capturing(text, CaptureConfig{}, allPoints...)
		readTrace := func() []TraceRecord { return nil }
		if rapid.Bool().Draw(rt, "traced") {
			_, readTrace = looked.traced("", 1<<20)
		}
		for range rapid.IntRange(1, 6).Draw(rt, "bursts") {
			frames := anyFrames(rt, t, addresses)
			on := fib.PortID(rapid.IntRange(0, 1).Draw(rt, "port"))
			for _, r := range []*rig{plain, looked} {
				r.send(on, frames...)
				r.now++
			}
			sent := 0
			for i := range plain.ports {
				left := plain.ports[i].sent()
				if d := cmp.Diff(left, looked.ports[i].sent()); d != "" {
					rt.Fatalf("port %d: %s", i, d)
				}
				sent += len(left)
			}
			if plain.worker.counters != looked.worker.counters {
				rt.Fatalf("counters: %s", cmp.Diff(plain.worker.counters, looked.worker.counters))
			}
			holdCaptured(rt, text, read(), frames, sent)
			readTrace()
		}
	})
}

// anyFrames is a burst: of ICMP errors and fragments alone, or of neither.
func anyFrames(rt *rapid.T, t *testing.T, addresses []uint32) (frames [][]byte) {
	special := rapid.Bool().Draw(rt, "special")
	for range rapid.IntRange(1, 8).Draw(rt, "frames") {
		var p packet.Packet
		frame := anyFrame(rt, t, from{
			src: rapid.SampledFrom(addresses).Draw(rt, "src"), dst: rapid.SampledFrom(addresses).Draw(rt, "dst"),
			sport: uint16(rapid.IntRange(0, 3).Draw(rt, "sport")), dport: uint16(rapid.IntRange(0, 3).Draw(rt, "dport")),
			ttl: uint8(rapid.IntRange(1, 3).Draw(rt, "ttl")),
		})
		packet.Parse(frame, &p)
		if p.Is(packet.FlagFragment|packet.FlagICMPError) == special {
			frames = append(frames, frame)
		}
	}
	return frames
}

// holdCaptured: without a filter every frame that arrived and every one that left
// is captured, those that arrived in order and byte for byte.
func holdCaptured(rt *rapid.T, text string, list []frameSeen, frames [][]byte, sent int) {
	n, left := 0, 0
	for _, x := range list {
		switch {
		case x.Point == PointTX:
			left++
		case x.Point != PointRX:
		case text == "" && !bytes.Equal(x.bytes, frames[n]):
			rt.Fatalf("frame %d: %x, captured %x", n, frames[n], x.bytes)
		default:
			n++
		}
	}
	if text == "" && (n != len(frames) || left != sent) {
		rt.Fatalf("%d frames arrived, %d left; captured %d and %d", len(frames), sent, n, left)
	}
}

// TestCaptureDoesNotAllocate: neither the worker that captures, nor one whose ring
// is full.
func TestCaptureDoesNotAllocate(t *testing.T) {
	for _, text := range []string{"", "dropped", "host 1.2.3.4"} {
		r := newRig(t, func(r *rig, _ *Snapshot) { r.maxFlows = 1 << 14 })
		var frames [][]byte
		for i := range 500 {
			frames = append(frames, from{src: client, dst: server, sport: uint16(1024 + i), dport: 53}.udp(t))
		}
		frames = append(frames, from{src: client, dst: server, ttl: 1}.udp(t), from{src: client2, dst: external, sport: 3, dport: 1030}.udp(t))
		r.worker.memory = forgetful{r.memory}
		p := &loop{memory: r.memory, frames: frames}
		r.worker.ports[insidePort], r.worker.ports[outsidePort] = p, p
		capture, read := r.capturing(text, CaptureConfig{}, allPoints...)
		if n := testing.AllocsPerRun(100, func() {
			r.worker.Step(r.now)
			r.now++
		}); n != 0 {
			t.Errorf("%q: %v allocations a step", text, n)
		}
		if lost := capture.Lost(insidePort, PointRX); text == "" && lost == 0 || (len(read()) > 0) != (text != "host 1.2.3.4") {
			t.Errorf("%q: %d lost", text, lost)
		}
	}
}

// TestCaptureIsReadWhileWritten: a reader beside the worker sees whole frames in
// their order, each once, and those it missed are counted.
func TestCaptureIsReadWhileWritten(t *testing.T) {
	const packets = 20000
	r := newRig(t)
	capture, read := r.capturing("", CaptureConfig{Count: packets}, PointRX)
	frame := from{src: client, dst: server, sport: 4000, dport: 53, payload: string(big(600))}.udp(t)
	seen := make(chan int)
	go func() {
		n, last := 0, uint64(0)
		for done := false; ; {
			list := read()
			for _, x := range list {
				if x.Packet <= last || !bytes.Equal(x.bytes, frame) {
					t.Errorf("packet %d after %d: %x", x.Packet, last, x.bytes)
				}
				last = x.Packet
			}
			if n += len(list); done {
				seen <- n
				return
			}
			done = capture.Done()
		}
	}()
	for range packets {
		r.send(insidePort, frame)
		r.ports[outsidePort].sent()
	}
	if n, lost := <-seen, int(capture.Lost(insidePort, PointRX)); n+lost != packets || n == 0 {
		t.Errorf("%d were read, %d lost of %d", n, lost, packets)
	}
}

// BenchmarkCapture is BenchmarkTrace of a capture: off, of other packets, of one in
// a hundred, and of all into a ring that nobody reads.
func BenchmarkCapture(b *testing.B) {
	for _, tt := range []struct {
		name, filter string
		config       CaptureConfig
	}{{"off", "-", CaptureConfig{}}, {"others", "host 10.0.0.6", CaptureConfig{}}, {"sampled", "", CaptureConfig{Sample: 100}}, {"all", "", CaptureConfig{}}} {
		b.Run(tt.name, func(b *testing.B) {
			const flows = 1 << 10
			r := newRig(b, func(r *rig, _ *Snapshot) { r.maxFlows = 2 * flows })
			r.worker.memory = forgetful{r.memory}
			p := &generator{memory: r.memory, frame: from{src: client, dst: server, sport: 1024, dport: 1, payload: "0123456789012345"}.udp(b), flows: flows}
			r.worker.ports[insidePort], r.worker.ports[outsidePort] = p, &sink{}
			for p.sequence = true; p.sent < 2*flows; {
				r.worker.Step(r.now)
			}
			p.sequence, p.random = false, rand.New(rand.NewPCG(1, 2))
			if tt.filter != "-" {
				r.capturing(tt.filter, tt.config, PointRX, PointTX)
			}
			b.ResetTimer()
			for range b.N / Burst {
				r.worker.Step(r.now)
			}
		})
	}
}
