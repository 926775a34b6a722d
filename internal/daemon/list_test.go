package daemon

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"testing"
	"time"

	"sluice/conntrack"
	"sluice/internal/control"
)

// serveControl answers for d on a socket.
func serveControl(t testing.TB, d *Daemon) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "control.sock")
	l, err := control.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.NewServer(d, control.Version{}, d.log).Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return socket
}

// readList reads a list of flows as a client that does not look at it.
func readList(socket string) (lines int, bytes int64, err error) {
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://sluice/v1/flows")
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	in := bufio.NewReaderSize(resp.Body, 64<<10)
	for {
		line, err := in.ReadSlice('\n')
		bytes += int64(len(line))
		if err == io.EOF {
			return lines, bytes, nil
		}
		if err != nil {
			return lines, bytes, err
		}
		lines++
	}
}

func heapBytes() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// TestListInBoundedMemory lists a million flows over the socket while the heap is
// watched: it stays flat.
func TestListInBoundedMemory(t *testing.T) {
	flows := 1 << 20
	if raceEnabled {
		flows = 1 << 16
	}
	d := quietDaemon(t, flows)
	w := d.plane.table.Worker(0)
	for i := range uint32(flows - 1000) {
		addFlow(t, d, w, i)
	}
	w.Offline()
	socket := serveControl(t, d)
	runtime.GC()
	before, stop := heapBytes(), make(chan struct{})
	var most atomic.Uint64
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				most.Store(max(most.Load(), heapBytes()))
			}
		}
	}()
	began := time.Now()
	lines, bytes, err := readList(socket)
	took := time.Since(began)
	close(stop)
	if err != nil || lines != flows-1000 {
		t.Fatalf("%d lines, %v", lines, err)
	}
	const bound = 16 << 20 // the collector's next cycle is due at 4 MiB
	if grown := int64(most.Load()) - int64(before); grown > bound {
		t.Errorf("the heap grew by %d bytes", grown)
	} else {
		t.Logf("%d flows, %d MB in %s (%.0f ns a flow), heap at most %d KiB more", lines, bytes>>20, took, float64(took)/float64(lines), grown>>10)
	}
}

// BenchmarkLookupBesideList: what a burst of look-ups in a table of a million
// flows costs a worker while the table is listed again and again, and while it is
// not. Both are of one run; compare them, not two runs.
func BenchmarkLookupBesideList(b *testing.B) {
	const flows = 1 << 20
	d := quietDaemon(b, flows)
	w := d.plane.table.Worker(0)
	for i := range uint32(flows - 1000) {
		addFlow(b, d, w, i)
	}
	socket := serveControl(b, d)
	var alone time.Duration
	burst := func(b *testing.B) time.Duration {
		var l conntrack.Lookup
		at := uint32(0)
		now, _ := d.times()
		b.ResetTimer()
		for range b.N {
			for i := range l.Keys {
				at = (at + 7919) % (flows - 1000)
				l.Keys[i] = conntrack.Tuple{Src: 0x0a000000 + at>>12, Dst: 0x01010101, SrcPort: uint16(at&0xfff) + 1, DstPort: 53, Proto: 17}
			}
			w.LookupBurst(&l, conntrack.Burst, now)
			w.Quiesce()
		}
		b.StopTimer()
		return b.Elapsed() / time.Duration(b.N)
	}
	b.Run("alone", func(b *testing.B) { alone = burst(b) })
	b.Run("listed", func(b *testing.B) {
		stop, done := make(chan struct{}), make(chan int)
		go func() {
			lists := 0
			for {
				select {
				case <-stop:
					done <- lists
					return
				default:
				}
				if _, _, err := readList(socket); err != nil {
					b.Error(err)
				}
				lists++
			}
		}()
		beside := burst(b)
		close(stop)
		b.ReportMetric(float64(<-done), "lists")
		b.ReportMetric(float64(beside)/float64(alone), "x-alone")
	})
}
