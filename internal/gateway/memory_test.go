package gateway

import (
	"testing"

	"sluice/xdp"
)

// chunk is the size of a frame in the test memory, as in a UMEM.
const chunk = 2048

// headroom is what is free in front of a received frame, as in a UMEM.
const headroom = 256

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
	return xdp.Desc{Addr: addr + headroom, Len: uint32(copy(m.bytes[addr+headroom:addr+chunk], frame))}
}

// Allocate hands out free frames.
func (m *memory) Allocate(descs []xdp.Desc) int {
	n := min(len(descs), len(m.free))
	for i := range n {
		addr := m.free[len(m.free)-1]
		m.free = m.free[:len(m.free)-1]
		m.out[addr] = true
		descs[i] = xdp.Desc{Addr: addr + headroom}
	}
	return n
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

	wasted uint64
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

func (p *port) Up() bool { return !p.down }

func (p *port) Wasted() uint64 { return p.wasted }

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

// Allocate hands out the same frames every time, from the end.
func (f forgetful) Allocate(descs []xdp.Desc) int {
	for i := range descs {
		descs[i] = xdp.Desc{Addr: uint64(len(f.bytes) - (i+1)*chunk + headroom)}
	}
	return len(descs)
}

// sink is a port that receives nothing and sends everything.
type sink struct{}

func (sink) Receive([]xdp.Desc) int        { return 0 }
func (sink) Transmit(descs []xdp.Desc) int { return len(descs) }
func (sink) Flush()                        {}
func (sink) SetUp(bool)                    {}
func (sink) Up() bool                      { return true }
func (sink) Wasted() uint64                { return 0 }
