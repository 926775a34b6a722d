package bench

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func around(median float64) Summary {
	return Summary{Median: median, Low: median * 0.9, High: median * 1.1, Min: median / 2, Max: median * 2, Samples: 20}
}

// fullReport is one with everything in it, hostile names included.
func fullReport() *Report {
	r := &Report{
		Version: "v1 <b>&", Started: time.Unix(1_700_000_000, 0).UTC(), Machine: Machine{CPU: "A & B", CPUs: 2, Kernel: "6.18", Go: "go1.26"},
		LeftOut: []string{"the C twin: no gcc"},
	}
	for i, size := range memorySizes {
		for _, how := range []Distribution{Uniform, Zipf} {
			ns := 20 * float64(i+1)
			r.Memory = append(r.Memory, MemoryResult{
				Flows: size, Distribution: how, Whole: around(2 * ns), Hot: around(ns), Twin: around(ns / 1.3), Map: around(30 * ns), SetUp: around(200),
				Stages:    map[string]Summary{"parse": around(ns / 4), "look up": around(ns / 2), "rewrite": around(ns / 4)},
				HotToTwin: around(1.3), WholeToTwin: around(2.6), MapToHot: around(30),
			})
		}
	}
	for _, size := range kindSizes {
		for i := range kinds {
			r.Kinds = append(r.Kinds, KindResult{Flows: size, Kind: kinds[i].name, Against: kinds[kinds[i].against].name,
				Whole: around(77), Ratio: around(1.07), SetUp: around(910), SetUpRatio: around(1.21)})
		}
	}
	r.Wire = &WireReport{Frame: 60, Flows: 1024, Window: 512, Generator: around(1200), Ratios: []Ratio{
		{Of: PeerSluice, To: PeerForwarder, CPU: around(1.2), Rate: around(0.9)},
		{Of: PeerSluice, To: PeerRouter, CPU: around(1.01), Rate: around(1)},
	}}
	for i, p := range []Peer{PeerSluice, PeerForwarder, PeerKernel, "a <script>"} {
		r.Wire.Results = append(r.Wire.Results, WireResult{
			Peer: p, Rate: around(600_000), CPU: around(1000 * float64(i+1)), Program: around(61), User: 203, Flood: around(500_000), FloodLoss: around(0.1),
			Check: Check{Sent: 1000, Received: 1000}, Latency: Latency{Pace: 10_000, Sent: 100, P50: 10, P99: 20, P999: 900, Max: 1000},
		})
	}
	r.Services = &WireReport{Frame: 60, Flows: 1024, Window: 192, Generator: around(1200), Ratios: []Ratio{
		{Of: PeerSNAT, To: PeerFullNAT, CPU: around(0.73), Rate: around(1.79)},
	}}
	for _, p := range []Peer{PeerSNAT, PeerFullNAT, PeerDSR} {
		r.Services.Results = append(r.Services.Results, WireResult{Peer: p, Rate: around(345_000), CPU: around(3210), Check: Check{Sent: 7, Received: 6, Wrong: 5, First: "its option is 9a"}})
	}
	r.Receivers = &ReceiversReport{Connections: 1000, Bytes: 128 << 10, Results: []ReceiversResult{
		{Peer: PeerSluice, Seconds: around(1.31), Segments: around(110_000), Retransmitted: around(0.17), FillRingEmpty: around(18_600)},
		{Peer: PeerNFT, Seconds: around(0.1), Segments: around(92_000)},
	}}
	return r
}

func TestJudge(t *testing.T) {
	r := fullReport()
	r.judge()
	got := map[string]bool{}
	for _, b := range r.Bars {
		got[b.Name] = b.Met
	}
	want := map[string]bool{
		"hot work, Go to C, 1k flows": true, "hot work, Go to C, 64k flows": true, "hot work, Go to C, 1M flows": true, "hot work, Go to C, 4M flows": true,
		"whole pass, 1k flows": true, "whole pass, 64k flows": false, "whole pass, 1M flows": false, "whole pass, 4M flows": false,
		"set-up at 1M live flows": true, "whole pass, 1M to 1k flows": false,
		"CPU over veth, Sluice to a bare AF_XDP forwarder": false, "CPU over veth, masquerade on to off": true,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	setUp := setUpBar(&MemoryResult{SetUp: around(500)})
	if setUp.Value != 2 || setUp.Met || setUp.reached() != 2 {
		t.Errorf("500 ns a flow: %+v", setUp)
	}
}

// TestReportRenders: the text and the page have every figure, the page is well
// formed, nothing in it escapes, and the JSON comes back as it was.
func TestReportRenders(t *testing.T) {
	r := fullReport()
	r.judge()
	dir := filepath.Join(t.TempDir(), "deep", "out")
	if err := r.save(dir); err != nil {
		t.Fatal(err)
	}
	text := r.Text()
	for _, want := range []string{"600000 [540000, 660000]", "1.30 [1.17, 1.43]", "64k", "zipf", "set-up at 1M live flows",
		"service-dsr, UDP, option on each", "77.0 [69.3, 84.7]", "910 [819, 1001]", "1.07 [0.96, 1.18]", "1.21 [1.09, 1.33]",
		"61 [55, 67]", "203", "736", "Sluice, service-dsr", "answered counts once", "345000 [310500, 379500]", "0.73 [0.66, 0.80]", "6 of 7 came, 5 wrong its option",
		"1000 TCP connections that begin to receive 128 KiB", "17.0 % [15.3 %, 18.7 %]", "18600 [16740, 20460]", "Left out: the C twin", "1000 right", "missed"} {
		if !strings.Contains(text, want) {
			t.Errorf("the text has no %q:\n%s", want, text)
		}
	}
	page, err := os.ReadFile(filepath.Join(dir, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(page), "<script") || strings.Contains(string(page), "v1 <b>") {
		t.Error("a name is not escaped")
	}
	for _, bad := range []string{"NaN", "Inf", "http://", "https://"} {
		if strings.Contains(string(page), bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	if n := strings.Count(string(page), "<svg"); n != 10 {
		t.Errorf("%d plots, want 10", n)
	}
	for _, p := range r.plots() {
		wellFormed(t, p.Title, string(p.SVG))
	}
	raw, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(r, &back); d != "" {
		t.Errorf("the JSON comes back different:\n%s", d)
	}
}

// TestEmptyReportRenders: nothing measured, nothing drawn, no panic.
func TestEmptyReportRenders(t *testing.T) {
	r := &Report{Wire: &WireReport{}, Services: &WireReport{}, Memory: []MemoryResult{{Flows: 1 << 10, Distribution: Uniform}}}
	r.judge()
	if page := r.HTML(); !strings.Contains(page, "</html>") || strings.Contains(page, "NaN") {
		t.Errorf("page:\n%s", page)
	}
	r.Text()
}

func wellFormed(t *testing.T, title, svg string) {
	t.Helper()
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Errorf("plot %q: %v", title, err)
			return
		}
	}
}

func readings(values ...float64) (r []reading) {
	for _, v := range values {
		r = append(r, reading{value: v})
	}
	return r
}

// TestDisturbedLeftOut: what was disturbed counts only where nothing else is
// left, and a ratio is disturbed where either side is.
func TestDisturbedLeftOut(t *testing.T) {
	list := append(readings(1, 2, 3), reading{100, true}, reading{200, true})
	if s := summarize(list); s.Median != 2 || s.Max != 3 || s.Samples != 3 || s.Disturbed != 2 {
		t.Errorf("three and two disturbed: %+v", s)
	}
	if s := summarize(list[1:]); s.Samples != 4 || s.Disturbed != 2 || s.Max != 200 {
		t.Errorf("two and two disturbed: %+v", s)
	}
	got := ratios([]reading{{10, false}, {10, true}, {10, false}, {1, false}}, []reading{{5, false}, {5, false}, {4, true}})
	if d := cmp.Diff([]reading{{2, false}, {2, true}, {2.5, true}}, got, cmp.AllowUnexported(reading{})); d != "" {
		t.Error(d)
	}
}

// TestSummarize holds the interval against what it claims: it covers the true
// median of a lopsided distribution in at least 95 of 100 runs.
func TestSummarize(t *testing.T) {
	if s := summarize(nil); s != (Summary{}) {
		t.Errorf("of nothing: %+v", s)
	}
	if s := summarize(readings(3, 1, 2)); s.Median != 2 || s.Min != 1 || s.Max != 3 || s.Samples != 3 {
		t.Errorf("of three: %+v", s)
	}
	if low, high := medianRanks(20); low != 5 || high != 14 {
		t.Errorf("bounds of 20 are %d and %d, want 5 and 14 (6th and 15th)", low, high)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{6, 11, 20, 25, 60} {
		const runs = 4000
		covered, tight := 0, 0
		for range runs {
			v := make([]reading, n)
			for i := range v {
				v[i].value = r.ExpFloat64()
			}
			s := summarize(v)
			if s.Low <= math.Ln2 && math.Ln2 <= s.High {
				covered++
			}
			if s.High-s.Low < s.Max-s.Min {
				tight++
			}
		}
		if share := float64(covered) / runs; share < 0.94 {
			t.Errorf("of %d values the interval covers the median in %.3f of the runs", n, share)
		}
		if n > 6 && tight < runs/2 {
			t.Errorf("of %d values the interval is all there is", n)
		}
	}
}

// TestRepeated: disturbed samples are taken again, and what stays disturbed is
// counted.
func TestRepeated(t *testing.T) {
	calls := 0
	s := &series{take: func() (sample, error) {
		calls++
		if calls <= 2 {
			return sample{packets: 1, ns: 100, delay: 50}, nil
		}
		return sample{packets: 1, ns: 10, delay: 0}, nil
	}}
	if err := s.sample(); err != nil || calls != 3 || s.readings[0] != (reading{10, false}) {
		t.Errorf("%v after %d calls: %+v", err, calls, s)
	}
	s = &series{take: func() (sample, error) { return sample{packets: 1, ns: 100, delay: 50}, nil }}
	if err := s.sample(); err != nil || len(s.readings) != 1 || !s.readings[0].disturbed {
		t.Errorf("%v: %+v", err, s)
	}
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		o    Options
		want string // of the error; "" = none
	}{
		{Options{}, ""},
		{Options{Quick: true}, ""},
		{Options{Part: Wire, Pairs: 40, Sample: time.Second}, ""},
		{Options{Part: Operator}, ""},
		{Options{Part: "disk"}, `"disk"`},
		{Options{Pairs: 2}, "--pairs 2"},
		{Options{Pairs: -1}, "--pairs -1"},
		{Options{Sample: time.Millisecond}, "--sample 1ms"},
		{Options{Sample: time.Hour}, "--sample 1h0m0s"},
	} {
		err := c.o.complete()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.o, err, c.want)
		}
	}
	var full, quick Options
	quick.Quick = true
	if full.complete() != nil || quick.complete() != nil || full.Pairs != 20 || quick.Pairs != minPairs || full.Out != "bench/out" {
		t.Errorf("full %+v, quick %+v", full, quick)
	}
}
