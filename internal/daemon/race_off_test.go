//go:build !race

package daemon

// raceEnabled says that this is a build for the race detector, which is about ten
// times slower.
const raceEnabled = false
