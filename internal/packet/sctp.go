package packet

import (
	"encoding/binary"
	"hash/crc32"
)

// SCTP's common header: ports, verification tag, checksum (RFC 9260).
const (
	SCTPLength   = 12
	sctpChecksum = 8
)

// castagnoli is the polynomial of SCTP's checksum (RFC 3309). It covers the SCTP packet and no pseudo-header, so that an address may
// change without it.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// partialSCTP reports whether the CRC32c was left to the device: the kernel then
// sends 0 (net/sctp/output.c), which is right for one packet in 2^32, for which
// finishing is harmless.
func partialSCTP(t []byte) bool {
	return len(t) >= SCTPLength && be32(t[sctpChecksum:]) == 0
}

// completeSCTP stores the CRC32c, computed with 0 in its place, least significant
// byte first.
func completeSCTP(t []byte) {
	binary.LittleEndian.PutUint32(t[sctpChecksum:], crc32.Checksum(t, castagnoli))
}
