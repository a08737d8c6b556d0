package correlate

import (
	"net/netip"
	"slices"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// sameDay is how far a report's time may be from its message's: what has the same queue id at
// another time is another message.
const sameDay = 24 * time.Hour

// Found is what became of a person's report.
type Found int

const (
	// Unknown: there is no such message.
	Unknown Found = iota
	// Repeated: the same was reported before.
	Repeated
	// Pending: the message is pending, and will have the verdict when it is concluded.
	Pending
	// Corrected: the message was observed, and has the verdict now.
	Corrected
)

// Report adds a person's verdict on a message of a time, which is zero where it is not known. It is
// like Signal, but goes by the queue id alone, and nothing becomes pending. The correction is there
// if it is Corrected.
func (c *Correlator) Report(s policy.Signal, v policy.Verdict) (correction *policy.Correction, found Found) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byQueue[s.QueueID]
	if s.QueueID == "" || e == nil || !sameClient(e.Client, policy.Client{Addr: s.Addr}) {
		return nil, Unknown
	}
	if !s.Time.IsZero() && s.Time.Sub(e.Time).Abs() > sameDay {
		return nil, Unknown
	}
	known := slices.Contains(e.Verdicts, v)
	correction, _ = c.join(e, &policy.Signal{Time: e.Time, Mail: true, FromDomain: s.FromDomain}, v)
	switch {
	case correction != nil:
		return correction, Corrected
	case known:
		return nil, Repeated
	}
	return nil, Pending
}

// Reinjected takes note that an after-queue filter has put a message back with a queue id. The
// correction is nil unless that message was observed, from this host itself, and not known as such.
func (c *Correlator) Reinjected(queueID string) *policy.Correction {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byQueue[queueID]
	if queueID == "" || e == nil || e.observation != nil || e.Reinjected || !policy.IsHere(e.Client.Addr) {
		return nil
	}
	e.Reinjected = true
	return &policy.Correction{Message: e.Message, Was: e.Verdict, NewlyReinjected: true}
}

// Remember keeps the facts of a message that Due has yielded, for the verdicts that come later.
func (c *Correlator) Remember(m *policy.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range slices.Backward(c.byClient[m.Client.Addr]) {
		if e.Facts == nil && e.Session == "" && e.Time.Equal(m.Time) && e.QueueID == m.QueueID {
			e.Facts = m.Facts
			return
		}
	}
}

// Has reports whether a message with a queue id is remembered, or pending.
func (c *Correlator) Has(queueID string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.byQueue[queueID] != nil
}

// Restore enters a message from the event log, as it was when it was last corrected.
func (c *Correlator) Restore(m *policy.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.enter(&entry{Message: *m, sessionBegan: m.Began, restored: true})
}

// Forgot takes note that the evidence of a network was dropped, and with it what was learnt of its
// clients' messages: a later verdict on one of them counts anew.
func (c *Correlator) Forgot(n netip.Prefix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.order {
		if n.Contains(e.Client.Addr) {
			e.Forget()
		}
	}
}

// Distrust takes back what a source called spam of each client's messages from a time on, and
// returns the corrections of those that were observed.
func (c *Correlator) Distrust(source policy.Source, from func(client netip.Addr) time.Time) (corrections []*policy.Correction) {
	var told []*entry
	c.mu.Lock()
	for _, e := range c.order {
		if e.Client.Addr.IsValid() && e.Verdicts.Accuses(source) && !e.Time.Before(from(e.Client.Addr)) {
			told = append(told, e)
		}
	}
	c.mu.Unlock()
	for some := range slices.Chunk(told, atOnce) {
		corrections = append(corrections, c.distrust(source, some)...)
	}
	return corrections
}

// distrust is a step of Distrust, which lets sessions in between.
func (c *Correlator) distrust(source policy.Source, some []*entry) (corrections []*policy.Correction) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range some {
		e.Verdicts = e.Verdicts.Distrust(source)
		// Where another verdict counts, or what was learnt has been forgotten, nothing changes.
		if was := e.Verdict; e.observation == nil && was.Source == source {
			e.Verdict = e.Verdicts.Resolve()
			corrections = append(corrections, &policy.Correction{Message: e.Message, Was: was})
		}
	}
	return corrections
}

// enter remembers a message, and forgets what was entered too long ago, and what is too much.
func (c *Correlator) enter(e *entry) {
	e.entered = c.now()
	e.last = e.Time
	if e.Began.IsZero() {
		e.Began = e.Time
	}
	c.order = append(c.order, e)
	if e.QueueID != "" {
		c.byQueue[e.QueueID] = e
	}
	c.indexByClient(e)
	forget := e.entered.Add(-Remember)
	for c.forgettable(c.order[0], forget) {
		c.remove(c.order[0])
		c.order[0] = nil
		c.order = c.order[1:]
	}
}

// forgettable reports whether the oldest message may be forgotten: it is in no index any more,
// there are too many, or it was entered too long ago and does not wait.
func (c *Correlator) forgettable(oldest *entry, forget time.Time) bool {
	return oldest.gone || len(c.order) > mostMessages || oldest.observation == nil && oldest.entered.Before(forget)
}

func (c *Correlator) indexByClient(e *entry) {
	if index := c.clientIndex(e); e.Client.Addr.IsValid() {
		index[e.Client.Addr] = append(index[e.Client.Addr], e)
	}
}

// clientIndex is the index by clients that a message is in.
func (c *Correlator) clientIndex(e *entry) map[netip.Addr][]*entry {
	if e.observation != nil {
		return c.pendingByClient
	}
	return c.byClient
}

// remove takes a message out of the indices. One that is pending stays so, and is joined by nothing
// more.
func (c *Correlator) remove(e *entry) {
	e.gone = true
	if c.byQueue[e.QueueID] == e {
		delete(c.byQueue, e.QueueID)
	}
	if c.byGroup[e.group] == e {
		delete(c.byGroup, e.group)
	}
	drop(c.clientIndex(e), e.Client.Addr, e)
}

// take ends the wait of a message that became part of one that was observed. It leaves the indices
// first: which one it is in goes by whether it is pending.
func (c *Correlator) take(e *entry) {
	c.remove(e)
	e.observation = nil
}

// drop takes an item out of an index by clients.
func drop[T comparable](index map[netip.Addr][]T, client netip.Addr, item T) {
	if list := without(index[client], item); len(list) == 0 {
		delete(index, client)
	} else {
		index[client] = list
	}
}

// without is a list less one of its items. The first one goes without a copy: it is the oldest,
// which goes first, and a busy client has many.
func without[T comparable](list []T, item T) []T {
	switch i := slices.Index(list, item); i {
	case -1:
		return list
	case 0:
		return list[1:]
	default:
		return slices.Delete(list, i, i+1)
	}
}
