package correlate

import (
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// hold makes a signal pending.
func (c *Correlator) hold(s *policy.Signal, v policy.Verdict) {
	o := s.Observation(v)
	e := &entry{Message: o.Message, sessionBegan: s.Time, observation: o, posted: s.Posted}
	e.due = c.now().Add(Wait)
	if e.screened() {
		e.due = c.now().Add(ScreenWait)
	}
	c.enter(e)
	c.gather(e, s.Group)
	c.pending = append(c.pending, e)
	if waiting := c.pendingByClient[s.Addr]; len(waiting) > mostOfClient {
		// The oldest that waits longer than it should.
		waiting[len(waiting)-mostOfClient-1].crowded = true
	}
}

// atOnce is how many pending messages are gone through without letting sessions in between.
const atOnce = 50

// Due is what comes of signals that have been pending long enough, or of all that are pending:
// observations of their own, and corrections of messages of whose session they turned out to be. It
// is called by one at a time.
func (c *Correlator) Due(all bool) (due []*policy.Observation, corrections []*policy.Correction) {
	for more := true; more; {
		var observations []*policy.Observation
		var some []*policy.Correction
		observations, some, more = c.someDue(all)
		due, corrections = append(due, observations...), append(corrections, some...)
	}
	return due, corrections
}

// someDue is a step of a pass through all that are pending, and says whether there are more.
func (c *Correlator) someDue(all bool) (due []*policy.Observation, corrections []*policy.Correction, more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	step := c.pending[:min(len(c.pending), atOnce)]
	for i, e := range step {
		left := len(c.waited) + len(c.pending) - i
		switch {
		case e.observation == nil:
		case !all && left <= mostPending && !c.isDue(e, now):
			c.waited = append(c.waited, e)
		default:
			observed := c.observedSince(e)
			if observed == nil {
				due = append(due, c.conclude(e))
				continue
			}
			c.take(e)
			c.adopt(observed, e.QueueID)
			c.gather(observed, e.group)
			if correction := c.add(observed, e.Verdicts, e.Trouble); correction != nil {
				corrections = append(corrections, correction)
			}
		}
	}
	clear(step)
	if c.pending = c.pending[len(step):]; len(c.pending) == 0 {
		c.pending, c.waited = c.waited, c.pending[:0]
		return due, corrections, false
	}
	return due, corrections, true
}

// observedSince is a message that was under way when what is pending was said: the signal waited
// for a further message of the session, and none came.
func (c *Correlator) observedSince(e *entry) *entry {
	s := policy.Signal{Time: e.Time, Addr: e.Client.Addr, Port: e.Client.Port, QueueID: e.QueueID, Mail: e.Mail}
	observed, _ := c.findObserved(&s, e.Verdict)
	return observed
}

// isDue reports whether a pending message has waited long enough: no session is open that it could
// be about, or that is open for too long.
func (c *Correlator) isDue(e *entry, now time.Time) bool {
	if e.crowded {
		return true
	}
	if now.Before(e.due) {
		return false
	}
	return !c.sessions.about(e.Client, e.QueueID, e.last, e.early(e.Client.Port), "") || now.Sub(e.entered) >= HoldMost
}

// conclude makes an observation of a message that was pending.
func (c *Correlator) conclude(e *entry) *policy.Observation {
	o := e.observation
	drop(c.pendingByClient, e.Client.Addr, e)
	e.observation = nil
	if !e.gone {
		c.indexByClient(e)
	}
	e.Verdict = e.Verdicts.Resolve()
	o.Message = e.Message
	c.Stats.Alone.Add(1)
	return o
}

// Pending is how many messages and sessions wait for what else is said of them.
func (c *Correlator) Pending() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range c.stillPending {
		n++
	}
	return n
}

// OldestPending is when the signal came that has been pending longest; ok is false where none is.
func (c *Correlator) OldestPending() (at time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := range c.stillPending {
		return e.entered, true
	}
	return at, false
}

// stillPending yields what waits, in the order in which it came. The caller holds the lock.
func (c *Correlator) stillPending(yield func(*entry) bool) {
	for _, some := range [][]*entry{c.waited, c.pending} {
		for _, e := range some {
			if e.observation != nil && !yield(e) {
				return
			}
		}
	}
}
