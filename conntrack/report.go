package conntrack

import (
	"fmt"
	"strings"
)

// Loss is why a flow record that an earlier process left was not adopted.
type Loss uint8

const (
	stays           Loss = iota
	LostIncomplete       // its creator had not finished
	LostTorn             // the check sum does not match
	LostImplausible      // it is whole, but no flow that this program makes
	LostDuplicate        // another record has its tuple, its port or its mapping
	LostExpired          // silent for too long by now
	LostAddress          // its external address is gone
	LostInterface        // the interfaces were listed in another order, or one is gone
	LostService          // its service or backend is configured no more
	losses
)

var lossWords = [losses]string{
	LostIncomplete: "half created", LostTorn: "torn", LostImplausible: "implausible", LostDuplicate: "in conflict with another",
	LostExpired: "expired meanwhile", LostAddress: "whose external address is gone", LostInterface: "whose interface is not the same any more",
	LostService: "whose service or backend is configured no more",
}

// Report is what Rebuild found.
type Report struct {
	Clean    bool // the earlier process ended in order
	Grown    int  // from how many flows, 0 = not
	Adopted  int  // flows
	Mappings int
	Sources  int
	Lost     [losses]int // flows, by Loss
	Mended   int         // records put right that flows vouch for
}

// Dropped is how many flows were not adopted.
func (r *Report) Dropped() (n int) {
	for _, lost := range r.Lost {
		n += lost
	}
	return n
}

// String is one line.
func (r Report) String() string {
	var b strings.Builder
	how := "after a crash"
	if r.Clean {
		how = "after an orderly stop"
	}
	fmt.Fprintf(&b, "%d flows with %d mappings adopted %s", r.Adopted, r.Mappings, how)
	if r.Grown > 0 {
		fmt.Fprintf(&b, ", by a table that had room for %d", r.Grown)
	}
	separator := "; ended: "
	for why, n := range r.Lost {
		if n > 0 {
			fmt.Fprintf(&b, "%s%d %s", separator, n, lossWords[why])
			separator = ", "
		}
	}
	if r.Mended > 0 {
		fmt.Fprintf(&b, "; %d records mended", r.Mended)
	}
	return b.String()
}
