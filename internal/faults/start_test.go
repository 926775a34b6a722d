package faults

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"sluice/internal/lab"
)

// TestForeignProgram: where somebody else's XDP program is on an interface the
// start is refused, says what to do, and leaves all as it was: nothing steered
// where nothing was, and where an earlier daemon left its program, that one,
// which holds the packets back.
func TestForeignProgram(t *testing.T) {
	r := newRig(t)
	foreign := r.attachForeign(lab.OutsideNIC)
	g := r.launch(config(""))
	g.ended(1)
	for _, words := range []string{lab.OutsideNIC, "another XDP program is attached", "bpftool net", "ip link set " + lab.OutsideNIC + " xdp off"} {
		if !strings.Contains(g.log.String(), words) {
			t.Errorf("the refusal does not say %q:\n%s", words, g.log)
		}
	}
	if r.steered(lab.InsideNIC) || r.steered(uplinkNIC) || !r.steered(lab.OutsideNIC) {
		t.Error("the refused start changed what is attached")
	}
	r.noPins()

	foreign.Close()
	r.start(config("")).stop()
	if n := len(r.pins()); n != 3 {
		t.Fatalf("%d programs are pinned after the stop, not one for every interface: %v", n, r.pins())
	}
	near := r.stream("near", r.top.Client1, lab.Server1Address, 64)
	near.stops()

	// The outside device is made anew, so that its pin is void, and somebody is
	// there first.
	r.must(r.netlink().LinkDel(r.link(lab.OutsideNIC)))
	r.must(lab.Veth(r.top.Gateway, lab.OutsideNIC, r.top.OutsideSwitch, "gateway", lab.VethOptions{}))
	r.must(r.top.Gateway.AddAddress(lab.OutsideNIC, lab.GatewayOutside+"/24"))
	r.watch(r.top.OutsideSwitch, "gateway")
	r.plug(r.top.OutsideSwitch, "gateway")
	foreign = r.attachForeign(lab.OutsideNIC)
	r.launch(config("")).ended(1)
	if !r.steered(lab.InsideNIC) || len(r.pins()) != 2 {
		t.Errorf("the refused start took away what held the packets back; pins: %v", r.pins())
	}
	near.stops()
	r.noLeak()

	foreign.Close()
	g = r.start(config(""), "--detach-on-exit")
	near.goesOn(resume)
	g.healthy()
	r.end(g)
}

// attachForeign puts a program of somebody else's on an interface.
func (r *rig) attachForeign(nic string) link.Link {
	r.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}, // XDP_PASS
	})
	r.must(err)
	defer program.Close()
	var l link.Link
	r.must(r.top.Gateway.Do(func() error {
		l, err = link.AttachXDP(link.XDPOptions{Program: program, Interface: r.link(nic).Attrs().Index})
		return err
	}))
	r.Cleanup(func() { l.Close() })
	return l
}

// TestFullTable: where there is no room for another flow, new ones are refused by
// name and old ones that were answered go on; once there is room again, new ones
// are made.
func TestFullTable(t *testing.T) {
	const capacity = 1024
	r := newRig(t)
	g := r.start(config(fmt.Sprintf("conntrack: {max-flows: %d, timeouts: {udp: 3s, udp-unreplied: 1s}}\n", capacity)), "--detach-on-exit")
	near := r.stream("near", r.top.Client1, lab.Server1Address, 64)
	before := near.goesOn(patience)
	tcp := r.session(r.top.Client1, lab.Server1Address)
	crowd := r.crowd(r.top.Client2, capacity*5/8)
	g.degraded("flow table")
	g.dropped("flow-table-full", 0)
	if a := near.goesOn(resume); a != before {
		t.Errorf("the old flow is seen as %v, was %v", a, before)
	}
	tcp.goesOn()
	crowd()
	late := r.stream("late", r.top.Client2, lab.Server1Address, 64)
	late.until(patience, "has room at last", func(answer) bool { return true })
	g.healthy()
	r.end(g)
}

// crowd has a host talk over n sockets with two servers each, which answer, until
// the function that it returns is called: two flows for each mapping.
func (r *rig) crowd(from *lab.Namespace, n int) (disperse func()) {
	r.Helper()
	conns := make([]net.PacketConn, n)
	r.must(from.Do(func() (err error) {
		for i := range conns {
			if conns[i], err = net.ListenPacket("udp4", ":0"); err != nil {
				return err
			}
			r.Cleanup(func() { conns[i].Close() })
		}
		return nil
	}))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		buf := make([]byte, 64)
		for {
			for _, c := range conns {
				for _, server := range []string{lab.Server1Address, farAddress} {
					c.WriteTo(buf, &net.UDPAddr{IP: net.ParseIP(server), Port: echoPort})
				}
				select {
				case <-stop:
					return
				case <-time.After(pace / 2): // the servers keep up
				}
			}
		}
	}()
	return func() {
		close(stop)
		<-stopped
	}
}
