package daemon

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"

	"sluice/internal/lab"
	"sluice/internal/packet"
)

// TestDSRPathMTULab: a router between gateway and backend forwards less than the
// gateway sends in an outer header, and tells the gateway, whose address that header
// has. The client's kernel learns it, less the overhead, as if from the service; and
// what it then sends in fragments is answered.
func TestDSRPathMTULab(t *testing.T) {
	l := newAgentLab(t)
	for _, c := range []struct {
		dispatch        string
		protocol, added int
		mtu             uint16
	}{{"ipip", packet.ProtoIPIP, 20, 1300}, {"geneve", packet.ProtoUDP, 62, 1200}} {
		t.Run(c.dispatch, func(t *testing.T) {
			l.use(c.dispatch, lab.Client1Address)
			large := strings.Repeat("x", int(c.mtu)-28)
			client := l.dial() // the kernel looks for the socket that an error is about
			defer client.Close()
			record, err := lab.Record(l.Client1, lab.HostNIC)
			must(t, err)
			if answer, err := echoedBy(client, large); err != nil || !strings.HasSuffix(answer, large) {
				t.Fatalf("%d bytes, %v", len(answer), err)
			}
			var outer []byte
			for _, f := range record.Close() {
				if p := f.Frame[packet.EthernetLength:]; !f.Outgoing && len(p) > int(c.mtu) && int(p[9]) == c.protocol {
					outer = p
				}
			}
			if outer == nil {
				t.Fatal("no packet in an outer header came")
			}
			l.narrow(t, outer[:548], c.mtu)
			l.await("the client has heard of it", func() bool {
				routes, err := l.Server1.Netlink().RouteGet(net.ParseIP(labVIP))
				must(t, err)
				return routes[0].MTU == int(c.mtu)-c.added
			})
			if _, err := client.Write([]byte(large)); !errors.Is(err, syscall.EMSGSIZE) { // once
				t.Errorf("the socket was told %v", err)
			}
			if answer, err := echoedBy(client, large); err != nil || !strings.HasSuffix(answer, large) {
				t.Errorf("in fragments: %d bytes, %v", len(answer), err)
			}
		})
	}
}

// narrow sends the gateway a router's `fragmentation needed` about a packet, given as
// the router quotes it.
func (l *agentLab) narrow(t *testing.T, quote []byte, mtu uint16) {
	t.Helper()
	m := append(make([]byte, packet.ICMPLength), bytes.Clone(quote)...)
	m[0], m[1] = packet.ICMPUnreachable, 4
	binary.BigEndian.PutUint16(m[6:], mtu)
	binary.BigEndian.PutUint16(m[2:], packet.Checksum(m))
	must(t, l.Client2.Do(func() error {
		c, err := net.Dial("ip4:icmp", lab.GatewayInside)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write(m)
		return err
	}))
}
