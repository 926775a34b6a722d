package agent

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"sluice/internal/lab"
)

const patience = 20 * time.Second

// serveHTTP runs a web server in a namespace, which answers with the client's
// address, or with as many bytes as the path says.
func (r *rig) serveHTTP(n *lab.Namespace, addr string) {
	var l net.Listener
	r.must(n.Do(func() (err error) { l, err = net.Listen("tcp4", addr); return err }))
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if n, _ := io.Copy(io.Discard, q.Body); n > 0 {
			_, _ = fmt.Fprint(w, n)
			return
		}
		var size int
		if _, err := fmt.Sscanf(q.URL.Path, "/bytes/%d", &size); err == nil {
			_, _ = w.Write(bytes.Repeat([]byte("sluice"), size/6))
			return
		}
		_, _ = io.WriteString(w, q.RemoteAddr)
	})}
	go func() { _ = s.Serve(l) }()
	r.t.Cleanup(func() { s.Close() })
}

// get fetches a path from a service with a connection of its own.
func (r *rig) get(vip, path string) []byte {
	r.t.Helper()
	var body []byte
	r.must(r.client.Do(func() error {
		c, err := net.DialTimeout("tcp4", vip, patience)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.0\r\n\r\n", path); err != nil {
			return err
		}
		all, err := io.ReadAll(c)
		_, body, _ = bytes.Cut(all, []byte("\r\n\r\n"))
		return err
	}))
	return body
}

// TestTCP: a server of the node itself and one in a pod, as field note 002 has it:
// the option on the SYN only, the reply straight from the backend's node, and the
// server sees the client's true address.
func TestTCP(t *testing.T) {
	for name, addr := range map[string]string{"host": nodeAddress, "pod": podAddress} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			n := r.node
			if name == "pod" {
				n = r.pod
			}
			r.checksums(n, "eth0", 0)
			r.serveHTTP(n, addr+":80")
			vip := fmt.Sprintf("%s:%d", vipAddress, vipPort)
			r.standIn.serve(vip, addr+":80")
			a := r.start(r.config())

			client, _, err := net.SplitHostPort(string(r.get(vip, "/")))
			if err != nil || client != clientAddress {
				t.Errorf("the server saw %q, %v; want the client's address", client, err)
			}
			big := r.get(vip, "/bytes/6000000")
			if got, want := sha256.Sum256(big), sha256.Sum256(bytes.Repeat([]byte("sluice"), 1000000)); got != want {
				t.Errorf("the download is %d bytes of something else", len(big))
			}
			r.count(a, "learned", 2)
			r.count(a, "stripped", 2)
			r.checkPath(addr)
		})
	}
}

// echo answers every datagram with its sender's address and the datagram.
func (r *rig) echo(n *lab.Namespace, addr string) {
	var c net.PacketConn
	r.must(n.Do(func() (err error) { c, err = net.ListenPacket("udp4", addr); return err }))
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(append([]byte(from.String()+" "), buf[:n]...), from)
		}
	}()
	r.t.Cleanup(func() { c.Close() })
}

// dial makes a UDP socket of the client's.
func (r *rig) dial(local, vip string) net.Conn {
	r.t.Helper()
	var c net.Conn
	r.must(r.client.Do(func() (err error) {
		var laddr *net.UDPAddr
		if local != "" {
			laddr, err = net.ResolveUDPAddr("udp4", local)
		}
		if err == nil {
			c, err = (&net.Dialer{LocalAddr: addrOrNil(laddr)}).Dial("udp4", vip)
		}
		return err
	}))
	r.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

func addrOrNil(a *net.UDPAddr) net.Addr {
	if a == nil {
		return nil
	}
	return a
}

// ask sends a datagram and returns the answer.
func (r *rig) ask(c net.Conn, text string) (string, error) {
	if _, err := io.WriteString(c, text); err != nil {
		return "", err
	}
	buf := make([]byte, 1<<16)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// TestUDP: every datagram has the option. The client's socket is connected, so
// that nothing but an answer from the service reaches it. A large answer leaves in
// fragments, and a port without a server is refused by the service's address.
func TestUDP(t *testing.T) {
	for name, addr := range map[string]string{"host": nodeAddress, "pod": podAddress} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			n := r.node
			if name == "pod" {
				n = r.pod
			}
			r.checksums(n, "eth0", 0)
			r.echo(n, addr+":53")
			vip := fmt.Sprintf("%s:%d", vipAddress, vipPort)
			r.standIn.serve(vip, addr+":53")
			r.standIn.serve(otherVIP+":99", addr+":99")
			a := r.start(r.config())

			c := r.dial("", vip)
			for i := range 3 {
				want := fmt.Sprintf("%s question %d", c.LocalAddr(), i)
				if got, err := r.ask(c, fmt.Sprintf("question %d", i)); err != nil || got != want {
					t.Errorf("answer %q, %v; want %q", got, err, want)
				}
			}
			r.count(a, "learned", 1)
			r.count(a, "request", 3)
			r.count(a, "reply", 3)
			r.checkPath(addr)

			_, err := r.ask(r.dial("", otherVIP+":99"), "anybody?")
			if !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a port without a server: %v, want it refused", err)
			}
			r.count(a, "error", 1)
			for _, frame := range r.toClient.find(func(_ *layers.Ethernet, ip *layers.IPv4, _ gopacket.Packet) bool {
				return ip.Protocol == layers.IPProtocolICMPv4 && ip.DstIP.String() == clientAddress
			}) {
				r.checkSums(frame)
				r.checkQuote(frame[14+20+8:], otherVIP, 99)
			}
		})
	}
}

// checkQuote looks at what an ICMP error quotes: a datagram as the client sent it,
// checksums included.
func (r *rig) checkQuote(quote []byte, vip string, port uint16) {
	r.t.Helper()
	p := gopacket.NewPacket(quote, layers.LayerTypeIPv4, gopacket.Default)
	ip := p.NetworkLayer().(*layers.IPv4)
	udp, ok := p.TransportLayer().(*layers.UDP)
	if !ok || ip.DstIP.String() != vip || uint16(udp.DstPort) != port || len(ip.Options) != 0 {
		r.t.Errorf("the error quotes %v", p)
		return
	}
	_ = udp.SetNetworkLayerForChecksum(ip)
	b := gopacket.NewSerializeBuffer()
	r.must(gopacket.SerializeLayers(b, gopacket.SerializeOptions{ComputeChecksums: true}, ip, udp, gopacket.Payload(udp.Payload)))
	if !bytes.Equal(b.Bytes(), quote) {
		r.t.Errorf("a checksum of the quote is wrong:\n% x want\n% x", quote, b.Bytes())
	}
}

// TestFragments: answers larger than the MTU leave in fragments, of which only the
// first one has ports.
func TestFragments(t *testing.T) {
	for name, addr := range map[string]string{"host": nodeAddress, "pod": podAddress} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			n := r.node
			if name == "pod" {
				n = r.pod
			}
			var c net.PacketConn
			r.must(n.Do(func() (err error) { c, err = net.ListenPacket("udp4", addr+":53"); return err }))
			defer c.Close()
			large := bytes.Repeat([]byte("0123456789"), 800)
			go func() {
				buf := make([]byte, 1<<16)
				for {
					_, from, err := c.ReadFrom(buf)
					if err != nil {
						return
					}
					_, _ = c.WriteTo(large, from)
				}
			}()
			vip := fmt.Sprintf("%s:%d", vipAddress, vipPort)
			r.standIn.serve(vip, addr+":53")
			r.start(r.config())
			for range 3 {
				got, err := r.ask(r.dial("", vip), "much, please")
				if err != nil || got != string(large) {
					t.Errorf("got %d bytes, %v; want %d", len(got), err, len(large))
				}
			}
			if left := r.toClient.find(func(_ *layers.Ethernet, ip *layers.IPv4, _ gopacket.Packet) bool {
				return ip.SrcIP.String() == addr
			}); len(left) > 0 {
				t.Errorf("%d fragments left untranslated", len(left))
			}
		})
	}
}

// checkPath looks at what passed the wire.
func (r *rig) checkPath(backend string) {
	r.t.Helper()
	wire := []byte{0x9a, 8, 0x00, 0x7d, 0x02, 0x00, 0x12, 0xac}
	requests := r.toNode.some(func(e *layers.Ethernet, ip *layers.IPv4, _ gopacket.Packet) bool {
		return ip.SrcIP.String() == clientAddress && e.SrcMAC.String() == r.mac(r.gateway).String()
	})
	for _, frame := range requests {
		p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
		tcp, ok := p.TransportLayer().(*layers.TCP)
		_, datagram := p.TransportLayer().(*layers.UDP)
		has := frame[14] == 0x47 && bytes.Equal(frame[34:42], wire)
		if datagram && !has || ok && has != tcp.SYN {
			r.t.Errorf("option is %v in % x", has, frame[14:])
		}
	}
	replies := r.toClient.some(func(e *layers.Ethernet, ip *layers.IPv4, _ gopacket.Packet) bool {
		if ip.SrcIP.String() == backend {
			r.t.Errorf("a reply left untranslated: %v", ip)
		}
		if ip.SrcIP.String() == vipAddress && e.SrcMAC.String() != r.mac(r.node).String() {
			r.t.Errorf("a reply came from %s and not from the node", e.SrcMAC)
		}
		return ip.SrcIP.String() == vipAddress
	})
	if len(requests) == 0 || len(replies) == 0 {
		r.t.Errorf("saw %d requests and %d replies", len(requests), len(replies))
	}
	for _, frame := range replies {
		r.checkSums(frame)
	}
	if through := r.fromGateway.find(func(_ *layers.Ethernet, ip *layers.IPv4, _ gopacket.Packet) bool {
		return ip.SrcIP.String() == vipAddress
	}); len(through) > 0 {
		r.t.Errorf("%d replies passed the gateway", len(through))
	}
}

// checkSums has gopacket compute the packet's checksums again.
func (r *rig) checkSums(frame []byte) {
	r.t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	ip := p.NetworkLayer().(*layers.IPv4)
	list := []gopacket.SerializableLayer{ip}
	switch l := p.Layers()[2].(type) {
	case *layers.TCP:
		_ = l.SetNetworkLayerForChecksum(ip)
		list = append(list, l, gopacket.Payload(l.Payload))
	case *layers.UDP:
		_ = l.SetNetworkLayerForChecksum(ip)
		list = append(list, l, gopacket.Payload(l.Payload))
	case *layers.ICMPv4:
		list = append(list, l, gopacket.Payload(l.Payload))
	}
	if ip.Length == 0 { // a super-frame's
		return
	}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{ComputeChecksums: true}, list...); err != nil {
		r.t.Fatal(err)
	}
	if want := frame[14 : 14+int(ip.Length)]; !bytes.Equal(b.Bytes(), want) {
		r.t.Errorf("a checksum is wrong:\n% x want\n% x", want, b.Bytes())
	}
}
