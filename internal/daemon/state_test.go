package daemon

import (
	"bytes"
	"testing"

	"sluice/internal/config"
)

// A table that does not fit together is found where that was asked for, and only
// there: it takes its time.
func TestFlowTableIsWalked(t *testing.T) {
	c := config.Default()
	c.StateFile, c.Conntrack.MaxFlows = "", 1024
	s, err := openState(c, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	s.verify = true
	if err := s.check(); err != nil {
		t.Errorf("an empty table: %v", err)
	}
	mem := s.memory.Bytes()
	copy(mem[len(mem)/8:], bytes.Repeat([]byte{0x5a}, len(mem)/2))
	if err := s.check(); err == nil {
		t.Error("half of the table is overwritten, and nothing is found")
	}
	s.verify = false
	if err := s.check(); err != nil {
		t.Errorf("nobody asked: %v", err)
	}
}
