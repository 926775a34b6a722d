package bench

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"sluice/internal/packet"
	"sluice/xdp"
)

// discardPort is the destination port of the traffic over veth (RFC 863).
const discardPort = 9

// program is an XDP program of the benchmark's own, on one interface.
type program struct {
	sockets *ebpf.Map // XSKMAP, by queue
	counts  *ebpf.Map // one word, nil where nothing is counted
	memory  *ebpf.Memory
	program *ebpf.Program
	link    link.Link
	word    [8]byte
}

// sight is by what a sink knows the benchmark's packets.
type sight struct {
	options int16 // bytes of them in the IPv4 header
	answers bool  // the port is the source's
	port    uint16
}

// plainSight is of packets that arrive at the server without options.
var plainSight = sight{port: discardPort}

// attachSink attaches a program that counts the benchmark's packets, and hands
// them to a socket if there is one (deliver), or else drops them. Everything
// else, ARP above all, is the kernel's.
func attachSink(nic *xdp.NIC, s sight) (*program, error) {
	p := new(program)
	return p, p.finish(nic, func() (asm.Instructions, error) {
		var err error
		p.counts, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1, Flags: mmapable})
		if err != nil {
			return nil, err
		}
		if p.memory, err = p.counts.Memory(); err != nil {
			return nil, err
		}
		return p.sink(s), nil
	})
}

// attachRedirect attaches a program that hands every frame to a socket (deliver)
// and those that there is no socket for to the kernel: as little as AF_XDP needs.
func attachRedirect(nic *xdp.NIC) (*program, error) {
	p := new(program)
	return p, p.finish(nic, func() (asm.Instructions, error) {
		return append(asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}, p.redirect(xdpPass)...), nil
	})
}

const (
	mmapable = 1 << 10 // BPF_F_MMAPABLE

	xdpDrop = 1
	xdpPass = 2

	// Offsets in struct xdp_md.
	ctxData, ctxDataEnd, ctxQueue = 0, 4, 16
)

// finish makes the map of sockets, loads the program and attaches it.
func (p *program) finish(nic *xdp.NIC, instructions func() (asm.Instructions, error)) (err error) {
	defer func() {
		if err != nil {
			p.close()
			err = fmt.Errorf("bench: XDP program on %s: %w", nic.Name, err)
		}
	}()
	p.sockets, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: 64})
	if err != nil {
		return err
	}
	code, err := instructions()
	if err != nil {
		return err
	}
	p.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "Apache-2.0", Instructions: code})
	if err != nil {
		return err
	}
	p.link, err = link.AttachXDP(link.XDPOptions{Program: p.program, Interface: nic.Ifindex, Flags: link.XDPDriverMode})
	return err
}

// seen is the text that jumps to "pass" unless the frame is one that s sees. R6
// becomes the context, R2 the frame.
func (s sight) seen() asm.Instructions {
	field := func(offset int16, size asm.Size, want int32) asm.Instructions {
		return asm.Instructions{
			asm.LoadMem(asm.R4, asm.R2, offset, size),
			asm.JNE.Imm(asm.R4, want, "pass"),
		}
	}
	code := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R2, asm.R6, ctxData, asm.Word),
		asm.LoadMem(asm.R3, asm.R6, ctxDataEnd, asm.Word),
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, int32(l4+s.options+packet.UDPLength)),
		asm.JGT.Reg(asm.R4, asm.R3, "pass"),
	}
	at := l4 + s.options
	if !s.answers {
		at += 2
	}
	code = append(code, field(12, asm.Half, bigEndian(packet.EtherTypeIPv4))...)
	code = append(code, field(l3, asm.Byte, int32(0x45+s.options/4))...)
	code = append(code, field(l3+9, asm.Byte, packet.ProtoUDP)...)
	return append(code, field(at, asm.Half, bigEndian(s.port))...)
}

// sink is the program's text.
func (p *program) sink(s sight) asm.Instructions {
	code := append(s.seen(),
		asm.LoadMapValue(asm.R1, p.counts.FD(), 0),
		asm.Mov.Imm(asm.R2, 1),
		asm.StoreXAdd(asm.R1, asm.R2, asm.DWord))
	code = append(code, p.redirect(xdpDrop)...)
	return append(code,
		asm.Mov.Imm(asm.R0, xdpPass).WithSymbol("pass"),
		asm.Return())
}

// redirect hands the frame of the context in R6 to the socket of its queue.
func (p *program) redirect(otherwise int32) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R2, asm.R6, ctxQueue, asm.Word),
		asm.LoadMapPtr(asm.R1, p.sockets.FD()),
		asm.Mov.Imm(asm.R3, otherwise),
		asm.FnRedirectMap.Call(),
		asm.Return(),
	}
}

// bigEndian is what a load of the machine's byte order finds of a field of the
// network's.
func bigEndian(v uint16) int32 {
	return int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)))
}

// count is how many of the benchmark's packets came. It belongs to one goroutine.
func (p *program) count() uint64 {
	// One aligned word, which a copy of eight bytes reads as a whole; the
	// program adds to it atomically. The offset is inside the map.
	_, _ = p.memory.ReadAt(p.word[:], 0)
	return binary.NativeEndian.Uint64(p.word[:])
}

// deliver has the sockets of a port get what comes; withhold ends that.
func (p *program) deliver(port *xdp.Port) error {
	for _, s := range port.Sockets() {
		if !s.Receives() {
			continue
		}
		if err := p.sockets.Put(uint32(s.Queue()), uint32(s.FD())); err != nil {
			return fmt.Errorf("bench: queue %d of %s: %w", s.Queue(), port.NIC().Name, err)
		}
	}
	return nil
}

func (p *program) withhold(port *xdp.Port) error {
	for _, s := range port.Sockets() {
		if err := p.sockets.Delete(uint32(s.Queue())); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("bench: queue %d of %s: %w", s.Queue(), port.NIC().Name, err)
		}
	}
	return nil
}

func (p *program) close() {
	if p.link != nil {
		p.link.Close()
	}
	if p.program != nil {
		p.program.Close()
	}
	for _, m := range []*ebpf.Map{p.sockets, p.counts} {
		if m != nil {
			m.Close()
		}
	}
}
