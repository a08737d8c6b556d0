package ledger

import (
	"hash/maphash"
	"net/netip"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

const (
	// freshFor is for how long a client is not counted again.
	freshFor = 24 * time.Hour
	// mostFresh bounds the clients that are remembered, at some 40 bytes each. When there are more,
	// counting begins anew.
	mostFresh = 400_000
	// crowd is how many clients of a network are counted in crowdFor: a range that somebody has
	// hired is one cause, and not a hundred.
	crowd    = 3
	crowdFor = 6 * time.Hour
)

// What a client can be counted for, each once in freshFor: its place among the fresh counts.
const (
	freshSpamPlain = iota
	freshSpamTLS
	freshHamPlain
	freshHamTLS
	freshOffered
	freshWithheld
)

// fresh counts clients instead of messages: a drone that sends forty messages says no more of a
// wave than one that sends four. It is kept in memory only, so that a restart counts some clients
// twice.
type fresh struct {
	seed   maphash.Seed
	seen   map[freshKey]int64
	crowds map[freshKey]crowding
	// pruned is when those were last forgotten that were seen too long ago.
	pruned int64
}

// crowding is how many clients of a network were counted since a time.
type crowding struct {
	since int64
	n     int
}

// freshKey is a client, or a network, and what it was counted for.
type freshKey struct {
	client uint64
	what   uint8
}

func newFresh() *fresh {
	return &fresh{seed: maphash.MakeSeed(), seen: map[freshKey]int64{}, crowds: map[freshKey]crowding{}}
}

// add counts what an entry says of its client for the first time in freshFor.
func (f *fresh) add(c *Counts, e *Entry, network netip.Prefix) {
	client, neighbours := maphash.Comparable(f.seed, e.Addr), maphash.Comparable(f.seed, network)
	count := func(what uint8) {
		k, at := freshKey{client, what}, e.Time.Unix()
		if last, ok := f.seen[k]; ok && at-last < int64(freshFor.Seconds()) {
			return
		}
		f.prune(at)
		f.seen[k] = at
		// Both sides of a share are one crowd, or each would be cut to the same number.
		if f.crowded(freshKey{neighbours, what / 2}, at) {
			return
		}
		c[atFresh+int(what)]++
	}
	if e.Session {
		switch e.STARTTLS {
		case policy.Offered:
			count(freshOffered)
		case policy.Withheld:
			count(freshWithheld)
		}
	}
	if !e.Message || e.Unheard || e.STARTTLS == policy.Withheld {
		// Whether it would have used TLS is not known.
		return
	}
	over := uint8(0)
	if e.TLS != nil {
		over = 1
	}
	switch e.Verdict.Class {
	case policy.Spam:
		if e.Tier == "good" {
			// An honest server's is no sign of a botnet.
			return
		}
		count(freshSpamPlain + over)
	case policy.Ham:
		count(freshHamPlain + over)
	}
}

// crowded counts a client of a network, and reports whether there have been many.
func (f *fresh) crowded(k freshKey, at int64) bool {
	c := f.crowds[k]
	if at-c.since >= int64(crowdFor.Seconds()) {
		c = crowding{since: at}
	}
	c.n++
	f.crowds[k] = c
	return c.n > crowd
}

func (f *fresh) prune(now int64) {
	if now-f.pruned >= int64(time.Hour.Seconds()) {
		f.pruned = now
		for k, at := range f.seen {
			if now-at >= int64(freshFor.Seconds()) {
				delete(f.seen, k)
			}
		}
		for k, c := range f.crowds {
			if now-c.since >= int64(crowdFor.Seconds()) {
				delete(f.crowds, k)
			}
		}
	}
	if len(f.seen) >= mostFresh {
		clear(f.seen)
		clear(f.crowds)
	}
}
