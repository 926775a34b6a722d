package pcapng

import (
	"encoding/binary"
	"io"
	"time"
)

// The blocks and options that are used here, by the draft's names.
const (
	blockSection    = 0x0a0d0d0a
	blockInterface  = 1
	blockStatistics = 5
	blockPacket     = 6

	magic      = 0x1a2b3c4d
	major      = 1
	headLength = 8 // of a block: type and length

	optEnd     = 0
	optComment = 1

	optOS, optApplication                      = 3, 4
	optName, optDescription                    = 2, 3
	optResolution, optFilter                   = 9, 11
	optFlags, optPacketID, optQueue            = 2, 5, 6
	optStart, optEndTime, optReceived, optDrop = 2, 3, 4, 5
	optOSDrop                                  = 7

	ethernet   = 1 // LINKTYPE_ETHERNET
	nanosecond = 9 // if_tsresol: 10^-9 s
)

// Direction is that of a packet on its interface.
type Direction uint8

const (
	Unknown Direction = iota
	Inbound
	Outbound
)

// Interface is a place where packets are seen.
type Interface struct {
	Name, Description string
	Filter            string // that chose the packets; "" is none
	Snaplen           uint32 // bytes that are kept of a packet; 0 = all
}

// Packet is a frame that was seen.
type Packet struct {
	Interface int // index, in the order in which they were written
	At        time.Time
	Length    int    // of the frame on the wire, in bytes
	Data      []byte // its first bytes
	Direction Direction
	ID        uint64 // the same for a packet wherever it is seen
	Queue     int    // of the NIC; -1 = not known
	Comment   string
}

// Statistics are an interface's counters up to now.
type Statistics struct {
	Interface         int
	Start, At         time.Time
	Received, Dropped uint64 // frames that were chosen, and of those the ones that are not in the file
	Unseen            uint64 // frames that nobody looked at, so that they may have been chosen (isb_osdrop)
}

// Writer writes blocks.
type Writer struct {
	out io.Writer
	b   []byte // the block at hand
}

// NewWriter returns a writer of blocks to out.
func NewWriter(out io.Writer) *Writer { return &Writer{out: out} }

// Section begins the file. It must be the first block.
func (w *Writer) Section(application, system string) error {
	w.begin(blockSection)
	w.u32(magic)
	w.u16(major)
	w.u16(0)
	w.u64(^uint64(0)) // the section's length: not known
	w.text(optOS, system)
	w.text(optApplication, application)
	return w.end()
}

// Interface adds an interface. Its index is how many were added before.
func (w *Writer) Interface(i Interface) error {
	w.begin(blockInterface)
	w.u16(ethernet)
	w.u16(0)
	w.u32(i.Snaplen)
	w.text(optName, i.Name)
	w.text(optDescription, i.Description)
	w.option(optResolution, 1)
	w.b = append(w.b, nanosecond, 0, 0, 0)
	if i.Filter != "" {
		w.text(optFilter, "\x00"+i.Filter) // 0: in libpcap's language
	}
	return w.end()
}

// Packet adds a packet.
func (w *Writer) Packet(p *Packet) error {
	w.begin(blockPacket)
	w.u32(uint32(p.Interface))
	w.time(p.At)
	w.u32(uint32(len(p.Data)))
	w.u32(uint32(p.Length))
	w.b = append(w.b, p.Data...)
	w.pad()
	w.text(optComment, p.Comment)
	if p.Direction != Unknown {
		w.option(optFlags, 4)
		w.u32(uint32(p.Direction))
	}
	w.option(optPacketID, 8)
	w.u64(p.ID)
	if p.Queue >= 0 {
		w.option(optQueue, 4)
		w.u32(uint32(p.Queue))
	}
	return w.end()
}

// Statistics adds an interface's counters. Later ones count on.
func (w *Writer) Statistics(s *Statistics) error {
	w.begin(blockStatistics)
	w.u32(uint32(s.Interface))
	w.time(s.At)
	w.option(optStart, 8)
	w.time(s.Start)
	w.option(optEndTime, 8)
	w.time(s.At)
	w.option(optReceived, 8)
	w.u64(s.Received)
	w.option(optDrop, 8)
	w.u64(s.Dropped)
	w.option(optOSDrop, 8)
	w.u64(s.Unseen)
	return w.end()
}

func (w *Writer) begin(kind uint32) {
	w.b = w.b[:0]
	w.u32(kind)
	w.u32(0)
}

// end closes the block at hand and writes it.
func (w *Writer) end() error {
	w.option(optEnd, 0)
	n := uint32(len(w.b) + 4)
	w.u32(n)
	binary.LittleEndian.PutUint32(w.b[4:], n)
	_, err := w.out.Write(w.b)
	return err
}

func (w *Writer) u16(v uint16) { w.b = binary.LittleEndian.AppendUint16(w.b, v) }
func (w *Writer) u32(v uint32) { w.b = binary.LittleEndian.AppendUint32(w.b, v) }
func (w *Writer) u64(v uint64) { w.b = binary.LittleEndian.AppendUint64(w.b, v) }

// time writes a time as blocks have it: the upper half first.
func (w *Writer) time(t time.Time) {
	ns := uint64(t.UnixNano())
	w.u32(uint32(ns >> 32))
	w.u32(uint32(ns))
}

func (w *Writer) option(code, length uint16) {
	w.u16(code)
	w.u16(length)
}

// text writes an option that is text; none where it is empty.
func (w *Writer) text(code uint16, s string) {
	if s == "" {
		return
	}
	s = s[:min(len(s), 1<<16-1)]
	w.option(code, uint16(len(s)))
	w.b = append(w.b, s...)
	w.pad()
}

// pad fills up to four bytes. Every block begins at such a border.
func (w *Writer) pad() {
	for len(w.b)%4 != 0 {
		w.b = append(w.b, 0)
	}
}
