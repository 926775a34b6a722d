//go:build race

package faults

// buildFlags build the program with the race detector, too: the faults make all
// of its goroutines meet.
var buildFlags = []string{"build", "-race"}
