package faults

import (
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"sluice/internal/lab"
)

// stopped: a worker that does not move gets no more frames once its heartbeat is
// old. They are dropped, since the configuration says so, although the kernel
// would forward them.
func (w *world) stopped() {
	before := w.g.steering("failure-dropped")
	w.g.signal(syscall.SIGSTOP)
	// The heartbeat is old after a second, and nobody announces that; then some
	// traffic must meet it.
	time.Sleep(time.Second + 100*pace)
	w.near.stops()
	w.noLeak()
	w.g.signal(syscall.SIGCONT)
	w.near.goesOn(resume)
	if n := w.g.steering("failure-dropped"); n < before+20 {
		w.Errorf("%d frames were dropped while the process was stopped", n-before)
	}
}

// flood: the process does not fetch what arrives, until neither ring has room.
// What the kernel drops then it counts, and all goes on.
func (w *world) flood() {
	before := w.g.lost()
	w.g.signal(syscall.SIGSTOP)
	w.blast(w.top.Client1, lab.Server1Address, 6000)
	w.g.signal(syscall.SIGCONT)
	w.near.goesOn(resume)
	w.far.goesOn(resume)
	if n := w.g.lost(); n == before {
		w.Error("the flood filled no ring")
	}
}

// scatter sends a datagram to each of many ports: as many flows.
func (r *rig) scatter(from *lab.Namespace, to string, n int) {
	r.Helper()
	var c net.PacketConn
	r.must(from.Do(func() (err error) {
		c, err = net.ListenPacket("udp4", ":0")
		return err
	}))
	defer c.Close()
	for i := range n {
		c.WriteTo(make([]byte, 64), &net.UDPAddr{IP: net.ParseIP(to), Port: 20000 + i})
	}
}

// blast sends datagrams as fast as it goes.
func (r *rig) blast(from *lab.Namespace, to string, n int) {
	r.Helper()
	var c net.Conn
	r.must(from.Do(func() (err error) {
		c, err = net.Dial("udp4", to+":9")
		return err
	}))
	defer c.Close()
	for range n {
		c.Write(make([]byte, 64)) // a refusal is an ICMP error: nobody listens there
	}
}

// fullUplink: nobody reads the tap device. What its queue has no room for is
// dropped by name, and when somebody reads again, packets leave again.
func (w *world) fullUplink() {
	before := w.g.drops("transmit-failed")
	w.blast(w.top.Client1, uplinkPeer, 3000)
	w.g.dropped("transmit-failed", before)
	w.near.goesOn(resume)

	read := make(chan error, 1)
	go func() {
		// Frames that are longer than those of the blast.
		buf := make([]byte, 2048)
		for {
			n, err := w.uplink.Read(buf)
			if err != nil || n > 500 {
				read <- err
				return
			}
		}
	}()
	s := w.stream("uplink", w.top.Client1, uplinkPeer, 600)
	select {
	case err := <-read:
		w.must(err)
	case <-time.After(resume):
		w.Error("nothing leaves by the uplink")
	}
	s.conn.Close()
}

// second: another daemon cannot have the queues, nor the control socket, and
// says so; the first one notices nothing.
func (w *world) second() {
	g := w.launch(config(""), "--detach-on-exit")
	g.ended(1)
	if text := g.log.String(); !strings.Contains(text, "another socket holds the queue") {
		w.Errorf("the other daemon says\n%s", text)
	}
	w.near.goesOn(resume)

	g = w.launch(config(""), "--socket", w.g.socket)
	g.ended(1)
	if text := g.log.String(); !strings.Contains(text, "another daemon answers there") {
		w.Errorf("the other daemon says\n%s", text)
	}
	for _, nic := range []string{lab.InsideNIC, lab.OutsideNIC, uplinkNIC} {
		if !w.steered(nic) {
			w.Errorf("%s is not steered any more", nic)
		}
	}
}

// badReload: a file with mistakes changes nothing, and every mistake is named
// with its line.
func (w *world) badReload() {
	w.write(w.g.config, config("masquerade-everything: true\n"))
	exit, text := w.g.sluice("reload")
	if line := fmt.Sprintf("%s:%d: masquerade-everything", w.g.config, strings.Count(config(""), "\n")+1); exit != 1 || !strings.Contains(text, line) {
		w.Errorf("exit status %d, and it does not name %s:\n%s", exit, line, text)
	}
	w.near.goesOn(resume)
	w.g.degraded("the last reload was refused")
	w.reload(config(""))
}

// goodReload: a network that is no longer excluded from masquerading sees the
// external address at once. One that is excluded again sees the true source of
// new flows, and the external address of those that live.
func (w *world) goodReload() {
	w.reload(strings.Replace(config(""), lab.ExcludedNetwork, "", 1))
	masked := w.excluded.until(resume, "is masqueraded", seenAs(lab.GatewayOutside))
	w.reload(config(""))
	fresh := w.stream("excluded, new", w.top.Client2, lab.ExcludedAddress, 64)
	fresh.until(resume, "has its true source", seenAs(lab.Client2Address))
	if a := w.excluded.goesOn(resume); a.source != masked.source {
		w.Errorf("the live flow was seen as %s and is as %s", masked.source, a.source)
	}
}

// reload has the gateway read another configuration.
func (w *world) reload(text string) {
	w.Helper()
	w.write(w.g.config, text)
	if exit, out := w.g.sluice("reload"); exit != 0 {
		w.Fatalf("reload: exit status %d:\n%s", exit, out)
	}
}

// steering is a counter of the steering program.
func (g *gateway) steering(name string) uint64 {
	g.rig.Helper()
	for _, c := range g.status().Steering.Counters {
		if c.Name == name {
			return c.Packets
		}
	}
	g.rig.Fatalf("there is no steering counter %q", name)
	return 0
}

// lost is how many frames the kernel had no room for.
func (g *gateway) lost() (n uint64) {
	g.rig.Helper()
	for _, i := range g.status().Interfaces {
		for _, q := range i.Queues {
			n += q.Drops.RXDropped + q.Drops.RXRingFull + q.Drops.FillRingEmpty
		}
	}
	return n
}
