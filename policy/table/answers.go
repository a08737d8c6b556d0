package table

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// remember is how long an answer is held against the session that asked for it. Postfix looks up at
// accept, just before it opens the milter connection; a client in postscreen(8) can wait for some
// seconds between the two.
const remember = 30 * time.Second

// The answers are in sets of ways each; a new one takes the place of the oldest of its set. 64,000
// in all are many more than there are sessions between the two.
const (
	sets = 1 << 14
	ways = 4
)

// Answers remembers for a short time what was answered about an address, so that the milter can say
// what the client was offered. Each answer is of one session: another one of the same client, at a
// service that does not ask the table, finds none.
type Answers struct {
	now  func() time.Time
	seed maphash.Seed
	sets [sets]set
}

// set has the answers about addresses of one hash.
type set struct {
	sync.Mutex
	answers [ways]pending
}

// pending is the last answer about an address, and how many sessions have not taken theirs.
type pending struct {
	addr     [16]byte
	at       int64 // in Unix seconds
	count    int32
	withheld bool
}

// NewAnswers returns an empty memory.
func NewAnswers() *Answers { return &Answers{now: time.Now, seed: maphash.MakeSeed()} }

// Put notes an answer of a time.
func (m *Answers) Put(addr netip.Addr, a policy.Answer, at time.Time) {
	now := at.Unix()
	s := m.setOf(addr)
	s.Lock()
	defer s.Unlock()
	p := s.find(addr, now)
	if p == nil {
		p = &s.answers[0]
		for i := range s.answers {
			if s.answers[i].at < p.at {
				p = &s.answers[i]
			}
		}
		*p = pending{addr: addr.As16()}
	}
	p.at, p.withheld = now, a == policy.Withheld
	p.count++
}

// Take returns the last answer about an address for a session that begins, or Unasked where each
// has been taken.
func (m *Answers) Take(addr netip.Addr) policy.Answer {
	now := m.now().Unix()
	s := m.setOf(addr)
	s.Lock()
	defer s.Unlock()
	p := s.find(addr, now)
	if p == nil {
		return policy.Unasked
	}
	answer := policy.Offered
	if p.withheld {
		answer = policy.Withheld
	}
	if p.count--; p.count == 0 {
		*p = pending{}
	}
	return answer
}

func (m *Answers) setOf(addr netip.Addr) *set {
	return &m.sets[maphash.Comparable(m.seed, addr.As16())%sets]
}

// find is what is remembered of an address, nil if that is nothing.
func (s *set) find(addr netip.Addr, now int64) *pending {
	for i := range s.answers {
		p := &s.answers[i]
		if p.count > 0 && p.addr == addr.As16() && now-p.at < int64(remember/time.Second) {
			return p
		}
	}
	return nil
}
