package gateway

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/filter"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// traced starts a trace of n packets, and returns a function that takes what was
// recorded since its last call.
func (r *rig) traced(text string, n int) (*Trace, func() []TraceRecord) {
	r.t.Helper()
	f, err := filter.Parse(text)
	if err != nil {
		r.t.Fatal(err)
	}
	t := NewTrace(f, 1, n)
	r.trace = t
	r.look()
	return t, func() (list []TraceRecord) {
		for {
			list = append(list, TraceRecord{})
			if !t.Read(0, &list[len(list)-1]) {
				return list[:len(list)-1]
			}
		}
	}
}

// look has the worker serve the rig's trace and capture.
func (r *rig) look() {
	var traces []*Trace
	var captures []*Capture
	if r.trace != nil {
		traces = append(traces, r.trace)
	}
	if r.capture != nil {
		captures = append(captures, r.capture)
	}
	r.worker.SetLooks(NewLooks(1, traces, captures))
}

// single expects one record.
func single(t *testing.T, list []TraceRecord) *TraceRecord {
	t.Helper()
	if len(list) != 1 {
		t.Fatalf("%d records: %+v", len(list), list)
	}
	return &list[0]
}

func tuple(src uint32, sport uint16, dst uint32, dport uint16, proto uint8) conntrack.Tuple {
	return conntrack.Tuple{Src: src, SrcPort: sport, Dst: dst, DstPort: dport, Proto: proto}
}

// TestTraceMasquerade: by the inside address both directions are found, and no
// other packet; a filter is true of what the packet becomes, too.
func TestTraceMasquerade(t *testing.T) {
	for _, text := range []string{"host 10.0.0.5", "src host 10.0.0.5 and dst port 53", "src host 192.0.2.1 and dst port 53 and not host 10.0.0.6", "udp port 4000 and not host 10.0.0.6"} {
		t.Run(text, func(t *testing.T) {
			r := newRig(t)
			_, read := r.traced(text, 10)
			out := from{src: client, dst: server, sport: 4000, dport: 53}.udp(t)
			other := from{src: client2, dst: server, sport: 4001, dport: 53}.udp(t)
			r.send(insidePort, other, out, other)
			if n := len(r.ports[outsidePort].sent()); n != 3 {
				t.Fatalf("%d packets left", n)
			}
			x := single(t, read())
			left, ok := x.Leaves()
			if x.Fate != Sent || x.In != insidePort || x.Out != outsidePort || x.Outcome.Flow != nil || x.Outcome.Decision.Kind != conntrack.Masquerade ||
				!ok || left != tuple(external, 4000, server, 53, packet.ProtoUDP) || x.Left.TTL != 63 || x.State != conntrack.UDPUnreplied {
				t.Errorf("there: %+v", x)
			}
			r.send(outsidePort, from{src: server, dst: external, sport: 53, dport: 4001}.udp(t), from{src: server, dst: external, sport: 53, dport: 4000}.udp(t))
			y := single(t, read())
			left, _ = y.Leaves()
			if y.Fate != Sent || y.In != outsidePort || y.Out != insidePort || y.Outcome.Flow == nil || *y.Outcome.Flow != y.Found || y.Found.Direction != conntrack.Reply ||
				left != tuple(server, 53, client, 4000, packet.ProtoUDP) || y.Found.State != conntrack.UDPUnreplied || y.State != conntrack.UDPReplied ||
				y.ID != x.ID || y.Generation != x.Generation {
				t.Errorf("back: %+v", y)
			}
		})
	}
}

// TestTraceNot: what is not to be seen is not, whatever address it shows.
func TestTraceNot(t *testing.T) {
	r := newRig(t)
	_, read := r.traced("not host 10.0.0.5", 10)
	r.send(insidePort, from{src: client, dst: server, sport: 4000, dport: 53}.udp(t))
	r.send(outsidePort, from{src: server, dst: external, sport: 53, dport: 4000}.udp(t))
	if list := read(); len(list) != 0 {
		t.Errorf("records: %+v", list)
	}
}

func TestTraceFates(t *testing.T) {
	hidden := from{src: server, dst: external, sport: 9, dport: 4000}.udp(t)
	expired := from{src: client, dst: server, sport: 1, dport: 2, ttl: 1}.udp(t)
	short := from{src: client, dst: server, sport: 1, dport: 2}.udp(t)[:20]
	fragment := from{src: client, dst: excluded}.ipv4(packet.ProtoUDP)
	fragment.FragOffset = 100
	tests := []struct {
		name, filter string
		on           fib.PortID
		frame        []byte
		option       rigOption
		alone        bool        // otherwise a packet that the filter does not choose goes first
		want         TraceRecord // of it, what is not looked up
	}{
		{"filtered", "dropped", outsidePort, hidden, nil, false, TraceRecord{Fate: Dropped, Reason: verdict.Filtered, Out: fib.NoPort}},
		{"by reason", "reason filtered", outsidePort, hidden, nil, false, TraceRecord{Fate: Dropped, Reason: verdict.Filtered, Out: fib.NoPort}},
		{"time exceeded", "host 10.0.0.5", insidePort, expired, nil, false, TraceRecord{Fate: Dropped, Reason: verdict.TTLExpired, Error: TimeExceeded, Out: insidePort}},
		{"held", "host 192.0.2.77", insidePort, from{src: client, dst: silent, sport: 1, dport: 2}.udp(t), nil, false, TraceRecord{Fate: Held, Out: outsidePort}},
		{"malformed", "dropped", insidePort, short, nil, false, TraceRecord{Fate: Dropped, Malformed: verdict.FrameTooShort, Reason: verdict.FrameTooShort, Out: fib.NoPort}},
		{"a fragment before its first", "host 10.0.0.5", insidePort, from{src: client, dst: server}.later(t, 1, 64, true, big(64)), nil, false, TraceRecord{Fate: Waiting, Out: fib.NoPort}},
		{"a first fragment", "port 4711", insidePort, from{src: client, dst: server, sport: 4711, dport: 2, payload: big(56)}.udpPieces(t, 1, 32)[0], nil, true, TraceRecord{Fate: Sent, Out: outsidePort}},
		{"a fragment", "host 10.9.0.9", insidePort, from{}.frame(t, fragment, payload("12345678")), nil, false, TraceRecord{Fate: Sent, Out: outsidePort}},
		{"the ring is full", "dropped", insidePort, from{src: client, dst: server, sport: 5, dport: 2}.udp(t),
			nil, true, TraceRecord{Fate: Dropped, Reason: verdict.TransmitRingFull, Out: outsidePort}},
		{"in fragments", "tcp or udp", insidePort, from{src: client, dst: server, sport: 5, dport: 2, payload: string(make([]byte, 700))}.udp(t),
			func(r *rig, _ *Snapshot) { r.mtu = 576; r.interfaces(true) }, true, TraceRecord{Fate: Sent, Out: outsidePort, Fragments: 2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, func(r *rig, s *Snapshot) {
				if tt.option != nil {
					tt.option(r, s)
					s.Routes = r.builder.Build()
				}
			})
			r.send(insidePort, from{src: client, dst: server, sport: 4000, dport: 53}.udp(t))
			if tt.want.Reason == verdict.TransmitRingFull {
				r.ports[outsidePort].room = 0
			}
			_, read := r.traced(tt.filter, 10)
			if !tt.alone {
				r.send(insidePort, from{src: client2, dst: server, sport: 3, dport: 3}.udp(t))
			}
			r.send(tt.on, tt.frame)
			x := single(t, read())
			got := TraceRecord{Fate: x.Fate, Reason: x.Reason, Malformed: x.Malformed, Error: x.Error, Out: x.Out, Fragments: x.Fragments}
			if got != tt.want {
				t.Errorf("got %+v\nwant %+v", got, tt.want)
			}
			// What was foretold with words is what happened.
			if plain := x.Malformed == verdict.None && !x.Packet.Is(packet.FlagFragment) && x.Reason != verdict.TransmitRingFull; plain && x.Outcome.Reason != x.Reason {
				t.Errorf("foretold %v, was %v", x.Outcome.Reason, x.Reason)
			}
		})
	}
}

// TestTraceHairpin: the packet from inside to the external endpoint of another.
func TestTraceHairpin(t *testing.T) {
	r := newRig(t)
	r.send(insidePort, from{src: client, dst: server, sport: 4000, dport: 53}.udp(t))
	_, read := r.traced("host 10.0.0.6", 10)
	r.send(insidePort, from{src: client2, dst: external, sport: 7, dport: 4000}.udp(t))
	x := single(t, read())
	left, _ := x.Leaves()
	if left != tuple(external, left.SrcPort, client, 4000, packet.ProtoUDP) || x.Out != insidePort || x.Outcome.Decision.External != r.ext {
		t.Errorf("%+v", x)
	}
}

// TestTraceICMPError: it is of the flow that it is about.
func TestTraceICMPError(t *testing.T) {
	r := newRig(t)
	r.ports[outsidePort].sent()
	r.send(insidePort, from{src: client, dst: server, sport: 4000, dport: 53}.udp(t))
	quoted := r.one(outsidePort)
	_, read := r.traced("host 10.0.0.5 and udp port 53", 10)
	r.send(outsidePort, from{src: router, dst: external}.quote(t, 3, 3, quoted.raw, 28))
	x := single(t, read())
	if !x.HasFlow || x.Fate != Sent || x.Out != insidePort || x.Left.Dst != client || x.Found.Direction != conntrack.Reply {
		t.Errorf("%+v", x)
	}
}

// TestTraceEnds: after n packets, and where nobody reads.
func TestTraceEnds(t *testing.T) {
	r := newRig(t)
	frame := from{src: client, dst: server, sport: 4000, dport: 53}.udp(t)
	trace, read := r.traced("", 3)
	for range 5 {
		r.send(insidePort, frame)
	}
	if n := len(read()); n != 3 || trace.Lost() != 0 {
		t.Errorf("%d records, %d lost, want 3", n, trace.Lost())
	}
	trace, read = r.traced("", 1<<20)
	for range traceRing + 7 {
		r.send(insidePort, frame)
	}
	if n := len(read()); n != traceRing || trace.Lost() != 7 {
		t.Errorf("%d records, %d lost", n, trace.Lost())
	}
	r.trace = nil
	r.look()
	r.send(insidePort, frame)
	if n := len(read()); n != 0 {
		t.Errorf("%d records after the end", n)
	}
}

// TestTraceChangesNothing: whatever is traced, what leaves and what is counted is
// the same. Fragments and ICMP errors come in bursts of their own here: in one
// with others they leave first when nobody looks, and in their turn when traced.
func TestTraceChangesNothing(t *testing.T) {
	addresses := []uint32{client, client2, server, excluded, external, router, silent, gatewayInside, 0}
	rapid.Check(t, func(rt *rapid.T) {
		plain, traced := newRig(t), newRig(t)
		text := rapid.SampledFrom([]string{"", "dropped", "host 10.0.0.5", "port 1", "not icmp", "host 1.2.3.4"}).Draw(rt, "filter")
		trace, read := traced.traced(text, 1<<20)
		for range rapid.IntRange(1, 6).Draw(rt, "bursts") {
			var frames [][]byte
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
			on := fib.PortID(rapid.IntRange(0, 1).Draw(rt, "port"))
			for _, r := range []*rig{plain, traced} {
				r.send(on, frames...)
				r.now++
			}
			records := read()
			if text == "" && len(records) != len(frames) || trace.Lost() != 0 {
				rt.Fatalf("%d records of %d frames, %d lost", len(records), len(frames), trace.Lost())
			}
			for i := range plain.ports {
				if d := cmp.Diff(plain.ports[i].sent(), traced.ports[i].sent()); d != "" {
					rt.Fatalf("port %d: %s", i, d)
				}
			}
			if plain.worker.counters != traced.worker.counters {
				rt.Fatalf("counters: %s", cmp.Diff(plain.worker.counters, traced.worker.counters))
			}
		}
	})
}

// TestTraceDoesNotAllocate: neither the worker that records, nor one whose ring
// is full.
func TestTraceDoesNotAllocate(t *testing.T) {
	for _, text := range []string{"", "dropped", "host 1.2.3.4"} {
		r := newRig(t, func(r *rig, _ *Snapshot) { r.maxFlows = 1 << 14 })
		var frames [][]byte
		for i := range 500 {
			frames = append(frames, from{src: client, dst: server, sport: uint16(1024 + i), dport: 53}.udp(t))
		}
		frames = append(frames, from{src: client, dst: silent, sport: 9, dport: 9}.udp(t), from{src: client, dst: server, ttl: 1}.udp(t),
			from{src: client2, dst: external, sport: 3, dport: 1030}.udp(t))
		r.worker.memory = forgetful{r.memory}
		p := &loop{memory: r.memory, frames: frames}
		r.worker.ports[insidePort], r.worker.ports[outsidePort] = p, p
		trace, _ := r.traced(text, 1<<30)
		var record TraceRecord
		if n := testing.AllocsPerRun(30, func() {
			r.worker.Step(r.now)
			r.now++
			trace.Read(0, &record)
		}); n != 0 {
			t.Errorf("%q: %v allocations a step", text, n)
		}
		if recorded := record.Snapshot != nil; recorded != (text != "host 1.2.3.4") {
			t.Errorf("%q: recorded is %v", text, recorded)
		}
	}
}

// BenchmarkTrace is BenchmarkStep's 1k flows without a trace, with one of other
// packets, and with one of all whose ring nobody reads.
func BenchmarkTrace(b *testing.B) {
	for name, text := range map[string]string{"off": "-", "others": "host 10.0.0.6", "all": ""} {
		b.Run(name, func(b *testing.B) {
			const flows = 1 << 10
			r := newRig(b, func(r *rig, _ *Snapshot) { r.maxFlows = 2 * flows })
			r.worker.memory = forgetful{r.memory}
			p := &generator{memory: r.memory, frame: from{src: client, dst: server, sport: 1024, dport: 1, payload: "0123456789012345"}.udp(b), flows: flows}
			r.worker.ports[insidePort], r.worker.ports[outsidePort] = p, &sink{}
			for p.sequence = true; p.sent < 2*flows; {
				r.worker.Step(r.now)
			}
			p.sequence, p.random = false, rand.New(rand.NewPCG(1, 2))
			if text != "-" {
				r.traced(text, 1<<40)
			}
			b.ResetTimer()
			for range b.N / Burst {
				r.worker.Step(r.now)
			}
		})
	}
}

// TestTraceARP: a request that the gateway answers.
func TestTraceARP(t *testing.T) {
	request := slices.Concat([]byte{255, 255, 255, 255, 255, 255, 2, 7, 7, 7, 7, 7, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 7, 7, 7, 7, 7},
		fib.Addr(router).AsSlice(), make([]byte, 6), fib.Addr(pooled).AsSlice())
	r := newRig(t, withPool)
	_, read := r.traced("not dropped", 10)
	r.send(outsidePort, request)
	if x := single(t, read()); x.Fate != Answered || x.Malformed != verdict.NotIPv4 || x.Out != outsidePort {
		t.Errorf("%+v", x)
	}
}
