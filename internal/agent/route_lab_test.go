package agent

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sluice/internal/lab"
)

const byService = 100 // a routing table

// secondWay connects the node and the client by another cable, which only table
// byService leads to, and taps it at the client.
func (r *rig) secondWay() *tap {
	r.must(lab.Veth(r.node, "far0", r.client, "eth1", lab.VethOptions{}))
	r.must(r.node.AddAddress("far0", "172.19.0.1/24"))
	r.must(r.client.AddAddress("eth1", "172.19.0.2/24"))
	r.must(r.client.Sysctl("net/ipv4/conf/eth1/rp_filter", "0"))
	r.route("far0", "172.19.0.2", byService)
	return r.tapOn(r.client, "eth1")
}

// route has a table of the node lead everything to a neighbour.
func (r *rig) route(name, via string, table int) {
	l, err := r.node.Netlink().LinkByName(name)
	r.must(err)
	r.must(r.node.Netlink().RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(via), Table: table}))
}

// rule adds or removes `ip rule from VIP`, and waits until the agent knows.
func (r *rig) rule(a *running, kind uint8, there bool) {
	r.t.Helper()
	rule := netlink.NewRule()
	rule.Family, rule.Priority = unix.AF_INET, 1000
	rule.Src = &net.IPNet{IP: net.ParseIP(vipAddress).To4(), Mask: net.CIDRMask(32, 32)}
	if rule.Type = kind; kind == unix.FR_ACT_TO_TBL {
		rule.Table = byService
	}
	if there {
		r.must(r.node.Netlink().RuleAdd(rule))
	} else {
		r.must(r.node.Netlink().RuleDel(rule))
	}
	r.await("the agent sees the rule", func() bool { return a.Status().SourceRules == there })
}

// from are the packets that a tap saw from an address.
func (p *tap) from(addr string) int {
	return len(p.find(func(_ *layers.Ethernet, ip *layers.IPv4, _ gopacket.Packet) bool { return ip.SrcIP.String() == addr }))
}

// TestSourceRules: a routing rule for the service's address sends replies by another
// interface, as it would have if that had been the source from the beginning: those
// of the node's own server and of a pod's, super-frames, fragments and ICMP errors.
func TestSourceRules(t *testing.T) {
	for where, addr := range map[string]string{"host": nodeAddress, "pod": podAddress} {
		t.Run(where, func(t *testing.T) {
			r := newRig(t)
			n := r.node
			if where == "pod" {
				n = r.pod
			}
			far := r.secondWay()
			r.serveHTTP(n, addr+":80")
			r.echo(n, addr+":53")
			tcp, udp, nobody := fmt.Sprintf("%s:%d", vipAddress, 80), fmt.Sprintf("%s:%d", vipAddress, 53), fmt.Sprintf("%s:%d", vipAddress, 99)
			r.standIn.serve(tcp, addr+":80")
			r.standIn.serve(udp, addr+":53")
			r.standIn.serve(nobody, addr+":99")
			config := r.config()
			config.Services = nil
			a := r.start(config)

			everything := func() {
				t.Helper()
				if got := r.get(tcp, "/bytes/600000"); !bytes.Equal(got, bytes.Repeat([]byte("sluice"), 100000)) {
					t.Errorf("the download is %d bytes of something else", len(got))
				}
				large := string(bytes.Repeat([]byte("0123456789"), 100))
				c := r.dial("", udp)
				if got, err := r.ask(c, large); err != nil || got != c.LocalAddr().String()+" "+large {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				if _, err := r.ask(r.dial("", nobody), "anybody?"); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("a port without a server: %v", err)
				}
			}
			settle := func() { r.settle(r.toClient, "eth0"); r.settle(far, "far0") }
			everything()
			settle()
			if n := far.from(vipAddress); n > 0 {
				t.Fatalf("%d replies by the other way without a rule", n)
			}
			r.count(a, "rerouted", 0)

			r.rule(a, unix.FR_ACT_TO_TBL, true)
			settle()
			near := r.toClient.from(vipAddress)
			everything()
			settle()
			if far.from(vipAddress) == 0 {
				t.Error("no replies by the other way")
			}
			if n := r.toClient.from(vipAddress) - near; n > 0 {
				t.Errorf("%d replies as the kernel had chosen", n)
			}
			if n := far.from(addr) + r.toClient.from(addr); n > 0 {
				t.Errorf("%d replies left untranslated", n)
			}
			if r.counter(a, "rerouted") == 0 {
				t.Error("not counted")
			}

			r.rule(a, unix.FR_ACT_TO_TBL, false)
			settle()
			passed := far.from(vipAddress)
			everything()
			settle()
			if n := far.from(vipAddress) - passed; n > 0 {
				t.Errorf("%d replies by the other way after the rule had gone", n)
			}
		})
	}
}

// TestSourceRuleRefuses: where a rule has no way for the service's address, replies
// are dropped and counted.
func TestSourceRuleRefuses(t *testing.T) {
	r := newRig(t)
	r.echo(r.node, nodeAddress+":53")
	r.standIn.serve(vipDefault, nodeAddress+":53")
	a := r.start(r.config())
	for i, kind := range []uint8{unix.FR_ACT_BLACKHOLE, unix.FR_ACT_UNREACHABLE, unix.FR_ACT_PROHIBIT} {
		r.rule(a, kind, true)
		_, err := r.dial("", vipDefault).Write([]byte("anybody?"))
		r.must(err)
		r.count(a, "reply-unroutable", uint64(i+1))
		r.rule(a, kind, false)
	}
	r.settle(r.toClient, "eth0")
	if n := r.toClient.from(vipAddress) + r.toClient.from(nodeAddress); n > 0 {
		t.Errorf("%d replies left", n)
	}
}

// TestSourceRuleSmallerMTU: a reply that does not fit the way that a rule has for it
// is dropped and counted.
func TestSourceRuleSmallerMTU(t *testing.T) {
	r := newRig(t)
	r.secondWay()
	l, err := r.node.Netlink().LinkByName("far0")
	r.must(err)
	r.must(r.node.Netlink().LinkSetMTU(l, 600))
	r.echo(r.node, nodeAddress+":53")
	r.standIn.serve(vipDefault, nodeAddress+":53")
	a := r.start(r.config())
	r.rule(a, unix.FR_ACT_TO_TBL, true)
	c := r.dial("", vipDefault)
	if _, err := r.ask(c, "small"); err != nil { // and the neighbour is known
		t.Fatal(err)
	}
	_, err = c.Write(make([]byte, 1000))
	r.must(err)
	r.count(a, "reply-too-big", 1)
}

// TestSourceRuleFromTunnel: the kernel's first choice was an interface without a
// link-layer header, the rule's has one.
func TestSourceRuleFromTunnel(t *testing.T) {
	r := newRig(t)
	far := r.secondWay()
	tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, Mode: netlink.TUNTAP_MODE_TUN}
	r.must(r.node.Do(func() error { return netlink.LinkAdd(tun) }))
	r.must(r.node.AddAddress("tun0", "172.20.0.1/24"))
	l, err := r.node.Netlink().LinkByName("tun0")
	r.must(err)
	r.must(r.node.Netlink().LinkSetUp(l))
	r.must(r.node.AddRoute(clientAddress+"/32", "172.20.0.2"))
	r.must(r.node.Sysctl("net/ipv4/conf/all/rp_filter", "0"))
	r.must(r.node.Sysctl("net/ipv4/conf/eth0/rp_filter", "0"))
	r.serveHTTP(r.node, nodeAddress+":80")
	r.standIn.serve(vipDefault, nodeAddress+":80")
	a := r.start(r.config())
	r.rule(a, unix.FR_ACT_TO_TBL, true)
	if got := r.get(vipDefault, "/bytes/60000"); len(got) != 60000 {
		t.Errorf("%d bytes came", len(got))
	}
	r.settle(far, "far0")
	if far.from(vipAddress) == 0 {
		t.Error("nothing by the rule's way")
	}
}

// TestNoLookup: a node that forwards nothing cannot look routes up for its own
// servers; the agent says so, and answers all the same.
func TestNoLookup(t *testing.T) {
	r := newRig(t)
	far := r.secondWay()
	r.must(r.node.Sysctl("net/ipv4/ip_forward", "0"))
	r.echo(r.node, nodeAddress+":53")
	r.standIn.serve(vipDefault, nodeAddress+":53")
	a := r.start(r.config())
	if a.Status().NoLookup {
		t.Error("it misses what it does not need")
	}
	r.rule(a, unix.FR_ACT_TO_TBL, true)
	if !a.Status().NoLookup {
		t.Error("it does not say that replies follow no rule")
	}
	if _, err := r.ask(r.dial("", vipDefault), "hello"); err != nil {
		t.Error(err)
	}
	r.settle(far, "far0")
	if far.from(vipAddress) > 0 {
		t.Error("a rule was followed: the test shows nothing")
	}
	r.must(r.node.Sysctl("net/ipv4/conf/lo/forwarding", "1"))
	r.await("the setting", func() bool { return !a.Status().NoLookup })
	if _, err := r.ask(r.dial("", vipDefault), "hello"); err != nil {
		t.Error(err)
	}
	r.count(a, "rerouted", 1)
}
