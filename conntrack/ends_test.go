package conntrack

import (
	"testing"

	"pgregory.net/rapid"

	"sluice/internal/packet"
)

// tcpEnd is one end of a TCP connection as RFC 9293 has it, as far as its
// numbers go: the slow model of what a segment may do.
type tcpEnd struct {
	una, next, wanted uint32 // SND.UNA, SND.NXT, RCV.NXT
	window            uint32 // that it offers, in bytes
	allowed           uint32 // the right edge that the other end offered
	scale             uint8
	reset             bool
}

// hear takes in a segment that arrives. RFC 5961 3: only a RST with the very number
// resets.
func (e *tcpEnd) hear(p *packet.Packet, scale uint8) {
	length := uint32(p.SegmentLength)
	switch {
	case p.TCPFlags&packet.TCPRst != 0:
		e.reset = e.reset || p.Seq == e.wanted
		return
	case after(p.Seq, e.wanted) || after(e.wanted, p.Seq+length):
		return // a hole before it, or old
	case after(p.Ack, e.next):
		return
	}
	e.wanted = p.Seq + length
	if after(p.Ack, e.una) {
		e.una = p.Ack
	}
	if edge := p.Ack + uint32(p.Window)<<scale; after(edge, e.allowed) {
		e.allowed = edge
	}
}

// connection is two ends with the table between them. flight are the segments
// that the table has not seen yet, by who sent them.
type connection struct {
	k      *talk
	ends   [2]tcpEnd
	flight [2][]packet.Packet
	past   [2][]packet.Packet // that came by already
}

// open draws two ends and shakes hands.
func openConnection(rt *rapid.T, t *testing.T) *connection {
	c := &connection{k: newTalk(t)}
	for d := range c.ends {
		e := &c.ends[d]
		e.next = rapid.Uint32().Draw(rt, "isn")
		e.una = e.next
		e.scale = uint8(rapid.IntRange(0, packet.MaxWindowScale).Draw(rt, "scale"))
		e.window = rapid.Uint32Range(1<<e.scale, min(1<<20, uint32(0xffff)<<e.scale)).Draw(rt, "window")
	}
	scaled := rapid.Bool().Draw(rt, "scaling")
	syn := func(d Direction, flags uint8) {
		e := &c.ends[d]
		p := packet.Packet{Proto: packet.ProtoTCP, TCPFlags: flags, Seq: e.next, SegmentLength: 1, WindowScale: packet.NoWindowScale}
		if flags&packet.TCPAck != 0 {
			p.Ack = c.ends[d^1].next
		}
		if scaled || d == Original {
			p.WindowScale = e.scale
		}
		p.Window = uint16(min(e.window, 0xffff))
		c.k.segment(d, &p)
		e.next++
	}
	syn(Original, packet.TCPSyn)
	syn(Reply, packet.TCPSyn|packet.TCPAck)
	for d := range c.ends {
		e, o := &c.ends[d], &c.ends[d^1]
		if !scaled {
			e.scale, e.window = 0, min(e.window, 0xffff)
		}
		e.una, e.wanted = e.next, o.next
		e.allowed = e.next + min(o.window, 0xffff)>>o.scale<<o.scale
	}
	c.say(Original, 0)
	c.pass(rt, Original, false)
	if s := c.k.f.State(); s != TCPEstablished {
		rt.Fatalf("after the handshake: %v", s)
	}
	return c
}

// say has an end send n bytes, if the other one allows them.
func (c *connection) say(d Direction, n uint32) {
	e := &c.ends[d]
	n = min(n, e.allowed-e.next)
	c.flight[d] = append(c.flight[d], packet.Packet{
		Proto: packet.ProtoTCP, TCPFlags: packet.TCPAck, Seq: e.next, Ack: e.wanted,
		SegmentLength: uint16(n), Window: uint16(e.window >> e.scale),
	})
	e.next += n
}

// pass lets a segment of d come by the table, some before their turn, and perhaps
// get lost behind it. One that an end sent must fit.
func (c *connection) pass(rt *rapid.T, d Direction, lost bool) {
	if len(c.flight[d]) == 0 {
		return
	}
	i := rapid.IntRange(0, min(2, len(c.flight[d])-1)).Draw(rt, "turn")
	p := c.flight[d][i]
	c.flight[d] = append(c.flight[d][:i:i], c.flight[d][i+1:]...)
	c.show(rt, d, &p, lost)
	c.past[d] = append(c.past[d], p)
}

func (c *connection) show(rt *rapid.T, d Direction, p *packet.Packet, lost bool) {
	stale := after(c.ends[d].una, p.Seq+uint32(p.SegmentLength)) // its receiver has long had it all
	if !c.k.segment(d, p) && !stale {
		rt.Fatalf("%v: a segment of an end does not fit: %+v\nends %+v\nflow %+v", d, *p, c.ends, c.k.f)
	}
	if !lost {
		c.ends[d^1].hear(p, c.ends[d].scale)
	}
}

// again sends what is not acknowledged once more, from the beginning.
func (c *connection) again(d Direction) {
	e := &c.ends[d]
	if n := e.next - e.una; n > 0 {
		c.flight[d] = append(c.flight[d], packet.Packet{
			Proto: packet.ProtoTCP, TCPFlags: packet.TCPAck, Seq: e.una, Ack: e.wanted,
			SegmentLength: uint16(min(n, 1460)), Window: uint16(e.window >> e.scale),
		})
	}
}

// forge shows the table a segment of somebody who does not see the connection,
// which the end it is for would not take either. It must change nothing.
func (c *connection) forge(rt *rapid.T) {
	d := Direction(rapid.IntRange(0, 1).Draw(rt, "as"))
	p := packet.Packet{
		Proto: packet.ProtoTCP, Seq: rapid.Uint32().Draw(rt, "seq"), Ack: rapid.Uint32().Draw(rt, "ack"),
		Window: rapid.Uint16().Draw(rt, "forged window"), SegmentLength: rapid.Uint16().Draw(rt, "length"),
		WindowScale: rapid.Uint8Range(0, packet.MaxWindowScale).Draw(rt, "forged scale"),
		TCPFlags: rapid.SampledFrom([]uint8{packet.TCPRst, packet.TCPRst | packet.TCPAck, packet.TCPFin | packet.TCPAck,
			packet.TCPSyn, packet.TCPSyn | packet.TCPAck, packet.TCPAck}).Draw(rt, "flags"),
	}
	e, o := &c.ends[d], &c.ends[d^1]
	if p.TCPFlags&packet.TCPRst != 0 && p.Seq-earlier(e.una, o.wanted) <= e.next-earlier(e.una, o.wanted) {
		return // one of the few numbers of which the true one is
	}
	if sent := c.k.f.sent[d]; p.TCPFlags&packet.TCPSyn != 0 && (p.Seq+uint32(p.SegmentLength) == sent || p.Seq+1 == sent) {
		return // the SYN that was sent, once more
	}
	// Numbers within the windows are a lucky guess, one in thousands of millions; the
	// table cannot tell those.
	const near = 1 << 21
	if p.TCPFlags&packet.TCPRst == 0 && p.Seq-e.next+near < 2*near && p.Ack-o.next+near < 2*near {
		return
	}
	f := c.k.f
	sent, acked, windows, status := f.sent, f.acked, f.windows.Load(), f.status.Load()
	if c.k.segment(d, &p) || f.sent != sent || f.acked != acked || f.windows.Load() != windows || f.status.Load() != status {
		rt.Fatalf("a forged segment left a trace: %v %+v", d, p)
	}
}

// earlier is the earlier of two sequence numbers.
func earlier(a, b uint32) uint32 {
	if after(a, b) {
		return b
	}
	return a
}

// TestTCPAgainstEnds: two ends talk, segments are lost, come late, twice or out of
// order, and somebody forges others. What the ends send always fits
// but for what is no longer wanted, what is forged never leaves a trace, and at the end the true RST is known.
func TestTCPAgainstEnds(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := openConnection(rt, t)
		for range rapid.IntRange(1, 80).Draw(rt, "steps") {
			d := Direction(rapid.IntRange(0, 1).Draw(rt, "who"))
			switch rapid.IntRange(0, 6).Draw(rt, "what") {
			case 0, 1:
				c.say(d, rapid.Uint32Range(0, 1460).Draw(rt, "bytes"))
			case 2, 3:
				c.pass(rt, d, rapid.IntRange(0, 4).Draw(rt, "lost") == 0)
			case 4:
				c.again(d)
			default:
				c.forge(rt)
			}
		}
		d := Direction(rapid.IntRange(0, 1).Draw(rt, "resetter"))
		for len(c.flight[0])+len(c.flight[1]) > 0 {
			c.pass(rt, Original, false)
			c.pass(rt, Reply, false)
		}
		if s := c.k.f.State(); s != TCPEstablished {
			rt.Fatalf("the connection lives, and its flow is %v", s)
		}
		c.k.segment(d, &packet.Packet{Proto: packet.ProtoTCP, TCPFlags: packet.TCPRst, Seq: c.ends[d].next})
		if s := c.k.f.State(); s != TCPClose {
			rt.Fatalf("after the true reset: %v", s)
		}
	})
}
