package daemon

import "testing"

func TestWorkerCPU(t *testing.T) {
	for _, tt := range []struct {
		name        string
		asked, cpus []int
		workers     int
		want        []int
	}{
		{"as many CPUs as asked for", []int{3, 5}, []int{3, 5}, 2, []int{3, 5}},
		{"two CPUs for one worker and everything else", nil, []int{0, 1}, 1, []int{-1}},
		{"two CPUs for two workers", nil, []int{0, 1}, 2, []int{-1, -1}},
		{"plenty", nil, []int{0, 1, 2, 3, 4}, 2, []int{0, 1}},
	} {
		for id, want := range tt.want {
			if got := workerCPU(tt.asked, tt.cpus, id, tt.workers); got != want {
				t.Errorf("%s: worker %d on CPU %d, want %d", tt.name, id, got, want)
			}
		}
	}
}
