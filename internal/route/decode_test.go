package route

import (
	"testing"

	"sluice/internal/fib"
)

// Whatever the kernel may send one day, decoding it ends without a panic and
// with prefixes that are prefixes.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{2, 24, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0, 8, 0, 1, 0, 203, 0, 113, 0, 8, 0, 4, 0, 3, 0, 0, 0, 8, 0, 5, 0, 192, 0, 2, 1})
	f.Add([]byte{2, 24, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0, 20, 0, 9, 0, 16, 0, 0, 2, 3, 0, 0, 0, 8, 0, 5, 0, 10, 0, 0, 1})
	f.Add([]byte{2, 0, 24, 0, 254, 0, 0, 1, 2, 0, 0, 0, 8, 0, 2, 0, 10, 0, 0, 0, 8, 0, 6, 0, 100, 0, 0, 0, 8, 0, 3, 0, 'l', 'a', 'n', 0})
	f.Add([]byte{2, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 1, 8, 0, 1, 0, 10, 0, 0, 7, 10, 0, 2, 0, 2, 0, 0, 0, 0, 1, 0, 0})
	f.Fuzz(func(t *testing.T, msg []byte) {
		if r, _, ok, err := decodeRoute(msg); err == nil && ok && (!r.Prefix.IsValid() || r.Prefix != r.Prefix.Masked()) {
			t.Errorf("route to %v", r.Prefix)
		}
		if r, _, err := decodeRule(msg); err == nil && r.MinLength > 33 {
			t.Errorf("rule %+v", r)
		}
		if _, n, err := decodeNeighbour(msg); err == nil && n.entry(0, 0).State == fib.Resolved && n.mac == [6]byte{} {
			t.Errorf("neighbour %+v resolved to nothing", n)
		}
	})
}

func TestNeighbourStates(t *testing.T) {
	for state, want := range map[uint16]fib.NeighState{
		nudNone: fib.Unresolved, 0x01: fib.Unresolved, nudReachable: fib.Resolved, nudStale: fib.Resolved, nudDelay: fib.Resolved,
		nudProbe: fib.Resolved, nudFailed: fib.Failed, nudNoARP: fib.Resolved, nudPermanent: fib.Resolved,
	} {
		if got := (neighbour{state: state, mac: [6]byte{5: 1}}).entry(1, 2); got.State != want || got.Port != 1 || got.Addr != 2 {
			t.Errorf("state %#x: %+v, want %v", state, got, want)
		}
	}
}
