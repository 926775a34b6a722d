package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/internal/control"
)

func TestDrops(t *testing.T) {
	reasons := []control.Drop{{Reason: "bad-version", Explanation: "never seen"}, {Reason: "ports-exhausted", Packets: 12, Explanation: "no port is free"}}
	g := &fake{drops: func() control.Drops { return control.Drops{Reasons: reasons} }}
	socket := serve(t, g)
	_, out, _ := sluice(t, "drops", "--socket", socket)
	if want := "PACKETS  REASON           EXPLANATION\n     12  ports-exhausted  no port is free\n"; out != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}
	if _, out, _ = sluice(t, "drops", "--all", "--socket", socket); !strings.Contains(out, "      0  bad-version") {
		t.Errorf("--all does not show all:\n%s", out)
	}
	_, out, _ = sluice(t, "drops", "-o", "json", "--socket", socket)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var line map[string]any
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &line); err != nil {
		t.Fatal(err)
	}
	if len(lines) != 2 || line["reason"] != "ports-exhausted" || line["packets"] != 12.0 || line["explanation"] != "no port is free" || line["per_second"] != nil {
		t.Errorf("%s", out)
	}
	g.change(func() { reasons = nil })
	if _, out, _ = sluice(t, "drops", "--socket", socket); out != "no packet was dropped\n" {
		t.Errorf("%q", out)
	}
}

// TestDropsWatchTable: every reading stands under its time, with rates from the
// second on.
func TestDropsWatchTable(t *testing.T) {
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	g := &fake{drops: func() control.Drops {
		if n++; n == 3 {
			cancel()
		}
		return control.Drops{At: at.Add(time.Duration(n) * time.Second), Reasons: []control.Drop{{Reason: "no-route", Packets: uint64(10 * (n - 1)), Explanation: "x"}}}
	}}
	var out, errOut bytes.Buffer
	code := run(ctx, []string{"drops", "--watch", "--interval", "100ms", "--socket", serve(t, g)}, &out, &errOut)
	want := "\n10:00:01\nno packet was dropped\n\n10:00:02\nPACKETS  PER SECOND  REASON    EXPLANATION\n     10        10.0  no-route  x\n"
	if code != exitFine || errOut.Len() > 0 || out.String() != want {
		t.Errorf("exit %d, errors %q, got\n%swant\n%s", code, &errOut, &out, want)
	}
}

// TestDropsWatch: rates come from the daemon's own clock, and a daemon that was
// restarted meanwhile does not give a rate beyond all measure.
func TestDropsWatch(t *testing.T) {
	at := time.Unix(1700000000, 0).UTC()
	readings := []uint64{100, 150, 30}
	n := 0
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	g := &fake{drops: func() control.Drops {
		if n == len(readings) {
			cancel()
			n--
		}
		d := control.Drops{At: at.Add(time.Duration(n) * 10 * time.Second), Reasons: []control.Drop{{Reason: "no-route", Packets: readings[n]}}}
		n++
		return d
	}}
	var out, errOut bytes.Buffer
	code := run(ctx, []string{"drops", "--watch", "--interval", "100ms", "-o", "json", "--socket", serve(t, g)}, &out, &errOut)
	if code != exitFine || errOut.Len() > 0 {
		t.Errorf("exit %d, %s", code, &errOut)
	}
	var rates []float64
	for lines := bufio.NewScanner(&out); lines.Scan() && len(rates) < 3; {
		var line dropLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		rate := -1.0
		if line.PerSecond != nil {
			rate = *line.PerSecond
		}
		rates = append(rates, rate)
	}
	if want := []float64{-1, 5, 3}; !slices.Equal(rates, want) {
		t.Errorf("rates %v, want %v", rates, want)
	}
}
