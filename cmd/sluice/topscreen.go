package main

import (
	"bytes"
	"fmt"
	"strconv"
	"time"

	"sluice/internal/control"
)

// screen is what `sluice top` shows: the difference of two readings, and the
// later one. Its JSON is what `top -o json` prints.
type screen struct {
	At        time.Time                 `json:"at"`
	Seconds   float64                   `json:"seconds"` // between the readings; 0: there is but one
	Degraded  int                       `json:"degraded"`
	Uptime    float64                   `json:"uptime_seconds"`
	Flows     control.Usage             `json:"flows"`
	Mappings  control.Usage             `json:"mappings"`
	Queues    []queueRate               `json:"queues"`
	Workers   []workerRate              `json:"workers"`
	Drops     []dropRate                `json:"drops"` // that happened between the readings
	Addresses []control.ExternalAddress `json:"addresses"`
	Searches  float64                   `json:"port_searches_per_second"`
	Sources   []control.Source          `json:"top_sources"`
}

type queueRate struct {
	Interface string       `json:"interface"`
	Queue     int          `json:"queue"`
	Worker    int          `json:"worker"`
	Mode      string       `json:"mode"`
	RXPackets float64      `json:"rx_packets_per_second"`
	RXBits    float64      `json:"rx_bits_per_second"`
	TXPackets float64      `json:"tx_packets_per_second"`
	TXBits    float64      `json:"tx_bits_per_second"`
	Lost      float64      `json:"lost_per_second"`
	RXRing    control.Ring `json:"rx_ring"`
	FillRing  control.Ring `json:"fill_ring"`
	TXRing    control.Ring `json:"tx_ring"`
}

type workerRate struct {
	ID          int     `json:"id"`
	CPU         int     `json:"cpu"`
	Running     bool    `json:"running"`
	Utilisation float64 `json:"utilisation"`
	Packets     float64 `json:"packets_per_second"`
	PerBurst    float64 `json:"packets_per_burst"`
	NanosEach   float64 `json:"nanoseconds_per_packet"` // of the worker's time; 0 where there were none
}

type dropRate struct {
	Reason    string  `json:"reason"`
	PerSecond float64 `json:"per_second"`
	Packets   uint64  `json:"packets"`
}

// screenOf compares two readings. Where the daemon was restarted in between, it
// shows the later one alone.
func screenOf(before, now *reading) *screen {
	if before.status.PID != now.status.PID || !before.status.Started.Equal(now.status.Started) {
		before = now
	}
	s := &screen{
		At: now.at, Seconds: now.at.Sub(before.at).Seconds(), Degraded: len(now.status.Degraded), Uptime: now.status.UptimeSeconds,
		Flows: now.status.Flows.Usage, Mappings: now.status.Mappings,
		Addresses: now.pools.Addresses, Sources: now.pools.Sources,
	}
	rate := func(is, was uint64) float64 {
		if s.Seconds <= 0 || is < was {
			return 0
		}
		return float64(is-was) / s.Seconds
	}
	old := map[[2]any]*control.Queue{}
	for i := range before.status.Interfaces {
		f := &before.status.Interfaces[i]
		for j := range f.Queues {
			old[[2]any{f.Name, f.Queues[j].Queue}] = &f.Queues[j]
		}
	}
	for _, f := range now.status.Interfaces {
		for _, q := range f.Queues {
			was := old[[2]any{f.Name, q.Queue}]
			if was == nil {
				was = &q
			}
			s.Queues = append(s.Queues, queueRate{
				Interface: f.Name, Queue: q.Queue, Worker: q.Worker, Mode: q.Mode,
				RXPackets: rate(q.RXPackets, was.RXPackets), RXBits: 8 * rate(q.RXBytes, was.RXBytes),
				TXPackets: rate(q.TXPackets, was.TXPackets), TXBits: 8 * rate(q.TXBytes, was.TXBytes),
				Lost: rate(q.Drops.Lost(), was.Drops.Lost()), RXRing: q.RXRing, FillRing: q.FillRing, TXRing: q.TXRing,
			})
		}
	}
	for i, w := range now.status.Workers {
		if i >= len(before.status.Workers) {
			break
		}
		was := &before.status.Workers[i]
		r := workerRate{ID: w.ID, CPU: w.CPU, Running: w.Running, Utilisation: w.Utilisation, Packets: rate(w.Packets, was.Packets)}
		if bursts := rate(w.Bursts, was.Bursts); bursts > 0 {
			r.PerBurst = r.Packets / bursts
		}
		if r.Packets > 0 {
			r.NanosEach = w.Utilisation * 1e9 / r.Packets
		}
		s.Workers = append(s.Workers, r)
	}
	for i, d := range now.drops.Reasons {
		if per := perSecond(now.drops, before.drops, i); per > 0 {
			s.Drops = append(s.Drops, dropRate{d.Reason, per, d.Packets})
		}
	}
	made := func(r *reading) uint64 {
		return r.pools.Ports.Kept + r.pools.Ports.Searched + r.pools.Ports.Shared + r.pools.Ports.Exhausted
	}
	s.Searches = rate(made(now), made(before))
	return s
}

// write writes what people read.
func (s *screen) write(w *bytes.Buffer) {
	state := "forwarding"
	if s.Degraded > 0 {
		state = "DEGRADED for " + plural(s.Degraded, "reason") + ", see `sluice status`"
	}
	fmt.Fprintf(w, "sluice top   %s   up %s   %s\n", s.At.Local().Format(time.TimeOnly), span(s.Uptime), state)
	fmt.Fprintf(w, "flows %s   mappings %s, %s new/s\n", usageOf(s.Flows), usageOf(s.Mappings), metric(s.Searches))
	s.writeQueues(w)
	s.writeWorkers(w)
	if len(s.Drops) > 0 {
		section(w, "Drops")
		t := newTable(w, right("PER SECOND"), right("PACKETS"), left("REASON"))
		t.indent = "  "
		for _, d := range s.Drops {
			t.row(metric(d.PerSecond), number(d.Packets), d.Reason)
		}
		flush(t)
	}
	if len(s.Addresses) > 0 {
		section(w, "External addresses")
		t := newTable(w, left("ADDRESS"), right("TCP"), right(""), right("UDP"), right(""), right("ICMP"), right("REFUSED"))
		t.indent = "  "
		for _, x := range s.Addresses {
			t.row(x.Address.String(), strconv.Itoa(x.InUse.TCP), shareOf(x.InUse.TCP, x.Capacity),
				strconv.Itoa(x.InUse.UDP), shareOf(x.InUse.UDP, x.Capacity), strconv.Itoa(x.InUse.ICMP), number(x.Refused))
		}
		flush(t)
	}
	if len(s.Sources) > 0 {
		section(w, "Inside addresses with most ports")
		t := newTable(w, right("PORTS"), right("FLOWS"), left("ADDRESS"), left("EXTERNAL"))
		t.indent = "  "
		for _, x := range s.Sources {
			t.row(strconv.Itoa(x.Ports), strconv.Itoa(x.Flows), x.Address.String(), x.External.String())
		}
		flush(t)
	}
}

func (s *screen) writeQueues(w *bytes.Buffer) {
	section(w, "Queues")
	t := newTable(w, left("INTERFACE"), right("QUEUE"), right("WORKER"), left("MODE"), right("RX PPS"), right("RX BIT/S"),
		right("TX PPS"), right("TX BIT/S"), right("LOST/S"), right("RX RING"), right("FILL"), right("TX RING"))
	t.indent = "  "
	for _, q := range s.Queues {
		mode := q.Mode
		if mode == "" {
			mode = "none"
		}
		t.row(q.Interface, strconv.Itoa(q.Queue), strconv.Itoa(q.Worker), mode, metric(q.RXPackets), metric(q.RXBits),
			metric(q.TXPackets), metric(q.TXBits), metric(q.Lost), ringOf(q.RXRing), ringOf(q.FillRing), ringOf(q.TXRing))
	}
	flush(t)
}

func (s *screen) writeWorkers(w *bytes.Buffer) {
	section(w, "Workers")
	t := newTable(w, right("ID"), right("CPU"), right("BUSY"), right("PPS"), right("A BURST"), right("NS A PACKET"), left(""))
	t.indent = "  "
	for _, k := range s.Workers {
		cpu, note := "-", ""
		if k.CPU >= 0 {
			cpu = strconv.Itoa(k.CPU)
		}
		if !k.Running {
			note = "STOPPED"
		}
		t.row(strconv.Itoa(k.ID), cpu, percent(k.Utilisation), metric(k.Packets), fmt.Sprintf("%.1f", k.PerBurst), fmt.Sprintf("%.0f", k.NanosEach), note)
	}
	flush(t)
}

// metric writes a rate with a decimal prefix.
func metric(v float64) string {
	unit := ""
	for _, next := range []string{"k", "M", "G", "T"} {
		if v < 999.5 {
			break
		}
		v, unit = v/1000, next
	}
	if v < 10 && (unit != "" || v != float64(int(v))) {
		return fmt.Sprintf("%.1f%s", v, unit)
	}
	return fmt.Sprintf("%.0f%s", v, unit)
}
