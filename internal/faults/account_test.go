package faults

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"sluice/internal/control"
	"sluice/internal/lab"
)

// account is what everybody has counted by a moment at which nothing moved.
type account struct {
	arrived uint64 // frames that the gateway's NICs received

	steered  uint64 // of them, those that the steering program saw
	toWorker uint64 // of those, the ones that it gave to a worker
	lost     uint64 // of these, the ones for which a socket had no room
	unserved uint64 // those that it dropped, since no worker moved: a busy machine's may not for a second

	received, sent uint64 // by the workers
	wasted         uint64 // of those sent, the ones that the kernel then dropped
	own            uint64 // made by the workers: ICMP errors, and fragments beyond the first
	drops          uint64
	punted         uint64

	hosts   packets // of all hosts
	links   uint64  // frames that cables had no room for
	process control.Process
}

// packets are the counters of hosts (RFC 4293, RFC 4113 and so on): IPv4 packets
// that they made, that were for them, and that were damaged. UDP's own count of
// what came in would not do: Linux counts what was read.
type packets struct{ out, in, damaged uint64 }

// settle returns the account when nothing has moved for a while and no frame
// waits for a neighbour.
func (g *gateway) settle() (a account) {
	g.rig.Helper()
	g.rig.eventually("rest", func() error {
		before := g.account()
		time.Sleep(300 * time.Millisecond) // workers publish every 100 ms
		a = g.account()
		if before.process = a.process; a != before {
			return fmt.Errorf("from %+v to %+v", before, a)
		}
		for _, w := range g.status().Workers {
			if w.Frames.RX+w.Frames.Held+w.Frames.TX > 0 {
				return fmt.Errorf("worker %d: %+v", w.ID, w.Frames)
			}
		}
		return nil
	})
	return a
}

// account asks everybody.
func (g *gateway) account() (a account) {
	g.rig.Helper()
	s := g.status()
	for _, c := range s.Steering.Counters {
		a.steered += c.Packets
		if strings.HasPrefix(c.Name, "worker-") {
			a.toWorker += c.Packets
		}
		if c.Name == "failure-dropped" {
			a.unserved += c.Packets
		}
	}
	for _, i := range s.Interfaces {
		link := g.rig.link(i.Name).Attrs().Statistics
		a.arrived += link.RxPackets
		for _, q := range i.Queues {
			a.received += q.RXPackets
			a.sent += q.TXPackets
			a.lost += q.Drops.RXDropped + q.Drops.RXRingFull
		}
	}
	for _, e := range s.Router.ICMPErrors {
		a.own += e.Packets
	}
	a.own += s.Router.Fragments - s.Router.FragmentedPackets
	for _, p := range s.Punts.Reasons {
		a.punted += p.Passed
	}
	d, err := g.Drops(context.Background())
	g.rig.must(err)
	for _, r := range d.Reasons {
		a.drops += r.Packets
		if r.Reason == "transmit-failed" {
			a.wasted = r.Packets
		}
	}
	for _, n := range g.rig.top.Namespaces() {
		g.rig.countHost(n, &a)
	}
	a.process = s.Process
	return a
}

// countHost adds what a namespace has counted.
func (r *rig) countHost(n *lab.Namespace, a *account) {
	r.Helper()
	links, err := n.Netlink().LinkList()
	r.must(err)
	for _, l := range links {
		if s := l.Attrs().Statistics; s != nil {
			a.links += s.RxDropped + s.TxDropped
		}
	}
	// The gateway's kernel is a host, too: it gets answers to flows that gave way in
	// a full table, and says that nobody waits for them, but not always.
	var text []byte
	// Of the thread's namespace; /proc/net is that of the process's first one.
	r.must(n.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/snmp")
		return err
	}))
	ip := snmp(string(text), "Ip")
	a.hosts.out += ip["OutRequests"]
	a.hosts.in += ip["InDelivers"]
	a.hosts.damaged += ip["InHdrErrors"]
	for _, protocol := range []string{"Udp", "Tcp", "Icmp"} {
		a.hosts.damaged += snmp(string(text), protocol)["InCsumErrors"]
	}
}

// snmp reads the two lines, names and values, of a protocol.
func snmp(text, protocol string) map[string]uint64 {
	var names []string
	values := map[string]uint64{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case len(f) == 0 || f[0] != protocol+":":
		case names == nil:
			names = f
		default:
			for i, name := range names[1:] {
				var v uint64
				if _, err := fmt.Sscan(f[i+1], &v); err == nil {
					values[name] = v
				}
			}
		}
	}
	return values
}

// balance holds an account of one life of a gateway to the laws: what came in
// went out, was dropped under a name, or was given back. since is an earlier
// account of the same life.
func (r *rig) balance(now, since account) {
	r.Helper()
	if seen, came := now.steered-since.steered, now.arrived-since.arrived; seen != came {
		r.Errorf("the NICs received %d frames, the steering program decided about %d", came, seen)
	}
	if now.toWorker != now.received+now.lost {
		r.Errorf("the steering program gave %d frames to workers, which received %d; sockets lost %d", now.toWorker, now.received, now.lost)
	}
	if in, out := now.received+now.own, now.sent-now.wasted+now.drops+now.punted; in != out {
		r.Errorf("workers received %d packets and made %d; they sent %d, dropped %d, gave back %d: %d are missing",
			now.received, now.own, now.sent-now.wasted, now.drops, now.punted, int64(in-out))
	}
	if now.hosts.damaged != since.hosts.damaged {
		r.Errorf("hosts received %d damaged packets", now.hosts.damaged-since.hosts.damaged)
	}
}

// delivered holds the packets that hosts sent between two accounts, while nothing
// was broken, to what hosts received and the gateway dropped.
func (r *rig) delivered(now, since account) {
	r.Helper()
	sent, received := now.hosts.out-since.hosts.out+now.own-since.own, now.hosts.in-since.hosts.in
	dropped := now.drops - since.drops + now.lost - since.lost + now.unserved - since.unserved
	links := now.links - since.links
	r.Logf("%d packets were sent, by hosts and the gateway, and hosts received %d; the gateway counts %d drops, the cables %d", sent, received, dropped, links)
	if missing := int64(sent-received) - int64(dropped); missing < 0 || missing > int64(links) {
		r.Errorf("%d packets were sent and %d received: with the %d drops that the gateway counts, and up to %d of the cables, %d are missing",
			sent, received, dropped, links, missing)
	}
	if sent == 0 || dropped == 0 {
		r.Error("nothing was sent, or nothing was ever dropped")
	}
}

// flat holds what the process takes of the machine to what it took before.
func (r *rig) flat(now, since control.Process) {
	r.Helper()
	const (
		some   = 6        // connections to the control socket that idle
		memory = 32 << 20 // the collector lets the heap double before it works
	)
	r.Logf("process: %+v, before %+v", now, since)
	if now.Goroutines > since.Goroutines+some || now.Descriptors > since.Descriptors+some || now.ResidentBytes > since.ResidentBytes+memory {
		r.Errorf("the process grows: %+v, before %+v", now, since)
	}
	if now.Goroutines == 0 || now.Descriptors == 0 || now.ResidentBytes == 0 {
		r.Errorf("status does not tell: %+v", now)
	}
}
