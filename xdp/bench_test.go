package xdp

import (
	"strconv"
	"testing"
	"time"

	"sluice/internal/lab"
)

// BenchmarkFrameLife moves bursts through all four rings of two sockets, with
// the kernel's side played in the same thread: what a frame costs in user space.
func BenchmarkFrameLife(b *testing.B) {
	const size, burst = 2048, 64
	u := heapUMEM(4 * size)
	in, inRX, _, inFill, _ := heapSocket(u, size)
	out, _, outTX, _, outCompletion := heapSocket(u, size)
	rx, fill := inRX.end(), inFill.end()
	tx, completion := outTX.end(), outCompletion.end()
	in.fillBatch = txBatch
	in.Refill()
	var d [burst]Desc
	b.ReportAllocs()
	for b.Loop() {
		n := min(fill.ready(burst), rx.room(burst))
		for i := range n {
			rx.put(i, Desc{Addr: fill.get(i) + kernelHeadroom, Len: 60})
		}
		fill.release(n)
		rx.submit(n)

		if out.Transmit(d[:in.Receive(d[:])]) != burst {
			b.Fatal("not a whole burst")
		}

		n = min(tx.ready(burst), completion.room(burst))
		for i := range n {
			completion.put(i, tx.get(i).Addr)
		}
		tx.release(n)
		completion.submit(n)

		out.Reap()
		in.Refill()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/burst, "ns/frame")
}

// BenchmarkForward forwards frames between two veths, generator and sink in the
// same thread: kernel and all.
func BenchmarkForward(b *testing.B) {
	c := newChain(b, 1024)
	short := func(uint64) int { return 60 }
	var d [64]Desc
	got := 0
	for b.Loop() {
		c.a.send(b, c.a.ports[0], 0, 64, short)
		c.a.ports[0].Flush()
		c.g.forward(c.g.ports[0], c.g.ports[1])
		c.g.ports[0].Flush()
		c.g.ports[1].Flush()
		n := c.b.ports[0].Receive(d[:])
		c.b.u.Free(d[:n])
		c.b.ports[0].Flush()
		got += n
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(max(got, 1)), "ns/frame")
}

// BenchmarkRoundTrip sends one frame at a time to a worker that reflects it and
// waits adaptively in between: the latency of a worker with little to do.
func BenchmarkRoundTrip(b *testing.B) {
	c := newChain(b, 256)
	redirectBack := c.a.ports[0]
	redirect(b, c.nsA, redirectBack.NIC(), redirectBack)
	waiter := newWaiter(b, WaiterConfig{Ports: c.g.ports})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			n := c.g.forward(c.g.ports[0], c.g.ports[0])
			c.g.ports[0].Flush()
			waiter.Wait(n > 0, 100*time.Millisecond)
		}
	}()
	own := newWaiter(b, WaiterConfig{Ports: c.a.ports})
	var d [64]Desc
	for b.Loop() {
		c.a.send(b, redirectBack, 0, 1, length)
		redirectBack.Flush()
		for n := 0; n == 0; own.Wait(n > 0, 100*time.Millisecond) {
			n = redirectBack.Receive(d[:])
			c.a.u.Free(d[:n])
			redirectBack.Flush()
		}
	}
	close(stop)
	waiter.Wake()
	<-stopped
}

// BenchmarkQueues is a worker's round over queues that have nothing for it: what
// each receive queue of an interface costs beside the packets. A round is for up
// to 64 of them.
func BenchmarkQueues(b *testing.B) {
	for _, queues := range []int{1, 2, 4, 8} {
		b.Run(strconv.Itoa(queues), func(b *testing.B) {
			near, far := namespace(b, "near"), namespace(b, "far")
			cable(b, near, "eth0", far, "eth0", lab.VethOptions{Queues: queues})
			plans, err := Plan([]*NIC{probe(b, near, "eth0")}, 1)
			if err != nil {
				b.Fatal(err)
			}
			p := open(b, near, plans[0], 256).ports[0]
			if got := len(p.rx); got != queues {
				b.Fatalf("%d queues, want %d", got, queues)
			}
			var d [64]Desc
			for b.Loop() {
				if p.Receive(d[:]) != 0 {
					b.Fatal("a frame came")
				}
				p.Flush()
			}
		})
	}
}
