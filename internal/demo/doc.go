// Package demo tells the story behind `make run`: it builds the lab's topology,
// runs the gateway on it as a child process, sends real traffic through, asks
// the servers whom they saw and the gateway what it did, prints all of that as
// a table, and removes everything. Every row is a check that can fail.
//
// RunDSR is the story of `make demo-dsr`: the lab with a backend node for Direct
// Server Return, and the packets of each exchange captured where they pass.
//
// It owns the traffic and what is expected of it. The topology and the checker
// of leaks are the lab's; the gateway is the program itself, used through its
// commands and its control socket like anyone else would.
//
// Concurrency: Run and Up use goroutines of their own and are done with them
// when they return. A panic in any of them becomes an error of its check, so
// that nothing of the lab outlives it.
package demo
