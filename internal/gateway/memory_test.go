package gateway

import (
	"testing"

	"sluice/xdp"
)

// chunk is the size of a frame in the test memory, as in a UMEM.
const chunk = 2048

// memory is a UMEM without a kernel: frames are handed out by the test and must
// all come back.
type memory struct {
	bytes []byte
	free  []uint64
	out   map[uint64]bool // frames that are not free
}

func newMemory(frames int) *memory {
	m := &memory{bytes: make([]byte, frames*chunk), out: map[uint64]bool{}}
	for i := range frames {
		m.free = append(m.free, uint64(i*chunk))
	}
	return m
}

func (m *memory) Bytes() []byte { return m.bytes }

// take copies a frame into the memory.
func (m *memory) take(t testing.TB, frame []byte) xdp.Desc {
	t.Helper()
	if len(m.free) == 0 {
		t.Fatal("the test's memory has no free frame: the pipeline leaks")
	}
	addr := m.free[len(m.free)-1]
	m.free = m.free[:len(m.free)-1]
	m.out[addr] = true
	return xdp.Desc{Addr: addr + 256, Len: uint32(copy(m.bytes[addr+256:addr+chunk], frame))}
}

// Free takes frames back; a frame that is free already is a double free.
func (m *memory) Free(descs []xdp.Desc) {
	for _, d := range descs {
		addr := d.Addr / chunk * chunk
		if !m.out[addr] {
			panic("frame freed twice")
		}
		delete(m.out, addr)
		m.free = append(m.free, addr)
	}
}

// port is an interface in memory: what the test puts into rx is received, what
// the gateway sends is copied to tx.
type port struct {
	m    *memory
	rx   []xdp.Desc
	tx   [][]byte
	down bool
	room int // frames that Transmit takes; negative is unlimited
}

func (p *port) Receive(descs []xdp.Desc) int {
	n := copy(descs, p.rx)
	p.rx = p.rx[n:]
	return n
}

func (p *port) Transmit(descs []xdp.Desc) int {
	n := len(descs)
	if p.room >= 0 {
		n = min(n, p.room)
		p.room -= n
	}
	for _, d := range descs[:n] {
		p.tx = append(p.tx, append([]byte(nil), p.m.bytes[d.Addr:d.Addr+uint64(d.Len)]...))
	}
	p.m.Free(descs[:n])
	return n
}

func (p *port) Flush() {}

func (p *port) SetUp(up bool) { p.down = !up }

// sent takes what left by the port since it was last asked.
func (p *port) sent() [][]byte {
	tx := p.tx
	p.tx = nil
	return tx
}

type xdpDesc = xdp.Desc

// forgetful is a Memory whose frames are never freed, for ports that hand out
// the same ones again.
type forgetful struct{ *memory }

func (forgetful) Free([]xdp.Desc) {}

// sink is a port that receives nothing and sends everything.
type sink struct{}

func (sink) Receive([]xdp.Desc) int        { return 0 }
func (sink) Transmit(descs []xdp.Desc) int { return len(descs) }
func (sink) Flush()                        {}
func (sink) SetUp(bool)                    {}
