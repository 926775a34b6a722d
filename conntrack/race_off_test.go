//go:build !race

package conntrack

const (
	raceDetector = false
	raceFactor   = 0 // tests do less by so much
	stressSteps  = 4_000_000
)
