// Package bench measures the gateway, and reports what it found in a way that
// somebody else can repeat and doubt.
//
// It has two halves. In memory (memory.go), bursts of prepared frames go through
// gateway.Worker.Step, through the same stages one by one, through a C program
// that does the same hot work with as little as it can (twin), and through Go's
// map: nanoseconds per packet. TCP, fragments and services have the whole pass to
// themselves (kinds.go). Over veth (wire.go), a generator of its own sends
// to the gateway, to a bare AF_XDP forwarder, and to the kernel: packets per
// second, loss, CPU time and latency; the same for services (lane_service.go),
// whose answers pass as well where the source is translated.
//
// Figures of a shared machine drift by tens of percent. So nothing here is
// compared with a figure of another run: what is compared runs in turns, a
// fraction of a second each, and the ratio of each round counts; the report has
// its median and an interval. A sample during which the scheduler had the thread
// wait is taken again.
//
// Reaching a goal is reported (bars.go) and never asserted: a test that depends
// on the neighbours is no test.
//
// It owns the traffic, the scenarios, the peers and the report. It does not own
// the gateway's parts, which it drives from outside, or the networks, which
// internal/lab makes.
//
// Concurrency: Run is called once at a time. Every measuring loop has a locked,
// pinned thread of its own.
//
// The method follows RFC 2544 and RFC 8219 (medians and percentiles over at
// least 20 trials), RFC 4814 (random addresses and ports) and RFC 9693 (a table
// filled before it is measured).
package bench
