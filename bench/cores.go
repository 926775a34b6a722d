package bench

import (
	"sync/atomic"
	"time"

	"sluice/internal/flowmem"
	"sluice/internal/gateway"
)

// sibling is another worker over the same table, with frames and ports of its
// own.
func (r *rig) sibling() (s *rig, err error) {
	s = &rig{descs: groupDescs(), table: r.table}
	if s.frameMemory, err = flowmem.Anonymous(group * frameStride); err != nil {
		return nil, err
	}
	s.snapshot.Store(r.snapshot.Load())
	s.start(siblingWorker)
	s.worker.Offline()
	return s, nil
}

// The workers of a rig's table.
const (
	mainWorker = iota
	hotWorker
	siblingWorker
	rigWorkers
)

// start makes the worker of that number.
func (r *rig) start(id int) {
	r.frames = r.frameMemory.Bytes()
	r.ports = [2]*memoryPort{{}, {}}
	r.worker = gateway.New(gateway.Config{
		ID: id, Workers: rigWorkers, Table: r.table, Ports: []gateway.Port{r.ports[0], r.ports[1]},
		Memory: frameMemory(r.frames), Snapshot: &r.snapshot, Resolve: make(chan gateway.Neighbour), Seed: [32]byte{byte(id)},
	})
}

// alongside runs groups of the traffic on another CPU until the function that it
// returns is called.
func (r *rig) alongside(t *traffic, cpu int) (stop func() error) {
	var end atomic.Bool
	running, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- pinned(cpu, func() error {
			r.worker.Online()
			defer r.worker.Offline()
			r.step(t)
			close(running)
			for !end.Load() {
				r.step(t)
			}
			return nil
		})
	}()
	select {
	case <-running:
	case err := <-done:
		return func() error { return err }
	}
	return func() error {
		end.Store(true)
		return <-done
	}
}

// cores are the series that say what a second worker adds: one worker, and the
// same one while another works on the other half of the flows on another CPU.
// Where there is no other CPU, there are none.
func (m *memoryRun) cores(r *rig, flows []flow) (alone, together *series, closing func() error, err error) {
	if m.other == m.cpu {
		return nil, nil, func() error { return nil }, nil
	}
	s, err := r.sibling()
	if err != nil {
		return nil, nil, nil, err
	}
	half := len(flows) / 2
	own, others := newTraffic(flows[:half], Uniform), newTraffic(flows[half:], Uniform)
	alone = m.series(func() (int, time.Duration) { return r.step(own) })
	together = &series{take: func() (sample, error) {
		stop := s.alongside(others, m.other)
		one := timed(m.budget, func() (int, time.Duration) { return r.step(own) })
		return one, stop()
	}}
	return alone, together, s.close, nil
}
