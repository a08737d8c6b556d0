package store

import (
	"math/rand/v2"
	"testing"
)

// TestShardsAreOfManySizes: the last shard gets about twice as many records as the first, and all
// get some.
func TestShardsAreOfManySizes(t *testing.T) {
	const n = 4_000_000
	var count [shards]int
	r := rand.New(rand.NewPCG(1, 2))
	for range n {
		count[shardOf(r.Uint64())]++
	}
	if shardOf(0) != 0 || shardOf(^uint64(0)) != shards-1 {
		t.Errorf("the least hash is of shard %d, the greatest of %d", shardOf(0), shardOf(^uint64(0)))
	}
	sum := func(from, to int) (sum float64) {
		for _, c := range count[from:to] {
			sum += float64(c)
		}
		return sum / float64(to-from) / (n / shards)
	}
	for _, c := range []struct {
		from, to  int
		low, high float64
	}{{0, 32, 0.73, 0.79}, {480, 544, 0.90, 1.00}, {shards - 32, shards, 1.35, 1.52}} {
		if share := sum(c.from, c.to); share < c.low || share > c.high {
			t.Errorf("shards %d to %d have %.2f of the mean", c.from, c.to, share)
		}
	}
}
