//go:build !race

package conntrack

// These run once a packet. An atomic store is a locked instruction of about
// 20 cycles on amd64, three a packet; a plain store of an aligned word cannot
// tear on amd64 or arm64. What a race costs: two workers that count for the
// same flow at the same moment may count one packet, and of two times last seen
// in the same tick either stays.

func storeTick(p *Tick, v Tick)      { *p = v }
func storeWord(p *uint32, v uint32)  { *p = v }
func addCounter(p *uint64, v uint64) { *p += v }

// loadCounter reads what addCounter adds to.
func loadCounter(p *uint64) uint64 { return *p }
