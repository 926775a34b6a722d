package control

import (
	"fmt"
	"strings"

	"sluice/internal/packet"
)

// tcpFlagWords are the words for TCP's flags, by their bits from the lowest.
var tcpFlagWords = [8]string{"fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"}

// parseTCPFlags reads flags with commas between them, or `none`.
func parseTCPFlags(s string) (flags uint8, err error) {
	if s == "none" {
		return 0, nil
	}
words:
	for word := range strings.SplitSeq(s, ",") {
		for bit, known := range tcpFlagWords {
			if word == known {
				flags |= 1 << bit
				continue words
			}
		}
		return 0, fmt.Errorf("%q is no flag of TCP; these are, with commas between several: %s; or none", word, strings.Join(tcpFlagWords[:], ", "))
	}
	return flags, nil
}

// TCPFlags are the flags of the packet asked about: those of Flags, else the one
// that opens a connection. Flags that ParseQuestion did not let through are none.
func (q *Question) TCPFlags() uint8 {
	if q.Flags == "" {
		return packet.TCPSyn
	}
	flags, _ := parseTCPFlags(q.Flags)
	return flags
}
