package bench

import (
	"math"
	"slices"
)

// Summary is what many samples of one quantity say. Low and High bound the
// median with a confidence of 95 %, whatever the distribution (order statistics
// of the binomial distribution).
type Summary struct {
	Median    float64 `json:"median"`
	Low       float64 `json:"low"`
	High      float64 `json:"high"`
	Min       float64 `json:"min"`
	Max       float64 `json:"max"`
	Samples   int     `json:"samples"`
	Disturbed int     `json:"disturbed"` // samples that stayed disturbed; in the figures only where too few others are left
}

// reading is what one sample says.
type reading struct {
	value     float64
	disturbed bool // other work on the machine got in the way, however often it was repeated
}

// summarize needs no order. It returns the zero Summary for no readings. Those
// that were disturbed are left out, unless fewer than leastRounds others remain.
func summarize(readings []reading) Summary {
	var v []float64
	for _, r := range readings {
		if !r.disturbed {
			v = append(v, r.value)
		}
	}
	disturbed := len(readings) - len(v)
	if len(v) < leastRounds {
		v = v[:0]
		for _, r := range readings {
			v = append(v, r.value)
		}
	}
	n := len(v)
	if n == 0 {
		return Summary{}
	}
	slices.Sort(v)
	low, high := medianRanks(n)
	return Summary{Median: quantile(v, 0.5), Low: v[low], High: v[high], Min: v[0], Max: v[n-1], Samples: n, Disturbed: disturbed}
}

// medianRanks are the places, in a sorted list of n, of the bounds of the median
// with 95 %: of a binomial distribution of n and one half, the tails below a
// fortieth are cut off. With fewer than six values that is all of them.
func medianRanks(n int) (low, high int) {
	p, sum := math.Pow(0.5, float64(n)), 0.0
	for low = 0; low < n/2; low++ {
		if sum += p; sum > 0.025 {
			break
		}
		p *= float64(n-low) / float64(low+1)
	}
	low = max(low-1, 0)
	return low, n - 1 - low
}

// quantile of a sorted list, interpolated.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

// ratios are those of two series taken in turns, round by round.
func ratios(a, b []reading) []reading {
	r := make([]reading, min(len(a), len(b)))
	for i := range r {
		r[i] = reading{a[i].value / b[i].value, a[i].disturbed || b[i].disturbed}
	}
	return r
}
