package fragment

import "sluice/internal/verdict"

// MaxPieces is how many fragments a datagram may come in: the longest one takes
// 119 at the 576 bytes that every host accepts.
const MaxPieces = 128

// piece is a fragment's place in the datagram's payload, in bytes.
type piece struct{ from, to uint16 }

// pieces are the fragments of a datagram that came, in order of their place,
// none of which overlaps another.
type pieces struct {
	list  [MaxPieces]piece
	n     uint8
	ended bool   // the last fragment came, so that
	total uint16 // is known: the length of the payload, in bytes
	sum   uint16 // bytes that came
}

// add notes a fragment from byte from up to byte to of the payload, which more
// fragments follow or not. RFC 5722 section 4, which RFC 1858 and 3128 ask
// for without saying so: a fragment that overlaps another, or that says another
// length of the datagram, is refused with all that belongs to it. Exact duplicates
// are the network's doing and pass; they are told so that nobody counts them.
func (s *pieces) add(from, to uint16, more bool) (duplicate bool, r verdict.Reason) {
	i := s.place(from)
	if i < int(s.n) && s.list[i] == (piece{from, to}) {
		if last := s.ended && s.total == to; last == more {
			return false, verdict.FragmentOverlap
		}
		return true, verdict.None
	}
	switch {
	case i > 0 && s.list[i-1].to > from, i < int(s.n) && s.list[i].from < to:
		return false, verdict.FragmentOverlap
	case s.ended && (to > s.total || !more):
		return false, verdict.FragmentOverlap
	case !more && i < int(s.n):
		return false, verdict.FragmentOverlap // something came that is beyond the end
	case s.n == MaxPieces:
		return false, verdict.TooManyFragments
	}
	copy(s.list[i+1:s.n+1], s.list[i:s.n])
	s.list[i] = piece{from, to}
	s.n++
	s.sum += to - from
	if !more {
		s.ended, s.total = true, to
	}
	return false, verdict.None
}

// place is where in the list a piece that begins at from belongs. Fragments come
// in order mostly, so it looks from the end.
func (s *pieces) place(from uint16) int {
	i := int(s.n)
	for i > 0 && s.list[i-1].from >= from {
		i--
	}
	return i
}

// complete reports whether all of the datagram has passed: pieces do not overlap,
// so that their lengths add up to its own only then.
func (s *pieces) complete() bool { return s.ended && s.sum == s.total }

// reset forgets what came.
func (s *pieces) reset() { s.n, s.ended, s.total, s.sum = 0, false, 0, 0 }
