package xdp

import "testing"

// TestPortQueue: which queue a received frame came from, where queues took turns
// and some had none.
func TestPortQueue(t *testing.T) {
	p := &Port{took: []taken{{&Socket{queue: 4}, 2}, {&Socket{queue: 5}, 2}, {&Socket{queue: 1}, 7}}}
	for i, want := range []int{4, 4, 1, 1, 1, 1, 1, -1} {
		if got := p.Queue(i); got != want {
			t.Errorf("frame %d: queue %d, want %d", i, got, want)
		}
	}
}
