package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"sluice/internal/control"
	"sluice/internal/pcapng"
)

// synFrame is a TCP segment that opens a connection.
func synFrame() []byte {
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: []byte{10, 20, 30, 5}, DstIP: []byte{198, 51, 100, 9}}
	tcp := &layers.TCP{SrcPort: 40000, DstPort: 443, Seq: 7, Window: 1000, SYN: true}
	_ = tcp.SetNetworkLayerForChecksum(ip)
	b := gopacket.NewSerializeBuffer()
	_ = gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}, ip, tcp)
	return b.Bytes()
}

// onePacket is a capture of a packet that arrives and leaves, of which one frame
// more was lost.
func onePacket(_ context.Context, q control.CaptureQuestion, begun func() error, out io.Writer) error {
	if err := begun(); err != nil {
		return err
	}
	w := pcapng.NewWriter(out)
	at := time.Date(2026, 5, 4, 12, 30, 0, 123456789, time.UTC)
	comment := "verdict: masquerade to 192.0.2.1:2001; flow: 31.1; state: syn-sent; worker: 1"
	return errors.Join(w.Section("sluice test", "linux"),
		w.Interface(pcapng.Interface{Name: "eth1 rx"}), w.Interface(pcapng.Interface{Name: "eth0 tx"}),
		w.Packet(&pcapng.Packet{At: at, Length: 54, Data: synFrame(), ID: 9, Queue: 2, Comment: comment}),
		w.Packet(&pcapng.Packet{Interface: 1, At: at.Add(time.Microsecond), Length: 54, Data: synFrame(), ID: 9, Queue: -1, Comment: comment}),
		w.Statistics(&pcapng.Statistics{Interface: 1, At: at, Received: 2, Dropped: 1}))
}

// onePacketBytes is what onePacket writes.
func onePacketBytes(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := onePacket(t.Context(), control.CaptureQuestion{}, func() error { return nil }, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const (
	captureBegins = "capturing; Ctrl-C ends it\n"
	captureEnded  = "captured 1 packets, 2 frames; 1 frames came too fast to be kept: choose fewer with a filter, --sample or --snaplen\n"
)

func TestCaptureOnScreen(t *testing.T) {
	var asked control.CaptureQuestion
	g := &fake{capture: func(ctx context.Context, q control.CaptureQuestion, begun func() error, out io.Writer) error {
		asked = q
		return onePacket(ctx, q, begun, out)
	}}
	socket := serve(t, g)
	code, out, errOut := sluice(t, "capture", "--socket", socket, "-n", "5", "--point", "rx,drop", "--sample", "1/100", "--snaplen", "96", "--duration", "1m", "host", "10.20.30.5")
	if code != exitFine || errOut != captureBegins+captureEnded {
		t.Errorf("exit %d: %s", code, errOut)
	}
	line := " eth1     rx   IP 10.20.30.5.40000 > 198.51.100.9.443: Flags [S], seq 7, win 1000, length 0 | verdict: masquerade to 192.0.2.1:2001; flow"
	if !strings.Contains(out, line) || strings.Count(out, "\n") != 2 || !strings.Contains(out, " eth0     tx   IP ") {
		t.Errorf("%s", out)
	}
	want := control.CaptureQuestion{Filter: "host 10.20.30.5", Points: []string{"rx", "drop"}, Count: 5, Snaplen: 96, Sample: 100, Duration: time.Minute}
	if !reflect.DeepEqual(asked, want) {
		t.Errorf("asked %+v", asked)
	}
	code, out, _ = sluice(t, "capture", "--socket", socket, "-o", "json")
	var p capturedPacket
	if err := json.Unmarshal([]byte(strings.Split(out, "\n")[0]), &p); code != exitFine || err != nil || p.Packet != 9 || p.Interface != "eth1" || p.Point != "rx" ||
		p.Comment["verdict"] != "masquerade to 192.0.2.1:2001" || p.Comment["worker"] != "1" || p.Length != 54 || p.At.Nanosecond() != 123456789 {
		t.Errorf("exit %d, %v: %s", code, err, out)
	}
}

func TestCaptureToFile(t *testing.T) {
	socket := serve(t, &fake{capture: onePacket})
	path := filepath.Join(t.TempDir(), "x.pcapng")
	if err := os.WriteFile(path, bytes.Repeat([]byte("an older file"), 1000), 0o644); err != nil {
		t.Fatal(err)
	}
	code, out, errOut := sluice(t, "capture", "--socket", socket, "-w", path)
	got, err := os.ReadFile(path)
	if code != exitFine || out != "" || errOut != captureBegins+captureEnded || err != nil || !bytes.Equal(got, onePacketBytes(t)) {
		t.Errorf("exit %d: %s, %v, %d bytes", code, errOut, err, len(got))
	}
	if s, err := os.Stat(path); err != nil || s.Mode() != 0o600 {
		t.Errorf("%v, %v", s.Mode(), err)
	}
	if code, out, _ := sluice(t, "capture", "--socket", socket, "-w", "-"); code != exitFine || out != string(onePacketBytes(t)) {
		t.Errorf("exit %d, %d bytes", code, len(out))
	}
}

// TestCaptureEndsWhole: the file ends after a whole block, where the disk is full,
// the daemon goes away in the middle of one, or the user ends it.
func TestCaptureEndsWhole(t *testing.T) {
	whole := onePacketBytes(t)
	t.Run("interrupted", func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		path := filepath.Join(t.TempDir(), "x.pcapng")
		socket := serve(t, &fake{capture: func(c context.Context, q control.CaptureQuestion, begun func() error, out io.Writer) error {
			if err := onePacket(c, q, begun, out); err != nil {
				return err
			}
			for s, err := os.Stat(path); c.Err() == nil && (err != nil || s.Size() < int64(len(whole))); s, err = os.Stat(path) {
				time.Sleep(time.Millisecond)
			}
			_, err := out.Write([]byte{6, 0, 0, 0, 200, 0, 0, 0, 1}) // of a block, that the program waits for
			stop()
			<-c.Done()
			return err
		}})
		var errOut strings.Builder
		code := run(ctx, []string{"capture", "--socket", socket, "-w", path}, io.Discard, &errOut)
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, whole) || code != exitFine || errOut.String() != captureBegins+captureEnded {
			t.Errorf("exit %d: %s, %v", code, errOut.String(), err)
		}
	})
	t.Run("the daemon goes away", func(t *testing.T) {
		socket := serve(t, &fake{capture: func(ctx context.Context, q control.CaptureQuestion, begun func() error, out io.Writer) error {
			if err := onePacket(ctx, q, begun, out); err != nil {
				return err
			}
			if _, err := out.Write([]byte{6, 0, 0, 0, 200, 0, 0, 0, 1}); err != nil {
				return err
			}
			return errors.New("gone")
		}})
		path := filepath.Join(t.TempDir(), "x.pcapng")
		code, _, errOut := sluice(t, "capture", "--socket", socket, "-w", path)
		if got, err := os.ReadFile(path); code != exitFailed || err != nil || !bytes.Equal(got, whole) || !strings.Contains(errOut, "went away") {
			t.Errorf("exit %d: %s, %v, %d bytes of %d", code, errOut, err, len(got), len(whole))
		}
	})
	t.Run("the disk is full", func(t *testing.T) {
		f := &captureFile{}
		path := filepath.Join(t.TempDir(), "x.pcapng")
		if err := f.open(path); err != nil {
			t.Fatal(err)
		}
		if err := f.add([]byte("block")); err != nil {
			t.Fatal(err)
		}
		f.Writer = full{f.file}
		if err := f.add([]byte("another")); !errors.Is(err, syscall.ENOSPC) {
			t.Error(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != "block" || f.close() != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// full is a disk that has room for three bytes more.
type full struct{ io.Writer }

func (f full) Write(b []byte) (int, error) {
	n, err := f.Writer.Write(b[:3])
	return n, errors.Join(err, syscall.ENOSPC)
}

// TestCaptureUsage: what cannot be asked is refused with no daemon asked, and no
// file touched.
func TestCaptureUsage(t *testing.T) {
	t.Chdir(t.TempDir())
	for args, want := range map[string]string{
		"capture host 10.0.0.5 adn port 443": `filter, position 15: found "adn", expected and, or, or the end`,
		"capture -w x --point rx,up":         `--point: "up" is none; these are: rx, tx, drop, punt`,
		"capture --point rx,rx":              "--point: rx is given twice",
		"capture -n -1":                      "--count: -1 is negative",
		"capture --snaplen 262145":           "--snaplen: 262145 is not 0",
		"capture --sample 100":               `--sample: "100" is not one in so many, such as 1/100`,
		"capture --sample 1/0":               "--sample: 1/0 is not 1/1 to 1/1000000",
		"capture --duration -1s":             "--duration: -1s is negative",
		"capture -o json -w -":               "--output: json and -w - would both go to standard output",
	} {
		code, out, errOut := sluice(t, strings.Fields(args)...)
		if code != exitUsage || out != "" || !strings.Contains(errOut, want) || strings.Count(errOut, "\n") != 1 {
			t.Errorf("%q: exit %d, %q, %q", args, code, out, errOut)
		}
	}
	socket := serve(t, &fake{capture: func(context.Context, control.CaptureQuestion, func() error, io.Writer) error {
		return control.TooManyLooks("capture", []control.Look{{Kind: "capture", Peer: control.Peer{PID: 4711, UID: 1000}}})
	}})
	if code, _, errOut := sluice(t, "capture", "--socket", socket, "-w", "x"); code != exitFailed || !strings.Contains(errOut, "pid 4711 (uid 1000) since ") {
		t.Errorf("exit %d: %s", code, errOut)
	}
	if _, err := os.Stat("x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused capture left a file: %v", err)
	}
}

// TestSummary: frames of every kind, and cut ones.
func TestSummary(t *testing.T) {
	syn := synFrame()
	later := bytes.Clone(syn)
	later[20], later[21] = 0, 3 // at offset 24
	for name, tt := range map[string]struct {
		frame []byte
		want  string
	}{
		"fragment": {later, "IP 10.20.30.5 > 198.51.100.9: TCP fragment, id 0, offset 24, length 20"},
		"cut":      {syn[:10], "a frame of 10 bytes, cut short"},
		"cut TCP":  {syn[:38], "IP 10.20.30.5 > 198.51.100.9: protocol 6, length 20"},
		"arp": {append(bytes.Repeat([]byte{0xff}, 12), 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 7, 7, 7, 7, 7, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2),
			"ARP, request who-has 10.0.0.2 tell 10.0.0.1"},
		"other": {append(make([]byte, 12), 0x88, 0xcc, 1), "00:00:00:00:00:00 > 00:00:00:00:00:00 ethertype 0x88cc"},
		"empty": {nil, "a frame of 0 bytes, cut short"},
	} {
		if got := summary(tt.frame); got != tt.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}
