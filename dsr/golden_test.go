package dsr

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sluice/internal/packet"
)

// numbered are the backends of Cilium's tests, 0.0.0.n:n, with a weight each.
func numbered(of ...[2]int) (list []*Backend) {
	for _, x := range of {
		list = append(list, &Backend{Address: uint32(x[0]), Port: uint16(x[0]), Weight: x[1]})
	}
	return list
}

// runs is a table as Cilium's test writes it: place(count),...
func runs(table []uint16) string {
	var b strings.Builder
	for i := 0; i < len(table); {
		n := 1
		for i+n < len(table) && table[i+n] == table[i] {
			n++
		}
		fmt.Fprintf(&b, ",%d(%d)", table[i], n)
		i += n
	}
	return strings.TrimPrefix(b.String(), ",")
}

// TestMaglevGolden is the table that Cilium's TestReproducible expects for the same
// backends, weights and seed (pkg/maglev/maglev_test.go).
func TestMaglevGolden(t *testing.T) {
	const want = "2(5),3(1),2(3),1(1),2(2),0(1),2(1),3(1),2(1),3(1),2(1),1(1),2(7),1(1),2(14),3(1),2(1)," +
		"1(2),2(12),3(1),2(3),1(1),2(4),3(1),2(8),3(1),2(2),1(1),2(16),1(2),2(3),3(1),2(11),1(2),2(4),3(1),2(3)," +
		"1(1),2(4),3(1),2(1),0(1),1(1),2(8),1(1),2(7),1(1),2(4),3(1),2(1),3(1),2(9),1(2),2(5),1(1),2(7),3(1),2(1)," +
		"3(1),1(1),2(8),1(1),2(4),0(1),2(1),1(1),2(5),3(1),2(3),1(1),2(4),3(1),2(3),1(1),2(12),0(1),3(1),2(3),3(1)," +
		"2(4),3(1),2(2),1(1),2(7)"
	if got := runs(fillMaglev(numbered([2]int{1, 2}, [2]int{3, 13}, [2]int{4, 111}, [2]int{5, 10}), packet.ProtoTCP, 251)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestMaglevWeights: how many slots Cilium's TestWeightedBackendWithRemoval finds
// for each backend.
func TestMaglevWeights(t *testing.T) {
	var slots [4]int
	for _, place := range fillMaglev(numbered([2]int{1, 2}, [2]int{2, 13}, [2]int{3, 111}, [2]int{4, 10}), packet.ProtoTCP, 1021) {
		slots[place]++
	}
	if want := [4]int{16, 98, 832, 75}; slots != want {
		t.Errorf("got %v, want %v", slots, want)
	}
}

// slowFill is the algorithm as Cilium states it, with the whole permutation of each
// backend written out.
func slowFill(backends []*Backend, m int) []int {
	permutations := make([][]int, len(backends))
	counters := make([]float64, len(backends))
	sum := 0
	for i, b := range backends {
		h1, h2 := murmur([]byte(maglevName(b, packet.ProtoTCP)), murmurSeed)
		for j := range uint64(m) {
			permutations[i] = append(permutations[i], int((h1%uint64(m)+j*(h2%uint64(m-1)+1))%uint64(m)))
		}
		counters[i] = float64(b.Weight) / float64(len(backends))
		sum += b.Weight
	}
	entry := make([]int, m)
	for i := range entry {
		entry[i] = -1
	}
	for n := range m {
		i := n % len(backends)
		for uint64((n+1)*backends[i].Weight) < uint64(counters[i]) {
			i = (i + 1) % len(backends)
		}
		counters[i] += float64(sum)
		for entry[permutations[i][0]] >= 0 {
			permutations[i] = permutations[i][1:]
		}
		entry[permutations[i][0]] = i
	}
	return entry
}

// TestMaglevAgainstModel: the same table whatever the weights.
func TestMaglevAgainstModel(t *testing.T) {
	const size = 251
	rapid.Check(t, func(t *rapid.T) {
		var list []*Backend
		for i := range rapid.IntRange(1, 12).Draw(t, "backends") {
			list = append(list, &Backend{Address: uint32(0x0a000100 + i), Port: 80, Weight: rapid.IntRange(1, 300).Draw(t, "weight")})
		}
		want := slowFill(list, size)
		for i, place := range fillMaglev(list, packet.ProtoTCP, size) {
			if int(place) != want[i] {
				t.Fatalf("slot %d: %d, want %d", i, place, want[i])
			}
		}
	})
}
