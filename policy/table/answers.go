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
// what the client was offered. Each answer is of one session: another one of the same client, at a
// service that does not ask the table, finds none.
type Answers struct {
	cache *otter.Cache[netip.Addr, pending]
}

// pending is the last answer about an address, and how many sessions have not taken theirs.
type pending struct {
	answer policy.Answer
	count  int
}

// NewAnswers returns an empty memory.
func NewAnswers() *Answers {
	return &Answers{otter.Must(&otter.Options[netip.Addr, pending]{
		MaximumSize:      rememberMost,
		ExpiryCalculator: otter.ExpiryWriting[netip.Addr, pending](remember),
	})}
}

// Put notes an answer.
func (m *Answers) Put(addr netip.Addr, a policy.Answer) {
	m.cache.Compute(addr, func(p pending, _ bool) (pending, otter.ComputeOp) {
		return pending{a, p.count + 1}, otter.WriteOp
	})
}

// Take returns the last answer about an address for a session that begins, or Unasked where each
// has been taken.
func (m *Answers) Take(addr netip.Addr) policy.Answer {
	answer := policy.Unasked
	m.cache.ComputeIfPresent(addr, func(p pending) (pending, otter.ComputeOp) {
		answer = p.answer
		if p.count <= 1 {
			return p, otter.InvalidateOp
		}
		p.count--
		return p, otter.WriteOp
	})
	return answer
}
