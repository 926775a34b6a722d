package daemon

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"sluice/internal/control"
	"sluice/internal/lab"
	"sluice/internal/packet"
)

// rawSocket is a socket of a protocol without ports.
func (l *restartLab) rawSocket(host *lab.Namespace, proto, local string) *net.IPConn {
	l.Helper()
	var c *net.IPConn
	if err := host.Do(func() (err error) {
		c, err = net.ListenIP("ip4:"+proto, &net.IPAddr{IP: net.ParseIP(local)})
		return err
	}); err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { c.Close() })
	return c
}

// say sends a packet every now and then, until what it says arrives at to, and
// returns whom it came from. An error of the sender's is that of a packet before.
func (l *restartLab) say(what string, from *net.IPConn, peer string, to *net.IPConn) netip.Addr {
	l.Helper()
	words := []byte(what)
	b := make([]byte, 1500)
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if _, err := from.WriteToIP(words, &net.IPAddr{IP: net.ParseIP(peer)}); err != nil && !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ENOPROTOOPT) {
			l.Fatal(err)
		}
		for {
			if err := to.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
				l.Fatal(err)
			}
			n, sender, err := to.ReadFromIP(b)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				l.Fatal(err)
			}
			if string(b[:n]) == what {
				addr, _ := netip.AddrFromSlice(sender.IP.To4())
				return addr
			}
		}
	}
	l.Fatalf("%s: nothing arrived", what)
	return netip.Addr{}
}

// hostPeers are what status lists, in words.
func (l *restartLab) hostPeers() string {
	var words []string
	for _, h := range l.status().HostPeers {
		words = append(words, h.Protocol+" "+h.Address.String()+" "+h.Peer.String()+" "+h.By)
	}
	return strings.Join(words, "; ")
}

func (l *restartLab) awaitHostPeers(want string) {
	l.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		got := l.hostPeers()
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			l.Fatalf("status says that the host speaks %q, want %q", got, want)
		}
	}
}

// TestHostPeerLab: an inside host speaks GRE and ESP with a server. Then the
// gateway's host itself begins to, on the same address: by a raw socket, by an
// IPsec policy. Its answers are its own at once, the inside host is refused by name,
// and has its turn again when the host has ended.
func TestHostPeerLab(t *testing.T) {
	l := newRestartLab(t)
	l.start()
	gre, esp := "gre", "50"
	client, server := l.rawSocket(l.Client1, gre, lab.Client1Address), l.rawSocket(l.Server1, gre, lab.Server1Address)
	clientESP, serverESP := l.rawSocket(l.Client1, esp, lab.Client1Address), l.rawSocket(l.Server1, esp, lab.Server1Address)
	outside := netip.MustParseAddr(lab.GatewayOutside)
	both := func(what string, client, server *net.IPConn) {
		t.Helper()
		if from := l.say(what+" from inside", client, lab.Server1Address, server); from != outside {
			t.Errorf("%s: the server saw %v", what, from)
		}
		l.say(what+" from outside", server, lab.GatewayOutside, client)
	}
	both("GRE", client, server)
	both("ESP", clientESP, serverESP)
	l.awaitHostPeers("")

	host := l.rawSocket(l.Gateway, gre, lab.GatewayOutside)
	l.awaitHostPeers("47 " + lab.GatewayOutside + " invalid IP raw socket")
	l.say("the host's GRE", server, lab.GatewayOutside, host)
	l.say("GRE of the host", host, lab.Server1Address, server)
	l.refused(client, packet.ProtoGRE, "raw socket")
	both("ESP beside it", clientESP, serverESP)

	policy := &netlink.XfrmPolicy{
		Src: &net.IPNet{IP: net.IPv4(10, 201, 0, 0), Mask: net.CIDRMask(16, 32)}, Dst: &net.IPNet{IP: net.IPv4(10, 202, 0, 0), Mask: net.CIDRMask(16, 32)},
		Dir:   netlink.XFRM_DIR_OUT,
		Tmpls: []netlink.XfrmPolicyTmpl{{Src: net.ParseIP(lab.GatewayOutside), Dst: net.ParseIP(lab.Server1Address), Proto: netlink.XFRM_PROTO_ESP, Mode: netlink.XFRM_MODE_TUNNEL}},
	}
	if err := l.Gateway.Do(func() error { return netlink.XfrmPolicyAdd(policy) }); err != nil {
		t.Fatal(err)
	}
	l.awaitHostPeers("47 " + lab.GatewayOutside + " invalid IP raw socket; 50 " + lab.GatewayOutside + " " + lab.Server1Address + " IPsec policy (esp)")
	hostESP := l.rawSocket(l.Gateway, esp, lab.GatewayOutside)
	l.say("the host's ESP", serverESP, lab.GatewayOutside, hostESP)
	l.refused(clientESP, packet.ProtoESP, "IPsec policy (esp)")

	host.Close()
	hostESP.Close()
	if err := l.Gateway.Do(func() error { return netlink.XfrmPolicyDel(policy) }); err != nil {
		t.Fatal(err)
	}
	l.awaitHostPeers("")
	both("GRE again", client, server)
	both("ESP again", clientESP, serverESP)
	if r := l.Checker.Close(); r.Err() != nil {
		t.Error(r.Err())
	}
	if log := l.stop(syscall.SIGTERM); strings.Count(log, "flows ended") < 2 {
		t.Errorf("the log does not tell of two flows that ended:\n%s", log)
	}
}

// dropped counts what was dropped for a reason.
func (l *restartLab) dropped(reason string) uint64 {
	l.Helper()
	d, err := l.client.Drops(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	for _, r := range d.Reasons {
		if r.Reason == reason {
			return r.Packets
		}
	}
	l.Fatalf("drops have no %s", reason)
	return 0
}

// refused sends a packet to the server and expects that it is dropped as host-peer,
// and that explain says by what of the host.
func (l *restartLab) refused(client *net.IPConn, proto uint8, by string) {
	l.Helper()
	before := l.dropped("host-peer")
	for deadline := time.Now().Add(10 * time.Second); l.dropped("host-peer") == before; time.Sleep(20 * time.Millisecond) {
		// The kernel reports here what it was told of a packet before (ICMP 3/13).
		if _, err := client.WriteToIP([]byte("refused"), &net.IPAddr{IP: net.ParseIP(lab.Server1Address)}); err != nil && !errors.Is(err, syscall.EHOSTUNREACH) {
			l.Fatal(err)
		}
		if time.Now().After(deadline) {
			l.Fatalf("protocol %d from inside is not refused", proto)
		}
	}
	e, err := l.client.Explain(l.Context(), control.Question{
		Proto: control.Protocol(proto), Src: netip.AddrPortFrom(netip.MustParseAddr(lab.Client1Address), 0), Dst: netip.AddrPortFrom(netip.MustParseAddr(lab.Server1Address), 0),
	})
	if err != nil {
		l.Fatal(err)
	}
	said := false
	for _, d := range e.Decisions {
		said = said || strings.Contains(d.Text, "("+by+")")
	}
	if e.Verdict != "drop: host-peer" || !said {
		l.Errorf("explain: %s\n%+v", e.Verdict, e.Decisions)
	}
}
