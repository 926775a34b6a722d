package config

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// checkServices holds services to what can be told apart and balanced.
func (d *decoder) checkServices(c *Config) {
	const key = "services"
	if len(c.Services) > MaxServices {
		d.mistake(d.line(key), key, "has %d entries; at most %d", len(c.Services), MaxServices)
		return
	}
	names, places := map[string]int{}, map[string]int{}
	for i := range c.Services {
		s := &c.Services[i]
		path := fmt.Sprintf("%s[%d]", key, i)
		if s.Line == 0 {
			continue // was not even a section
		}
		d.checkServiceName(s, path, names)
		d.checkVIP(c, s, path, places)
		d.checkRules(path+".source-ranges", s.SourceRanges)
		const longest = 24 * time.Hour
		if v := s.SessionAffinity.Std(); v != 0 && (v < time.Second || v > longest) && !d.failed(path+".session-affinity") {
			d.mistake(d.line(path+".session-affinity"), path+".session-affinity", "%s is out of range; use %s to %s, or 0s for none",
				s.SessionAffinity, Duration(time.Second), Duration(longest))
		}
		d.checkBackends(c, s, path)
		d.checkHealth(s, path+".health-check")
	}
}

// checkServiceName keeps names to what goes into commands and metrics as it is.
func (d *decoder) checkServiceName(s *Service, path string, first map[string]int) {
	line := d.line(path + ".name")
	path += ".name"
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789-._"
	switch {
	case d.failed(path):
	case s.Name == "":
		d.mistake(line, path, "is missing; commands and metrics name the service by it")
	case len(s.Name) > 63 || strings.Trim(s.Name, letters) != "" || strings.ContainsAny(s.Name[:1], "-._"):
		d.mistake(line, path, "%s is no name for a service; use up to 63 of a-z, 0-9, -, . and _, beginning with a letter or digit", quote(s.Name))
	case s.Name == "all":
		d.mistake(line, path, "all stands for every service in `sluice backend`; use another name")
	case first[s.Name] > 0:
		d.mistake(line, path, "%s is another service's on line %d; give each a name of its own (one entry can have both protocols)", s.Name, first[s.Name])
	default:
		first[s.Name] = s.Line
	}
}

// checkVIP holds a service's address, port and protocols to be its own.
func (d *decoder) checkVIP(c *Config, s *Service, path string, first map[string]int) {
	at := path + ".address"
	switch {
	case d.failed(at):
		return
	case !s.Address.IsValid():
		d.mistake(d.line(at), at, "is missing; write the address that clients connect to")
		return
	}
	if why := neverUnicast(netip.PrefixFrom(s.Address, 32)); why != "" {
		d.mistake(d.line(at), at, "%s is %s, which no client can connect to", s.Address, why)
	}
	for _, x := range c.Masquerade.Sources {
		if x.Prefix.Contains(s.Address) && x.Prefix.Bits() > 0 {
			d.warn(d.line(at), at, "%s is in masquerade.sources on line %d: clients outside cannot be led to an inside address by routing alone", s.Address, x.Line)
			break
		}
	}
	at = path + ".port"
	if s.Port == 0 && !d.failed(at) {
		d.mistake(d.line(at), at, "is missing; write the port that clients connect to")
		return
	}
	at = path + ".protocols"
	if len(s.Protocols) == 0 && !d.failed(at) {
		d.mistake(d.line(at), at, "is empty: nothing would be balanced; write [tcp], [udp] or both")
	}
	mine := map[Protocol]bool{}
	for _, proto := range s.Protocols {
		if mine[proto] {
			d.mistake(d.line(at), at, "%s is listed twice; remove one", proto)
			continue
		}
		mine[proto] = true
		place := fmt.Sprintf("%s:%d/%s", s.Address, s.Port, proto)
		if line := first[place]; line > 0 {
			d.mistake(s.Line, path, "%s is another service's on line %d; change the address, the port or the protocols of one", place, line)
			continue
		}
		first[place] = s.Line
	}
	if s.Mode == "hybrid" && !(mine["tcp"] && mine["udp"]) && len(mine) > 0 {
		d.warn(d.line(path+".mode"), path+".mode", "hybrid is dsr for TCP and snat for UDP, and the service has one of them only")
	}
}

// maxWeight bounds a backend's weight, so that sums of them fit anywhere.
const maxWeight = 65535

// checkBackends holds the backends of a service to servers that packets can be
// sent to.
func (d *decoder) checkBackends(c *Config, s *Service, path string) {
	if len(s.Backends) == 0 {
		if !d.failed(path + ".backends") {
			d.warn(s.Line, path+".backends", "is empty: every client gets what no-backend says, %s", s.NoBackend)
		}
		return
	}
	const most = 4096
	if len(s.Backends) > most {
		d.mistake(d.line(path+".backends"), path+".backends", "has %d entries; at most %d", len(s.Backends), most)
		return
	}
	first := map[netip.AddrPort]int{}
	weighed, answering := false, false
	for i := range s.Backends {
		b := &s.Backends[i]
		at := fmt.Sprintf("%s.backends[%d]", path, i)
		if b.Line == 0 {
			weighed, answering = true, true
			continue
		}
		weighed, answering = weighed || b.Weight > 0, answering || b.Agent
		d.checkBackend(c, s, b, at)
		place := netip.AddrPortFrom(b.Address, b.Port)
		if line := first[place]; line > 0 && b.Address.IsValid() {
			d.mistake(b.Line, at, "%s is listed twice, first on line %d; give it a weight instead", place, line)
			continue
		}
		first[place] = b.Line
	}
	if !weighed {
		d.warn(d.line(path+".backends"), path+".backends", "all have weight 0: none gets a new flow")
	}
	if !answering && s.Mode != "snat" {
		d.warn(d.line(path+".mode"), path+".mode", "%s has no effect: every backend has agent: false, and so is served by snat", s.Mode)
	}
}

func (d *decoder) checkBackend(c *Config, s *Service, b *Backend, path string) {
	at := path + ".address"
	switch {
	case d.failed(at):
	case !b.Address.IsValid():
		d.mistake(b.Line, at, "is missing; write the server's address")
	case neverUnicast(netip.PrefixFrom(b.Address, 32)) != "":
		d.mistake(d.line(at), at, "%s is %s, which no server has", b.Address, neverUnicast(netip.PrefixFrom(b.Address, 32)))
	default:
		for i := range c.Services {
			if other := &c.Services[i]; other.Address == b.Address {
				d.mistake(d.line(at), at, "%s is the address of the service %s on line %d; a backend is a server, not a service", b.Address, other.Name, other.Line)
				break
			}
		}
	}
	at = path + ".port"
	if b.Port == 0 && !d.failed(at) {
		d.mistake(b.Line, at, "is missing; write the port that the server listens on")
	}
	if c.DSR.Dispatch == "ipip" && s.Mode != "snat" && b.Agent && b.Port != s.Port && b.Port != 0 && s.Port != 0 {
		d.mistake(d.line(at), at, "is %d, and the service's is %d: dispatch ipip hands packets on as they are and cannot change the port; "+
			"make them equal, or use dispatch option or geneve", b.Port, s.Port)
	}
	at = path + ".weight"
	if b.Weight < 0 || b.Weight > maxWeight {
		d.mistake(d.line(at), at, "%d is out of range; use 0 (no new flows) to %d", b.Weight, maxWeight)
	}
}

// checkHealth holds a health check to one that can be made.
func (d *decoder) checkHealth(s *Service, path string) {
	h := &s.HealthCheck
	if h.Type == "none" {
		return
	}
	const least, most = 100 * time.Millisecond, time.Hour
	for _, x := range []struct {
		key string
		v   Duration
	}{{".interval", h.Interval}, {".timeout", h.Timeout}} {
		if v := x.v.Std(); (v < least || v > most) && !d.failed(path+x.key) {
			d.mistake(d.line(path+x.key), path+x.key, "%s is out of range; use %s to %s", x.v, Duration(least), Duration(most))
		}
	}
	for _, x := range []struct {
		key string
		n   int
	}{{".rise", h.Rise}, {".fall", h.Fall}} {
		if (x.n < 1 || x.n > 100) && !d.failed(path+x.key) {
			d.mistake(d.line(path+x.key), path+x.key, "%d is out of range; use 1 to 100 probes in a row", x.n)
		}
	}
	if h.Type == "tcp" {
		for _, key := range []string{".path", ".host", ".status"} {
			if d.lines[path+key] > 0 {
				d.warn(d.line(path+key), path+key, "has no effect with type: tcp; it is for type: http")
			}
		}
	} else {
		d.checkHTTP(h, path)
	}
	if len(s.Protocols) == 1 && s.Protocols[0] == "udp" {
		d.warn(d.line(path+".type"), path+".type", "%s asks the backends by TCP on the service's UDP port; only servers that answer there as well are healthy", h.Type)
	}
}

func (d *decoder) checkHTTP(h *HealthCheck, path string) {
	if !strings.HasPrefix(h.Path, "/") || strings.ContainsAny(h.Path, " \t\r\n") {
		d.mistake(d.line(path+".path"), path+".path", "%s is no path to ask for; begin it with /, and write spaces as %%20", quote(h.Path))
	}
	if strings.ContainsAny(h.Host, "/ \t\r\n") {
		d.mistake(d.line(path+".host"), path+".host", "%s is no host name; write it without http:// and path", quote(h.Host))
	}
	if h.Status < 100 || h.Status > 599 {
		d.mistake(d.line(path+".status"), path+".status", "%d is no status of HTTP; use 100 to 599", h.Status)
	}
}
