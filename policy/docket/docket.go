// Package docket remembers for a while what was said of each message, so that whatever tells of a message tells of the one.
//
// A message that rspamd rejects is told of three times: by rspamd's own feed, by the milter session that is aborted, and by the MTA's log.
// They come in any order, some milliseconds apart. Here they become one case: by the queue id, else by the client's address and port and the
// time. What is told of before its session ends waits for that; what no session follows becomes an observation of its own after a
// moment; what comes later corrects what was made of it. The verdict of a case is policy.Resolve of all that was said, which does not depend on
// the order.
//
// The docket is bounded and forgets the oldest. It is in memory only: the event log has all that is in it, and Restore takes it from there.
package docket

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

const (
	// Wait is how long what was told waits for its session to end before it becomes an observation of its own.
	Wait = 3 * time.Second
	// slack is how far apart the clocks of a session and of a log may be: many logs give whole seconds.
	slack = 2 * time.Second
	// outOfOrder is how many cases of a client that are too old are passed over before the rest is taken for older still.
	outOfOrder = 64
	// Remember is how long a case can be joined.
	Remember = 2 * time.Hour
	// most is how many cases are kept, waitingMost how many of them wait.
	most, waitingMost = 200_000, 20_000
)

// Stats are counts since the start.
type Stats struct {
	// Joined counts testimonies that joined a case, Alone those that became an observation of their own, Repeated those that said nothing new.
	Joined, Alone, Repeated atomic.Uint64
}

// Docket is a list of cases. New makes one.
type Docket struct {
	Stats Stats

	now func() time.Time

	mu       sync.Mutex
	order    []*entry // the oldest first
	byQueue  map[string]*entry
	byClient map[netip.Addr][]*entry
	waiting  []*entry
}

// entry is a case: what of an observation is needed to join what is told of it, and to correct it.
type entry struct {
	session, queueID string
	addr             netip.Addr
	port             uint16
	began, ended     time.Time
	mail, auth       bool
	said             []policy.Verdict
	// verdict is what was made of it, once it was.
	verdict policy.Verdict
	// pending is the observation that it becomes at due, unless its session is heard until then; nil once it is one.
	pending *policy.Observation
	due     time.Time
	gone    bool
}

// New returns an empty docket.
func New(now func() time.Time) *Docket {
	return &Docket{now: now, byQueue: map[string]*entry{}, byClient: map[netip.Addr][]*entry{}}
}

// Hear enters an observation, which carries what was said in its session. What was told of it before is added to it, and its verdict set.
func (d *Docket) Hear(o *policy.Observation) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for e := d.waitingFor(o); e != nil; e = d.waitingFor(o) {
		for _, v := range e.said {
			o.Said = policy.Add(o.Said, v)
		}
		e.pending = nil
		d.remove(e)
		d.Stats.Joined.Add(1)
	}
	o.Verdict = policy.Resolve(o.Said)
	d.enter(entryOf(o))
}

// Correction is what a testimony changed of a case that was an observation already: before and after, with all that was said.
type Correction struct {
	Was policy.Verdict
	// Now has what is remembered of the observation, with the verdict after the testimony.
	Now *policy.Observation
}

// Policy is the correction as the judge learns it.
func (c *Correction) Policy() policy.Correction {
	addr := c.Now.Client.Addr
	if c.Now.Authenticated {
		addr = netip.Addr{}
	}
	return policy.Correction{Addr: addr, At: c.Now.Time, Old: c.Was, New: c.Now.Verdict}
}

// Tell adds a testimony to its case. It returns a correction if that was an observation already and something new was said of it; known
// says that there was such an observation. Otherwise the testimony waits: Due yields it.
func (d *Docket) Tell(t policy.Testimony) (c *Correction, known bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.find(t.QueueID, t.Addr, t.Port, t.Time, t.Time, t.Mail)
	if e == nil {
		d.wait(t)
		return nil, false
	}
	return d.add(e, t)
}

// add adds a testimony to a case.
func (d *Docket) add(e *entry, t policy.Testimony) (c *Correction, known bool) {
	if e.pending != nil {
		e.join(t)
	}
	said := policy.Add(e.said, t.Verdict)
	if len(said) == len(e.said) && slices.Equal(said, e.said) {
		d.Stats.Repeated.Add(1)
		return nil, e.pending == nil
	}
	e.said = said
	if e.pending != nil {
		return nil, false
	}
	d.Stats.Joined.Add(1)
	was := e.verdict
	e.verdict = policy.Resolve(said)
	return &Correction{Was: was, Now: e.observation()}, true
}

// sameDay is how far a report's time may be from its message's: what has the same queue id at another time is another message.
const sameDay = 24 * time.Hour

// Report is Tell for a person's word on a message of a time, zero where it is not known: it goes by the queue id alone, and waits for nothing.
func (d *Docket) Report(t policy.Testimony) (c *Correction, known bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.byQueue[t.QueueID]
	if t.QueueID == "" || e == nil || !e.of(t.Addr) || !t.Time.IsZero() && t.Time.Sub(e.ended).Abs() > sameDay {
		return nil, false
	}
	// One that waits will be an observation with this word in it.
	c, _ = d.add(e, t)
	return c, true
}

// Has reports whether a message with a queue id is in the docket, or waits there.
func (d *Docket) Has(queueID string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.byQueue[queueID] != nil
}

// Restore enters an observation from the event log, as it was when it was last corrected.
func (d *Docket) Restore(o *policy.Observation) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.enter(entryOf(o))
}

// Due returns what has waited long enough, or all that waits: observations of their own now.
func (d *Docket) Due(all bool) (due []*policy.Observation) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	rest := d.waiting[:0]
	for i, e := range d.waiting {
		switch {
		case e.pending == nil:
		case all || !now.Before(e.due) || len(d.waiting)-i > waitingMost:
			due = append(due, e.conclude())
			d.Stats.Alone.Add(1)
		default:
			rest = append(rest, e)
		}
	}
	clear(d.waiting[len(rest):])
	d.waiting = rest
	return due
}

// waitingFor is a case that waits for a session like this, nil if there is none.
func (d *Docket) waitingFor(o *policy.Observation) *entry {
	e := d.find(o.QueueID, o.Client.Addr, o.Client.Port, o.Began, o.Time, o.Mail)
	if e == nil || e.pending == nil {
		return nil
	}
	return e
}

// find is the case of a message or a session: that of the queue id and no other client's, else the last one of the client by address, time,
// and port as far as it is known. What has another queue id is another message.
func (d *Docket) find(queueID string, addr netip.Addr, port uint16, began, ended time.Time, mail bool) *entry {
	if e := d.byQueue[queueID]; e != nil && queueID != "" && e.of(addr) {
		return e
	}
	if !addr.IsValid() {
		return nil
	}
	tooOld := 0
	for _, e := range slices.Backward(d.byClient[addr]) {
		if e.ended.Add(slack).Before(began) {
			// They stand in the order of time, but for those that were restored late.
			if tooOld++; tooOld > outOfOrder {
				break
			}
			continue
		}
		switch {
		case queueID != "" && e.queueID != "":
		case port != 0 && e.port != 0 && port != e.port:
		case mail != e.mail && e.pending == nil && (port == 0 || e.port == 0):
		case ended.Add(slack).Before(e.began):
		default:
			return e
		}
	}
	return nil
}

// of reports whether a case can be one of a client, if the two are known.
func (e *entry) of(addr netip.Addr) bool {
	return !addr.IsValid() || !e.addr.IsValid() || e.addr == addr
}

func (d *Docket) wait(t policy.Testimony) {
	e := entryOf(t.Observation())
	e.verdict = policy.Verdict{}
	e.pending, e.due = t.Observation(), d.now().Add(Wait)
	d.enter(e)
	d.waiting = append(d.waiting, e)
}

func (d *Docket) enter(e *entry) {
	d.order = append(d.order, e)
	if e.queueID != "" {
		d.byQueue[e.queueID] = e
	}
	if e.addr.IsValid() {
		d.byClient[e.addr] = append(d.byClient[e.addr], e)
	}
	forget := d.now().Add(-Remember)
	for len(d.order) > most || len(d.order) > 0 && (d.order[0].gone || d.order[0].ended.Before(forget) && d.order[0].pending == nil && d.order[0] != e) {
		d.remove(d.order[0])
		d.order[0] = nil
		d.order = d.order[1:]
	}
}

// remove takes a case out of the indices. One that still waits stays due.
func (d *Docket) remove(e *entry) {
	e.gone = true
	if d.byQueue[e.queueID] == e {
		delete(d.byQueue, e.queueID)
	}
	list := d.byClient[e.addr]
	if i := slices.Index(list, e); i == 0 {
		// The oldest goes first, and a busy client has many.
		list = list[1:]
	} else if i > 0 {
		list = slices.Delete(list, i, i+1)
	}
	if len(list) == 0 {
		delete(d.byClient, e.addr)
	} else {
		d.byClient[e.addr] = list
	}
}

func entryOf(o *policy.Observation) *entry {
	began := o.Began
	if began.IsZero() {
		began = o.Time
	}
	return &entry{
		session: o.Session, queueID: o.QueueID, addr: o.Client.Addr, port: o.Client.Port, began: began, ended: o.Time,
		mail: o.Mail, auth: o.Authenticated, said: o.Said, verdict: o.Verdict,
	}
}

// observation is what is remembered of the observation.
func (e *entry) observation() *policy.Observation {
	return &policy.Observation{
		Time: e.ended, Began: e.began, Session: e.session, QueueID: e.queueID, Client: policy.Client{Addr: e.addr, Port: e.port},
		Authenticated: e.auth, Mail: e.mail, Said: e.said, Verdict: e.verdict,
	}
}

// join adds what a further testimony tells to a case that waits.
func (e *entry) join(t policy.Testimony) {
	o, more := e.pending, t.Observation()
	e.mail = e.mail || t.Mail
	o.Mail = e.mail
	if o.FromDomain == "" {
		o.FromDomain = t.FromDomain
	}
	if o.HELO == "" {
		o.HELO = t.HELO
	}
	if t.Outcome != "" || o.Outcome == policy.NoMail {
		o.Outcome = more.Outcome
	}
	if t.Time.Before(e.began) {
		e.began = t.Time
	}
	if t.Time.After(e.ended) {
		e.ended = t.Time
	}
}

// conclude makes an observation of a case that waited.
func (e *entry) conclude() *policy.Observation {
	o := e.pending
	e.pending = nil
	e.verdict = policy.Resolve(e.said)
	o.Time, o.Began, o.Said, o.Verdict = e.ended, e.began, e.said, e.verdict
	return o
}
