package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// Policy is what the checker must know of masquerading: the sources that may
// not be seen outside, and the destinations that may see them all the same.
type Policy struct {
	Sources  []netip.Prefix
	Excluded []netip.Prefix
}

// Checker holds the invariant on one segment: of the frames that arrive on the
// watched interface, the far end of the gateway's outside NIC, no IPv4 packet
// has a masqueraded source, and no ICMP error quotes a masqueraded address,
// unless policy excludes the packet's destination.
//
// A filter in the kernel looks at every frame and hands up those that could
// break the rule, so that watching costs nothing at line rate and no backlog
// hides a leak. What is handed up is decoded and judged here by gopacket, which
// shares no code with the gateway.
type Checker struct {
	ns     *Namespace
	ifname string
	policy Policy
	file   *os.File
	before uint64 // frames the interface had received at the start
	done   chan struct{}

	mu     sync.Mutex
	report Report
}

// Report is what a Checker saw.
type Report struct {
	Frames    uint64   // that the gateway sent on this segment, of any kind
	Inspected uint64   // that the kernel's filter handed up to be judged
	Excluded  uint64   // that rightly carry an inside source: policy excludes their destination
	Missed    uint64   // that were lost before they could be judged: the verdict is void
	Leaks     uint64   // that break the invariant
	Offenders []string // the first of these, decoded
}

const maxOffenders = 8

// Err is nil if every frame kept to the invariant and none went unseen.
func (r Report) Err() error {
	var errs []error
	if r.Leaks > 0 {
		errs = append(errs, fmt.Errorf("lab: %d of %d frames left outside with an inside address:\n\t%s",
			r.Leaks, r.Frames, strings.Join(r.Offenders, "\n\t")))
	}
	if r.Missed > 0 {
		errs = append(errs, fmt.Errorf("lab: %d frames went by unjudged: the checker's socket buffer was full", r.Missed))
	}
	return errors.Join(errs...)
}

// receiveBuffer holds a burst of suspicious frames; excluded destinations make
// up nearly all of them.
const receiveBuffer = 32 << 20

// Watch starts to check the frames that arrive on ifname in n.
func Watch(n *Namespace, ifname string, p Policy) (*Checker, error) {
	c := &Checker{ns: n, ifname: ifname, policy: p, done: make(chan struct{})}
	before, err := c.received()
	if err != nil {
		return nil, err
	}
	if c.file, err = packetSocket(n, ifname, suspicious(p.Sources)); err != nil {
		return nil, err
	}
	c.before = before
	go c.read()
	return c, nil
}

// Close stops watching, judges what was still queued and returns the report.
// The first call decides; later ones return the same.
func (c *Checker) Close() Report {
	c.file.SetReadDeadline(time.Unix(1, 0))
	<-c.done
	c.file.Close()
	return c.Report()
}

// Report is what was seen so far.
func (c *Checker) Report() Report {
	now, err := c.received()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.report.Frames = now - c.before
	}
	r := c.report
	r.Offenders = append([]string(nil), r.Offenders...)
	return r
}

// received is the interface's own count of arrived frames. It is an error once
// the namespace is closed.
func (c *Checker) received() (uint64, error) {
	link, err := c.ns.link(c.ifname)
	if err != nil {
		return 0, err
	}
	return link.Attrs().Statistics.RxPackets, nil
}

func (c *Checker) read() {
	defer close(c.done)
	raw, err := c.file.SyscallConn()
	if err != nil {
		return
	}
	frame := make([]byte, 1<<16)
	for err == nil {
		// The deadline ends the wait; what is queued by then is read before.
		err = raw.Read(func(fd uintptr) bool { return c.drain(int(fd), frame) })
	}
	raw.Control(func(fd uintptr) {
		c.drain(int(fd), frame)
		c.countMissed(int(fd))
	})
}

// drain judges frames until none is queued. It returns false, which has the
// runtime wait for the next.
func (c *Checker) drain(fd int, frame []byte) bool {
	for {
		n, _, err := syscall.Recvfrom(fd, frame, 0)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err != syscall.EAGAIN
		}
		c.judge(frame[:n])
	}
}

// judge decides about one frame that the kernel's filter handed up.
func (c *Checker) judge(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Inspected++
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.DecodeOptions{NoCopy: true})
	ip, ok := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	if !ok {
		return
	}
	why := c.leak(ip, p)
	switch {
	case why == "":
	case contains(c.policy.Excluded, address(ip.DstIP)):
		c.report.Excluded++
	default:
		c.report.Leaks++
		if len(c.report.Offenders) < maxOffenders {
			c.report.Offenders = append(c.report.Offenders, describe(ip, p)+": "+why)
		}
	}
}

// leak names the inside address that the packet shows, or returns "".
func (c *Checker) leak(ip *layers.IPv4, p gopacket.Packet) string {
	if src := address(ip.SrcIP); contains(c.policy.Sources, src) {
		return "the source is the inside address " + src.String()
	}
	icmp, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
	if !ok || !icmpErrors[icmp.TypeCode.Type()] {
		return ""
	}
	var quoted layers.IPv4
	if quoted.DecodeFromBytes(icmp.Payload, gopacket.NilDecodeFeedback) != nil {
		return ""
	}
	for _, a := range []netip.Addr{address(quoted.SrcIP), address(quoted.DstIP)} {
		if contains(c.policy.Sources, a) {
			return "the ICMP error quotes the inside address " + a.String()
		}
	}
	return ""
}

// icmpErrors are the ICMP messages that quote a packet (RFC 792).
var icmpErrors = map[uint8]bool{
	layers.ICMPv4TypeDestinationUnreachable: true,
	layers.ICMPv4TypeSourceQuench:           true,
	layers.ICMPv4TypeRedirect:               true,
	layers.ICMPv4TypeTimeExceeded:           true,
	layers.ICMPv4TypeParameterProblem:       true,
}

// describe is a packet in one line.
func describe(ip *layers.IPv4, p gopacket.Packet) string {
	from, to := ip.SrcIP.String(), ip.DstIP.String()
	if t := p.TransportLayer(); t != nil {
		from += ":" + t.TransportFlow().Src().String()
		to += ":" + t.TransportFlow().Dst().String()
	}
	line := fmt.Sprintf("%s > %s %v, %d bytes, ttl %d", from, to, ip.Protocol, ip.Length, ip.TTL)
	if tcp, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP); ok {
		line += fmt.Sprintf(", syn %t ack %t rst %t fin %t", tcp.SYN, tcp.ACK, tcp.RST, tcp.FIN)
	}
	if icmp, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok {
		line += ", " + icmp.TypeCode.String()
	}
	return line
}

func address(ip []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
