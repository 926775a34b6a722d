package gateway

import (
	"testing"

	"sluice/internal/filter"
)

// TestTraceIsReadWhileWritten: a reader beside the worker sees whole records in
// their order, each once, and those it missed are counted.
func TestTraceIsReadWhileWritten(t *testing.T) {
	const packets = 3000
	r := newRig(t)
	trace := NewTrace(&filter.Filter{}, 1, packets)
	r.worker.SetLooks(NewLooks(1, []*Trace{trace}, nil))
	worked := make(chan struct{})
	seen := make(chan int)
	go func() {
		var x TraceRecord
		n, last := 0, uint16(0)
		for ended := false; ; {
			if trace.Read(0, &x) {
				if x.Packet.SrcPort <= last || x.Found.Original.SrcPort != x.Packet.SrcPort || x.Left.DstPort != 53 {
					t.Errorf("port %d after %d: %+v", x.Packet.SrcPort, last, x)
				}
				last = x.Packet.SrcPort
				n++
				continue
			}
			if ended {
				seen <- n
				return
			}
			select {
			case <-worked:
				ended = true // what was written before is still to be read
			default:
			}
		}
	}()
	sent := 0
	for i := range packets {
		if i%600 == 599 {
			r.now += 3000 // those before end: the table is small
			r.worker.Idle(r.now, 4096)
		}
		r.send(insidePort, from{src: client, dst: server, sport: uint16(2000 + i), dport: 53}.udp(t))
		sent += len(r.ports[outsidePort].sent())
	}
	close(worked)
	if n := <-seen; sent != packets || uint64(n)+trace.Lost() != packets || n < traceRing {
		t.Errorf("%d packets left, %d were read, %d lost", sent, n, trace.Lost())
	}
}
