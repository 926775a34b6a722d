// Package fragment remembers the datagrams that pass in fragments: which worker
// has one, which pieces of it came, what its first fragment told, and the
// fragments that came before that one. With this a gateway translates fragments
// without putting the datagram together (virtual reassembly).
//
// It owns that memory and its bounds. It does not own frames of a UMEM, flows or
// translations, decides nothing about a packet but whether its pieces agree with
// each other, and sends nothing.
//
// Concurrency: an Exchange is shared by all workers without a lock. A Store
// belongs to one worker. A datagram belongs to the worker that saw a fragment of
// it first; an Exchange tells the others, which copy theirs into the owner's
// inbox. RSS brings all fragments of a datagram to one queue mostly, and then
// nothing is copied; where it does not, pieces are still compared by one worker
// alone, so that no overlap goes unseen. Time is an argument.
//
// It follows RFC 791 (section 3.2), RFC 1858 and RFC 3128 (tiny fragments: see
// package packet), RFC 5722 as to overlaps, and RFC 6274 as to bounds.
package fragment
