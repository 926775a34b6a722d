package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Forwarding is what an entry of port-forwards says, read.
type Forwarding struct {
	Auto     bool       // the external address is that of every outside interface
	External netip.Addr // unless Auto
	Inside   netip.Addr
	OneToOne bool      // every protocol and port of External
	Ports    PortRange // external ones, unless OneToOne
	To       uint16    // the inside port of the first; the others follow
	TCP, UDP bool
}

// forwardShape is how an external endpoint is written.
const forwardShape = "ADDRESS:PORT, ADDRESS:FIRST-LAST, auto:PORT, or ADDRESS alone for one-to-one"

// Read reads the entry. An error says which key is wrong, and how.
func (p *PortForward) Read() (f Forwarding, key string, err error) {
	host, ports, ranged := strings.Cut(p.External, ":")
	f.OneToOne = !ranged
	if f.Auto = host == "auto"; f.Auto && f.OneToOne {
		return f, "external", fmt.Errorf("auto alone would give an interface's only address to an inside host; write auto:PORT, or an address of its own")
	}
	if !f.Auto {
		if f.External, err = unicast(host); err != nil {
			return f, "external", fmt.Errorf("%w; write %s", err, forwardShape)
		}
	}
	if ranged {
		if f.Ports, err = portsOf(ports); err != nil {
			return f, "external", err
		}
	}
	host, port, ported := strings.Cut(p.To, ":")
	if f.Inside, err = unicast(host); err != nil {
		return f, "to", fmt.Errorf("%w; write the inside ADDRESS:PORT, or ADDRESS alone for one-to-one", err)
	}
	if ported != ranged {
		return f, "to", fmt.Errorf("%s and external %s do not go together: both have ports, or neither, which is one-to-one", quote(p.To), quote(p.External))
	}
	if ranged {
		err = f.readTo(port)
	}
	for _, proto := range p.Protocols {
		f.TCP, f.UDP = f.TCP || proto == "tcp", f.UDP || proto == "udp"
	}
	return f, "to", err
}

// readTo reads the inside ports: a range of the same size, or its first port.
func (f *Forwarding) readTo(text string) error {
	to, err := portsOf(text)
	switch {
	case err != nil:
		return err
	case to.Size() != 1 && to.Size() != f.Ports.Size():
		return fmt.Errorf("has %d ports, and external %d; ports map one by one: write as many, or the first alone", to.Size(), f.Ports.Size())
	case int(to.First)+f.Ports.Size()-1 > 65535:
		return fmt.Errorf("the %d ports from %d on go beyond 65535; begin lower", f.Ports.Size(), to.First)
	}
	f.To = to.First
	return nil
}

// unicast reads an IPv4 address that a host can have.
func unicast(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil || !addr.Is4() {
		return netip.Addr{}, fmt.Errorf("%s is not an IPv4 address", quote(text))
	}
	if why := neverUnicast(netip.PrefixFrom(addr, 32)); why != "" {
		return netip.Addr{}, fmt.Errorf("%s is %s, which no host has", addr, why)
	}
	return addr, nil
}

// portsOf reads P or P-Q.
func portsOf(text string) (PortRange, error) {
	lo, hi, ranged := strings.Cut(text, "-")
	if !ranged {
		hi = lo
	}
	first, err1 := strconv.ParseUint(lo, 10, 16)
	last, err2 := strconv.ParseUint(hi, 10, 16)
	switch {
	case err1 != nil || err2 != nil || first == 0:
		return PortRange{}, fmt.Errorf("%s is neither a port nor a range of ports within 1-65535", quote(text))
	case first > last:
		return PortRange{}, fmt.Errorf("the ports %s run backwards; write %d-%d", text, last, first)
	}
	return PortRange{uint16(first), uint16(last)}, nil
}

// overlaps reports whether two entries want one external endpoint. An address of
// auto is not known here; it overlaps auto only.
func (f *Forwarding) overlaps(g *Forwarding) bool {
	if f.Auto != g.Auto || f.External != g.External {
		return false
	}
	if f.OneToOne || g.OneToOne {
		return true
	}
	return (f.TCP && g.TCP || f.UDP && g.UDP) && f.Ports.First <= g.Ports.Last && g.Ports.First <= f.Ports.Last
}

// checkForwards holds port-forwards to endpoints that can be told apart.
func (d *decoder) checkForwards(c *Config) {
	type known struct {
		Forwarding
		line int
	}
	var list []known
	for i := range c.PortForwards {
		p := &c.PortForwards[i]
		path := fmt.Sprintf("port-forwards[%d]", i)
		if p.Line == 0 || d.failed(path) {
			continue
		}
		f, key, err := p.Read()
		if err != nil {
			d.mistake(d.line(path+"."+key), path+"."+key, "%s", err)
			continue
		}
		if f.OneToOne && (f.UDP || !f.TCP) { // not the default
			d.mistake(d.line(path+".protocols"), path+".protocols", "one-to-one forwards every protocol; remove it, or write a port behind the addresses")
		} else if !f.OneToOne && !f.TCP && !f.UDP {
			d.mistake(d.line(path+".protocols"), path+".protocols", "is empty: nothing would be forwarded; write [tcp], [udp] or both")
		}
		for _, other := range list {
			if f.overlaps(&other.Forwarding) {
				d.mistake(d.line(path+".external"), path+".external", "%s is forwarded on line %d already; one external endpoint leads to one inside endpoint", p.External, other.line)
				break
			}
		}
		d.checkForward(c, path, &f)
		list = append(list, known{f, p.Line})
	}
	addresses := map[netip.Addr]bool{}
	for _, f := range list {
		if addresses[f.External] = true; len(addresses) > MaxExternals {
			d.mistake(f.line, "port-forwards", "has more than %d external addresses; use fewer", MaxExternals)
			break
		}
	}
	if len(list) > MaxForwards {
		d.mistake(d.line("port-forwards"), "port-forwards", "has %d entries; at most %d", len(list), MaxForwards)
	}
}

// checkForward compares one entry with the rest of the configuration.
func (d *decoder) checkForward(c *Config, path string, f *Forwarding) {
	external := d.line(path + ".external")
	if f.OneToOne {
		for _, e := range c.Masquerade.Addresses {
			if !e.Auto && e.Prefix.Contains(f.External) {
				d.mistake(external, path+".external", "%s is in masquerade.addresses on line %d, and one-to-one needs it alone; remove it from one of them", f.External, e.Line)
			}
		}
	}
	inside := false
	for _, s := range c.Masquerade.Sources {
		inside = inside || s.Prefix.Contains(f.Inside)
		if f.External.IsValid() && s.Prefix.Contains(f.External) {
			d.warn(external, path+".external", "%s is in masquerade.sources on line %d: an external address is no inside host's", f.External, s.Line)
		}
	}
	if !inside && c.Masquerade.Enabled && !d.failed("masquerade.sources") {
		d.warn(d.line(path+".to"), path+".to", "%s is in none of masquerade.sources: it can also be reached by its own address, and its other flows leave untranslated", f.Inside)
	}
	for i := range c.Services {
		s := &c.Services[i]
		for _, proto := range s.Protocols {
			if s.Address == f.External && (f.OneToOne || f.Ports.First <= s.Port && s.Port <= f.Ports.Last && (proto == "tcp" && f.TCP || proto == "udp" && f.UDP)) {
				d.mistake(external, path+".external", "%s:%d is the service %s's on line %d; one of them must go", s.Address, s.Port, s.Name, s.Line)
				break
			}
		}
	}
}
