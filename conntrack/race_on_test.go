//go:build race

package conntrack

// The race detector is about ten times slower.
const (
	raceDetector = true
	raceFactor   = 1 // tests do less by so much
	stressSteps  = 500_000
)
