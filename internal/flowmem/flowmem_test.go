package flowmem

import (
	"math"
	"strings"
	"testing"
)

func TestAnonymousIsZeroedAlignedAndLargeEnough(t *testing.T) {
	m, err := Anonymous(3<<20 + 1)
	if err != nil {
		t.Fatal(err)
	}
	b := m.Bytes()
	if len(b) != 4<<20 {
		t.Errorf("%d bytes, want the next multiple of 2 MiB", len(b))
	}
	for i, v := range b {
		if v != 0 {
			t.Fatalf("byte %d is %d", i, v)
		}
	}
	b[len(b)-1] = 1
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestAnonymousSaysWhatToDo(t *testing.T) {
	for _, size := range []int{0, -1, math.MaxInt / 2} {
		_, err := Anonymous(size)
		if err == nil {
			t.Fatalf("%d bytes were allocated", size)
		}
		if size > 0 && !strings.Contains(err.Error(), "conntrack.max-flows") {
			t.Errorf("error names no remedy: %v", err)
		}
	}
}
