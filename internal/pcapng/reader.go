package pcapng

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// maxBlock is the longest block that a Reader takes.
const maxBlock = 1 << 20

// Block is one block of a file. Of Packet and Statistics one is set, or none.
type Block struct {
	Raw        []byte  // the whole block, good until the next one is read
	Packet     *Packet // its Data is part of Raw
	Statistics *Statistics
}

// Reader reads blocks.
type Reader struct {
	in         *bufio.Reader
	b          []byte
	begun      bool
	Interfaces []Interface // that were read so far
}

// NewReader returns a reader of in.
func NewReader(in io.Reader) *Reader { return &Reader{in: bufio.NewReaderSize(in, 64<<10)} }

// Next reads a block. After the last one it returns io.EOF, and where the stream
// ends within a block io.ErrUnexpectedEOF.
func (r *Reader) Next() (*Block, error) {
	head, err := r.in.Peek(headLength)
	switch {
	case err == io.EOF && len(head) > 0:
		return nil, io.ErrUnexpectedEOF
	case err != nil:
		return nil, err
	}
	kind, n := binary.LittleEndian.Uint32(head), binary.LittleEndian.Uint32(head[4:])
	if n < headLength+4 || n%4 != 0 || n > maxBlock || r.begun == (kind == blockSection) {
		return nil, fmt.Errorf("pcapng: a block of type %#x and %d bytes: not a capture of this program", kind, n)
	}
	r.begun = true
	if cap(r.b) < int(n) {
		r.b = make([]byte, n)
	}
	r.b = r.b[:n]
	if _, err := io.ReadFull(r.in, r.b); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if last := binary.LittleEndian.Uint32(r.b[n-4:]); last != n {
		return nil, fmt.Errorf("pcapng: a block of %d bytes ends as one of %d", n, last)
	}
	block := &Block{Raw: r.b}
	return block, r.parse(kind, block)
}

func (r *Reader) parse(kind uint32, block *Block) (err error) {
	b := &body{left: block.Raw[headLength : len(block.Raw)-4]}
	switch kind {
	case blockInterface:
		b.take(4)
		i := Interface{Snaplen: b.u32()}
		b.options(func(code uint16, v []byte) {
			switch {
			case code == optName:
				i.Name = string(v)
			case code == optDescription:
				i.Description = string(v)
			case code == optFilter && len(v) > 0:
				i.Filter = string(v[1:])
			}
		})
		r.Interfaces = append(r.Interfaces, i)
	case blockPacket:
		block.Packet = b.packet()
		err = r.known(block.Packet.Interface)
	case blockStatistics:
		block.Statistics = b.statistics()
		err = r.known(block.Statistics.Interface)
	}
	if b.short {
		err = fmt.Errorf("pcapng: a block of type %d is cut short", kind)
	}
	return err
}

func (r *Reader) known(i int) error {
	if i >= len(r.Interfaces) {
		return fmt.Errorf("pcapng: interface %d was not announced", i)
	}
	return nil
}

// body is what is left of a block.
type body struct {
	left  []byte
	short bool // more was taken than there was
}

// take takes n bytes: zeros where there are not as many.
func (b *body) take(n int) []byte {
	if n > len(b.left) {
		b.short, b.left = true, nil
		return make([]byte, min(n, 8))
	}
	v := b.left[:n]
	b.left = b.left[n:]
	return v
}

func (b *body) u32() uint32 { return binary.LittleEndian.Uint32(b.take(4)) }

func (b *body) time() time.Time { return instant(b.take(8)) }

func instant(v []byte) time.Time {
	return time.Unix(0, int64(uint64(binary.LittleEndian.Uint32(v))<<32|uint64(binary.LittleEndian.Uint32(v[4:]))))
}

// options calls each with the options that are left.
func (b *body) options(each func(code uint16, v []byte)) {
	for len(b.left) > 0 {
		head := b.take(4)
		code, n := binary.LittleEndian.Uint16(head), int(binary.LittleEndian.Uint16(head[2:]))
		if code == optEnd || b.short {
			return
		}
		padded := b.take((n + 3) &^ 3)
		if b.short {
			return
		}
		each(code, padded[:n])
	}
}

func (b *body) packet() *Packet {
	p := &Packet{Interface: int(b.u32()), Queue: -1}
	p.At = b.time()
	kept := int(b.u32())
	p.Length = int(b.u32())
	if padded := b.take((kept + 3) &^ 3); !b.short {
		p.Data = padded[:kept]
	}
	b.options(func(code uint16, v []byte) {
		switch {
		case code == optComment:
			p.Comment = string(v)
		case code == optFlags && len(v) == 4:
			p.Direction = Direction(v[0] & 3)
		case code == optPacketID && len(v) == 8:
			p.ID = binary.LittleEndian.Uint64(v)
		case code == optQueue && len(v) == 4:
			p.Queue = int(binary.LittleEndian.Uint32(v))
		}
	})
	return p
}

func (b *body) statistics() *Statistics {
	s := &Statistics{Interface: int(b.u32())}
	s.At = b.time()
	b.options(func(code uint16, v []byte) {
		if len(v) != 8 {
			return
		}
		switch code {
		case optStart:
			s.Start = instant(v)
		case optReceived:
			s.Received = binary.LittleEndian.Uint64(v)
		case optDrop:
			s.Dropped = binary.LittleEndian.Uint64(v)
		case optOSDrop:
			s.Unseen = binary.LittleEndian.Uint64(v)
		}
	})
	return s
}
