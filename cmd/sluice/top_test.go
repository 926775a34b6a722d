package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"sluice/internal/control"
)

// readings are two of one gateway, two seconds apart.
func readings() (before, now reading) {
	at := time.Date(2026, 11, 25, 5, 3, 0, 0, time.UTC)
	of := func(at time.Time, n uint64) reading {
		return reading{
			at: at,
			status: control.Status{
				PID: 7, UptimeSeconds: 60, Flows: control.FlowUsage{Usage: control.Usage{Used: 10, Capacity: 100}},
				Workers: []control.Worker{{ID: 0, CPU: 3, Running: true, Utilisation: 0.5, Packets: 1000 * n, Bursts: 100 * n}, {ID: 1, CPU: -1}},
				Interfaces: []control.Interface{{Name: "eth0", Queues: []control.Queue{{
					Queue: 0, Mode: "copy", RXPackets: 2_000_000 * n, RXBytes: 128_000_000 * n, TXPackets: 5 * n, Drops: control.QueueDrops{RXRingFull: 3 * n},
					RXRing: control.Ring{Size: 2048, Used: 17},
				}}}},
			},
			drops: control.Drops{At: at, Reasons: []control.Drop{{Reason: "filtered", Packets: 40 * n}, {Reason: "no-route", Packets: 5}}},
			pools: control.Pools{
				Ports: control.PortSearch{Kept: 10 * n}, Addresses: natted().pools.Addresses, Sources: natted().pools.Sources,
			},
		}
	}
	return of(at, 1), of(at.Add(2*time.Second), 2)
}

func TestTopScreen(t *testing.T) {
	before, now := readings()
	var b bytes.Buffer
	screenOf(&before, &now).write(&b)
	text := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		"sluice top 05:03:02 up 1m0s forwarding",
		"flows 10 of 100 (10.0 %)", "5 new/s",
		"eth0 0 0 copy 1.0M 512M 2.5 0 1.5 17/2048",
		"0 3 50.0 % 500 10.0 1000000",
		"1 - 0.0 % 0 0.0 0 STOPPED",
		"20 80 filtered",
		"192.0.2.1 6451 10.0 % 1 0.0 % 2 7",
		"9 11 10.0.0.5 192.0.2.1",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("missing %q", want)
		}
	}
	if strings.Contains(text, "no-route") {
		t.Error("a reason that did not occur is shown")
	}
	if t.Failed() {
		t.Log(b.String())
	}
	// A daemon that was restarted in between has no rates yet.
	now.status.PID = 8
	if s := screenOf(&before, &now); s.Seconds != 0 || s.Queues[0].RXPackets != 0 || s.Workers[0].NanosEach != 0 || len(s.Drops) != 0 {
		t.Errorf("rates over a restart: %+v", s)
	}
}

// TestTopDraws: never more lines or columns than the terminal has, each line
// cleared to its end, and what was below is gone.
func TestTopDraws(t *testing.T) {
	before, now := readings()
	s := screenOf(&before, &now)
	for _, size := range [][2]int{{1, 1}, {5, 20}, {24, 80}, {200, 300}} {
		var b bytes.Buffer
		if err := s.draw(&b, size[0], size[1]); err != nil {
			t.Fatal(err)
		}
		body, ok := strings.CutPrefix(b.String(), "\x1b[H")
		body, ok2 := strings.CutSuffix(body, "\x1b[J")
		lines := strings.Split(body, "\r\n")
		if !ok || !ok2 || len(lines) > size[0] {
			t.Errorf("%v: %d lines, %q", size, len(lines), b.String())
		}
		for _, l := range lines {
			if text, ok := strings.CutSuffix(l, "\x1b[K"); !ok || len([]rune(text)) > size[1] {
				t.Errorf("%v: %q", size, l)
			}
		}
	}
}

func TestMetric(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 5: "5", 2.5: "2.5", 999: "999", 999.6: "1.0k", 1500: "1.5k", 14.88e6: "15M", 9.96e9: "10.0G", 1e12: "1.0T"} {
		if got := metric(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}

func TestTopOnce(t *testing.T) {
	g := natted()
	_, now := readings()
	g.status, g.drops = now.status, func() control.Drops { return now.drops }
	socket := serve(t, g)
	code, out, errOut := sluice(t, "top", "--interval", "100ms", "--socket", socket) // to what is no terminal
	if code != exitFine || !strings.Contains(out, "Queues:") || strings.Contains(out, "\x1b") {
		t.Errorf("exit %d\n%s%s", code, out, errOut)
	}
	code, out, _ = sluice(t, "top", "--once", "-o", "json", "--interval", "100ms", "--socket", socket)
	var s screen
	if err := json.Unmarshal([]byte(out), &s); code != exitFine || err != nil || s.Seconds < 0.1 || len(s.Queues) != 1 {
		t.Errorf("exit %d, %v: %s", code, err, out)
	}
	if code, _, errOut := sluice(t, "top", "--interval", "1ms", "--socket", socket); code != exitUsage || !strings.Contains(errOut, "too short") {
		t.Errorf("exit %d, %s", code, errOut)
	}
}
