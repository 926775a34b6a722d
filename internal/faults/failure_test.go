package faults

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/internal/lab"
)

// TestPassOnFailure: with `on-failure: pass` the kernel gets what no worker takes,
// while the process is dead: connections that are not translated go on. Only the
// ports that NAT holds stay shut, since the host would answer for them with an
// error and end the inside host's conversation.
func TestPassOnFailure(t *testing.T) {
	r := newRig(t)
	g := r.start(config("on-failure: pass\n"), "--detach-on-exit")
	excluded := r.stream("excluded", r.top.Client2, lab.ExcludedAddress, 64)
	before := excluded.goesOn(patience)

	// A masqueraded conversation whose inside host is silent from now on: what it
	// sent would leave with its true source, as the operator asked for.
	const port = 4000
	seen := r.sourceSeen(port)
	g.signal(syscall.SIGKILL)
	<-g.done

	if a := excluded.goesOn(resume); a != before {
		t.Errorf("past the gateway it is seen as %v, was %v", a, before)
	}
	held := r.dial(r.top.Server1, port, seen.String())
	shut := r.dial(r.top.Server1, 0, fmt.Sprint(lab.GatewayOutside, ":9"))
	for range 3 {
		held.Write([]byte("held"))
	}
	// What comes later by the same way is answered, so those were not.
	shut.Write([]byte("shut"))
	shut.SetReadDeadline(time.Now().Add(patience))
	if _, err := shut.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the host does not answer for a port of its own: %v", err)
	}
	held.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := held.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the host answers for a port that NAT holds: %v", err)
	}

	g = r.start(config("on-failure: pass\n"), "--detach-on-exit")
	if a := excluded.goesOn(resume); a != before {
		t.Errorf("through the next gateway it is seen as %v, was %v", a, before)
	}
	g.healthy()
	r.end(g)
}

// sourceSeen is the external endpoint of an inside host's conversation with a
// port of a server, which is free again.
func (r *rig) sourceSeen(port int) net.Addr {
	r.Helper()
	var server net.PacketConn
	r.must(r.top.Server1.Do(func() (err error) {
		server, err = net.ListenPacket("udp4", fmt.Sprint(lab.Server1Address, ":", port))
		return err
	}))
	defer server.Close()
	client := r.dial(r.top.Client1, 0, fmt.Sprint(lab.Server1Address, ":", port))
	_, err := client.Write([]byte("here"))
	r.must(err)
	server.SetReadDeadline(time.Now().Add(patience))
	_, from, err := server.ReadFrom(make([]byte, 8))
	r.must(err)
	return from
}

// dial connects a datagram socket of a host, which ICMP errors are told to.
func (r *rig) dial(from *lab.Namespace, port int, to string) (c net.Conn) {
	r.Helper()
	r.must(from.Do(func() (err error) {
		d := net.Dialer{LocalAddr: &net.UDPAddr{Port: port}}
		c, err = d.Dial("udp4", to)
		return err
	}))
	r.Cleanup(func() { c.Close() })
	return c
}

// TestMemoryLimit: once it runs, the process needs no more memory than a little,
// whatever comes: the table fills up, is listed and decided about, the
// configuration is read again, all under a limit that lets nothing grow.
func TestMemoryLimit(t *testing.T) {
	const flows, spare = 16384, 32 << 20
	text := config(fmt.Sprintf("conntrack: {max-flows: %d}\n", flows))
	r := newRig(t)
	g := r.start(text, "--detach-on-exit")
	near := r.stream("near", r.top.Client1, lab.Server1Address, 64)
	before := near.goesOn(patience)
	g.limitMemory(g.dataSize() + spare)

	w := &world{rig: r, g: g}
	for range 3 {
		for i := 0; i < 4*flows; i += 1000 {
			r.scatter(r.top.Client2, uplinkPeer, 1000)
		}
		if n := len(g.flows()); n < flows/2 {
			t.Errorf("%d flows, of %d that fit", n, flows)
		}
		w.reload(text)
		if exit, out := g.sluice("status"); exit == 1 {
			t.Errorf("status: %s", out)
		}
	}
	if a := near.goesOn(resume); a != before {
		t.Errorf("seen as %v, was %v", a, before)
	}
	r.end(g)
}

// dataSize is the process's private memory that can be written, in bytes: what
// RLIMIT_DATA limits.
func (g *gateway) dataSize() (kb uint64) {
	g.rig.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	g.rig.must(err)
	_, rest, _ := strings.Cut(string(text), "VmData:")
	_, err = fmt.Sscan(rest, &kb)
	g.rig.must(err)
	return kb << 10
}

// limitMemory sets RLIMIT_DATA of the running process.
func (g *gateway) limitMemory(bytes uint64) {
	g.rig.Helper()
	out, err := exec.Command("prlimit", fmt.Sprint("--pid=", g.cmd.Process.Pid), fmt.Sprint("--data=", bytes)).CombinedOutput()
	if err != nil {
		g.rig.Fatalf("prlimit (of util-linux): %v\n%s", err, out)
	}
}
