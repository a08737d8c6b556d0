package policy

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/ehlogate/ehlogate/policy/reputation"
)

// Store is what the judgement needs of a keeper of evidence.
type Store interface {
	// Recall returns what is known of an address with such keys. It answers within milliseconds, if need be with Known.Unread.
	Recall(addr netip.Addr, k Keys) Known
	// Learn adds a lesson to the host, and what that moves to its network and its autonomous system; then the host's evidence becomes
	// what settle makes of the knowledge before and after. Settle goes by the time at which it is called. The channel yields once: nil when the lesson is durable,
	// else why it is not yet.
	Learn(k Keys, l Lesson, settle func(before, after Known) reputation.Evidence) <-chan error
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
	return j.learn(o.Client.Addr, lesson, ok)
}

// Correct teaches the store a correction; the channel is as Learn's.
func (j *Judge) Correct(c Correction) <-chan error {
	lesson, ok := c.Lesson()
	return j.learn(c.Addr, lesson, ok)
}

func (j *Judge) learn(addr netip.Addr, l Lesson, ok bool) <-chan error {
	if !ok {
		return nil
	}
	return j.store.Learn(j.policy.Load().Keys(addr), l, j.settle)
}

func (j *Judge) settle(before, after Known) reputation.Evidence {
	return j.policy.Load().settle(before, after, j.now())
}

// settle is the host's evidence after a lesson, in the tier that it is in then.
func (p *Policy) settle(before, after Known, now time.Time) reputation.Evidence {
	// The tier before is judged, too: what it left by fading since it was last learnt of, it has left.
	was := p.Thresholds.Next(before.Host.Tier, p.judge(before, now))
	is := p.judge(after, now)
	return after.Host.Enter(p.Thresholds.Next(was, is), now, is.Score)
}

func (p *Policy) judge(k Known, now time.Time) reputation.Judgement {
	return reputation.Judge(k.Host, k.Network, k.AS, now, p.Params)
}
