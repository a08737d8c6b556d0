package table

import (
	"net/netip"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/ehlogate/ehlogate/policy"
)

const (
	// remember is how long an answer is held against the session that asked for it. Postfix looks
	// up at accept, just before it opens the milter connection; a client in postscreen(8) can wait
	// for some seconds between the two.
	remember = 30 * time.Second
	// rememberMost bounds the addresses remembered.
	rememberMost = 100_000
)

// Answers remembers for a short time what was answered about an address, so that the milter can say
// what the client was offered.
type Answers struct {
	cache *otter.Cache[netip.Addr, policy.Answer]
}

// NewAnswers returns an empty memory.
func NewAnswers() *Answers {
	return &Answers{otter.Must(&otter.Options[netip.Addr, policy.Answer]{
		MaximumSize:      rememberMost,
		ExpiryCalculator: otter.ExpiryWriting[netip.Addr, policy.Answer](remember),
	})}
}

// Put notes an answer.
func (m *Answers) Put(addr netip.Addr, a policy.Answer) { m.cache.Set(addr, a) }

// Get returns the last answer about an address, or Unasked.
func (m *Answers) Get(addr netip.Addr) policy.Answer {
	if a, ok := m.cache.GetIfPresent(addr); ok {
		return a
	}
	return policy.Unasked
}
