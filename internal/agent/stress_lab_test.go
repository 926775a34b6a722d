package agent

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"sluice/internal/lab"
	"sluice/xdp"
)

// fetch is get for other goroutines than the test's, and how many bytes came.
func (r *rig) fetch(vip string, size int) (got int64, err error) {
	err = r.client.Do(func() error {
		c, err := net.DialTimeout("tcp4", vip, patience)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := fmt.Fprintf(c, "GET /bytes/%d HTTP/1.0\r\n\r\n", size); err != nil {
			return err
		}
		got, err = io.Copy(io.Discard, c)
		return err
	})
	return got, err
}

// knock is a question by a socket of its own, whose answer may be lost.
func (r *rig) knock(vip string) bool {
	err := r.client.Do(func() error {
		c, err := net.Dial("udp4", vip)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		if _, err := c.Write([]byte("hello")); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 100))
		return err
	})
	return err == nil
}

// TestRestartUnderTraffic: new connections and flows begin all the time while the agent
// ends and starts, by another hook and with a table of another size each time. None
// breaks, and nothing leaves with the backend's address.
func TestRestartUnderTraffic(t *testing.T) {
	r := newRig(t)
	r.serveHTTP(r.node, nodeAddress+":80")
	r.echo(r.node, nodeAddress+":53")
	r.standIn.serve(otherVIP+":80", nodeAddress+":80")
	r.standIn.serve(vipDefault, nodeAddress+":53")
	config := r.config()
	a := r.start(config)

	var stop atomic.Bool
	var fetched, answered atomic.Int64
	var clients sync.WaitGroup
	clients.Go(func() {
		for !stop.Load() {
			const size = 300000
			if n, err := r.fetch(otherVIP+":80", size); err != nil || n < size {
				t.Errorf("%d bytes, %v", n, err)
			}
			fetched.Add(1)
		}
	})
	clients.Go(func() {
		for !stop.Load() {
			if r.knock(vipDefault) {
				answered.Add(1)
			}
		}
	})
	for i := range 4 {
		before, questions := fetched.Load(), answered.Load()
		r.await("traffic", func() bool { return fetched.Load() > before && answered.Load() > questions })
		a.stop()
		config.ClassicTC = i%2 == 0
		config.MaxFlows += 1000
		a = r.start(config)
	}
	stop.Store(true)
	clients.Wait()
	r.settle(r.toClient, "eth0")
	if n := r.toClient.from(nodeAddress); n > 0 {
		t.Errorf("%d of the packets to the client had the backend's address", n)
	}
	t.Logf("%d connections, %d datagrams answered", fetched.Load(), answered.Load())
}

// TestInterfaceComesBack: the interface of requests and replies is deleted and made
// anew. The agent is on the new one, the old one's pins are gone, and a connection
// from before goes on.
func TestInterfaceComesBack(t *testing.T) {
	r := newRig(t)
	r.serveHTTP(r.node, nodeAddress+":80")
	r.standIn.serve(vipDefault, nodeAddress+":80")
	a := r.start(r.config())
	c, err := r.connect(clientAddress+":0", vipDefault, patience)
	r.must(err)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	_, err = fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: web\r\n\r\n")
	r.must(err)
	_, err = c.Read(make([]byte, 4096)) // so that the server has the handshake's end
	r.must(err)

	link, err := r.node.Netlink().LinkByName("eth0")
	r.must(err)
	r.must(r.node.Netlink().LinkDel(link))
	r.await("its loss to be noticed", func() bool { return len(a.Status().Missing) == 1 })
	r.must(lab.Veth(r.node, "eth0", r.segment, "again", lab.VethOptions{}))
	r.must(r.node.AddAddress("eth0", nodeAddress+"/24"))
	r.await("the new one to be attached", func() bool { return len(a.Status().Missing) == 0 })
	// The wire comes last: what the server repeats while no agent is there leaves as
	// the backend's, and the client resets what it does not know.
	bridge, err := r.segment.Netlink().LinkByName("br0")
	r.must(err)
	port, err := r.segment.Netlink().LinkByName("again")
	r.must(err)
	r.must(r.segment.Netlink().LinkSetMaster(port, bridge.(*netlink.Bridge)))

	_ = c.SetDeadline(time.Now().Add(patience))
	_, err = fmt.Fprintf(c, "GET /bytes/60000 HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
	r.must(err)
	if n, err := io.Copy(io.Discard, c); err != nil || n < 60000 {
		t.Errorf("the connection from before: %d bytes, %v", n, err)
	}
	if got := r.get(vipDefault, "/bytes/60000"); len(got) != 60000 {
		t.Errorf("a new one: %d bytes", len(got))
	}
	r.must(r.node.Do(func() error {
		dir, why := xdp.PinDirectory()
		if why != "" {
			return errors.New(why)
		}
		pins, err := filepath.Glob(filepath.Join(dir, pinName, linkName, "*"))
		if want := 1 + len(a.Status().ReplyInterfaces); len(pins) != want {
			t.Errorf("pinned: %v, want %d", pins, want)
		}
		return err
	}))
}

// TestTwoAgents: a second agent refuses to start, and does not disturb the first.
func TestTwoAgents(t *testing.T) {
	r := newRig(t)
	r.echo(r.node, nodeAddress+":53")
	r.standIn.serve(vipDefault, nodeAddress+":53")
	a := r.start(r.config())
	r.must(r.node.Do(func() error {
		second, err := Open(r.config(), slog.New(slog.DiscardHandler))
		if !errors.Is(err, ErrOther) {
			t.Errorf("a second one: %v", err)
		}
		if err == nil {
			return second.Close()
		}
		return nil
	}))
	if _, err := r.ask(r.dial("", vipDefault), "hello"); err != nil {
		t.Error(err)
	}
	a.stop()
	r.start(r.config())
	if _, err := r.ask(r.dial("", vipDefault), "hello"); err != nil {
		t.Error(err)
	}
}

// TestPortAndBridge: a request that passes two listed interfaces, a bridge and its
// port, is the one that it was at the first.
func TestPortAndBridge(t *testing.T) {
	r := newRig(t)
	mac := r.mac(r.node)
	link, err := r.node.Netlink().LinkByName("eth0")
	r.must(err)
	r.must(r.node.Netlink().AddrDel(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(nodeAddress).To4(), Mask: net.CIDRMask(24, 32)}}))
	r.must(r.node.Bridge("br1", "eth0"))
	bridge, err := r.node.Netlink().LinkByName("br1")
	r.must(err)
	r.must(r.node.Netlink().LinkSetHardwareAddr(bridge, mac))
	r.must(r.node.AddAddress("br1", nodeAddress+"/24"))
	r.echo(r.node, nodeAddress+":53")
	r.standIn.serve(vipDefault, nodeAddress+":53")
	config := r.config()
	config.Interfaces = []string{"eth0", "br1"}
	a := r.start(config)
	if _, err := r.ask(r.dial("", vipDefault), "hello"); err != nil {
		t.Error(err)
	}
	r.count(a, "request", 1)
	r.count(a, "direct-datagram", 0)
}
