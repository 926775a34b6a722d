package conntrack

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"
)

// header describes the memory to whoever maps it later.
//
// What changes while the memory is in use stands outside the check sum, one
// word each: a crash leaves no moment in which the two are at odds.
type header struct {
	magic     uint64 // written last, erased first
	version   uint32
	layout    uint32 // layoutHash of the program that wrote it
	seed      seed
	flows     uint32 // capacities; records are one more
	mappings  uint32
	sources   uint32
	buckets   uint32
	boot      [16]byte // Config.Boot
	namespace uint64   // Config.Namespace
	sum       uint64   // check sum of the above

	generation uint64           // how often the memory was taken over, from 1
	clean      uint64           // cleanMark after an orderly end, until it is used again
	ports      [maxPorts]uint32 // portName of each interface, 0 = none
	_          [160]byte
}

const (
	magic         = 0x6c66656369756c73 // "sluicefl"
	cleanMark     = 0x6e61656c63       // "clean"
	layoutVersion = 5

	// maxPorts is the most interfaces that flows can refer to.
	maxPorts = 64
)

func headerOf(mem []byte) *header { return &over[header](mem, 0, 1)[0] }

// describe fills in everything but the magic.
func (h *header) describe(cfg *Config, s *shape) {
	*h = header{
		version: layoutVersion, layout: layoutHash(), seed: cfg.Seed,
		flows: uint32(s.flows), mappings: uint32(s.mappings), sources: uint32(s.sources), buckets: uint32(s.buckets),
		boot: cfg.Boot, namespace: cfg.Namespace, generation: 1,
	}
	h.sum = h.checkSum()
	h.setPorts(cfg.Ports)
}

// checkSum covers what lies before the sum itself.
func (h *header) checkSum() uint64 {
	const words = unsafe.Offsetof(header{}.sum) / 8
	sum := uint64(golden)
	// Eight bytes at a time from a struct that begins with an aligned word.
	for _, word := range unsafe.Slice((*uint64)(unsafe.Pointer(h)), words)[1:] { // [0] is the magic
		sum = mix(sum^word, prime1)
	}
	return sum
}

// setPorts writes down which interfaces the flows' port numbers stand for.
func (h *header) setPorts(names []string) {
	for i := range h.ports {
		name := uint32(0)
		if i < len(names) {
			name = portName(names[i])
		}
		atomic.StoreUint32(&h.ports[i], name)
	}
}

// portName is an interface's name in 32 bits, never 0 (FNV-1a).
func portName(name string) uint32 {
	h := uint32(2166136261)
	for _, c := range []byte(name) {
		h = (h ^ uint32(c)) * 16777619
	}
	return max(h, 1)
}

// ErrNoTable says that memory holds nothing that could be adopted, since no
// process has finished making a table in it.
var ErrNoTable = errors.New("there is no flow table")

// check says why the table in the first found bytes cannot be adopted under cfg.
func (h *header) check(cfg *Config, s *shape, found int) error {
	switch {
	case found < int(unsafe.Sizeof(*h)):
		return fmt.Errorf("it is truncated: %d bytes are not even a header", found)
	case h.magic == 0:
		return ErrNoTable
	case h.magic != magic:
		return errors.New("it is not a flow table of Sluice")
	case h.version != layoutVersion:
		return fmt.Errorf("it has layout version %d, and this program's is %d", h.version, layoutVersion)
	case h.sum != h.checkSum():
		return errors.New("its header is corrupted: the check sum does not match")
	case h.layout != layoutHash():
		return errors.New("another build wrote it, whose records have another layout")
	case h.boot != cfg.Boot:
		return errors.New("it is of another boot, whose flows and clock are gone")
	case h.namespace != cfg.Namespace:
		return errors.New("it is of another network namespace")
	case h.flows > uint32(s.flows):
		return fmt.Errorf("it is for %d flows, and conntrack.max-flows is %d now", h.flows, s.flows)
	}
	own := shapeOf(int(h.flows))
	switch {
	case h.mappings != uint32(own.mappings) || h.sources != uint32(own.sources) || h.buckets != uint32(own.buckets):
		return errors.New("its parts have other sizes than this program's")
	case found < int(own.size):
		return fmt.Errorf("it is truncated: %d of %d bytes are left", found, own.size)
	}
	return nil
}

// MarkClean writes down that the table is at rest: no worker uses it any more.
// Only what the next process says of it depends on the mark; the records are
// checked all the same.
func (t *Table) MarkClean() { atomic.StoreUint64(&t.header.clean, cleanMark) }

// Erase makes memory that may hold a table ready for New. A crash on the way
// leaves memory without a table.
func Erase(mem []byte) {
	atomic.StoreUint64(&headerOf(mem).magic, 0)
	clear(mem)
}
