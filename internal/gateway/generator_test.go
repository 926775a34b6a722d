package gateway

import (
	"encoding/binary"
	"math/rand/v2"

	"sluice/internal/packet"
)

// generator is a port that receives packets of many flows: flow i has inside
// port 1024+i%32768 and goes to destination i/32768, in order or at random.
type generator struct {
	memory   *memory
	frame    []byte // UDP, without checksum
	flows    int
	sent     int
	sequence bool
	random   *rand.Rand
}

func (g *generator) Receive(descs []xdpDesc) int {
	for i := range descs {
		flow := g.sent
		if !g.sequence {
			flow = int(g.random.Uint64N(uint64(g.flows)))
		}
		flow %= g.flows
		g.sent++
		addr := uint64(i * chunk)
		b := g.memory.bytes[addr : addr+chunk]
		n := copy(b, g.frame)
		h, u := b[packet.EthernetLength:], b[packet.EthernetLength+packet.IPv4MinLength:]
		binary.BigEndian.PutUint16(u, uint16(1024+flow%32768))
		binary.BigEndian.PutUint16(u[6:], 0) // no UDP checksum
		to := server + uint32(flow/32768)<<8
		sum := packet.Update32(binary.BigEndian.Uint16(h[10:]), binary.BigEndian.Uint32(h[16:]), to)
		binary.BigEndian.PutUint32(h[16:], to)
		binary.BigEndian.PutUint16(h[10:], sum)
		descs[i] = xdpDesc{Addr: addr, Len: uint32(n)}
	}
	return len(descs)
}

func (g *generator) Transmit(descs []xdpDesc) int { return len(descs) }
func (g *generator) Flush()                       {}
func (g *generator) SetUp(bool)                   {}
func (g *generator) Up() bool                     { return true }
func (g *generator) Wasted() uint64               { return 0 }
