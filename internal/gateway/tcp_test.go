package gateway

import (
	"encoding/binary"
	"testing"

	"github.com/google/gopacket/layers"

	"sluice/conntrack"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// TestPickUp: with tcp-pickup: outbound a running connection is adopted by a segment
// from inside, and by no other.
func TestPickUp(t *testing.T) {
	c := from{src: client, dst: server, sport: 40000, dport: 443}
	s := from{src: server, dst: external, sport: 443, dport: 40000}
	pickUp := func(_ *rig, s *Snapshot) { s.PickUp = true }
	for _, tt := range []struct {
		name  string
		on    fib.PortID
		frame []byte
		want  verdict.Reason
	}{
		{"data from inside", insidePort, c.tcp(t, packet.TCPAck), verdict.None},
		{"a FIN from inside", insidePort, c.tcp(t, packet.TCPFin|packet.TCPAck), verdict.None},
		{"a reset from inside", insidePort, c.tcp(t, packet.TCPRst|packet.TCPAck), verdict.TCPWithoutFlow},
		{"an answer to a SYN that never passed", insidePort, c.tcp(t, packet.TCPSyn|packet.TCPAck), verdict.TCPWithoutFlow},
		{"data from outside", outsidePort, s.tcp(t, packet.TCPAck), verdict.HostOwned},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, pickUp)
			r.send(tt.on, tt.frame)
			if tt.want != verdict.None {
				r.none(tt.want)
				return
			}
			if v := r.one(outsidePort); src(v) != "192.0.2.1" || v.tcp.SrcPort != 40000 {
				t.Fatalf("left as %v:%v", src(v), v.tcp.SrcPort)
			}
			r.send(outsidePort, s.segment(t, packet.TCPAck, 0x50000000, 0x60000000)) // forged: passes, changes nothing
			r.one(insidePort)
			if n := r.table.Count().States[conntrack.TCPSynReceived]; n != 1 {
				t.Fatalf("a segment with wrong numbers moved the flow: %+v", r.table.Count())
			}
			r.send(outsidePort, s.tcp(t, packet.TCPAck))
			r.one(insidePort)
			if n := r.table.Count(); n.States[conntrack.TCPSynReceived] != 0 || n.Flows != 1 {
				t.Errorf("not adopted: %+v", n)
			}
		})
	}
}

// TestOutOfWindow: RFC 5961. Segments with numbers that no end would send pass, and
// neither end a connection nor keep it.
func TestOutOfWindow(t *testing.T) {
	c := from{src: client, dst: server, sport: 40000, dport: 443}
	s := from{src: server, dst: external, sport: 443, dport: 40000}
	r := newRig(t)
	if !r.shake(40000) {
		t.Fatal("no connection")
	}
	limit := conntrack.DefaultTimeouts().TCPEstablished
	r.now += limit
	forged := 0
	for _, flags := range []uint8{packet.TCPRst, packet.TCPRst | packet.TCPAck, packet.TCPFin | packet.TCPAck, packet.TCPSyn, packet.TCPSyn | packet.TCPAck, packet.TCPAck} {
		for on, f := range []from{c, s} {
			r.send(fib.PortID(on), f.segment(t, flags, 0x70000000, 0x70000000))
			r.one(insidePort + outsidePort - fib.PortID(on))
			forged++
			if n := r.table.Count().States[conntrack.TCPEstablished]; n != 1 {
				t.Fatalf("flags %#x from port %d: %+v", flags, on, r.table.Count())
			}
		}
	}
	if n := r.worker.counters.OutOfWindow; n != uint64(forged) {
		t.Errorf("%d of %d counted as out of window", n, forged)
	}
	r.now++
	r.sweep()
	if n := r.table.Count().Flows; n != 0 {
		t.Error("what nobody in the connection sent kept it")
	}
}

// TestImplausibleError: an ICMP error is believed to be about a connection only if
// it quotes a number that was sent.
func TestImplausibleError(t *testing.T) {
	for _, tt := range []struct {
		seq  uint32
		want verdict.Reason
	}{
		{clientISN, verdict.None},
		{clientISN + 1, verdict.None},
		{clientISN + 2, verdict.ICMPErrorImplausible},
		{clientISN + 1<<30, verdict.ICMPErrorImplausible},
		{0xfff00000, verdict.ICMPErrorImplausible},
	} {
		r := newRig(t)
		if !r.shake(40000) {
			t.Fatal("no connection")
		}
		quoted := from{src: external, dst: server, sport: 40000, dport: 443}.segment(t, packet.TCPAck, tt.seq, serverISN+1)
		r.send(outsidePort, from{src: router, dst: external}.quote(t, packet.ICMPUnreachable, 1, quoted, 28))
		if tt.want == verdict.None {
			r.one(insidePort)
		} else {
			r.none(tt.want)
		}
	}
}

// mssOption is a TCP option with a maximum segment size.
func mssOption(size uint16) layers.TCPOption {
	return layers.TCPOption{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: binary.BigEndian.AppendUint16(nil, size)}
}

// TestClamp: mss-clamp lowers the maximum segment size of SYNs and SYN+ACKs to the
// path's, and of nothing else, and raises none. The checksums are gopacket's to judge.
func TestClamp(t *testing.T) {
	for _, tt := range []struct {
		name          string
		clamp         uint16
		mtu           uint16 // outside; 1500 inside
		offered, want uint16
	}{
		{"auto, a smaller way out", MSSAuto, 1400, 1460, 1360},
		{"auto, jumbo hosts", MSSAuto, 1500, 8960, 1460},
		{"auto, a larger way out", MSSAuto, 9000, 8960, 1460},
		{"auto, small enough", MSSAuto, 1400, 536, 536},
		{"a number", 1200, 1500, 1460, 1200},
		{"a number never raises", 1400, 1500, 1300, 1300},
		{"off", 0, 1400, 1460, 1460},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, func(r *rig, s *Snapshot) {
				r.outMTU = tt.mtu
				r.interfaces(true)
				s.Routes, s.MSS = r.builder.Build(), tt.clamp
			})
			c := from{src: client, dst: server, sport: 40000, dport: 443}
			s := from{src: server, dst: external, sport: 443, dport: 40000}
			check := func(out fib.PortID, want uint16) {
				t.Helper()
				v := r.one(out)
				if got := binary.BigEndian.Uint16(v.tcp.Options[0].OptionData); got != want {
					t.Errorf("left port %d with %d, want %d", out, got, want)
				}
			}
			r.send(insidePort, c.segment(t, packet.TCPSyn, clientISN, 0, mssOption(tt.offered)))
			check(outsidePort, tt.want)
			r.send(outsidePort, s.segment(t, packet.TCPSyn|packet.TCPAck, serverISN, clientISN+1, mssOption(tt.offered)))
			check(insidePort, tt.want)
			r.send(insidePort, c.segment(t, packet.TCPAck, clientISN+1, serverISN+1, mssOption(tt.offered)))
			check(outsidePort, tt.offered)
		})
	}
}
