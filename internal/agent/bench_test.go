package agent

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"

	"sluice/internal/lab"
)

// BenchmarkPrograms is what the programs add to a packet, as BPF_PROG_RUN has it:
// one of a flow, one of none, and a reply where routing rules ask for the source. The
// flow's service is its backend, so that a reply can be translated any number of
// times; the two look-ups that rules cost are made all the same.
func BenchmarkPrograms(b *testing.B) {
	lab.RequireRoot(b)
	n, err := lab.NewNamespace("bench")
	if err != nil {
		b.Fatal(err)
	}
	defer n.Close()
	// BPF_PROG_RUN has packets leave by lo, so routes do.
	_, all, _ := net.ParseCIDR("10.0.0.0/24")
	if err := errors.Join(n.Sysctl("net/ipv4/ip_forward", "1"), n.Netlink().RouteAdd(&netlink.Route{LinkIndex: 1, Dst: all})); err != nil {
		b.Fatal(err)
	}
	o := loadForTest(b, 0)
	client, backend := net.IPv4(10, 0, 0, 1).To4(), net.IPv4(10, 0, 0, 2).To4()
	for port := range uint16(10000) { // so that the table is no toy
		k := programsFlowKey{Client: 0x0100000a, Backend: 0x0200000a, ClientPort: port>>8 | port<<8, BackendPort: 80 << 8, Protocol: 6}
		if err := o.Flows.Put(&k, &programsFlow{Vip: 0x0200000a, VipPort: 80 << 8}); err != nil {
			b.Fatal(err)
		}
	}
	for _, c := range []struct {
		name     string
		program  *ebpf.Program
		src, dst net.IP
		sport    layers.TCPPort
		dport    layers.TCPPort
		settings uint32
	}{
		{"request", o.Request, client, backend, 4000, 80, 0},
		{"request/no-flow", o.Request, client, backend, 4000, 81, 0},
		{"reply", o.Reply, backend, client, 80, 4000, 0},
		{"reply/source-rules", o.Reply, backend, client, 80, 4000, sourceRules},
		{"reply/no-flow", o.Reply, backend, client, 81, 4000, 0},
	} {
		b.Run(c.name, func(b *testing.B) {
			if err := o.Settings.Put(uint32(0), c.settings); err != nil {
				b.Fatal(err)
			}
			ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: c.src, DstIP: c.dst}
			tcp := &layers.TCP{SrcPort: c.sport, DstPort: c.dport, ACK: true}
			_ = tcp.SetNetworkLayerForChecksum(ip)
			buf := gopacket.NewSerializeBuffer()
			// The MAC of the loopback interface, for which BPF_PROG_RUN takes the frame.
			eth := &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}
			if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, tcp, gopacket.Payload(make([]byte, 100))); err != nil {
				b.Fatal(err)
			}
			var per time.Duration
			err := n.Do(func() (err error) {
				_, per, err = c.program.Benchmark(buf.Bytes(), max(b.N, 1), b.ResetTimer)
				return err
			})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(per.Nanoseconds()), "ns/op")
		})
	}
}
