//go:build !race

package conntrack

const (
	raceDetector = false
	raceFactor   = 0 // tests do less by so much
	stressSteps  = 2_000_000
)
