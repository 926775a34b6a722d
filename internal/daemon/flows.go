package daemon

import (
	"context"
	"errors"
	"time"

	"sluice/conntrack"
	"sluice/internal/control"
	"sluice/internal/fib"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// Flows implements control.Gateway.
func (d *Daemon) Flows(ctx context.Context, filter control.Filter, yield func(control.Flow) error) error {
	var err error
	one := func(f *control.Flow) bool {
		if err = ctx.Err(); err == nil && filter.Match(f) {
			err = yield(*f)
		}
		return err == nil
	}
	d.eachFlow(one)
	if err != nil {
		return err
	}
	failed := d.dsrAgent.flows(one)
	return errors.Join(err, failed)
}

// CountFlows implements control.Gateway.
func (d *Daemon) CountFlows(ctx context.Context, filter control.Filter) (control.FlowCount, error) {
	var c conntrack.Counts
	d.look(func() { c = d.plane.table.Count() })
	out := control.FlowCount{Count: c.Flows, Capacity: c.FlowCapacity}
	one := func(f *control.Flow) bool {
		if filter.Match(f) {
			out.Count++
		}
		return ctx.Err() == nil
	}
	if !filter.All() {
		out.Count = 0
		d.eachFlow(one)
	}
	err := d.dsrAgent.flows(one)
	return out, errors.Join(err, ctx.Err())
}

// eachFlow calls f with every live flow until it returns false. The data plane may
// go away between two flows: f may wait for whoever reads the list.
func (d *Daemon) eachFlow(f func(*control.Flow) bool) {
	d.eachSnapshot(func(s *conntrack.Snapshot, now conntrack.Tick, boot time.Time) bool {
		flow := flowOf(s, now, boot)
		d.balanced(&flow, s)
		return f(&flow)
	})
}

// walkChunk is how many flows are copied at a time for a list.
const walkChunk = 256

// eachSnapshot calls f with a copy of every live flow, the time, and the wall time
// of tick 0, until it returns false.
func (d *Daemon) eachSnapshot(f func(s *conntrack.Snapshot, now conntrack.Tick, boot time.Time) bool) {
	var cursor conntrack.Cursor
	list := make([]conntrack.Snapshot, 0, walkChunk)
	for {
		list = list[:0]
		var now conntrack.Tick
		var boot time.Time
		d.look(func() {
			now, boot = d.times()
			d.plane.table.Each(&cursor, func(s conntrack.Snapshot) bool {
				list = append(list, s)
				return len(list) < walkChunk
			})
		})
		for i := range list {
			if !f(&list[i], now, boot) {
				return
			}
		}
		if len(list) < walkChunk {
			return
		}
	}
}

// times are the present in the flow table's unit, and the wall time at which that
// was 0.
func (d *Daemon) times() (now conntrack.Tick, boot time.Time) {
	ns := d.plane.threads[0].clock.Now()
	return tick(ns), time.Now().Add(-time.Duration(ns))
}

// wallTime is the wall time of a tick.
func wallTime(t conntrack.Tick, boot time.Time) time.Time {
	return boot.Add(time.Duration(t) * time.Duration(nanosPerTick)).Truncate(time.Millisecond)
}

// FlushFlows implements control.Gateway.
func (d *Daemon) FlushFlows(ctx context.Context, filter control.Filter) (out control.Flush, err error) {
	d.eachSnapshot(func(s *conntrack.Snapshot, now conntrack.Tick, boot time.Time) bool {
		flow := flowOf(s, now, boot)
		if d.balanced(&flow, s); !filter.Match(&flow) {
			return ctx.Err() == nil
		}
		d.look(func() {
			if d.plane.table.End(s.ID, s.Generation, verdict.FlowFlushed, now) {
				out.Flushed++
			}
		})
		return ctx.Err() == nil
	})
	flushed, err := d.dsrAgent.flush(filter)
	out.Flushed += flushed
	return out, errors.Join(err, ctx.Err())
}

// flowOf words a flow for the control socket. boot is the wall time at which
// CLOCK_MONOTONIC was 0.
func flowOf(s *conntrack.Snapshot, now conntrack.Tick, boot time.Time) control.Flow {
	left := int64(int32(s.Timeout-(now-s.LastSeen))) / conntrack.TicksPerSecond
	f := control.Flow{
		Protocol: control.Protocol(s.Original.Proto), State: s.State.String(), Kind: s.Kind.String(),
		Original: tupleOf(s.Original), TimeoutSeconds: max(left, 0),
		Packets: control.Pair{Original: s.Packets[0], Reply: s.Packets[1]},
		Bytes:   control.Pair{Original: s.Bytes[0], Reply: s.Bytes[1]},
		Created: wallTime(s.Created, boot),
	}
	if s.Kind != conntrack.ServiceDSR {
		reply := tupleOf(s.Reply)
		f.Reply = &reply
	}
	return f
}

// tupleOf words a tuple; an echo has its identifier as source port, whichever
// way it goes.
func tupleOf(t conntrack.Tuple) control.Tuple {
	out := control.Tuple{Src: fib.Addr(t.Src), Dst: fib.Addr(t.Dst), Sport: t.SrcPort, Dport: t.DstPort}
	if t.Proto == packet.ProtoICMP {
		out.Sport, out.Dport = t.SrcPort|t.DstPort, 0
	}
	return out
}

// tableStatus says how full the tables are, and of what.
func (d *Daemon) tableStatus(s *control.Status) {
	c := d.plane.table.Count()
	s.Flows = control.FlowUsage{
		Usage: control.Usage{Used: c.Flows, Capacity: c.FlowCapacity}, Protocols: map[string]int{}, States: map[string]int{},
	}
	s.Mappings = control.Usage{Used: c.Mappings, Capacity: c.MappingCapacity}
	s.Sources = control.Usage{Used: c.Sources, Capacity: c.SourceCapacity}
	for state, n := range c.States {
		st := conntrack.State(state)
		if st != conntrack.StateNone {
			s.Flows.ByState = append(s.Flows.ByState, control.FlowState{Protocol: stateProtocol(st), State: st.String(), Flows: n})
		}
		if n > 0 {
			s.Flows.States[st.String()] += n
			s.Flows.Protocols[stateProtocol(st)] += n
		}
	}
}

// stateProtocol is the protocol whose flows can be in a state.
func stateProtocol(s conntrack.State) string {
	switch s {
	case conntrack.UDPUnreplied, conntrack.UDPReplied:
		return "udp"
	case conntrack.ICMPQuery:
		return "icmp"
	case conntrack.OtherProtocol:
		return "other"
	}
	return "tcp"
}
