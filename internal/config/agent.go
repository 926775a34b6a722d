package config

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// TrustedGateway is an entry of dsr-agent.trusted-gateways: a MAC address, or the
// address of a neighbour.
type TrustedGateway struct {
	MAC     net.HardwareAddr // nil where Address is set
	Address netip.Addr
}

// ParseTrustedGateway reads such an entry; the error says what to write.
func ParseTrustedGateway(text string) (TrustedGateway, error) {
	if mac, err := net.ParseMAC(text); err == nil {
		if len(mac) != 6 || mac[0]&1 != 0 {
			return TrustedGateway{}, fmt.Errorf("%s is not the MAC address of a station on an Ethernet", text)
		}
		return TrustedGateway{MAC: mac}, nil
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || !addr.Is4() {
		return TrustedGateway{}, fmt.Errorf("%s is neither a MAC address nor an IPv4 address; write one such as 02:00:5e:10:00:01 or 192.0.2.1", quote(text))
	}
	if why := neverUnicast(netip.PrefixFrom(addr, 32)); why != "" {
		return TrustedGateway{}, fmt.Errorf("%s is %s, which no gateway has", addr, why)
	}
	return TrustedGateway{Address: addr}, nil
}

// ServedAddress is an entry of dsr-agent.services: the addresses of a prefix, or
// one port of an address.
type ServedAddress struct {
	Prefix netip.Prefix
	Port   uint16 // 0: any
}

// ParseServedAddress reads such an entry; the error says what to write.
func ParseServedAddress(text string) (ServedAddress, error) {
	const want = "write an address, a prefix or ADDRESS:PORT, such as 198.51.100.10, 198.51.100.0/24 or 198.51.100.10:80"
	s := ServedAddress{}
	switch {
	case strings.Contains(text, "/"):
		p, err := netip.ParsePrefix(text)
		if err != nil || !p.Addr().Is4() {
			return s, fmt.Errorf("%s is not an IPv4 prefix; %s", quote(text), want)
		}
		if p != p.Masked() {
			return s, fmt.Errorf("%s has host bits set; did you mean %s?", p, p.Masked())
		}
		s.Prefix = p
	case strings.Contains(text, ":"):
		ap, err := netip.ParseAddrPort(text)
		if err != nil || !ap.Addr().Is4() || ap.Port() == 0 {
			return s, fmt.Errorf("%s is not ADDRESS:PORT; %s", quote(text), want)
		}
		s.Prefix, s.Port = netip.PrefixFrom(ap.Addr(), 32), ap.Port()
	default:
		addr, err := netip.ParseAddr(text)
		if err != nil || !addr.Is4() {
			return s, fmt.Errorf("%s is not an IPv4 address; %s", quote(text), want)
		}
		s.Prefix = netip.PrefixFrom(addr, 32)
	}
	if why := neverUnicast(s.Prefix); why != "" {
		return s, fmt.Errorf("%s is %s, which no service has", s.Prefix, why)
	}
	return s, nil
}

const agentKey = "dsr-agent"

// checkAgent holds dsr-agent to what can be attached, resolved and matched.
func (d *decoder) checkAgent(a *DSRAgent) {
	d.checkNames(agentKey+".interfaces", a.Interfaces)
	d.checkNames(agentKey+".reply-interfaces", a.ReplyInterfaces.Names)
	d.checkEach(agentKey+".trusted-gateways", a.TrustedGateways, func(text string) error {
		_, err := ParseTrustedGateway(text)
		return err
	})
	d.checkEach(agentKey+".services", a.Services, func(text string) error {
		_, err := ParseServedAddress(text)
		return err
	})
	if !a.ReplyInterfaces.Auto && len(a.ReplyInterfaces.Names) == 0 && !d.failed(agentKey+".reply-interfaces") {
		d.mistake(d.line(agentKey+".reply-interfaces"), agentKey+".reply-interfaces", "is empty: every reply would leave with the backend's address; write auto, or list interfaces")
	}
	if len(a.Interfaces) == 0 {
		if line := d.line(agentKey); line > 0 && (len(a.TrustedGateways) > 0 || len(a.Services) > 0) && !d.failed(agentKey+".interfaces") {
			d.warn(line, agentKey+".interfaces", "is empty, so this node is no agent and the rest of the section changes nothing; list the interfaces where requests arrive")
		}
		return
	}
	if len(a.TrustedGateways) == 0 && !d.failed(agentKey+".trusted-gateways") {
		d.warn(d.line(agentKey), agentKey+".trusted-gateways", "is empty: whoever sends a frame to this node can choose the source of its answers; list the gateways")
	}
	if len(a.Services) == 0 && !d.failed(agentKey+".services") {
		d.warn(d.line(agentKey), agentKey+".services", "is empty: a request can name any address as the source of its answers; list the services' addresses")
	}
}

// checkNames holds a list of interfaces to names that the kernel allows, each once.
func (d *decoder) checkNames(key string, names []string) {
	first := map[string]bool{}
	for i, name := range names {
		path := fmt.Sprintf("%s[%d]", key, i)
		switch {
		case d.failed(path):
		case name == "" || len(name) > 15 || name == "." || name == ".." || strings.ContainsAny(name, "/: \u00a0"):
			d.mistake(d.line(path), path, "%s is not a name that an interface can have; write it as `ip link` shows it", quote(name))
		case name == "lo":
			d.mistake(d.line(path), path, "nothing arrives or leaves by the loopback interface; list a network interface")
		case first[name]:
			d.mistake(d.line(path), path, "%s is listed twice; remove one", name)
		}
		first[name] = true
	}
}

// checkEach reports what is wrong with the entries of a list of texts.
func (d *decoder) checkEach(key string, list []string, check func(string) error) {
	first := map[string]bool{}
	for i, text := range list {
		path := fmt.Sprintf("%s[%d]", key, i)
		if d.failed(path) {
			continue
		}
		if err := check(text); err != nil {
			d.mistake(d.line(path), path, "%v", err)
		} else if first[text] {
			d.warn(d.line(path), path, "%s is listed twice; remove one", text)
		}
		first[text] = true
	}
}
