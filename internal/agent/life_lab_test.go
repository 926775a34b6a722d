package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"sluice/internal/lab"
	"sluice/xdp"
)

// TestSuperFrames: with the offloads of the interface on, a reply is one frame of
// many segments and a partial checksum; both stay whole. By TCX and by clsact.
func TestSuperFrames(t *testing.T) {
	for name, classic := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.serveHTTP(r.node, nodeAddress+":80")
			r.standIn.serve(vipDefault, nodeAddress+":80")
			config := r.config()
			config.ClassicTC = classic
			a := r.start(config)
			if got := a.Status().Hook; got != name {
				t.Errorf("attached by %s", got)
			}
			if got := r.get(vipDefault, "/bytes/6000000"); !bytes.Equal(got, bytes.Repeat([]byte("sluice"), 1000000)) {
				t.Errorf("the download is %d bytes of something else", len(got))
			}
			large := r.toClient.some(func(_ *layers.Ethernet, ip *layers.IPv4, p gopacket.Packet) bool {
				return ip.SrcIP.String() == vipAddress && len(p.Data()) > 3000
			})
			if len(large) == 0 {
				t.Error("no super-frame was seen: the test shows nothing")
			}
			r.checkSegments(a)
		})
	}
}

// checkSegments: a super-frame counts as the packets that it becomes, each with
// headers of its own.
func (r *rig) checkSegments(a *running) {
	r.t.Helper()
	var cursor Cursor
	list, err := a.Next(&cursor, nil)
	r.must(err)
	const sent, mss, headers = 6000000, 1448, 52 // with the time stamps option
	for i := range list {
		packets, octets := list[i].Packets[1], list[i].Bytes[1]
		if packets < sent/mss || octets < sent+packets*40 || octets > sent+packets*headers+sent/4 { // and some again
			r.t.Errorf("%d packets of %d bytes to the client for %d bytes", packets, octets, sent)
		}
		if all := r.counter(a, "reply"); all != packets {
			r.t.Errorf("%d replies counted, and %d packets of the flow", all, packets)
		}
	}
	if len(list) != 1 {
		r.t.Errorf("%d flows", len(list))
	}
}

// TestPathMTU: a router's `fragmentation needed` about a reply comes from the
// gateway, translated to the backend as its flow has it: the server's kernel then
// sends smaller segments.
func TestPathMTU(t *testing.T) {
	r := newRig(t)
	r.checksums(r.node, "eth0", 0)
	r.serveHTTP(r.node, nodeAddress+":80")
	r.standIn.serve(vipDefault, nodeAddress+":80")
	r.start(r.config())
	c, err := r.connect(clientAddress+":4003", vipDefault, patience)
	r.must(err)
	defer c.Close()
	var reply []byte
	r.await("a reply", func() bool {
		got := r.toClient.find(func(_ *layers.Ethernet, ip *layers.IPv4, p gopacket.Packet) bool {
			return ip.SrcIP.String() == vipAddress
		})
		if len(got) > 0 {
			reply = got[0]
		}
		return len(got) > 0
	})
	// As the gateway translates it: what is quoted, with the backend as source.
	quote := gopacket.NewPacket(reply, layers.LayerTypeEthernet, gopacket.Default)
	ip, tcp := *quote.NetworkLayer().(*layers.IPv4), *quote.TransportLayer().(*layers.TCP)
	ip.SrcIP, tcp.SrcPort, tcp.Options = net.ParseIP(nodeAddress).To4(), 80, nil
	tcp.Seq++ // the SYN is acknowledged: a kernel ignores an error about it (RFC 5927 4.1)
	_ = tcp.SetNetworkLayerForChecksum(&ip)
	b := gopacket.NewSerializeBuffer()
	r.must(gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, &ip, &tcp))
	const mtu = 1000
	r.await("the path MTU", func() bool {
		// Again and again: the server may not have got the handshake's end yet.
		r.standIn.send(r.mac(r.gateway), &layers.IPv4{
			Version: 4, TTL: 60, Protocol: layers.IPProtocolICMPv4, SrcIP: net.ParseIP("172.18.0.200").To4(), DstIP: net.ParseIP(nodeAddress).To4(),
		}, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4), Seq: mtu}, gopacket.Payload(b.Bytes()))
		routes, err := r.node.Netlink().RouteGet(net.ParseIP(clientAddress))
		r.must(err)
		return routes[0].MTU == mtu
	})
	_ = c.SetDeadline(time.Now().Add(patience))
	_, err = fmt.Fprintf(c, "GET /bytes/60000 HTTP/1.0\r\n\r\n")
	r.must(err)
	got, buf := 0, make([]byte, 1<<16)
	for {
		n, err := c.Read(buf)
		got += n
		if err != nil {
			break
		}
	}
	if got < 60000 {
		t.Errorf("%d bytes came", got)
	}
	for _, frame := range r.toClient.find(func(_ *layers.Ethernet, ip *layers.IPv4, p gopacket.Packet) bool {
		return ip.SrcIP.String() == vipAddress && ip.Length > mtu
	}) {
		t.Errorf("a segment of %d bytes after the error", len(frame)-14)
	}
}

// TestRestart: the programs serve without the process; the next one takes the flows
// over, into a table of another size if need be.
func TestRestart(t *testing.T) {
	r := newRig(t)
	r.echo(r.node, nodeAddress+":53")
	r.serveHTTP(r.node, nodeAddress+":80")
	r.standIn.serve(vipDefault, nodeAddress+":53")
	r.standIn.serve(otherVIP+":80", nodeAddress+":80")
	config := r.config()
	for _, classic := range []bool{false, true, false} {
		config.ClassicTC = classic
		config.MaxFlows *= 2
		a := r.start(config)
		c := r.dial("", vipDefault)
		if _, err := r.ask(c, "with the agent"); err != nil {
			t.Fatal(err)
		}
		tcp, err := r.connect(clientAddress+":0", otherVIP+":80", patience)
		r.must(err)
		a.stop()
		if _, err := r.ask(c, "without"); err != nil {
			t.Fatal(err)
		}
		_, err = r.ask(r.dial("", vipDefault), "a new one without")
		r.must(err)
		config.MaxFlows += 100
		a = r.start(config)
		r.must(tcp.SetDeadline(time.Now().Add(patience)))
		if _, err := fmt.Fprintf(tcp, "GET / HTTP/1.0\r\n\r\n"); err != nil {
			t.Error(err)
		}
		if n, err := tcp.Read(make([]byte, 1024)); err != nil || n == 0 {
			t.Errorf("the connection after the restart: %v", err)
		}
		tcp.Close()
		if n := r.list(a); n < 3 {
			t.Errorf("%d flows after the restart, want 3 at least", n)
		}
		a.stop()
	}
	there, err := detachIn(r.node)
	if err != nil || !there {
		t.Errorf("detach: %v, %v", there, err)
	}
	if there, err := detachIn(r.node); err != nil || there {
		t.Errorf("detach again: %v, %v", there, err)
	}
	// A reply without the agent leaves with the backend's address.
	c := r.dial("", vipDefault)
	_, err = c.Write([]byte("anybody?"))
	r.must(err)
	r.await("an answer from the backend", func() bool {
		return len(r.toClient.find(func(_ *layers.Ethernet, ip *layers.IPv4, _ gopacket.Packet) bool {
			return ip.SrcIP.String() == nodeAddress && ip.Protocol == layers.IPProtocolUDP
		})) > 0
	})
}

func detachIn(n *lab.Namespace) (there bool, err error) {
	err = n.Do(func() (err error) {
		there, err = Detach()
		return err
	})
	return there, err
}

func (r *rig) list(a *running) (n int) {
	var c Cursor
	for !c.Done {
		list, err := a.Next(&c, nil)
		r.must(err)
		n += len(list)
	}
	return n
}

// TestExpiry: flows whose time is over go, and those at work stay.
func TestExpiry(t *testing.T) {
	r := newRig(t)
	r.echo(r.node, nodeAddress+":53")
	r.standIn.serve(vipDefault, nodeAddress+":53")
	config := r.config()
	config.Timeouts.UDP = 200 * time.Millisecond
	a := r.start(config)
	if _, err := r.ask(r.dial("", vipDefault), "short"); err != nil {
		t.Fatal(err)
	}
	_, err := r.dial("", otherVIP+":9").Write([]byte("not served"))
	r.must(err)
	r.await("expiry", func() bool {
		_, err := a.expire()
		r.must(err)
		return r.list(a) == 0
	})
}

// TestFollow: an interface that comes later is attached, replies by another than
// the requests came by are translated, and a gateway that changes its hardware
// address is believed under the new one only.
func TestFollow(t *testing.T) {
	r := newRig(t)
	r.echo(r.node, nodeAddress+":53")
	r.standIn.serve(vipDefault, nodeAddress+":53")
	config := r.config()
	config.Interfaces = []string{"eth0", "late0"}
	config.Gateways = []Gateway{{Address: netip.MustParseAddr(gatewayAddress)}}
	a := r.start(config)
	if got := a.Status().Missing; len(got) != 1 || got[0] != "late0" {
		t.Errorf("missing: %v", got)
	}
	// A second cable to the client, by which the node then routes.
	r.must(lab.Veth(r.node, "late0", r.client, "eth1", lab.VethOptions{}))
	r.must(r.node.AddAddress("late0", "172.19.0.1/24"))
	r.must(r.client.AddAddress("eth1", "172.19.0.2/24"))
	r.must(r.node.AddRoute(clientAddress+"/32", "172.19.0.2"))
	r.must(r.client.Sysctl("net/ipv4/conf/eth1/rp_filter", "0"))
	r.await("late0", func() bool { return len(a.Status().Missing) == 0 })
	r.await("the gateway", func() bool { return len(a.Status().Unresolved) == 0 })
	if _, err := r.ask(r.dial("", vipDefault), "another way"); err != nil {
		t.Error(err)
	}
	if got := r.toClient.find(func(_ *layers.Ethernet, ip *layers.IPv4, _ gopacket.Packet) bool {
		return ip.Protocol == layers.IPProtocolUDP && ip.SrcIP.String() == vipAddress
	}); len(got) != 0 {
		t.Error("the answer came by the first cable")
	}

	old := r.mac(r.gateway)
	link, err := r.gateway.Netlink().LinkByName("eth0")
	r.must(err)
	changed := net.HardwareAddr{2, 0, 0, 0, 1, 1}
	r.must(r.gateway.Netlink().LinkSetHardwareAddr(link, changed))
	r.neighbourChanged(changed)
	r.await("the new MAC", func() bool {
		r.standIn.send(changed, datagram(clientAddress, option(vipAddress, vipPort))...)
		return r.counter(a, "learned") >= 2
	})
	before := r.counter(a, "untrusted-gateway")
	r.standIn.send(old, datagram(clientAddress, option(vipAddress, vipPort))...)
	r.await("the old MAC to be refused", func() bool { return r.counter(a, "untrusted-gateway") > before })
}

// neighbourChanged has the gateway announce its MAC (a gratuitous ARP request).
func (r *rig) neighbourChanged(mac net.HardwareAddr) {
	fd, err := packetSocket(r.gateway, "eth0")
	r.must(err)
	defer unix.Close(fd)
	addr := net.ParseIP(gatewayAddress).To4()
	b := gopacket.NewSerializeBuffer()
	r.must(gopacket.SerializeLayers(b, gopacket.SerializeOptions{},
		&layers.Ethernet{SrcMAC: mac, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation: layers.ARPRequest, SourceHwAddress: mac, SourceProtAddress: addr, DstHwAddress: make([]byte, 6), DstProtAddress: addr,
		}))
	if _, err := unix.Write(fd, b.Bytes()); err != nil && err != syscall.EAGAIN {
		r.t.Fatal(err)
	}
}

// TestUpload: an upload arrives whole, its segments bare or each in an outer header.
func TestUpload(t *testing.T) {
	for _, dispatch := range []Dispatch{Option, IPIP} {
		for where, addr := range map[string]string{"host": nodeAddress, "pod": podAddress} {
			t.Run(fmt.Sprint(dispatch, "/", where), func(t *testing.T) {
				r := newRig(t)
				n := r.node
				if where == "pod" {
					n = r.pod
				}
				r.serveHTTP(n, addr+":32000")
				r.standIn.serve(vipDefault, addr+":32000")
				r.standIn.use(dispatch)
				config := r.config()
				config.Dispatch = dispatch
				a := r.start(config)
				// The stand-in takes and sends what fits a frame.
				r.offload(r.client, "eth0", unix.ETHTOOL_STSO, 0)
				r.offload(r.client, "eth0", unix.ETHTOOL_SGSO, 0)
				link, err := r.client.Netlink().LinkByName("eth0")
				r.must(err)
				r.must(r.client.Netlink().LinkSetMTU(link, 1400))
				c, err := r.connect(clientAddress+":4004", vipDefault, patience)
				r.must(err)
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				const size = 1 << 20
				_, err = fmt.Fprintf(c, "POST / HTTP/1.0\r\nContent-Length: %d\r\n\r\n", size)
				r.must(err)
				_, err = c.Write(make([]byte, size))
				r.must(err)
				answer, err := io.ReadAll(c)
				if want := fmt.Sprint(size); err != nil || !bytes.HasSuffix(answer, []byte("\r\n\r\n"+want)) {
					t.Errorf("%q, %v; want %s bytes uploaded", answer, err, want)
				}
				if got, all := r.counter(a, "decapsulated"), r.counter(a, "request"); all == 0 || dispatch == IPIP && got != all {
					t.Errorf("%d of %d requests were decapsulated", got, all)
				}
			})
		}
	}
}

// TestOpenFails: a start that fails leaves neither programs nor pins.
func TestOpenFails(t *testing.T) {
	r := newRig(t)
	config := r.config()
	config.MaxFlows = 0 // no map has this size
	r.must(r.node.Do(func() error {
		if a, err := Open(config, slog.New(slog.DiscardHandler)); err == nil {
			t.Error("it started")
			return a.Close()
		}
		dir, why := xdp.PinDirectory()
		if why != "" {
			return errors.New(why)
		}
		if left, err := filepath.Glob(filepath.Join(dir, pinName, "*", "*")); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
		return nil
	}))
	if there, err := detachIn(r.node); err != nil || there {
		t.Errorf("detach: %v, %v", there, err)
	}
}
