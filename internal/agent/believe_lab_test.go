package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

var vipDefault = fmt.Sprintf("%s:%d", vipAddress, vipPort)

// datagram is one from a client to the node's UDP server, with the options given.
func datagram(client string, options ...layers.IPv4Option) []gopacket.SerializableLayer {
	ip := &layers.IPv4{
		Version: 4, TTL: 63, Protocol: layers.IPProtocolUDP, Options: options,
		SrcIP: net.ParseIP(client).To4(), DstIP: net.ParseIP(nodeAddress).To4(),
	}
	udp := &layers.UDP{SrcPort: 4000, DstPort: 53}
	_ = udp.SetNetworkLayerForChecksum(ip)
	return []gopacket.SerializableLayer{ip, udp, gopacket.Payload("hello")}
}

// TestBelieved: a service is learned only from a trusted gateway, for a client that
// is not the node, and if it is listed; what is not believed is delivered as it
// came, and counted.
func TestBelieved(t *testing.T) {
	other := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	r := newRig(t)
	r.echo(r.node, nodeAddress+":53")
	a := r.start(r.config())
	defer func() { r.t = t }()
	for _, c := range []struct {
		name, counter string
		change        func(*rig, *Config)
		from          net.HardwareAddr
		client        string
		vip           string
		port          uint16
	}{
		{name: "trusted and listed", counter: "learned", vip: vipAddress, port: vipPort},
		{name: "listed with all ports", counter: "learned", vip: otherVIP, port: 7},
		{name: "another gateway", counter: "untrusted-gateway", from: other, vip: vipAddress, port: vipPort},
		{name: "any gateway", counter: "learned", from: other, vip: vipAddress, port: vipPort, change: func(_ *rig, c *Config) { c.Gateways = nil }},
		{name: "another port", counter: "unlisted-service", vip: vipAddress, port: vipPort + 1},
		{name: "another address", counter: "unlisted-service", vip: "172.18.0.5", port: vipPort},
		{name: "any service", counter: "learned", vip: "172.18.0.5", port: 7, change: func(_ *rig, c *Config) { c.Services = nil }},
		{name: "a prefix", counter: "learned", vip: "172.18.0.5", port: 7, change: func(_ *rig, c *Config) {
			c.Services = []Service{{Prefix: netip.MustParsePrefix("172.18.0.0/29")}}
		}},
		{name: "outside the prefix", counter: "unlisted-service", vip: "172.18.0.8", port: 7, change: func(_ *rig, c *Config) {
			c.Services = []Service{{Prefix: netip.MustParsePrefix("172.18.0.0/29")}}
		}},
		{name: "from the node's own address", counter: "own-side", client: podRouter, vip: vipAddress, port: vipPort},
		{name: "by the gateway's address", counter: "learned", vip: vipAddress, port: vipPort, change: func(_ *rig, c *Config) {
			c.Gateways = []Gateway{{Address: netip.MustParseAddr(gatewayAddress)}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.t = t
			config := r.config()
			if c.change != nil {
				c.change(r, &config)
			}
			r.must(r.node.Do(func() error { return a.Apply(config) }))
			r.await("gateways are resolved", func() bool { return len(a.Status().Unresolved) == 0 })
			from, client := c.from, c.client
			if from == nil {
				from = r.mac(r.gateway)
			}
			if client == "" {
				client = clientAddress
			}
			before := map[string]uint64{}
			for _, name := range []string{c.counter, "learned", "stripped"} {
				before[name] = r.counter(a, name)
			}
			answers := r.answers(c.vip) + r.answers(nodeAddress)
			r.standIn.send(from, datagram(client, option(c.vip, c.port))...)
			r.count(a, c.counter, before[c.counter]+1)
			if c.counter != "learned" {
				r.count(a, "learned", before["learned"])
				r.count(a, "stripped", before["stripped"])
			}
			if c.counter == "own-side" {
				return // nobody to answer
			}
			r.await("the answer", func() bool { return r.answers(c.vip)+r.answers(nodeAddress) == answers+1 })
			// The next case begins anew.
			var cursor Cursor
			list, err := a.Next(&cursor, nil)
			r.must(err)
			for i := range list {
				if list[i].Service.Addr().String() != c.vip || r.answers(c.vip) == 0 {
					t.Errorf("learned %v", list[i])
				}
				_, err := a.Remove(&list[i])
				r.must(err)
			}
			if (len(list) == 1) != (c.counter == "learned") {
				t.Errorf("flows: %v", list)
			}
		})
	}
}

// answers are the datagrams that came to the client from an address.
func (r *rig) answers(from string) int {
	return len(r.toClient.find(func(_ *layers.Ethernet, ip *layers.IPv4, _ gopacket.Packet) bool {
		return ip.SrcIP.String() == from && ip.Protocol == layers.IPProtocolUDP
	}))
}

// TestOptionAnywhere: the option is found behind others, taken out, and the others
// stay as they were; in either byte order.
func TestOptionAnywhere(t *testing.T) {
	nop := layers.IPv4Option{OptionType: 1}
	alert := layers.IPv4Option{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}
	network := layers.IPv4Option{OptionType: 0x9a, OptionLength: 8, OptionData: []byte{0x7d, 0x00, 172, 18, 0, 2}}
	ours := option(vipAddress, vipPort)
	r := newRig(t)
	a := r.start(r.config())
	inPod := r.tap(r.pod) // so that the packet can be seen after the hook
	fromClient := func(_ *layers.Ethernet, ip *layers.IPv4, _ gopacket.Packet) bool {
		return ip.SrcIP.String() == clientAddress
	}
	defer func() { r.t = t }()
	for _, c := range []struct {
		name    string
		options []layers.IPv4Option
		order   bool
		left    []byte
	}{
		{name: "alone", options: []layers.IPv4Option{ours}},
		{name: "network order", options: []layers.IPv4Option{network}, order: true},
		{name: "first", options: []layers.IPv4Option{ours, alert}, left: []byte{148, 4, 0, 0}},
		{name: "behind another", options: []layers.IPv4Option{alert, ours}, left: []byte{148, 4, 0, 0}},
		{name: "at an odd offset", options: []layers.IPv4Option{nop, ours, nop, nop, nop}, left: []byte{1, 1, 1, 1}},
		{name: "between others", options: []layers.IPv4Option{nop, nop, nop, nop, alert, ours, alert}, left: []byte{1, 1, 1, 1, 148, 4, 0, 0, 148, 4, 0, 0}},
		{name: "in a full header", options: []layers.IPv4Option{alert, alert, alert, alert, alert, alert, alert, alert, ours}, left: []byte{
			148, 4, 0, 0, 148, 4, 0, 0, 148, 4, 0, 0, 148, 4, 0, 0, 148, 4, 0, 0, 148, 4, 0, 0, 148, 4, 0, 0, 148, 4, 0, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.t = t
			config := r.config()
			config.NetworkOrder = c.order
			r.must(r.node.Do(func() error { return a.Apply(config) }))
			before, seen := r.counter(a, "stripped"), len(inPod.find(fromClient))
			l := datagram(clientAddress, c.options...)
			l[0].(*layers.IPv4).DstIP = net.ParseIP(podAddress).To4()
			r.standIn.send(r.mac(r.gateway), l...)
			r.count(a, "stripped", before+1)
			var got [][]byte
			r.await("the packet", func() bool {
				got = inPod.find(fromClient)
				return len(got) == seen+1
			})
			frame := got[seen]
			n := int(frame[14]&15) * 4
			if left := frame[34 : 14+n]; string(left) != string(c.left) {
				t.Errorf("options % x are left, want % x", left, c.left)
			}
			r.checkSums(frame)
		})
	}
}

// TestOptionStays: with strip-option off the packet is delivered as it came.
func TestOptionStays(t *testing.T) {
	r := newRig(t)
	config := r.config()
	config.StripOption = false
	r.serveHTTP(r.pod, podAddress+":80")
	r.standIn.serve(vipDefault, podAddress+":80")
	a := r.start(config)
	inPod := r.tap(r.pod)
	if got := string(r.get(vipDefault, "/")); got == "" {
		t.Error("no answer")
	}
	r.count(a, "learned", 1)
	r.count(a, "stripped", 0)
	if n := len(inPod.some(func(_ *layers.Ethernet, ip *layers.IPv4, _ gopacket.Packet) bool { return len(ip.Options) > 0 })); n != 1 {
		t.Errorf("%d packets with the option reached the pod, want 1", n)
	}
}

// TestCollision: two services, one client port, one backend port. Bare segments of
// the two could not be told apart, so the second one gets no answer, and the first
// one is not hurt; when it is over, the second one has the port.
func TestCollision(t *testing.T) {
	r := newRig(t)
	r.serveHTTP(r.node, nodeAddress+":80")
	r.standIn.serve(vipDefault, nodeAddress+":80")
	second := otherVIP + ":80"
	r.standIn.serve(second, nodeAddress+":80")
	a := r.start(r.config())
	const local = clientAddress + ":4001"
	first, err := r.connect(local, vipDefault, patience)
	r.must(err)
	defer first.Close()
	if c, err := r.connect(local, second, 2*time.Second); err == nil {
		c.Close()
		t.Error("both services have the client's port")
	}
	if r.counter(a, "service-collision") == 0 {
		t.Error("it was not counted")
	}
	_ = first.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(first, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Error(err)
	}
	if n, err := first.Read(make([]byte, 1024)); err != nil || n == 0 {
		t.Errorf("the first one: %v", err)
	}
	// The end by a reset leaves nothing in TIME_WAIT.
	r.must(first.(*net.TCPConn).SetLinger(0))
	r.must(first.Close())
	var again net.Conn
	r.await("the second service", func() bool {
		again, err = r.connect(local, second, time.Second)
		return err == nil
	})
	again.Close()
}

// connect opens a TCP connection from a local port.
func (r *rig) connect(local, vip string, timeout time.Duration) (c net.Conn, err error) {
	laddr, err := net.ResolveTCPAddr("tcp4", local)
	r.must(err)
	err = r.client.Do(func() (err error) {
		d := net.Dialer{LocalAddr: laddr, Timeout: timeout, Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) })
		}}
		c, err = d.Dial("tcp4", vip)
		return err
	})
	return c, err
}

// TestRefused: the RST of a node without a server comes from the service.
func TestRefused(t *testing.T) {
	r := newRig(t)
	r.standIn.serve(vipDefault, nodeAddress+":80")
	r.start(r.config())
	_, err := r.connect(clientAddress+":4002", vipDefault, patience)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v, want the connection refused", err)
	}
}

// TestTableFull: a table that is full refuses new flows, whose packets are not
// delivered, and serves those it has.
func TestTableFull(t *testing.T) {
	r := newRig(t)
	r.echo(r.node, nodeAddress+":53")
	r.standIn.serve(vipDefault, nodeAddress+":53")
	config := r.config()
	config.MaxFlows = 4
	a := r.start(config)
	first := r.dial("", vipDefault)
	if _, err := r.ask(first, "first"); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		_, err := r.dial("", vipDefault).Write([]byte("more"))
		r.must(err)
	}
	r.await("a refusal", func() bool { return r.counter(a, "table-full") >= 4 })
	if _, err := r.ask(first, "again"); err != nil {
		t.Errorf("the flow that was there: %v", err)
	}
}
