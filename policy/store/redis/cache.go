package redis

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

const (
	// mostCached is how many hosts and networks the cache holds; networks that are seldom asked for
	// go first. A host takes some 200 bytes.
	mostCached = 200_000
	// renewAfter is how old an answer may be before it is read again, while it is still given. A
	// change of tier is told at once; this is for what moves slowly, like the neighbours' weight.
	renewAfter = 10 * time.Second
)

// freshness is what a recollection is worth.
type freshness int

const (
	// guess: Redis never said anything of the client; what is remembered was learnt here. stale: it
	// may have changed since, and is good only while Redis does not answer. ageing: good, and to be
	// read again. fresh: good.
	guess freshness = iota
	stale
	ageing
	fresh
)

// cache remembers what Redis said, by networks, because what one host did changes what is expected
// of its neighbours.
type cache struct {
	mu sync.Mutex
	// networks are all entries, systems those of autonomous systems.
	networks *otter.Cache[netip.Prefix, *networkEntry]
	systems  *otter.Cache[uint32, *systemEntry]
	// generation rises whenever changes of others may have been missed: what was remembered before
	// is stale.
	generation uint64
	// reading are networks that are being read, and whether they changed meanwhile.
	reading map[netip.Prefix]*reading
}

// neverRead is the generation of what was never read from Redis, and is only what was learnt here.
const neverRead = ^uint64(0)

type networkEntry struct {
	sum        reputation.Evidence
	generation uint64
	// hosts are few, so that a walk is the fastest way.
	hosts []hostEntry
}

type hostEntry struct {
	host       netip.Prefix
	evidence   reputation.Evidence
	at         time.Time
	generation uint64
}

type systemEntry struct {
	sum        reputation.Evidence
	at         time.Time
	generation uint64
}

type reading struct {
	readers int
	changed bool
}

func newCache() *cache {
	c := &cache{reading: map[netip.Prefix]*reading{}}
	// An entry is weighed when it is set, which is with mu held.
	c.networks = otter.Must(&otter.Options[netip.Prefix, *networkEntry]{
		MaximumWeight: mostCached, Weigher: func(_ netip.Prefix, e *networkEntry) uint32 { return uint32(1 + len(e.hosts)) },
	})
	c.systems = otter.Must(&otter.Options[uint32, *systemEntry]{MaximumSize: mostCached})
	return c
}

// recall returns what is remembered of a client, and what that is worth.
func (c *cache) recall(k policy.Keys, now time.Time) (known policy.Known, f freshness) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.networks.GetIfPresent(k.Network)
	if !ok {
		return known, guess
	}
	known.Network = e.sum
	host := e.host(k.Host)
	if host != nil {
		known.Host = host.evidence
	}
	switch {
	case host == nil || host.generation == neverRead:
		f = guess
	case host.generation != c.generation || e.generation != c.generation:
		f = stale
	case now.Sub(host.at) > renewAfter:
		f = ageing
	default:
		f = fresh
	}
	if k.ASN == 0 {
		return known, f
	}
	s, ok := c.systems.GetIfPresent(k.ASN)
	switch {
	case !ok || s.generation != c.generation:
		f = min(f, stale)
	case now.Sub(s.at) > renewAfter:
		f = min(f, ageing)
	}
	if ok {
		known.AS = s.sum
	}
	return known, f
}

func (e *networkEntry) host(h netip.Prefix) *hostEntry {
	for i := range e.hosts {
		if e.hosts[i].host == h {
			return &e.hosts[i]
		}
	}
	return nil
}

// begin says that a network is about to be read; end takes what was read, and keeps it unless it
// has changed since.
func (c *cache) begin(network netip.Prefix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.reading[network]
	if r == nil {
		r = new(reading)
		c.reading[network] = r
	}
	r.readers++
}

func (c *cache) end(k policy.Keys, known policy.Known, ok bool, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.reading[k.Network]
	changed := r.changed
	if r.readers--; r.readers == 0 {
		delete(c.reading, k.Network)
	}
	if !ok || changed {
		return
	}
	c.put(k, known, now)
	if k.ASN != 0 {
		c.systems.Set(k.ASN, &systemEntry{sum: known.AS, at: now, generation: c.generation})
	}
}

// store takes what Redis said of a host and its network after a change of ours. It is as good as
// read.
func (c *cache) store(k policy.Keys, host, network reputation.Evidence, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.touch(k.Network)
	c.put(k, policy.Known{Host: host, Network: network}, now)
}

// touch spoils what is being read of a network.
func (c *cache) touch(network netip.Prefix) {
	if r := c.reading[network]; r != nil {
		r.changed = true
	}
}

// put remembers a host and its network.
func (c *cache) put(k policy.Keys, known policy.Known, now time.Time) {
	e := c.network(k.Network)
	e.sum, e.generation = known.Network, c.generation
	h := c.host(k, e)
	h.evidence, h.at, h.generation = known.Host, now, c.generation
}

// network is the entry of a network, made, never read, if there is none.
func (c *cache) network(n netip.Prefix) *networkEntry {
	e, ok := c.networks.GetIfPresent(n)
	if !ok {
		e = &networkEntry{generation: neverRead}
	}
	return e
}

// host is the entry of a host, made, never read, if there is none.
func (c *cache) host(k policy.Keys, e *networkEntry) *hostEntry {
	if h := e.host(k.Host); h != nil {
		return h
	}
	if len(e.hosts) >= hostsPerNetwork {
		e.hosts = slices.Delete(e.hosts, 0, 1)
	}
	e.hosts = append(e.hosts, hostEntry{host: k.Host, generation: neverRead})
	c.networks.Set(k.Network, e)
	return &e.hosts[len(e.hosts)-1]
}

// learn adds a lesson to what is remembered, before Redis has it, and returns the host's evidence
// with the tier that comes of it; sure is false where that is a guess, because what is remembered
// is not fresh.
func (c *cache) learn(k policy.Keys, l policy.Lesson, tier policy.Tiering, now time.Time) (host reputation.Evidence, sure bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.touch(k.Network)
	e := c.network(k.Network)
	h := c.host(k, e)
	before := policy.Known{Host: h.evidence.Heal(now), Network: e.sum.Heal(now)}
	after := before
	var m reputation.Move
	after.Host, m = before.Host.Add(l.At, l.Spam, l.Ham)
	after.Network = before.Network.Apply(m)
	if s, ok := c.systems.GetIfPresent(k.ASN); ok && k.ASN != 0 {
		before.AS = s.sum.Heal(now)
		s.sum = before.AS.Apply(m)
		after.AS = s.sum
	}
	h.evidence, e.sum = tier(before, after), after.Network
	return h.evidence, h.generation == c.generation && e.generation == c.generation
}

// system is what is remembered of an autonomous system.
func (c *cache) system(asn uint32) (v reputation.Evidence) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := c.systems.GetIfPresent(asn); ok && asn != 0 {
		v = s.sum
	}
	return v
}

// markStale makes what is remembered of a network stale: somebody changed a tier in it.
func (c *cache) markStale(n netip.Prefix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.touch(n)
	if e, ok := c.networks.GetIfPresent(n); ok {
		e.generation = neverRead
	}
}

// drop forgets a network.
func (c *cache) drop(n netip.Prefix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.touch(n)
	c.networks.Invalidate(n)
}

// doubt makes all that is remembered stale.
func (c *cache) markAllStale() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	for _, r := range c.reading {
		r.changed = true
	}
}

func (c *cache) len() int { return int(c.networks.WeightedSize()) }
