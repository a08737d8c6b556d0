package redis

import (
	"net/netip"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

var byDefault = policy.NewInForce(policy.New(policy.Default()), time.Now)

func keysOf(addr netip.Addr) policy.Keys { return byDefault.Policy().Keys(addr) }

func spammer() policy.Known {
	e, m := reputation.Evidence{}.Add(noon, 1, 0)
	return policy.Known{Host: e, Network: reputation.Evidence{}.Apply(m)}
}

// read puts what Redis says of a client into a cache, and lets something happen in between.
func read(c *cache, k policy.Keys, known policy.Known, meanwhile func()) {
	c.begin(k.Network)
	if meanwhile != nil {
		meanwhile()
	}
	c.end(k, known, true, noon)
}

func TestWhatARecollectionIsWorth(t *testing.T) {
	k := keysOf(netip.MustParseAddr("192.0.2.7"))
	keep := func(_, after policy.Known) reputation.Evidence { return after.Host }
	lesson := policy.Lesson{At: noon, Spam: 1}
	for _, c := range []struct {
		name string
		do   func(*cache)
		want freshness
		spam float64
	}{
		{"nothing was asked", func(*cache) {}, guess, 0},
		{"it was read", func(c *cache) { read(c, k, spammer(), nil) }, fresh, 1},
		{"it was read and learnt of", func(c *cache) { read(c, k, spammer(), nil); c.learn(k, lesson, keep, noon) }, fresh, 2},
		{"it was only learnt of", func(c *cache) { c.learn(k, lesson, keep, noon) }, guess, 1},
		{"it was learnt of while it was read", func(c *cache) { read(c, k, spammer(), func() { c.learn(k, lesson, keep, noon) }) }, guess, 1},
		{"another node changed it while it was read", func(c *cache) { read(c, k, spammer(), func() { c.markStale(k.Network) }) }, guess, 0},
		{"another node changed it", func(c *cache) { read(c, k, spammer(), nil); c.markStale(k.Network) }, stale, 1},
		{"other nodes were not heard", func(c *cache) { read(c, k, spammer(), nil); c.markAllStale() }, stale, 1},
		{"a neighbour was read after others were not heard", func(c *cache) {
			read(c, k, spammer(), nil)
			c.markAllStale()
			read(c, keysOf(netip.MustParseAddr("192.0.2.8")), spammer(), nil)
		}, stale, 1},
		{"only a neighbour was read", func(c *cache) { read(c, keysOf(netip.MustParseAddr("192.0.2.8")), spammer(), nil) }, guess, 0},
		{"it was forgotten", func(c *cache) { read(c, k, spammer(), nil); c.drop(k.Network) }, guess, 0},
		{"Redis said what came of a change", func(c *cache) { c.store(k, spammer().Host, spammer().Network, noon) }, fresh, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			cache := newCache()
			c.do(cache)
			known, f := cache.recall(k, noon)
			if f != c.want || known.Host.Total().Spam != c.spam {
				t.Errorf("freshness %d with %v, want %d with %v spam", f, known.Host.Total(), c.want, c.spam)
			}
			if _, later := cache.recall(k, noon.Add(renewAfter+time.Second)); f == fresh && later != ageing {
				t.Errorf("later: %d, want ageing", later)
			}
			if len(cache.reading) > 0 {
				t.Error("something is still being read")
			}
		})
	}
}

// TestTheCacheIsBounded learns of more hosts than it holds, in networks of one and of many.
func TestTheCacheIsBounded(t *testing.T) {
	c := newCache()
	keep := func(_, after policy.Known) reputation.Evidence { return after.Host }
	for i := range mostCached {
		c.learn(keysOf(netip.AddrFrom4([4]byte{1, byte(i >> 16), byte(i >> 8), byte(i)})), policy.Lesson{At: noon, Spam: 1}, keep, noon)
		c.learn(keysOf(netip.AddrFrom4([4]byte{2, byte(i >> 8), byte(i), 1})), policy.Lesson{At: noon, Spam: 1}, keep, noon)
	}
	c.networks.CleanUp()
	if n := c.len(); n > mostCached || n < mostCached/2 {
		t.Errorf("%d remembered, the bound is %d", n, mostCached)
	}
}

func BenchmarkRecall(b *testing.B) {
	c := newCache()
	k := keysOf(netip.MustParseAddr("192.0.2.7"))
	read(c, k, spammer(), nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, f := c.recall(k, noon); f != fresh {
			b.Fatal("forgotten")
		}
	}
}
