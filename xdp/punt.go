package xdp

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// MaxPunt is the longest frame that Punter takes. The kernel copies a frame into
// one page, behind struct xdp_page_head and XDP_PACKET_HEADROOM and before
// struct skb_shared_info (net/bpf/test_run.c); on x86-64 with Linux 6.18 that
// leaves 3408 of its 4096 bytes. A little less is sure to fit other versions, too.
const MaxPunt = 3328

// ErrNoLiveFrames is what NewPunter returns on a kernel before Linux 5.18.
var ErrNoLiveFrames = errors.New("this kernel cannot take packets back (BPF_PROG_RUN with live frames): Linux 5.18 or newer is needed")

// Punter hands frames to the kernel's stack as if a device had received them: an
// XDP program that passes everything is run over a copy of the frame
// (BPF_PROG_RUN with BPF_F_TEST_XDP_LIVE_FRAMES). In native mode the steering
// program is not asked again, since its place is in the driver, before that. In
// generic mode it would be: its place is in the stack, so frames of such a device
// must not be punted.
//
// One call costs 13 to 18 µs on the machine this was written on, whatever the
// length: most of it is the page pool that the kernel makes and destroys. The
// kernel can repeat a frame, but not take several different ones. A pool lives
// until its page comes back: for as long as the packet waits in a socket. After a
// minute of that the kernel logs "page_pool_release_retry() stalled pool
// shutdown", once a minute and packet; the bound is the socket's receive buffer.
//
// A Punter may be used by several goroutines. They must be in the network
// namespace of the devices: that is where the kernel looks for the index.
type Punter struct {
	pass *ebpf.Program
}

// NewPunter loads the program, and tries whether the kernel has live frames.
func NewPunter() (*Punter, error) {
	// On loopback, where a run is that names no device.
	drop, err := constant(verdictDrop)
	if err != nil {
		return nil, err
	}
	defer drop.Close()
	if err := runLive(drop, make([]byte, 64), nil); errors.Is(err, unix.EINVAL) {
		return nil, ErrNoLiveFrames // a flag that it does not know
	} else if err != nil {
		return nil, fmt.Errorf("bpf(BPF_PROG_RUN, live frames): %w", err)
	}
	pass, err := constant(verdictPass)
	if err != nil {
		return nil, err
	}
	return &Punter{pass}, nil
}

// Verdicts of an XDP program (enum xdp_action).
const (
	verdictDrop = 1
	verdictPass = 2
)

// constant loads an XDP program whose answer is always the same.
func constant(verdict int32) (*ebpf.Program, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "sluice_punt", Type: ebpf.XDP, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()},
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", callProgramLoad, err)
	}
	return p, nil
}

// xdpMD is struct xdp_md: with it a run says where the frame arrived. The kernel
// wants Data to be 0 where there is no metadata, and End to be the length.
type xdpMD struct {
	Data, End, Meta, IngressIfindex, RXQueue, EgressIfindex uint32
}

// runLive runs a program once over a frame that is real from then on.
func runLive(p *ebpf.Program, frame []byte, context any) error {
	_, err := p.Run(&ebpf.RunOptions{
		Data: frame, Context: context, Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES,
		BatchSize: 1, // the kernel sizes what it allocates by this
	})
	return err
}

// Punt lets the kernel receive a frame, which begins at the Ethernet header, on
// a device. The kernel takes a copy. ENODEV: the device is gone.
func (p *Punter) Punt(ifindex int, frame []byte) error {
	if len(frame) > MaxPunt {
		return fmt.Errorf("punt: %d bytes: the kernel takes frames of up to %d", len(frame), MaxPunt)
	}
	return runLive(p.pass, frame, xdpMD{End: uint32(len(frame)), IngressIfindex: uint32(ifindex)})
}

// Close unloads the program.
func (p *Punter) Close() error { return p.pass.Close() }
