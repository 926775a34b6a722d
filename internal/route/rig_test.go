package route

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"sluice/internal/fib"
	"sluice/internal/lab"
)

const (
	lan fib.PortID = 0
	wan fib.PortID = 1
)

// rig is a gateway with a listed lan and wan, an interface `other` that is not
// listed, and a host behind each.
//
//	client 10.0.0.7 -- lan 10.0.0.1 | wan 192.0.2.1 -- 192.0.2.254 server
//	                   other 172.16.0.1 -- 172.16.0.2
type rig struct {
	t                          testing.TB
	gateway, client, server, x *lab.Namespace
	nl                         *netlink.Handle // inside the gateway
	mirror                     *Mirror
	news                       chan struct{} // something was published
}

func newRig(t testing.TB, refresh time.Duration) *rig {
	t.Helper()
	lab.RequireRoot(t)
	namespace := func(name string) *lab.Namespace {
		n, err := lab.NewNamespace(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		return n
	}
	r := &rig{t: t, gateway: namespace("gw"), client: namespace("client"), server: namespace("server"), x: namespace("other"), news: make(chan struct{}, 1)}
	r.nl = r.gateway.Netlink()
	r.cable("lan", "10.0.0.1/24", r.client, "10.0.0.7/24")
	r.cable("wan", "192.0.2.1/24", r.server, "192.0.2.254/24")
	r.cable("other", "172.16.0.1/24", r.x, "172.16.0.2/24")
	r.must(r.gateway.AddRoute("default", "192.0.2.254"))
	r.must(r.gateway.Do(func() (err error) {
		r.mirror, err = New(Config{Interfaces: []string{"lan", "wan"}, Refresh: refresh})
		return err
	}))
	t.Cleanup(func() { r.mirror.Close() })
	return r
}

// start runs the mirror until the end of the test.
func (r *rig) start() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- r.mirror.Run(ctx, func(*fib.Snapshot) {
			select {
			case r.news <- struct{}{}:
			default:
			}
		})
	}()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("Run: %v", err)
		}
	})
}

// cable connects an interface of the gateway to eth0 of a host.
func (r *rig) cable(name, addr string, host *lab.Namespace, hostAddr string) {
	r.t.Helper()
	r.must(lab.Veth(r.gateway, name, host, "eth0", lab.VethOptions{}))
	r.must(r.gateway.AddAddress(name, addr))
	r.must(host.AddAddress("eth0", hostAddr))
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) link(name string) netlink.Link {
	r.t.Helper()
	l, err := r.nl.LinkByName(name)
	r.must(err)
	return l
}

// await waits for a snapshot that is as wanted.
func (r *rig) await(what string, ok func(*fib.Snapshot) bool) *fib.Snapshot {
	r.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		if s := r.mirror.Current(); ok(s) {
			return s
		}
		select {
		case <-r.news:
		case <-timeout:
			r.t.Fatalf("%s: no snapshot says so; routes %v", what, r.mirror.Current().Steer())
		}
	}
}

func ip(s string) uint32 { return fib.U32(netip.MustParseAddr(s)) }

func network(s string) *net.IPNet {
	p := netip.MustParsePrefix(s)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}

// hop looks up dst as from the client.
func hop(s *fib.Snapshot, dst string) fib.Hop {
	_, h := s.Lookup(ip(dst), ip("10.0.0.7"), lan, 0)
	return h
}

// by says that dst is forwarded by gateway.
func by(dst, gateway string) func(*fib.Snapshot) bool {
	return func(s *fib.Snapshot) bool {
		h := hop(s, dst)
		return h.Type == fib.Forward && h.Gateway == ip(gateway)
	}
}

func is(dst string, typ fib.HopType) func(*fib.Snapshot) bool {
	return func(s *fib.Snapshot) bool { return hop(s, dst).Type == typ }
}

func (r *rig) unsupported(part string) bool {
	return strings.Contains(strings.Join(r.mirror.Unsupported(), "\n"), part)
}
