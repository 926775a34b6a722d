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
	Disturbed int     `json:"disturbed"` // of which the scheduler disturbed, however often they were repeated
}

// summarize needs no order. It returns the zero Summary for no values.
func summarize(values []float64) Summary {
	n := len(values)
	if n == 0 {
		return Summary{}
	}
	v := slices.Clone(values)
	slices.Sort(v)
	low, high := medianRanks(n)
	return Summary{Median: quantile(v, 0.5), Low: v[low], High: v[high], Min: v[0], Max: v[n-1], Samples: n}
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

// ratios are those of two series taken in turns.
func ratios(a, b []float64) []float64 {
	r := make([]float64, min(len(a), len(b)))
	for i := range r {
		r[i] = a[i] / b[i]
	}
	return r
}
