package agent

import (
	"net"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"sluice/internal/lab"
)

// BenchmarkPrograms is what the programs add to a packet, as BPF_PROG_RUN has it:
// one of a flow, and one of none. The flow's service is its backend, so that a
// reply can be translated any number of times.
func BenchmarkPrograms(b *testing.B) {
	lab.RequireRoot(b)
	spec, err := loadPrograms()
	if err != nil {
		b.Fatal(err)
	}
	spec.Maps[programsMapFlows].MaxEntries = 1 << 20
	var o programsObjects
	if err := spec.LoadAndAssign(&o, nil); err != nil {
		b.Fatal(err)
	}
	defer o.Close()
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
	}{
		{"request", o.Request, client, backend, 4000, 80},
		{"request/no-flow", o.Request, client, backend, 4000, 81},
		{"reply", o.Reply, backend, client, 80, 4000},
		{"reply/no-flow", o.Reply, backend, client, 81, 4000},
	} {
		b.Run(c.name, func(b *testing.B) {
			ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: c.src, DstIP: c.dst}
			tcp := &layers.TCP{SrcPort: c.sport, DstPort: c.dport, ACK: true}
			_ = tcp.SetNetworkLayerForChecksum(ip)
			buf := gopacket.NewSerializeBuffer()
			// The MAC of the loopback interface, for which BPF_PROG_RUN takes the frame.
			eth := &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}
			if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, tcp, gopacket.Payload(make([]byte, 100))); err != nil {
				b.Fatal(err)
			}
			_, per, err := c.program.Benchmark(buf.Bytes(), max(b.N, 1), b.ResetTimer)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(per.Nanoseconds()), "ns/op")
		})
	}
}
