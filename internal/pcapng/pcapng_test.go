package pcapng

import (
	"bytes"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket/pcapgo"
	"pgregory.net/rapid"

	"sluice/internal/lab"
)

var begin = time.Unix(1_800_000_000, 123456789)

// drawFile draws interfaces, packets and counters.
func drawFile(t *rapid.T) (interfaces []Interface, packets []Packet, counters []Statistics) {
	for range rapid.IntRange(1, 4).Draw(t, "interfaces") {
		interfaces = append(interfaces, Interface{
			Name: rapid.StringN(1, 9, 30).Draw(t, "name"), Description: rapid.StringN(0, 9, 30).Draw(t, "description"),
			Filter: rapid.StringN(0, 9, 30).Draw(t, "filter"), Snaplen: rapid.Uint32Range(0, 4096).Draw(t, "snaplen"),
		})
	}
	for range rapid.IntRange(0, 8).Draw(t, "packets") {
		data := rapid.SliceOfN(rapid.Byte(), 1, 90).Draw(t, "data")
		packets = append(packets, Packet{
			Interface: rapid.IntRange(0, len(interfaces)-1).Draw(t, "interface"),
			At:        begin.Add(time.Duration(rapid.Int64Range(0, 1e15).Draw(t, "at"))),
			Length:    len(data) + rapid.IntRange(0, 9).Draw(t, "cut"), Data: data,
			Direction: Direction(rapid.IntRange(0, 2).Draw(t, "direction")), ID: rapid.Uint64().Draw(t, "id"),
			Queue: rapid.IntRange(-1, 70).Draw(t, "queue"), Comment: rapid.StringN(0, 40, 200).Draw(t, "comment"),
		})
	}
	for i := range interfaces {
		counters = append(counters, Statistics{Interface: i, Start: begin, At: begin.Add(time.Second), Received: rapid.Uint64().Draw(t, "received"), Dropped: uint64(i), Unseen: rapid.Uint64().Draw(t, "unseen")})
	}
	return interfaces, packets, counters
}

func write(t *rapid.T, interfaces []Interface, packets []Packet, counters []Statistics) []byte {
	var b bytes.Buffer
	w := NewWriter(&b)
	err := w.Section("sluice 1.0", "linux")
	for _, i := range interfaces {
		err = errors.Join(err, w.Interface(i))
	}
	for i := range packets {
		err = errors.Join(err, w.Packet(&packets[i]))
	}
	for i := range counters {
		err = errors.Join(err, w.Statistics(&counters[i]))
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestReadBack: what is written, our reader reads with everything in it, and
// gopacket's reads as the same packets of the same interfaces.
func TestReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		interfaces, packets, counters := drawFile(t)
		file := write(t, interfaces, packets, counters)
		r := NewReader(bytes.NewReader(file))
		var gotPackets []Packet
		var gotCounters []Statistics
		var raw []byte
		for {
			b, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			raw = append(raw, b.Raw...)
			if b.Packet != nil {
				b.Packet.Data = bytes.Clone(b.Packet.Data)
				gotPackets = append(gotPackets, *b.Packet)
			}
			if b.Statistics != nil {
				gotCounters = append(gotCounters, *b.Statistics)
			}
		}
		if d := cmp.Diff([]any{interfaces, packets, counters}, []any{r.Interfaces, gotPackets, gotCounters}); d != "" || !bytes.Equal(raw, file) {
			t.Fatal(d)
		}
		holdGopacket(t, file, interfaces, packets, counters)
	})
}

func holdGopacket(t *rapid.T, file []byte, interfaces []Interface, packets []Packet, counters []Statistics) {
	g, err := pcapgo.NewNgReader(bytes.NewReader(file), pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range packets {
		data, at, err := g.ReadPacketData()
		if err != nil || !bytes.Equal(data, p.Data) || !at.Timestamp.Equal(p.At) || at.Length != p.Length || at.InterfaceIndex != p.Interface {
			t.Fatalf("packet %d: %v, %+v, %x", i, err, at, data)
		}
	}
	if _, _, err := g.ReadPacketData(); err != io.EOF {
		t.Fatal(err)
	}
	for i, want := range interfaces {
		got, err := g.Interface(i)
		if err != nil || got.Name != want.Name || got.Description != want.Description || got.Filter != want.Filter || got.SnapLength != want.Snaplen ||
			got.Statistics.PacketsReceived != counters[i].Received || got.Statistics.PacketsDropped != counters[i].Dropped || !got.Statistics.StartTime.Equal(begin) {
			t.Fatalf("interface %d: %v, %+v, want %+v %+v", i, err, got, want, counters[i])
		}
	}
	if s := g.SectionInfo(); s.Application != "sluice 1.0" || s.OS != "linux" {
		t.Fatalf("%+v", s)
	}
}

// TestTcpdumpReads: where there is a tcpdump, it reads the file.
func TestTcpdumpReads(t *testing.T) {
	tcpdump := lab.RequireProgram(t, "tcpdump", "tcpdump")
	frame := append(bytes.Repeat([]byte{0xff}, 12), 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 7, 7, 7, 7, 7, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2)
	var b bytes.Buffer
	w := NewWriter(&b)
	p := &Packet{At: begin, Length: len(frame), Data: frame, Comment: "verdict: answer ARP", ID: 1, Queue: 2, Direction: Inbound}
	if err := errors.Join(w.Section("sluice", "linux"), w.Interface(Interface{Name: "eth0 rx"}), w.Packet(p), w.Statistics(&Statistics{At: begin})); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(tcpdump, "-nttr", "-", "--nano")
	c.Stdin = &b
	if out, err := c.Output(); err != nil || !strings.HasPrefix(string(out), "1800000000.123456789 ARP, Request who-has 10.0.0.2 tell 10.0.0.1") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestCutAndBroken: a file that ends within a block, and bytes that are none.
func TestCutAndBroken(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	_ = w.Section("sluice", "linux")
	section := b.Len()
	_ = w.Interface(Interface{Name: "eth0 rx"})
	iface := b.Len()
	_ = w.Packet(&Packet{At: begin, Length: 3, Data: []byte{1, 2, 3}, Comment: "x"})
	whole := b.Bytes()
	for n := range len(whole) {
		r := NewReader(bytes.NewReader(whole[:n]))
		var err error
		for err == nil {
			_, err = r.Next()
		}
		want := io.ErrUnexpectedEOF
		if n == 0 || n == section || n == iface {
			want = io.EOF
		}
		if err != want {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	for name, file := range map[string][]byte{
		"a packet first":            whole[iface:],
		"two sections":              append(bytes.Clone(whole[:section]), whole[:section]...),
		"a packet of no interface":  append(bytes.Clone(whole[:section]), whole[iface:]...),
		"text":                      []byte("{\"error\":\"no\"}"),
		"a length that differs":     append(bytes.Clone(whole[:section-1]), 9),
		"more bytes than the block": tampered(whole, iface+20, 200),
	} {
		r := NewReader(bytes.NewReader(file))
		var err error
		for err == nil {
			_, err = r.Next()
		}
		if !strings.HasPrefix(err.Error(), "pcapng: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func tampered(file []byte, at int, v byte) []byte {
	file = bytes.Clone(file)
	file[at] = v
	return file
}

// FuzzReader: no bytes panic, and what is read is whole blocks.
func FuzzReader(f *testing.F) {
	var b bytes.Buffer
	w := NewWriter(&b)
	_ = w.Section("sluice", "linux")
	_ = w.Interface(Interface{Name: "eth0 rx", Filter: "tcp"})
	_ = w.Packet(&Packet{At: begin, Length: 3, Data: []byte{1, 2, 3}, Comment: "x", Queue: 1, Direction: Outbound})
	_ = w.Statistics(&Statistics{At: begin, Dropped: 1})
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:60])
	f.Fuzz(func(t *testing.T, file []byte) {
		r := NewReader(bytes.NewReader(file))
		n := 0
		for {
			b, err := r.Next()
			if err != nil {
				return
			}
			if n += len(b.Raw); !bytes.Equal(file[n-len(b.Raw):n], b.Raw) {
				t.Fatalf("a block that is not in the file: %x", b.Raw)
			}
		}
	})
}
