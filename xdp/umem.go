package xdp

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugePage is the size of the huge pages asked for, the PMD size of amd64 and
// of arm64 with 4 KiB pages.
const hugePage = 2 << 20

// maxFrames keeps a frame's index in an int32 and a UMEM below 16 GiB.
const maxFrames = 1 << 22

// UMEMConfig says how much memory a worker's frames take.
type UMEMConfig struct {
	Frames    int // rounded up to whole huge pages
	FrameSize int // bytes, 2048 or 4096

	// HugePages asks for explicit huge pages (hugetlbfs), and where there are
	// none for transparent ones. Without either it is ordinary memory.
	HugePages bool
}

// Pages is the kind of memory that a UMEM got.
type Pages uint8

const (
	PagesNormal      Pages = iota // 4 KiB
	PagesTransparent              // madvise(MADV_HUGEPAGE): huge where the kernel found some
	PagesHuge                     // hugetlbfs, 2 MiB each
)

func (p Pages) String() string {
	return [...]string{PagesNormal: "4 KiB pages", PagesTransparent: "transparent huge pages", PagesHuge: "2 MiB huge pages"}[p]
}

// place is where a frame is. Each socket has two places of its own, so that
// what the kernel gives back is checked against what that very socket took.
type place uint16

const (
	placeFree     place = iota // in the free list
	placeHeld                  // with the caller, from Allocate
	placeReceived              // with the caller, from Receive
	placeSockets               // socket i: placeSockets+2i its fill side, placeSockets+2i+1 its TX side
)

// UMEM is the memory that the frames of one worker live in, and the account of
// where each frame is. All of it belongs to one goroutine.
type UMEM struct {
	area  []byte
	shift uint   // log2 of the frame size
	mask  uint64 // frame size - 1

	free  []uint32 // indices of free frames; last in, first out, so that the next one is warm in the cache
	place []place  // of every frame

	fill, rx, tx, held int
	strays             uint64

	pages   Pages
	sockets []*Socket // by id: open ones, and closed ones whose frames the kernel may still use; nil slots are reused

	// zeroCopy and reason are the first socket's: the kernel has one answer for
	// a whole UMEM (net/xdp/xsk_buff_pool.c, xp_assign_dev_shared).
	zeroCopy bool
	reason   string
}

// NewUMEM maps memory for frames, and touches all of it, so that a shortage
// shows now. The frames are all free. The kernel learns of the memory with the
// first socket that is opened.
func NewUMEM(cfg UMEMConfig) (*UMEM, error) {
	if cfg.FrameSize != smallFrame && cfg.FrameSize != largeFrame {
		return nil, fmt.Errorf("UMEM: frame size %d: it must be %d or %d bytes", cfg.FrameSize, smallFrame, largeFrame)
	}
	if cfg.Frames < 1 || cfg.Frames > maxFrames {
		return nil, fmt.Errorf("UMEM: %d frames: it must be 1 to %d", cfg.Frames, maxFrames)
	}
	if os.Getpagesize() < cfg.FrameSize {
		return nil, fmt.Errorf("UMEM: frames of %d bytes exceed the page size %d", cfg.FrameSize, os.Getpagesize())
	}
	size := (cfg.Frames*cfg.FrameSize + hugePage - 1) &^ (hugePage - 1)
	area, pages, err := mapArea(size, cfg.HugePages)
	if err != nil {
		return nil, err
	}
	return newUMEM(area, cfg.FrameSize, pages), nil
}

// newUMEM lays the account over an area of whole frames.
func newUMEM(area []byte, frameSize int, pages Pages) *UMEM {
	frames := len(area) / frameSize
	u := &UMEM{
		area:  area,
		mask:  uint64(frameSize) - 1,
		free:  make([]uint32, frames),
		place: make([]place, frames),
		pages: pages,
	}
	for frameSize>>u.shift != 1 {
		u.shift++
	}
	for i := range u.free {
		u.free[i] = uint32(frames - 1 - i) // frame 0 is handed out first
	}
	return u
}

// mapArea maps size bytes, a multiple of hugePage, aligned to hugePage.
func mapArea(size int, huge bool) ([]byte, Pages, error) {
	const prot = unix.PROT_READ | unix.PROT_WRITE
	const flags = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	if huge {
		p, err := unix.MmapPtr(-1, 0, nil, uintptr(size), prot, flags|unix.MAP_HUGETLB|unix.MAP_HUGE_2MB|unix.MAP_POPULATE)
		if err == nil {
			return unsafe.Slice((*byte)(p), size), PagesHuge, nil
		}
	}
	// A transparent huge page needs an aligned address: map one page more than
	// needed, and give back what is before and after the aligned part. The slice
	// points outside the Go heap, so the collector neither scans nor moves it.
	whole, err := unix.MmapPtr(-1, 0, nil, uintptr(size+hugePage), prot, flags)
	if err != nil {
		return nil, 0, fmt.Errorf("UMEM: mmap %d MiB: %w: free memory, or use smaller rings", size>>20, err)
	}
	before := -uintptr(whole) & (hugePage - 1)
	start := unsafe.Add(whole, before)
	if before > 0 {
		unix.MunmapPtr(whole, before)
	}
	unix.MunmapPtr(unsafe.Add(start, size), hugePage-before)

	area := unsafe.Slice((*byte)(start), size)
	pages := PagesNormal
	if huge && unix.Madvise(area, unix.MADV_HUGEPAGE) == nil {
		pages = PagesTransparent
	}
	if err := populate(area); err != nil {
		munmapArea(area)
		return nil, 0, fmt.Errorf("UMEM: %d MiB: %w: free memory, or use smaller rings", size>>20, err)
	}
	return area, pages, nil
}

// populate makes every page of area present.
func populate(area []byte) error {
	err := unix.Madvise(area, unix.MADV_POPULATE_WRITE)
	if errors.Is(err, unix.EINVAL) { // not known to this kernel: touch them
		for i := 0; i < len(area); i += pageSize {
			area[i] = 0
		}
		return nil
	}
	return err
}

// Close unmaps the memory, after all sockets were closed. No frame and no slice
// of Bytes may be used afterwards.
func (u *UMEM) Close() error {
	for _, s := range u.sockets {
		if s != nil && !s.closed {
			return fmt.Errorf("UMEM: close: %s queue %d is still open: close its port first", s.nic.Name, s.queue)
		}
	}
	area := u.area
	u.area, u.free, u.place = nil, nil, nil
	return munmapArea(area)
}

// munmapArea unmaps what mapArea mapped.
func munmapArea(area []byte) error {
	if err := unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(area)), uintptr(len(area))); err != nil {
		return fmt.Errorf("UMEM: munmap: %w", err)
	}
	return nil
}

// Bytes is the whole area. The bytes of a descriptor d are
// Bytes()[d.Addr : d.Addr+d.Len].
func (u *UMEM) Bytes() []byte { return u.area }

// Frame returns the bytes of d, with capacity to the end of its chunk.
func (u *UMEM) Frame(d Desc) []byte {
	end := (d.Addr | u.mask) + 1
	return u.area[d.Addr : d.Addr+uint64(d.Len) : end]
}

// FrameSize is the size of a chunk, in bytes.
func (u *UMEM) FrameSize() int { return int(u.mask) + 1 }

// Pages is the kind of memory that the frames live in.
func (u *UMEM) Pages() Pages { return u.pages }

// Allocate takes free frames for the caller to write into, as many as there
// are, and returns how many. Each descriptor has length 0 and starts behind the
// headroom that received frames have too.
func (u *UMEM) Allocate(d []Desc) int {
	n := min(len(d), len(u.free))
	rest := len(u.free) - n
	for i := range d[:n] {
		f := u.free[rest+n-1-i]
		u.place[f] = placeHeld
		d[i] = Desc{Addr: uint64(f)<<u.shift + kernelHeadroom}
	}
	u.free = u.free[:rest]
	u.held += n
	return n
}

// Free takes frames back that the caller had from Receive or Allocate. Their
// addresses may be anywhere inside the chunk.
func (u *UMEM) Free(d []Desc) {
	for i := range d {
		if f := u.index(d[i].Addr); u.leaveCaller(f) {
			u.push(f)
		}
	}
}

// index is the number of the frame that an address is in, which need not exist.
// The mask spares the shift a comparison.
func (u *UMEM) index(addr uint64) uint64 { return addr >> (u.shift & 63) }

// at reports whether frame f exists and is in the given place.
func (u *UMEM) at(f uint64, p place) bool { return f < uint64(len(u.place)) && u.place[f] == p }

// push puts frame f into the free list. It stays within the list's capacity,
// since every frame is in it at most once.
func (u *UMEM) push(f uint64) {
	u.place[f] = placeFree
	u.free = append(u.free, uint32(f))
}

// leaveCaller takes frame f off the caller's account. It reports false, and
// counts a stray, where the caller does not have it: it was freed or sent twice,
// or is no frame at all.
func (u *UMEM) leaveCaller(f uint64) bool {
	if f < uint64(len(u.place)) {
		switch u.place[f] {
		case placeReceived:
			u.rx--
			return true
		case placeHeld:
			u.held--
			return true
		}
	}
	u.strays++
	return false
}

// whole reports whether the bytes of d are in one chunk and not none.
func (u *UMEM) whole(d Desc) bool {
	return d.Len != 0 && d.Addr&u.mask+uint64(d.Len) <= u.mask+1
}

// Accounting says where the frames of a UMEM are.
type Accounting struct {
	Free  int // in the free list
	Fill  int // with the kernel to be received into, and received but not fetched yet
	RX    int // with the caller, from Receive
	TX    int // with the kernel to be sent, and sent but not reaped yet
	Held  int // with the caller, from Allocate
	Total int

	// Strays counts descriptors that were refused since they did not name a
	// frame that their giver had. Not 0 is a bug, here or in the kernel.
	Strays uint64
}

// Balanced reports whether every frame is in one place.
func (a Accounting) Balanced() bool { return a.Free+a.Fill+a.RX+a.TX+a.Held == a.Total }

// Accounting counts. It is for the worker's goroutine, like all of UMEM.
func (u *UMEM) Accounting() Accounting {
	return Accounting{
		Free: len(u.free), Fill: u.fill, RX: u.rx, TX: u.tx, Held: u.held,
		Total: len(u.place), Strays: u.strays,
	}
}
