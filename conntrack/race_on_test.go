//go:build race

package conntrack

// The race detector is about ten times slower.
const (
	raceDetector = true
	stressSteps  = 600_000
)
