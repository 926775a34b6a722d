// Package plant plants faults in the program and holds that the tests notice: each
// entry of its list is a change that a tired engineer could make, and the name of a
// test that must fail with it. It is how the tests are tested.
//
// A fault is planted by the compiler's overlay, so that no file changes. Every run
// of the tests checks that each fault still has its place in the source, exactly
// one, and tries a few; `make faults` tries all.
//
// It has no code of its own, and belongs to no other package's concurrency.
package plant
