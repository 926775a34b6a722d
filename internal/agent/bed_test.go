package agent

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"sluice/internal/lab"
)

// bed runs the programs on single packets, as BPF_PROG_RUN does.
type bed struct {
	*testing.T
	o *programsObjects
}

func newBed(t *testing.T, settings uint32) *bed {
	lab.RequireRoot(t)
	return &bed{t, loadForTest(t, settings|stripOption|anyGateway)}
}

// serve lists a service, which bounds what is believed.
func (b *bed) serve(s Service) {
	if err := b.o.Services.Put(s.key(), uint8(1)); err != nil {
		b.Fatal(err)
	}
}

// The TC verdicts that the programs return.
const (
	next = -1 // TC_ACT_UNSPEC
	shot = 2
)

// run returns the verdict on a packet, and what became of it.
func (b *bed) run(p *ebpf.Program, frame []byte) (verdict int32, ip *layers.IPv4, out []byte) {
	b.Helper()
	v, out, err := p.Test(frame)
	if err != nil {
		b.Fatal(err)
	}
	ip, _ = gopacket.NewPacket(out, layers.LayerTypeEthernet, gopacket.Default).NetworkLayer().(*layers.IPv4)
	return int32(v), ip, out
}

// delivered has a request pass, or not.
func (b *bed) delivered(want int32, frame []byte) *layers.IPv4 {
	b.Helper()
	v, ip, _ := b.run(b.o.Request, frame)
	if v != want {
		b.Errorf("request: verdict %d, want %d", v, want)
	}
	return ip
}

// leaves has a reply pass with a source.
func (b *bed) leaves(source string, frame []byte) {
	b.Helper()
	v, ip, out := b.run(b.o.Reply, frame)
	if v != next || ip.SrcIP.String() != source {
		b.Errorf("reply: verdict %d, source %s, want %s", v, ip.SrcIP, source)
	}
	if ip.SrcIP.String() == source && source == backendAddress && !bytes.Equal(out, frame) {
		b.Error("the packet changed")
	}
}

func (b *bed) count(name string) (n uint64) {
	b.Helper()
	for i, e := range events {
		if e.name != name {
			continue
		}
		var perCPU []uint64
		if err := b.o.Counters.Lookup(uint32(i), &perCPU); err != nil {
			b.Fatal(err)
		}
		for _, c := range perCPU {
			n += c
		}
		return n
	}
	b.Fatalf("no counter %s", name)
	return 0
}

func (b *bed) counts(name string, want uint64) {
	b.Helper()
	if got := b.count(name); got != want {
		b.Errorf("counter %s is %d, want %d", name, got, want)
	}
}

// flow is the flow of the client's port, or nil.
func (b *bed) flow(protocol uint8) *programsFlow {
	k := keyOf(protocol, netip.AddrPortFrom(client, 4000), netip.AddrPortFrom(backend, 80))
	var f programsFlow
	if b.o.Flows.Lookup(&k, &f) != nil {
		return nil
	}
	return &f
}

// rests makes the flow as old as one that nothing came of for a while.
func (b *bed) rests(protocol uint8) {
	f := b.flow(protocol)
	k := keyOf(protocol, netip.AddrPortFrom(client, 4000), netip.AddrPortFrom(backend, 80))
	f.Seen -= 11e9
	if err := b.o.Flows.Put(&k, f); err != nil {
		b.Fatal(err)
	}
}

// packetOf is a packet in an Ethernet frame to the MAC of lo, for which BPF_PROG_RUN
// takes it, lengths and checksums filled in.
func packetOf(t testing.TB, l ...gopacket.SerializableLayer) []byte {
	t.Helper()
	var ip *layers.IPv4
	for _, layer := range l {
		switch l := layer.(type) {
		case *layers.IPv4:
			ip = l
		case *layers.TCP:
			_ = l.SetNetworkLayerForChecksum(ip)
		case *layers.UDP:
			_ = l.SetNetworkLayerForChecksum(ip)
		}
	}
	eth := &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}
	buf := gopacket.NewSerializeBuffer()
	o := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, o, append([]gopacket.SerializableLayer{eth}, l...)...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(buf.Bytes())
}

func ipv4(src, dst string, protocol layers.IPProtocol, options ...layers.IPv4Option) *layers.IPv4 {
	return &layers.IPv4{
		Version: 4, TTL: 63, Protocol: protocol, Options: options,
		SrcIP: net.ParseIP(src).To4(), DstIP: net.ParseIP(dst).To4(),
	}
}
