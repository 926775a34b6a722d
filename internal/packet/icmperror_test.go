package packet

import (
	"bytes"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"sluice/internal/verdict"
)

// TestWriteICMPError holds the errors against those that gopacket builds, byte
// for byte, and what is said of them against Parse.
func TestWriteICMPError(t *testing.T) {
	firstFragment := udpFrame(t, "hello")
	firstFragment[EthernetLength+6] = moreFragments >> 8
	fixHeader(firstFragment)
	quotes := map[string][]byte{
		"UDP":           udpFrame(t, "")[EthernetLength:],
		"odd length":    udpFrame(t, "odd")[EthernetLength:],
		"TCP":           tcpFrame(t, "some data", nil)[EthernetLength:],
		"as it can be":  udpFrame(t, string(make([]byte, ICMPErrorMaxLength-ICMPErrorOverhead-IPv4MinLength-UDPLength)))[EthernetLength:],
		"with options":  withOptions(udpFrame(t, "x"), 7, 3, 4, 0)[EthernetLength:],
		"first of many": firstFragment[EthernetLength:],
	}
	for name, quote := range quotes {
		for _, e := range []ICMPError{
			{Src: 0xc0000201, Dst: 0x0a000005, ID: 0x1234, Type: ICMPTimeExceeded},
			{Src: 0x0a000001, Dst: 0x0a000005, ID: 0, Type: ICMPUnreachable, Code: 4, MTU: 1300},
			{Src: 0x0a000001, Dst: 0x0a000005, ID: 0xffff, Type: ICMPUnreachable, Code: 13},
		} {
			frame := bytes.Repeat([]byte{0xaa}, EthernetLength+ICMPErrorOverhead) // all of it is to be overwritten
			copy(frame, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1})
			frame = append(frame, quote...)
			var p, parsed Packet
			e.Write(frame, &p)

			ip := ipv4(layers.IPProtocolICMPv4)
			ip.SrcIP, ip.DstIP = address(e.Src), address(e.Dst)
			ip.Id, ip.TOS = e.ID, 0xc0
			want := build(t, ethernet(), ip,
				&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(e.Type, e.Code), Seq: e.MTU}, gopacket.Payload(quote))
			if !bytes.Equal(frame, want) {
				t.Errorf("%s, %d/%d:\n got %x\nwant %x", name, e.Type, e.Code, frame, want)
			}
			if r := Parse(frame, &parsed); r != verdict.None || parsed != p {
				t.Errorf("%s, %d/%d: Write says %+v, Parse %+v (%v)", name, e.Type, e.Code, p, parsed, r)
			}
		}
	}
}

func address(a uint32) net.IP { return net.IPv4(byte(a>>24), byte(a>>16), byte(a>>8), byte(a)) }

func TestWriteICMPErrorDoesNotAllocate(t *testing.T) {
	frame := make([]byte, EthernetLength+ICMPErrorMaxLength)
	e := ICMPError{Src: 1, Dst: 2, Type: ICMPTimeExceeded}
	var p Packet
	if n := testing.AllocsPerRun(100, func() { e.Write(frame, &p) }); n != 0 {
		t.Errorf("%v allocations an error", n)
	}
}
