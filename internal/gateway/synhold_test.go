package gateway

import (
	"testing"

	"sluice/conntrack"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// stranger is a host outside that nobody inside has called.
var stranger = ip("198.51.100.77")

// TestUnsolicitedSYN: RFC 5382 REQ-4. A SYN that no mapping waits for is not
// answered for six seconds, and then with port unreachable, once.
func TestUnsolicitedSYN(t *testing.T) {
	for _, tt := range []struct {
		name string
		dst  uint32
		pool bool
		want verdict.Reason
	}{
		{"for a port that is mapped towards another", external, false, verdict.Filtered},
		{"for an address of NAT's alone", pooled, true, verdict.NoMapping},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := synRig(t, tt.pool)
			syn := from{src: stranger, dst: tt.dst, sport: 443, dport: 40000, payload: "with data"}.tcp(t, packet.TCPSyn)
			r.send(outsidePort, syn)
			r.none(tt.want)
			for range 6 * conntrack.TicksPerSecond {
				if n := len(r.ports[outsidePort].sent()); n != 0 {
					t.Fatalf("answered %d ticks after the SYN", r.now-startTick)
				}
				if r.now == startTick+30 {
					r.send(outsidePort, syn) // again, after three seconds: the first one's time counts
				}
				r.now++
				r.step()
			}
			v := r.one(outsidePort)
			if v.packet.ICMPType != packet.ICMPUnreachable || v.packet.ICMPCode != 3 || v.packet.Dst != stranger {
				t.Fatalf("answered with %v", v.packet)
			}
			var quoted packet.Packet
			if reason := packet.ParseQuoted(v.raw[v.packet.L4+packet.ICMPLength:v.packet.End], &quoted); reason != verdict.None ||
				quoted.Dst != tt.dst || quoted.DstPort != 40000 || quoted.Seq != serverISN {
				t.Errorf("quotes %v %+v", reason, quoted)
			}
			for range 100 {
				r.now += conntrack.TicksPerSecond
				r.step()
			}
			if n := len(r.ports[outsidePort].sent()); n != 0 || r.worker.syns.n != 0 {
				t.Errorf("%d more answers, %d SYNs left", n, r.worker.syns.n)
			}
		})
	}
}

// synRig has the mapping that makes a SYN to its port be filtered, or the pool.
func synRig(t *testing.T, pool bool) *rig {
	if pool {
		return newRig(t, withPool)
	}
	r := newRig(t)
	r.send(insidePort, from{src: client, dst: server, sport: 40000, dport: 443}.tcp(t, packet.TCPSyn))
	r.one(outsidePort)
	return r
}

// TestSYNFromInsideCancels: RFC 5382 REQ-4: who opens the connection from inside
// within six seconds gets it, and no error is sent.
func TestSYNFromInsideCancels(t *testing.T) {
	for _, pool := range []bool{false, true} {
		r := synRig(t, pool)
		dst := external
		if pool {
			dst = pooled
		}
		syn := from{src: stranger, dst: dst, sport: 443, dport: 40000}.tcp(t, packet.TCPSyn)
		r.send(outsidePort, syn)
		r.now += 5 * conntrack.TicksPerSecond
		r.send(insidePort, from{src: client, dst: stranger, sport: 40000, dport: 443}.tcp(t, packet.TCPSyn))
		if v := r.one(outsidePort); v.packet.Src != dst || v.tcp.SrcPort != 40000 {
			t.Fatalf("the inside SYN left as %v:%v", src(v), v.tcp.SrcPort)
		}
		r.send(outsidePort, syn) // sent again, it now meets a flow
		r.one(insidePort)
		for range 30 {
			r.now += conntrack.TicksPerSecond
			r.step()
		}
		if n := len(r.ports[outsidePort].sent()); n != 0 {
			t.Errorf("pool %v: %d answers to a SYN whose connection is open", pool, n)
		}
	}
}

// TestSYNScanIsBounded: what a scan makes the gateway remember and answer is
// bounded, and only SYNs from outside are remembered.
func TestSYNScanIsBounded(t *testing.T) {
	r := newRig(t, withPool)
	for port := uint16(1); port < 5000; port++ {
		r.send(outsidePort, from{src: stranger, dst: pooled, sport: 443, dport: port}.tcp(t, packet.TCPSyn))
	}
	if n := r.worker.syns.n; n > synSlots || n < synSlots/2 {
		t.Errorf("%d SYNs remembered", n)
	}
	r.now += 6 * conntrack.TicksPerSecond
	r.step()
	if n := len(r.ports[outsidePort].sent()); n != errorsPeerBurst {
		t.Errorf("%d answers to one host at once, want %d", n, errorsPeerBurst)
	}
	if r.worker.syns.n != 0 {
		t.Errorf("%d SYNs left", r.worker.syns.n)
	}
	for _, flags := range []uint8{packet.TCPAck, packet.TCPSyn | packet.TCPAck, packet.TCPRst} {
		r.send(outsidePort, from{src: stranger, dst: pooled, sport: 443, dport: 9}.tcp(t, flags))
	}
	r.send(insidePort, from{src: client, dst: pooled, sport: 443, dport: 9}.tcp(t, packet.TCPSyn))
	if r.worker.syns.n != 0 {
		t.Errorf("%d packets remembered that are no SYNs from outside", r.worker.syns.n)
	}
}
