//go:build race

package gateway

// raceDetector says that everything takes some ten times as long.
const raceDetector = true
