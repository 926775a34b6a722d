// Package pcapng is the file format of packet captures, as far as a capture of the
// gateway needs it: one section, an interface for every place where packets were
// seen, packets with comments, and the interfaces' counters.
//
// It owns the blocks, their options and their bytes. It does not own what a
// comment says, nor where the bytes go: a Writer writes each block with one call,
// so that a stream can end after any block and is a whole file.
//
// A Reader reads what a Writer wrote, block by block, on a machine of any byte
// order. It takes no other program's files: those have gopacket.
//
// It follows draft-ietf-opsawg-pcapng. Concurrency: a Writer or Reader belongs to
// one goroutine.
package pcapng
