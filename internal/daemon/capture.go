package daemon

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"sluice/internal/control"
	"sluice/internal/explain"
	"sluice/internal/fib"
	"sluice/internal/filter"
	"sluice/internal/gateway"
	"sluice/internal/pcapng"
)

// captureEvery is how often the workers' rings are emptied while a capture is on:
// a ring of 2 MB fills in 4 ms at 4 Gbit/s.
const captureEvery = 4 * time.Millisecond

// captureSays is how often the interfaces' counters are written: a file that is cut
// off says what it lacks up to then.
const captureSays = time.Second

// captureBatch is how many records of a worker are read at once.
const captureBatch = 4096

// Capture implements control.Gateway.
func (d *Daemon) Capture(ctx context.Context, q control.CaptureQuestion, begun func() error, out io.Writer) error {
	f, err := filter.Parse(q.Filter)
	if err != nil {
		return err
	}
	cfg := gateway.CaptureConfig{
		Filter: f, Workers: len(d.plane.threads), Count: q.Count, Snaplen: q.Snaplen, Sample: uint32(q.Sample),
		Clock: func() int64 { return time.Now().UnixNano() },
	}
	for _, word := range q.Points {
		p, ok := gateway.ParsePoint(word)
		if !ok {
			return fmt.Errorf("point: %q is none", word)
		}
		cfg.Points[p] = true
	}
	c := &captureStream{daemon: d, capture: gateway.NewCapture(cfg), points: cfg.Points, out: out, began: time.Now()}
	c.writer = pcapng.NewWriter(&c.pending)
	end, err := d.beginLook(ctx, "capture", q.Filter, &looker{capture: c.capture})
	if err != nil {
		return err
	}
	defer end()
	c.end = end
	if err := begun(); err != nil {
		return err
	}
	if err := c.announce(q); err != nil {
		return err
	}
	return c.run(ctx, q.Duration)
}

// captureStream is a capture on its way into a file.
type captureStream struct {
	daemon  *Daemon
	capture *gateway.Capture
	points  [gateway.Points]bool
	writer  *pcapng.Writer
	pending bytes.Buffer // whole blocks, for one write
	out     io.Writer
	began   time.Time
	end     func() // has the workers capture no more
	ports   int
	index   [gateway.MaxPorts][gateway.Points]int // the file's interfaces
	written [gateway.MaxPorts][gateway.Points]uint64

	batch []captured
	bytes []byte
}

// captured is a record, and where its bytes lie in the stream's.
type captured struct {
	gateway.Captured
	worker     int
	start, end int
}

// announce begins the file. Packets carry the interface and the point where they
// were seen as an interface of the file's.
func (c *captureStream) announce(q control.CaptureQuestion) error {
	_ = c.writer.Section("sluice "+c.daemon.options.Version.Version, runtime.GOOS+" "+runtime.GOARCH)
	n := 0
	for port, i := range c.daemon.inForce.Load().config.Interfaces {
		c.ports = port + 1
		for p := range gateway.Points {
			if !c.points[p] {
				continue
			}
			_ = c.writer.Interface(pcapng.Interface{ // into memory
				Name: i.Name + " " + p.String(), Description: pointSays[p], Filter: q.Filter, Snaplen: uint32(q.Snaplen),
			})
			c.index[port][p] = n
			n++
		}
	}
	return c.flush()
}

var pointSays = [gateway.Points]string{
	gateway.PointRX: "as received", gateway.PointTX: "as sent", gateway.PointDrop: "dropped, as received", gateway.PointPunt: "given to the kernel, as received",
}

// run writes packets until the capture ends.
func (c *captureStream) run(ctx context.Context, duration time.Duration) error {
	var over <-chan time.Time
	if duration > 0 {
		over = time.After(duration)
	}
	tick := time.NewTicker(captureEvery)
	defer tick.Stop()
	for last, ended := c.began, false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-over:
			ended = true
			c.end()
		case <-tick.C:
		}
		ended = ended || c.capture.Done()
		c.read()
		if now := time.Now(); ended || now.Sub(last) >= captureSays {
			last = now
			c.count(now)
		}
		if err := c.flush(); err != nil || ended {
			return err
		}
	}
}

// read takes what the workers recorded, and writes it in the order of time.
func (c *captureStream) read() {
	c.batch, c.bytes = c.batch[:0], c.bytes[:0]
	c.daemon.look(func() {
		for worker := range c.daemon.plane.threads {
			for range captureBatch { // however fast the worker writes
				r := captured{worker: worker, start: len(c.bytes)}
				ok := false
				if c.bytes, ok = c.capture.Read(worker, &r.Captured, c.bytes); !ok {
					break
				}
				r.end = len(c.bytes)
				c.batch = append(c.batch, r)
			}
		}
	})
	slices.SortStableFunc(c.batch, func(a, b captured) int { return cmp.Compare(a.At, b.At) })
	g := &explain.Gateway{Config: c.daemon.inForce.Load().config}
	for i := range c.batch {
		c.packet(g, &c.batch[i])
	}
}

func (c *captureStream) packet(g *explain.Gateway, r *captured) {
	p := pcapng.Packet{
		Interface: c.index[r.Port][r.Point], At: time.Unix(0, r.At), Length: int(r.Length), Data: c.bytes[r.start:r.end],
		Direction: pcapng.Inbound, ID: r.Captured.Packet, Queue: r.Queue, Comment: explain.Comment(g, r.worker, &r.Captured),
	}
	if r.Point == gateway.PointTX {
		p.Direction, p.Queue = pcapng.Outbound, -1
	}
	_ = c.writer.Packet(&p) // into memory
	c.written[r.Port][r.Point]++
}

// count writes the counters of the file's interfaces.
func (c *captureStream) count(now time.Time) {
	for port := range c.ports {
		unseen := c.capture.Unseen(fib.PortID(port)) // by any point: told once
		for p := range gateway.Points {
			if !c.points[p] {
				continue
			}
			lost := c.capture.Lost(fib.PortID(port), p)
			_ = c.writer.Statistics(&pcapng.Statistics{ // into memory
				Interface: c.index[port][p], Start: c.began, At: now, Received: c.written[port][p] + lost, Dropped: lost, Unseen: unseen,
			})
			unseen = 0
		}
	}
}

// flush hands on what was written. It ends with a block.
func (c *captureStream) flush() error {
	if c.pending.Len() == 0 {
		return nil
	}
	_, err := c.out.Write(c.pending.Bytes())
	c.pending.Reset()
	return err
}
