package table

import (
	"net/netip"
	"sync"
	"time"

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
	now func() time.Time

	mu sync.Mutex
	// young has the answers since begun, old those of the time before, which is as long. So no
	// answer has to be removed by itself.
	young, old map[netip.Addr]pending
	begun      time.Time
}

// pending is the last answer about an address, and how many sessions have not taken theirs.
type pending struct {
	answer policy.Answer
	count  int
	at     time.Time
}

// NewAnswers returns an empty memory.
func NewAnswers() *Answers {
	return &Answers{now: time.Now, young: map[netip.Addr]pending{}, old: map[netip.Addr]pending{}}
}

// Put notes an answer.
func (m *Answers) Put(addr netip.Addr, a policy.Answer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if now.Sub(m.begun) >= remember || len(m.young) >= rememberMost/2 {
		m.young, m.old = m.old, m.young
		clear(m.young)
		m.begun = now
	}
	count := 1
	if p, ok := m.find(addr, now); ok {
		count += p.count
	}
	m.young[addr] = pending{a, count, now}
}

// Take returns the last answer about an address for a session that begins, or Unasked where each
// has been taken.
func (m *Answers) Take(addr netip.Addr) policy.Answer {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.find(addr, m.now())
	if !ok {
		return policy.Unasked
	}
	if p.count--; p.count > 0 {
		m.young[addr] = p
	}
	return p.answer
}

// find takes out what is remembered of an address.
func (m *Answers) find(addr netip.Addr, now time.Time) (p pending, ok bool) {
	for _, some := range []map[netip.Addr]pending{m.young, m.old} {
		if p, ok = some[addr]; ok {
			delete(some, addr)
			return p, now.Sub(p.at) < remember
		}
	}
	return pending{}, false
}
