package bench

import (
	"strings"
	"testing"
	"time"
)

// one is a sample as once takes it.
func one(rate, work float64, lost lostAt, missing int64) *operatorResult {
	r := func(v float64) []reading { return []reading{{value: v}} }
	return &operatorResult{
		rate: r(rate), work: r(work), held: r(0.01), cpu: r(0.5), pace: r(1), loss: r(float64(missing) / 500),
		sent: 1000, received: 1000, pacedSent: 500, pacedLost: missing, lost: lost,
	}
}

// TestOperatorReport: ratios are those of the same round, what was lost is named,
// and what stayed disturbed counts nowhere.
func TestOperatorReport(t *testing.T) {
	w := &operatorRun{site: &site{generatorCPU: 0, otherCPU: 1}, spare: 0, pace: 640_000}
	alone, beside := &operatorResult{command: commands[0]}, &operatorResult{command: command{name: "flows list"}}
	w.results = []*operatorResult{alone, beside}
	for round := range 6 {
		f := float64(round + 1)
		alone.take(one(100*f, 1000, nil, 0), false)
		beside.take(one(50*f, 1100, lostAt{"fill-ring-empty": 2, "no-route": 0}, 2), false)
	}
	beside.take(one(1, 9999, lostAt{"fill-ring-empty": 400}, 400), true)
	r := w.report()
	x := r.Results[1]
	if x.RateRatio.Median != 0.5 || x.RateRatio.Low != 0.5 || x.WorkRatio.Median != 1.1 || x.PacedLost != 12 || x.PacedSent != 3000 || x.PacedLoss.Median != 2.0/500 ||
		x.Disturbed != 1 || x.Where != "fill-ring-empty 12" || r.Results[0].Where != "" || !r.Shared {
		t.Errorf("%+v", r)
	}
	var b strings.Builder
	r.text(&b)
	for _, want := range []string{"1M flows in its table", "0.50 [0.50, 0.50]", "12 of 3000", "Lost beside flows list: fill-ring-empty 12", "6, and 1 disturbed left out", "share the generator's"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the text has no %q:\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "Lost beside nothing") {
		t.Errorf("nothing was lost there:\n%s", b.String())
	}
}

// TestOperatorCommand: a command runs until it is ended, and its CPU time is
// counted.
func TestOperatorCommand(t *testing.T) {
	w := &operatorRun{site: &site{binary: "/bin/false"}, spare: 0}
	stop := w.start(t.Context(), command{name: busy})
	time.Sleep(100 * time.Millisecond)
	if _, client, err := stop(); err != nil || client == 0 {
		t.Errorf("a busy shell used %d ns of CPU: %v", client, err)
	}
}
