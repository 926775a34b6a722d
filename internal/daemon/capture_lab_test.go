package daemon

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"sluice/internal/control"
	"sluice/internal/gateway"
	"sluice/internal/lab"
	"sluice/internal/pcapng"
)

// TestCaptureLab captures a connection through a running gateway, and holds the
// file against what both ends were.
func TestCaptureLab(t *testing.T) {
	lab.RequireRoot(t)
	program := built(t, "")
	l := newPuntLab(t, program)
	t.Run("a connection", func(t *testing.T) { testCaptureConnection(t, l) })
	t.Run("drops", func(t *testing.T) { testCaptureDrops(t, l) })
	t.Run("the command, interrupted", func(t *testing.T) { testCaptureCommand(t, l, program) })
	t.Run("one at a time, for a while", func(t *testing.T) { testCaptureEnds(t, l) })
}

// seen is a captured frame: as gopacket reads it from the file, and what only our
// reader shows.
type seen struct {
	where   string // INTERFACE POINT
	packet  gopacket.Packet
	comment string
	id      uint64
	queue   int
}

// captureOf does something while a capture is on, and returns what it wrote until
// enough says so, or it ended by itself.
func (l *puntLab) captureOf(q control.CaptureQuestion, do func(), enough func(*pcapng.Packet) bool) []seen {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 30*time.Second)
	defer cancel()
	stream, err := l.client.Capture(ctx, q)
	if err != nil {
		l.t.Fatal(err)
	}
	defer stream.Close()
	do()
	var file bytes.Buffer
	var list []seen
	for in := pcapng.NewReader(stream); ; {
		b, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			l.t.Fatalf("%v after %d frames", err, len(list))
		}
		file.Write(b.Raw)
		if b.Packet == nil {
			continue
		}
		list = append(list, seen{where: in.Interfaces[b.Packet.Interface].Name, comment: b.Packet.Comment, id: b.Packet.ID, queue: b.Packet.Queue})
		if enough(b.Packet) {
			break
		}
	}
	l.readBack(file.Bytes(), list)
	return list
}

// readBack reads the file with gopacket, which must see the same frames.
func (l *puntLab) readBack(file []byte, list []seen) {
	l.t.Helper()
	in, err := pcapgo.NewNgReader(bytes.NewReader(file), pcapgo.DefaultNgReaderOptions)
	if err != nil {
		l.t.Fatal(err)
	}
	for i := range list {
		data, at, err := in.ReadPacketData()
		if err != nil {
			l.t.Fatalf("frame %d of %d: %v", i, len(list), err)
		}
		iface, err := in.Interface(at.InterfaceIndex)
		if err != nil || iface.Name != list[i].where || time.Since(at.Timestamp) > time.Minute || at.CaptureLength != len(data) {
			l.t.Errorf("frame %d: %+v of %+v, %v; want %s", i, at, iface, err, list[i].where)
		}
		list[i].packet = gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.Default)
	}
	if _, _, err := in.ReadPacketData(); err != io.EOF {
		l.t.Errorf("after the last frame: %v", err)
	}
	if tcpdump, err := exec.LookPath("tcpdump"); err == nil {
		c := exec.Command(tcpdump, "-nr", "-")
		c.Stdin = bytes.NewReader(file)
		if out, err := c.Output(); err != nil || bytes.Count(out, []byte("\n")) < len(list) {
			l.t.Errorf("tcpdump: %v, %d frames expected:\n%s", err, len(list), out)
		}
	}
}

func testCaptureConnection(t *testing.T, l *puntLab) {
	client := lab.Client1Address
	q := control.DefaultCapture()
	q.Filter = "host " + client + " and tcp port 8081"
	address := l.echo(l.Server1, lab.Server1Address+":8081")
	list := l.captureOf(q, func() {
		l.fetch(l.Client2, address) // not to be seen
		l.fetch(l.Client1, address)
	}, func(p *pcapng.Packet) bool {
		return strings.Contains(p.Comment, "state: time-wait") && strings.Contains(p.Comment, "direction: original")
	})
	received := map[uint64]*layers.IPv4{}
	there, back := 0, 0
	for i := range list {
		s := &list[i]
		ip, _ := s.packet.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
		tcp, _ := s.packet.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if ip == nil || tcp == nil {
			t.Fatalf("frame %d: %v", i, s.packet)
		}
		waited := strings.HasPrefix(s.comment, "verdict: send what waited") // for its neighbour's link address
		for _, want := range []string{"kind: masquerade", "worker: ", "flow: ", "after: tcp "} {
			if !strings.Contains(s.comment, want) {
				t.Errorf("frame %d: %s lacks %s", i, s.comment, want)
			}
		}
		side, point, _ := strings.Cut(s.where, " ")
		if point == "rx" {
			if received[s.id] = ip; s.queue < 0 {
				t.Errorf("frame %d: no queue: %s", i, s.comment)
			}
			continue
		}
		if waited {
			if !strings.HasSuffix(s.where, " tx") || strings.Contains(s.comment, "before: ") {
				t.Errorf("frame %d, %s: %s", i, s.where, s.comment)
			}
			continue
		}
		from := received[s.id]
		if from == nil || from.TTL != ip.TTL+1 || from.Id != ip.Id && from.Id != 0 {
			t.Fatalf("frame %d, %s of packet %d: %v became %v", i, side, s.id, from, ip)
		}
		// Towards the server as the gateway, towards the client as the server.
		switch {
		case from.SrcIP.String() == client && ip.SrcIP.String() == lab.GatewayOutside && ip.DstIP.String() == lab.Server1Address && tcp.DstPort == 8081:
			there++
		case ip.DstIP.String() == client && from.DstIP.String() == lab.GatewayOutside && ip.SrcIP.String() == lab.Server1Address && tcp.SrcPort == 8081:
			back++
		default:
			t.Errorf("frame %d: %v became %v", i, from, ip)
		}
	}
	if there < 3 || back < 2 || !strings.HasPrefix(list[0].comment, "verdict: masquerade to "+lab.GatewayOutside+":") {
		t.Errorf("%d packets there, %d back, the first one: %s", there, back, list[0].comment)
	}
}

func testCaptureDrops(t *testing.T, l *puntLab) {
	q := control.CaptureQuestion{Filter: "reason outside-to-inside", Points: []string{"drop"}, Count: 2, Sample: 1, Snaplen: 40}
	stranger := l.udp(l.Server2, lab.Server2Address+":9")
	list := l.captureOf(q, func() {
		for range 3 {
			l.write(stranger, lab.Client1Address+":9", []byte("twelve bytes"))
		}
	}, func(*pcapng.Packet) bool { return false })
	if len(list) != 2 {
		t.Fatalf("%d frames", len(list))
	}
	for _, s := range list {
		if !strings.HasPrefix(s.comment, "verdict: drop: outside-to-inside; reason: outside-to-inside (") || !strings.HasSuffix(s.where, " drop") || len(s.packet.Data()) != 40 {
			t.Errorf("%s: %d bytes: %s", s.where, len(s.packet.Data()), s.comment)
		}
		if ip, ok := s.packet.Layer(layers.LayerTypeIPv4).(*layers.IPv4); !ok || !ip.DstIP.Equal(net.ParseIP(lab.Client1Address)) {
			t.Errorf("%v", s.packet)
		}
	}
}

func testCaptureEnds(t *testing.T, l *puntLab) {
	q := control.DefaultCapture()
	q.Filter, q.Duration = "host 192.0.2.200", 3*time.Second // room for the others
	list := l.captureOf(q, func() {
		more := q
		more.Duration = 0
		for n := 1; ; n++ { // the one that is on is the first
			stream, err := l.client.Capture(t.Context(), more)
			if n == gateway.MaxLooks {
				if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("captures: as many are on as there can be, %d: pid %d (uid 0) since ", n, os.Getpid())) {
					t.Errorf("capture %d: %v", n+1, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
		}
	}, func(*pcapng.Packet) bool { return false })
	if len(list) != 0 {
		t.Errorf("%d frames: %s", len(list), list[0].comment)
	}
}

// testCaptureCommand ends `sluice capture -w FILE` with SIGINT while packets come:
// the file ends with a whole packet, and only its owner can read it.
func testCaptureCommand(t *testing.T, l *puntLab, program string) {
	path := filepath.Join(t.TempDir(), "x.pcapng")
	cmd := exec.Command(program, "capture", "--socket", filepath.Join(filepath.Dir(l.file), "control.sock"), "-w", path, "udp", "port", "9999")
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := l.udp(l.Client1, lab.Client1Address+":0")
	const enough = 64 << 10
	deadline := time.Now().Add(30 * time.Second)
	for size := int64(0); size < enough && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		l.write(c, lab.Server1Address+":9999", make([]byte, 1000))
		if s, err := os.Stat(path); err == nil {
			size = s.Size()
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(said.String(), "\ncaptured ") {
		t.Errorf("%v: %s", err, said.String())
	}
	file, err := os.ReadFile(path)
	if err != nil || len(file) < enough {
		t.Fatalf("%v, %d bytes", err, len(file))
	}
	if s, err := os.Stat(path); err != nil || s.Mode() != 0o600 {
		t.Errorf("%v, %v", s.Mode(), err)
	}
	in, err := pcapgo.NewNgReader(bytes.NewReader(file), pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; err == nil; n++ {
		_, _, err = in.ReadPacketData()
	}
	if err != io.EOF || n < enough/2000 {
		t.Errorf("%d packets, then %v", n, err)
	}
}
