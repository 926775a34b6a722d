package bench

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// Part is what to measure.
type Part string

const (
	All      Part = "all"
	Memory   Part = "memory"   // needs no root
	Wire     Part = "wire"     // over veth; needs root
	Services Part = "services" // the same of services

	// Receivers is many TCP connections that begin to receive at once; needs root.
	Receivers Part = "receivers"

	// Operator is no part of All: what commands that look cost a gateway at full
	// load; needs root.
	Operator Part = "operator"
)

var parts = []Part{All, Memory, Wire, Services, Receivers, Operator}

// Options shape a run. The zero value is a full one.
type Options struct {
	Part     Part          // "" = All
	Quick    bool          // a minute, too few samples to quote
	Out      string        // the directory for the report; "" = bench/out
	Pairs    int           // rounds over veth, of one sample for each peer; 0 = 20, quick 3
	Sample   time.Duration // of one sample over veth; 0 = 500 ms, quick 300 ms
	Binary   string        // the sluice program; "" = the one that is running
	Version  string        // of the program, for the report
	Progress io.Writer     // gets a line that changes, or lines where it is no terminal; nil = none
}

// minPairs is what an interval that says anything needs at least.
const minPairs = 3

// complete fills in the defaults and refuses what makes no sense.
func (o *Options) complete() error {
	if o.Part == "" {
		o.Part = All
	}
	if o.Out == "" {
		o.Out = "bench/out"
	}
	if o.Pairs == 0 {
		o.Pairs = 20
		if o.Quick {
			o.Pairs = minPairs
		}
	}
	if o.Sample == 0 {
		o.Sample = 500 * time.Millisecond
		if o.Quick {
			o.Sample = 300 * time.Millisecond
		}
	}
	switch {
	case !slices.Contains(parts, o.Part):
		return fmt.Errorf("bench: %q: it must be one of %v", o.Part, parts)
	case o.Pairs < minPairs:
		return fmt.Errorf("bench: --pairs %d: an interval needs %d at least, and one to quote 20", o.Pairs, minPairs)
	case o.Sample < 50*time.Millisecond || o.Sample > 10*time.Second:
		return fmt.Errorf("bench: --sample %v: it must be 50ms to 10s", o.Sample)
	}
	return nil
}

// memorySizes are the numbers of flows.
var memorySizes = []int{1 << 10, 1 << 16, 1 << 20, 1 << 22}

// memoryRun is the measurement in memory that the options ask for.
func (o *Options) memoryRun() *memoryRun {
	m := &memoryRun{sizes: memorySizes, kindSizes: kindSizes, rounds: 25, budget: 20 * time.Millisecond, most: 15 * time.Second}
	if o.Quick {
		m.sizes, m.rounds, m.most = []int{1 << 10, 1 << 16, 1 << 20}, 5, 3*time.Second
	}
	return m
}
