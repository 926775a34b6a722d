//go:build !race

package conntrack

const (
	raceDetector = false
	stressSteps  = 3_000_000
)
