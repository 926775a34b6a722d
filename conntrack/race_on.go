//go:build race

package conntrack

import "sync/atomic"

// Under the race detector the plain stores of race_off.go are atomic, since it
// cannot know that they are allowed to race.

func storeTick(p *Tick, v Tick)      { atomic.StoreUint32((*uint32)(p), uint32(v)) }
func storeWord(p *uint32, v uint32)  { atomic.StoreUint32(p, v) }
func addCounter(p *uint64, v uint64) { atomic.AddUint64(p, v) }

func storeRelaxed(p *atomic.Uint32, v uint32) { p.Store(v) }
func add(c *atomic.Int64, n int64)            { c.Store(c.Load() + n) }

// loadCounter reads what addCounter adds to.
func loadCounter(p *uint64) uint64 { return atomic.LoadUint64(p) }
