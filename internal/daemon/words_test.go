package daemon

import (
	"slices"
	"testing"

	"sluice/conntrack"
	"sluice/internal/control"
)

// Filters take the words of every state that a flow can have, and no other.
func TestFlowStatesAreConntracks(t *testing.T) {
	var words []string
	for s := conntrack.StateNone + 1; s < conntrack.States; s++ {
		words = append(words, s.String())
	}
	if !slices.Equal(words, control.FlowStates) {
		t.Errorf("conntrack has %v, a filter takes %v", words, control.FlowStates)
	}
}
