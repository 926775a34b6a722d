package conntrack

import "pgregory.net/rapid"

// audit fails the test if the table is not consistent. Nobody may use it
// meanwhile; held says how many mapping references the test itself holds.
func audit(t rapid.TB, table *Table, held int) {
	t.Helper()
	if err := table.verify(held); err != nil {
		t.Error(err)
	}
}
