package policy

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/ehlogate/ehlogate/policy/reputation"
)

// Store is what the judgement needs of a keeper of evidence.
type Store interface {
	// Recall returns what is known of an address with such keys. It answers from memory.
	Recall(addr netip.Addr, k Keys) Known
	// Learn adds a lesson to both keys. In the same step the host's tier becomes what tier says of the knowledge before and
	// after. The channel yields once: nil when the lesson is durable, else why it is not yet.
	Learn(k Keys, l Lesson, tier func(before, after Known) reputation.Tier) <-chan error
}

// Judge decides by a policy, which can be replaced while it works, over a store.
type Judge struct {
	store  Store
	now    func() time.Time
	policy atomic.Pointer[Policy]
}

// NewJudge returns a judge over a store, with the clock it goes by.
func NewJudge(p *Policy, s Store, now func() time.Time) *Judge {
	j := &Judge{store: s, now: now}
	j.SetPolicy(p)
	return j
}

// SetPolicy replaces the policy; decisions under way end with the old one.
func (j *Judge) SetPolicy(p *Policy) { j.policy.Store(p) }

// Policy is the policy in force.
func (j *Judge) Policy() *Policy { return j.policy.Load() }

// Decide judges an address now.
func (j *Judge) Decide(addr netip.Addr) Decision {
	d, _ := j.Explain(addr)
	return d
}

// Explain judges an address now and returns the evidence beside it.
func (j *Judge) Explain(addr netip.Addr) (Decision, Known) {
	p := j.policy.Load()
	known := j.store.Recall(addr, p.Keys(addr))
	return p.Decide(addr, known, j.now()), known
}

// Learn teaches the store what an observation says. The channel yields once, as Store.Learn's does; it is nil when there was
// nothing to learn.
func (j *Judge) Learn(o *Observation) <-chan error {
	lesson, ok := o.Lesson()
	if !ok {
		return nil
	}
	p := j.policy.Load()
	return j.store.Learn(p.Keys(o.Client.Addr), lesson, func(before, after Known) reputation.Tier {
		// The tier before is judged, too: what it left by fading since it was last learnt of, it has left.
		was := p.Thresholds.Next(before.Host.Tier, reputation.Judge(before.Host, before.Network, lesson.At, p.Params))
		return p.Thresholds.Next(was, reputation.Judge(after.Host, after.Network, lesson.At, p.Params))
	})
}
