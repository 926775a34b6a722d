package agent

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"pgregory.net/rapid"

	"sluice/internal/lab"
	"sluice/internal/packet"
)

// optionModel finds the DSR option in a list as RFC 791 3.1 has lists read, slowly:
// it returns where it begins, -1 for nowhere.
func optionModel(list []byte) int {
	for at := 0; at < len(list); {
		switch {
		case list[at] == 0:
			return -1
		case list[at] == 1:
			at++
			continue
		case at+1 == len(list), list[at+1] < 2, at+int(list[at+1]) > len(list):
			return -1
		case list[at] == 0x9a && list[at+1] == 8:
			return at
		}
		at += int(list[at+1])
	}
	return -1
}

// requestFrame is a UDP datagram in an Ethernet frame, checksums right.
func requestFrame(options, payload []byte) []byte {
	n := 20 + len(options)
	f := make([]byte, 14+n+8+len(payload))
	f[12] = 8
	ip := f[14:]
	ip[0], ip[8], ip[9] = 0x40|byte(n/4), 64, packet.ProtoUDP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	copy(ip[20:], options)
	binary.BigEndian.PutUint16(ip[10:], packet.Checksum(ip[:n]))
	copy(ip[n:], []byte{0x0f, 0xa0, 0, 80})
	binary.BigEndian.PutUint16(ip[n+4:], uint16(8+len(payload)))
	copy(ip[n+8:], payload)
	return f
}

// drawOptions draws a list that is mostly well formed, with the option somewhere
// or not, or any bytes.
func drawOptions(t *rapid.T) []byte {
	var list []byte
	for range rapid.IntRange(0, 6).Draw(t, "options") {
		switch rapid.IntRange(0, 4).Draw(t, "kind") {
		case 0:
			list = append(list, 1)
		case 1:
			list = append(list, 0x9a, 8, 0x00, 0x7d, 0x02, 0x00, 0x12, 0xac)
		case 2:
			n := rapid.IntRange(2, 12).Draw(t, "length")
			list = append(list, 0x94, byte(n))
			list = append(list, make([]byte, n-2)...)
		case 3:
			list = append(list, rapid.SliceOfN(rapid.Byte(), 1, 5).Draw(t, "bytes")...)
		case 4:
			list = append(list, 0x9a, 8)
		}
	}
	list = list[:min(len(list), 40)]
	for len(list)%4 != 0 {
		list = append(list, 0)
	}
	return list
}

// TestStripModel: the program finds the option exactly where a slow reader does,
// learns what it says, and takes it and nothing else out.
func TestStripModel(t *testing.T) {
	lab.RequireRoot(t)
	o := loadForTest(t, stripOption|anyGateway|anyService)
	rapid.Check(t, func(t *rapid.T) {
		options := drawOptions(t)
		frame := requestFrame(options, rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(t, "payload"))
		at := optionModel(options)
		want := frame
		if at >= 0 {
			want = requestFrame(slices.Concat(options[:at], options[at+8:]), frame[14+20+len(options)+8:])
		}
		k := programsFlowKey{Client: 0x0100000a, Backend: 0x0200000a, ClientPort: 0xa00f, BackendPort: 80 << 8, Protocol: packet.ProtoUDP}
		_ = o.Flows.Delete(&k)
		verdict, got, err := o.Request.Test(frame)
		if err != nil {
			t.Fatal(err)
		}
		if verdict != ^uint32(0) { // TC_ACT_UNSPEC
			t.Fatalf("verdict %d", int32(verdict))
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("options % x, found at %d:\n got % x\nwant % x", options, at, got, want)
		}
		var flow programsFlow
		if there := o.Flows.Lookup(&k, &flow) == nil; there != (at >= 0) {
			t.Fatalf("learned is %v, options % x, found at %d", there, options, at)
		}
		if at >= 0 {
			if want := options[at : at+8]; endpoint(flow.Vip, flow.VipPort).Port() != binary.LittleEndian.Uint16(want[2:]) ||
				binary.BigEndian.Uint32(endpoint(flow.Vip, 0).Addr().AsSlice()) != binary.LittleEndian.Uint32(want[4:]) {
				t.Fatalf("learned %v from % x", endpoint(flow.Vip, flow.VipPort), want)
			}
		}
	})
}

// TestTruncated: a frame that ends anywhere, or whose header says what is not so,
// is passed on unchanged or dropped, and never learned from where its header is not
// sound.
func TestTruncated(t *testing.T) {
	lab.RequireRoot(t)
	for _, dispatch := range []uint32{0, dispatchIPIP, dispatchGeneve} {
		o := loadForTest(t, stripOption|anyGateway|anyService|dispatch)
		rapid.Check(t, func(t *rapid.T) {
			frame := requestFrame(drawOptions(t), rapid.SliceOfN(rapid.Byte(), 0, 80).Draw(t, "payload"))
			for range rapid.IntRange(0, 4).Draw(t, "changes") {
				frame[rapid.IntRange(14, len(frame)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
			}
			if rapid.Bool().Draw(t, "tunnel") {
				frame[23] = rapid.SampledFrom([]byte{4, packet.ProtoUDP}).Draw(t, "protocol")
			}
			frame = frame[:rapid.IntRange(14+20, len(frame)).Draw(t, "length")]
			for _, p := range []*ebpf.Program{o.Request, o.Reply, o.ReplyBare} {
				if _, _, err := p.Test(frame); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// loadForTest loads the programs with maps of their own.
func loadForTest(t testing.TB, settings uint32) *programsObjects {
	t.Helper()
	spec, err := loadPrograms()
	if err != nil {
		t.Fatal(err)
	}
	spec.Maps[programsMapFlows].MaxEntries = 1 << 16
	var o programsObjects
	if err := spec.LoadAndAssign(&o, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	if err := o.Settings.Put(uint32(0), settings); err != nil {
		t.Fatal(err)
	}
	return &o
}
