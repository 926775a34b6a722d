package bench

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"time"

	"sluice/dsr"
	"sluice/internal/packet"
	"sluice/internal/verdict"
	"sluice/xdp"
)

const (
	wireFlows = 1024

	// window is how many packets are under way where none is to be lost: no more
	// than a veth's own ring holds (drivers/net/veth.c, VETH_RING_SIZE 256), with
	// a burst to spare. The kernel empties it in softirq, and when that is put off
	// to ksoftirqd, whatever does not fit is dropped.
	window = 256 - burst

	firstPort = 20_000
	magic     = 0x736c7563 // "sluc": the first word of the payload; then eight bytes of sequence number
	payloadAt = l4 + packet.UDPLength
)

// tester sends at one end of a lane and looks at what comes out of the other.
// One thread does both, so that a stream can be paced and timed by one clock.
type tester struct {
	from, to *endpoint
	sink     *program // counts where packets are to arrive

	common [frameLength]byte

	descs []xdp.Desc
	next  uint64 // sequence number
}

// newTester makes one that sends from its own MAC address to the gateway's, to
// where e says.
func newTester(from, to *endpoint, sink *program, own [6]byte, gateway net.HardwareAddr, e *expectation) *tester {
	t := &tester{from: from, to: to, sink: sink, descs: make([]xdp.Desc, burst)}
	v := endpoints{src: address(clientAddress), dst: e.to, sport: 0, dport: e.port}
	writeFrame(t.common[:], &v, 0)
	copy(t.common[0:6], gateway)
	copy(t.common[6:12], own[:])
	binary.BigEndian.PutUint32(t.common[payloadAt:], magic)
	clear(t.common[payloadAt+4:])
	// As in the traffic in memory, the field holds what all frames share.
	u := t.common[l4:]
	binary.BigEndian.PutUint16(u[6:], 0)
	binary.BigEndian.PutUint16(u[6:], packet.Fold(packet.Sum(u, uint32(packet.PseudoSum(v.src, v.dst, packet.ProtoUDP, udpLength)))))
	return t
}

// write makes the frame of a sequence number: the flows take turns.
func (t *tester) write(b []byte, seq uint64) {
	b = b[:frameLength]
	copy(b, t.common[:])
	port := firstPort + uint16(seq%wireFlows)
	binary.BigEndian.PutUint16(b[l4:], port)
	binary.BigEndian.PutUint64(b[payloadAt+4:], seq)
	sum := uint32(binary.BigEndian.Uint16(b[l4+6:])) + uint32(port) + uint32(seq>>48) + uint32(seq>>32)&0xffff + uint32(seq>>16)&0xffff + uint32(seq)&0xffff
	c := ^packet.Fold(sum)
	if c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(b[l4+6:], c)
}

// send sends up to n frames, at most a burst, and returns how many the kernel
// took.
func (t *tester) send(n int) int {
	port := t.from.ports[0]
	wasted := port.Wasted()
	d := t.descs[:t.from.umem.Allocate(t.descs[:n])]
	for i := range d {
		d[i].Len = frameLength
		t.write(t.from.umem.Frame(d[i])[:frameLength], t.next+uint64(i))
	}
	sent := port.Transmit(d)
	t.from.umem.Free(d[sent:])
	port.Flush()
	t.next += uint64(sent)
	return sent - int(port.Wasted()-wasted)
}

// passage is what became of a stretch of traffic.
type passage struct {
	sent, received int64
	wall           time.Duration // until the last packet came
	waited         time.Duration // that the generator spent on waiting, of its CPU time
}

// stalled is how long nothing has to come before what is under way counts as
// lost. It is long, since on a busy machine everybody stands still at times.
const stalled = 200 * time.Millisecond

// run sends for a while, with at most so many packets under way; 0 is as many
// as can be sent.
func (t *tester) run(span time.Duration, most int64) passage {
	var p passage
	base := t.sink.count()
	start := time.Now()
	lost := int64(0)
	for time.Since(start) < span {
		if most > 0 {
			missing, _ := t.await(&p, base, p.sent-lost-most+burst)
			lost += missing
		}
		p.sent += int64(t.send(burst))
	}
	_, vain := t.await(&p, base, p.sent)
	p.received = int64(t.sink.count() - base)
	p.wall = time.Since(start) - vain
	return p
}

// await waits until so many packets have come since base, and counts the time.
// It gives up when nothing comes, and returns how many did not, and for how long
// it waited in vain.
func (t *tester) await(p *passage, base uint64, want int64) (missing int64, vain time.Duration) {
	came := int64(t.sink.count() - base)
	if came >= want {
		return 0, 0
	}
	start := time.Now()
	last, since := came, start
	for came < want {
		now := time.Now()
		if came != last {
			last, since = came, now
		} else if vain = now.Sub(since); vain > stalled {
			break
		}
		came = int64(t.sink.count() - base)
	}
	p.waited += time.Since(start)
	if came >= want {
		return 0, 0
	}
	return want - came, vain
}

// expectation is what a peer makes of the traffic.
type expectation struct {
	to         uint32 // where the client sends
	port       uint16
	src, dst   uint32 // as they arrive, be it at the server or, answered, at the client
	translated bool   // the source port is the peer's choice
	option     bool   // the header has the DSR option that names to and port
	answered   bool   // what is looked at is the answer
	ttl        uint8
}

// inspector looks at every frame that comes.
type inspector struct {
	expectation
	check  Check
	seen   []bool // by sequence number since first
	first  uint64
	next   uint64
	ports  [wireFlows]uint16 // by flow, as the server sees them; 0 = not yet
	owners map[uint16]uint64 // flow by port
}

func newInspector(e expectation, first uint64, n int) *inspector {
	return &inspector{expectation: e, first: first, next: first, seen: make([]bool, n), owners: make(map[uint16]uint64)}
}

// look checks one frame: every field that the peer may change, every checksum in
// full, the payload, and that a flow has one port and shares it with nobody.
func (i *inspector) look(frame []byte) {
	i.check.Received++
	if wrong := i.wrong(frame); wrong != "" {
		i.check.Wrong++
		if i.check.First == "" {
			i.check.First = wrong
		}
	}
}

func (i *inspector) wrong(frame []byte) string {
	var p packet.Packet
	if r := packet.Parse(frame, &p); r != verdict.None {
		return fmt.Sprintf("it is %v", r)
	}
	longer := i.longer()
	if int(p.L4) != l4+longer || int(p.End) != frameLength+longer || p.Proto != packet.ProtoUDP || binary.BigEndian.Uint32(frame[payloadAt+longer:]) != magic {
		return "it is none of the packets sent"
	}
	pseudo := uint32(packet.PseudoSum(p.Src, p.Dst, packet.ProtoUDP, udpLength))
	if packet.Fold(packet.Sum(frame[p.L4:p.End], pseudo)) != 0xffff {
		return "its UDP checksum is wrong"
	}
	if wrong := i.wrongOption(frame); wrong != "" {
		return wrong
	}
	own, far := p.SrcPort, p.DstPort // the flow's, as it arrives, and the other end's
	want := uint16(discardPort)
	if i.answered {
		own, far, want = far, own, i.port
	}
	if p.Src != i.src || p.Dst != i.dst || far != want || p.TTL != i.ttl {
		return fmt.Sprintf("it goes from %#08x:%d to %#08x:%d with TTL %d", p.Src, p.SrcPort, p.Dst, p.DstPort, p.TTL)
	}
	seq := binary.BigEndian.Uint64(frame[payloadAt+longer+4:])
	if seq-i.first >= uint64(len(i.seen)) {
		return fmt.Sprintf("number %d was not sent", seq)
	}
	if i.seen[seq-i.first] {
		return fmt.Sprintf("number %d came twice", seq)
	}
	i.seen[seq-i.first] = true
	if seq < i.next {
		i.check.Reordered++
	}
	i.next = max(i.next, seq+1)
	return i.wrongPort(seq%wireFlows, own)
}

// longer is how many bytes the peer put into the header.
func (e *expectation) longer() int {
	if e.option {
		return dsr.OptionLen
	}
	return 0
}

func (e *expectation) wrongOption(frame []byte) string {
	if !e.option {
		return ""
	}
	var want [dsr.OptionLen]byte
	dsr.PutOption(want[:], e.to, e.port, dsr.CiliumOrder)
	if got := frame[l4 : l4+dsr.OptionLen]; !bytes.Equal(got, want[:]) {
		return fmt.Sprintf("its option is % x", got)
	}
	return ""
}

func (i *inspector) wrongPort(flow uint64, port uint16) string {
	if !i.translated && port != firstPort+uint16(flow) {
		return fmt.Sprintf("its source port is %d", port)
	}
	if i.ports[flow] == 0 {
		if other, taken := i.owners[port]; taken {
			return fmt.Sprintf("flows %d and %d share port %d", other, flow, port)
		}
		i.ports[flow], i.owners[port] = port, flow
	}
	if i.ports[flow] != port {
		return fmt.Sprintf("flow %d changed from port %d to %d", flow, i.ports[flow], port)
	}
	return ""
}

// patience is how long to wait for a packet when nothing but an answer matters.
const patience = 3 * time.Second

// inspect sends n packets, a few at a time, and looks at all that come.
func (t *tester) inspect(e expectation, n int) (Check, error) {
	const few = 4 * burst
	port := t.to.ports[0]
	if err := t.sink.deliver(port); err != nil {
		return Check{}, err
	}
	t.drain(nil)
	i := newInspector(e, t.next, n)
	progress := time.Now()
	for {
		tried := int(t.next - i.first)
		if tried == n && i.check.Received >= i.check.Sent {
			break
		}
		if tried < n && i.check.Sent-i.check.Received < few {
			i.check.Sent += t.send(min(burst, n-tried))
		}
		if t.drain(i.look) > 0 {
			progress = time.Now()
		} else if time.Since(progress) > patience {
			break // the rest is lost
		}
	}
	return i.check, t.sink.withhold(port)
}

// drain takes what has come, and shows it to look, if that is not nil.
func (t *tester) drain(look func([]byte)) (came int) {
	var d [burst]xdp.Desc
	port := t.to.ports[0]
	for {
		n := port.Receive(d[:])
		if look != nil {
			for _, desc := range d[:n] {
				look(t.to.umem.Frame(desc))
			}
		}
		t.to.umem.Free(d[:n])
		port.Flush()
		came += n
		if n < len(d) {
			return came
		}
	}
}

// pace is that of the stream whose latency is measured, in packets a second.
const pace = 10_000

// latency sends single packets at a steady pace, and times each from before its
// kick to after its receipt, longer by so many bytes.
func (t *tester) latency(span time.Duration, longer int) (Latency, error) {
	port := t.to.ports[0]
	if err := t.sink.deliver(port); err != nil {
		return Latency{}, err
	}
	t.drain(nil)
	n := int(span.Seconds() * pace)
	departures := make([]time.Duration, n)
	took := make([]float64, 0, n)
	first, start := t.next, time.Now()
	arrived := func(frame []byte) {
		at := time.Since(start)
		if len(frame) != frameLength+longer || binary.BigEndian.Uint32(frame[payloadAt+longer:]) != magic {
			return
		}
		if i := binary.BigEndian.Uint64(frame[payloadAt+longer+4:]) - first; i < uint64(n) {
			took = append(took, float64(at-departures[i])/1e3)
		}
	}
	const interval = time.Second / pace
	sent := 0
	for at := time.Duration(0); at < span+patience; at = time.Since(start) {
		if tried := int(t.next - first); tried < n && at >= time.Duration(tried)*interval {
			departures[tried] = time.Since(start)
			sent += t.send(1)
		}
		if t.drain(arrived); len(took) == n {
			break
		}
	}
	slices.Sort(took)
	l := Latency{Pace: pace, Sent: sent, Lost: sent - len(took)}
	if len(took) > 0 {
		l.P50, l.P99, l.P999, l.Max = quantile(took, 0.5), quantile(took, 0.99), quantile(took, 0.999), took[len(took)-1]
	}
	return l, t.sink.withhold(port)
}
