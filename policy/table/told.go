package table

import (
	"net/netip"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/ehlogate/ehlogate/policy"
)

const (
	// remember is how long an answer is held against the session that asked for it. Postfix looks up at accept, just before it
	// opens the milter connection; a client in postscreen(8) can wait for some seconds between the two.
	remember = 30 * time.Second
	// rememberMost bounds the addresses remembered.
	rememberMost = 100_000
)

// Told remembers for a short time what was answered about an address, so that the milter can say what the client was offered.
type Told struct {
	cache *otter.Cache[netip.Addr, policy.Answer]
}

// NewTold returns an empty memory.
func NewTold() *Told {
	return &Told{otter.Must(&otter.Options[netip.Addr, policy.Answer]{
		MaximumSize:      rememberMost,
		ExpiryCalculator: otter.ExpiryWriting[netip.Addr, policy.Answer](remember),
	})}
}

// Put notes an answer.
func (t *Told) Put(addr netip.Addr, a policy.Answer) { t.cache.Set(addr, a) }

// Get returns the last answer about an address, or Unasked.
func (t *Told) Get(addr netip.Addr) policy.Answer {
	if a, ok := t.cache.GetIfPresent(addr); ok {
		return a
	}
	return policy.Unasked
}
