package policy

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/ehlogate/ehlogate/policy/reputation"
)

// Store is what the judgement needs of a keeper of evidence.
type Store interface {
	// Recall returns what is known, now, of an address with such keys. It answers within
	// milliseconds, if need be with Known.Unavailable.
	Recall(addr netip.Addr, k Keys, now time.Time) Known
	// Learn adds a lesson to the host, and what that moves to its network and its autonomous
	// system; then the host's tier follows. The channel yields once: nil when the lesson is
	// durable, else why it is not yet.
	Learn(k Keys, l Lesson) <-chan error
}

// Tiering finds the tier of a host after a change: it returns the host's evidence in that tier,
// given what was known before and after. A store is opened with one.
type Tiering func(before, after Known) reputation.Evidence

// InForce is the policy in force, which can be replaced at any time, and the clock it goes by.
type InForce struct {
	now    func() time.Time
	policy atomic.Pointer[Policy]
}

// NewInForce puts a policy in force.
func NewInForce(p *Policy, now func() time.Time) *InForce {
	f := &InForce{now: now}
	f.Set(p)
	return f
}

// Set replaces the policy; decisions under way end with the old one.
func (f *InForce) Set(p *Policy) { f.policy.Store(p) }

// Policy is the policy in force.
func (f *InForce) Policy() *Policy { return f.policy.Load() }

// Tier is the Tiering of the policy in force, at the time of the call.
func (f *InForce) Tier(before, after Known) reputation.Evidence {
	return f.Policy().tier(before, after, f.now())
}

// Judge decides by the policy in force over a store.
type Judge struct {
	*InForce
	store Store
}

// NewJudge returns a judge over a store that was opened with the Tiering of the same policy.
func NewJudge(f *InForce, s Store) *Judge { return &Judge{f, s} }

// Decide judges an address now.
func (j *Judge) Decide(addr netip.Addr) Decision {
	d, _ := j.Explain(addr)
	return d
}

// Explain judges an address now and returns the evidence beside it.
func (j *Judge) Explain(addr netip.Addr) (Decision, Known) {
	p, now := j.Policy(), j.now()
	k := p.Keys(addr)
	known := j.store.Recall(addr, k, now)
	return p.decide(addr, k, p.Exempts(addr), known, now), known
}

// Learn teaches the store the verdict on a message. The channel yields once, as Store.Learn's does;
// it is nil when there was nothing to learn.
func (j *Judge) Learn(m *Message) <-chan error { return j.LearnLogged(m, nil) }

// LearnLogged is Learn of a message whose line of the event log is to be written after it.
func (j *Judge) LearnLogged(m *Message, line []byte) <-chan error {
	lesson, ok := m.Lesson()
	return j.learn(m.Client.Addr, lesson, ok, line)
}

// Correct teaches the store a correction; the channel is as Learn's.
func (j *Judge) Correct(c *Correction) <-chan error { return j.CorrectLogged(c, nil) }

// CorrectLogged is Correct of one whose line of the event log is to be written after it.
func (j *Judge) CorrectLogged(c *Correction, line []byte) <-chan error {
	lesson, ok := c.Lesson()
	return j.learn(c.Client.Addr, lesson, ok, line)
}

func (j *Judge) learn(addr netip.Addr, l Lesson, ok bool, line []byte) <-chan error {
	if !ok {
		return nil
	}
	l.Line = line
	return j.store.Learn(j.Policy().Keys(addr), l)
}

// tier is the host's evidence after a lesson, in the tier that it is in then.
func (p *Policy) tier(before, after Known, now time.Time) reputation.Evidence {
	// The tier before is judged, too: what it left by fading since it was last learnt of, it has
	// left.
	was := p.Thresholds.Next(before.Host.Tier, p.judge(before, now))
	is := p.judge(after, now)
	return after.Host.Enter(p.Thresholds.Next(was, is), now, is.Score)
}

func (p *Policy) judge(k Known, now time.Time) reputation.Judgement {
	return reputation.Judge(k.Host, k.Network, k.AS, now, p.Params)
}
