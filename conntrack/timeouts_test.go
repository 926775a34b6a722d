package conntrack

import (
	"testing"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// Each state has a time-out, and it is the configuration's.
func TestTimeouts(t *testing.T) {
	d := DefaultTimeouts()
	for s, want := range map[State]Tick{
		TCPSynSent: 240, TCPSynReceived: 240, TCPEstablished: 7440, TCPFinWait: 240, TCPLastAck: 240,
		TCPTimeWait: 120, TCPClose: 240, UDPUnreplied: 120, UDPReplied: 300, ICMPQuery: 60, OtherProtocol: 600,
	} {
		if got := d.limits().of(s, &Tuple{DstPort: 53}); got != want*TicksPerSecond {
			t.Errorf("%v ends after %d ticks, want %d s", s, got, want)
		}
	}
	for s := StateNone + 1; s < States; s++ {
		if d.limits().usual[s] == 0 {
			t.Errorf("%v has no time-out", s)
		}
	}
	l := d.limits()
	for _, c := range []struct {
		seen, now Tick
		want      bool
	}{
		{100, 700, false},
		{100, 701, true},
		{100, 99, false},         // another worker's clock is ahead
		{0xffffff00, 300, false}, // across the wrap
		{0xffffff00, 400, true},
	} {
		if got := l.expired(&Flow{}, ICMPQuery, c.seen, c.now); got != c.want {
			t.Errorf("seen %d, now %d: expired %v", c.seen, c.now, got)
		}
	}
}

// RFC 4787 REQ-5: UDP has time-outs by the destination port, longer ones and
// shorter ones, and no other state and port has.
func TestPortTimeouts(t *testing.T) {
	d := DefaultTimeouts()
	d.UDPPorts = []PortTimeout{{53, 53, 170}, {4000, 4010, 36000}}
	l := d.limits()
	for _, c := range []struct {
		state State
		port  uint16
		want  Tick
	}{
		{UDPReplied, 53, 170},
		{UDPUnreplied, 53, 170},
		{UDPReplied, 54, d.UDP},
		{UDPUnreplied, 54, d.UDPUnreplied},
		{UDPReplied, 3999, d.UDP},
		{UDPReplied, 4000, 36000},
		{UDPReplied, 4010, 36000},
		{UDPReplied, 4011, d.UDP},
		{UDPUnreplied, 4005, d.UDPUnreplied}, // nobody has answered yet
		{TCPEstablished, 53, d.TCPEstablished},
		{ICMPQuery, 53, d.ICMP},
		{OtherProtocol, 53, d.Other},
	} {
		f := &Flow{tuple: [2]Tuple{{SrcPort: 53, DstPort: c.port}}}
		if got := l.of(c.state, &f.tuple[Original]); got != c.want {
			t.Errorf("%v to port %d: %d ticks, want %d", c.state, c.port, got, c.want)
		}
		if l.expired(f, c.state, 1000, 1000+c.want) || !l.expired(f, c.state, 1000, 1001+c.want) {
			t.Errorf("%v to port %d does not end after %d ticks", c.state, c.port, c.want)
		}
	}
}

// A look-up, a sweep, the list and a restart agree on which flow is over.
func TestPortTimeoutEnds(t *testing.T) {
	h := newLeft(t, 64, external)
	times := DefaultTimeouts()
	times.UDPPorts = []PortTimeout{{53, 53, 170}}
	h.table.SetTimeouts(&times)
	short, long := udp(client, 4000, server, 53), udp(client, 4000, server, 54)
	for _, k := range []Tuple{short, long} {
		f, _, _, r := h.w.Create(plain(k), 1000)
		if r != verdict.None {
			t.Fatal(r)
		}
		h.w.Update(f, Reply, &packet.Packet{Proto: packet.ProtoUDP})
		f.Touch(Reply, 100, 1000)
	}
	for _, s := range snapshots(h.table) {
		if want := map[uint16]Tick{53: 170, 54: times.UDP}[s.Original.DstPort]; s.Timeout != want {
			t.Errorf("the list gives port %d %d ticks, want %d", s.Original.DstPort, s.Timeout, want)
		}
	}
	cfg := h.cfg
	cfg.Timeouts = times
	for _, c := range []struct {
		now  Tick
		want int
	}{{1170, 2}, {1171, 1}} {
		mem := h.copy()
		r, err := Adopt(mem, len(mem), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Table().AddExternal(NewExternal(external, nil)); err != nil {
			t.Fatal(err)
		}
		if report := r.Rebuild(c.now); report.Adopted != c.want {
			t.Errorf("a restart at %d adopts %d flows, want %d", c.now, report.Adopted, c.want)
		}
	}
	var l Lookup
	l.Keys[0], l.Keys[1] = short, long
	if h.w.LookupBurst(&l, 2, 1170); l.Flow[0] == nil || l.Flow[1] == nil {
		t.Error("a flow ended before its time")
	}
	if h.w.LookupBurst(&l, 2, 1171); l.Flow[0] != nil || l.Flow[1] == nil {
		t.Errorf("found %v and %v, want the second alone", l.Flow[0], l.Flow[1])
	}
	times.UDPPorts = []PortTimeout{{54, 54, 10}}
	h.table.SetTimeouts(&times) // a reload holds for flows that exist
	if n := h.w.Sweep(64, 1171); n != 1 || len(snapshots(h.table)) != 0 {
		t.Errorf("the sweep after a reload ended %d flows, and %d are left", n, len(snapshots(h.table)))
	}
}
