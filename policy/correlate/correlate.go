// Package correlate joins what logs, feeds and people tell of a message to the one message that
// they are about, so that each message counts once.
//
// A message that rspamd rejects is reported three times: by rspamd's own feed, by the milter
// session that is aborted, and by the MTA's log. They come in any order, some milliseconds or,
// where a client takes its time, some minutes apart. A Signal finds its message by the queue id,
// else by the client's address and port and the time:
//
//   - About a message that was observed, it becomes a correction.
//   - About a session that is still open, it is pending until that session's observation comes.
//   - Otherwise it is pending for a moment, and becomes an observation of its own when no session
//     comes for it.
//
// The verdict on a message is policy.Verdicts.Resolve of all its verdicts, which does not depend on
// their order.
//
// The correlator is bounded and forgets the oldest. It is in memory only: all that is in it is in
// the event log, from which Restore takes it.
package correlate

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

const (
	// Wait is how long a signal is pending when no session is open that it could be about.
	Wait = 3 * time.Second
	// ScreenWait is the same for what postscreen(8) says of a client: it holds the client for up to
	// postscreen_greet_wait, six seconds by default, before smtpd(8) and the milter see it.
	ScreenWait = 10 * time.Second
	// HoldMost is how long a signal is pending while its session is open: as long as the milter
	// waits for a session.
	HoldMost = 4 * time.Hour
	// Remember is how long a message can be joined.
	Remember = 2 * time.Hour

	// slack is how far apart the clocks of a session and of a log may be: many logs give whole
	// seconds.
	slack = 2 * time.Second
	// unfinishedFor is how long a session may have gone on after we stopped listening.
	unfinishedFor = 15 * time.Minute
	// outOfOrder is how many messages of a client that are too old are passed over before the rest
	// is taken for older still, mostExamined how many are looked at in all.
	outOfOrder   = 64
	mostExamined = 1000
	// mostMessages bounds the messages remembered, mostPending those of them that are pending, and
	// mostOfClient those of one client.
	mostMessages, mostPending, mostOfClient = 200_000, 20_000, 250
)

// Stats are counts since the start.
type Stats struct {
	// Joined counts signals that joined a message, Alone those that became an observation of their
	// own, Repeated those that said nothing new.
	Joined, Alone, Repeated atomic.Uint64
}

// Correlator remembers messages and open sessions. New makes one.
type Correlator struct {
	Stats Stats

	now func() time.Time

	mu       sync.Mutex
	sessions sessions
	// order has all messages, the one that was entered first first.
	order   []*entry
	byQueue map[string]*entry
	// byGroup has those that a signal of a group has joined.
	byGroup map[string]*entry
	// byClient has those that were observed, pendingByClient those that wait for their session. A
	// busy client has many of the former.
	byClient, pendingByClient map[netip.Addr][]*entry
	// pending are those that wait, in the order in which they came, and some that do no longer. A
	// pass of Due moves those that go on waiting to waited.
	pending, waited []*entry
}

// entry is a message that is remembered.
type entry struct {
	policy.Message
	// sessionBegan is when its session began, as far as that is known; last is the time of the last
	// signal about it; entered is when it was entered, by our clock.
	sessionBegan, last, entered time.Time
	// observation is what becomes of it at due, unless its session comes for it; nil when it is not
	// pending.
	observation *policy.Observation
	due         time.Time
	// crowded says that its client has too many that are pending: it does not wait for a session.
	crowded bool
	// restored says that it is known from the event log; gone that it is in no index any more.
	restored, gone bool
	// group is that of its signals, if they have one.
	group string
	// posted says that it is pending and known from posts only: another host may have heard it.
	posted bool
}

// New returns an empty correlator that goes by a clock.
func New(now func() time.Time) *Correlator {
	return &Correlator{
		now: now, sessions: newSessions(),
		byQueue: map[string]*entry{}, byGroup: map[string]*entry{}, byClient: map[netip.Addr][]*entry{}, pendingByClient: map[netip.Addr][]*entry{},
	}
}

// Observe enters a message that was heard, with the verdicts of its session. The pending signals
// about it are added to it, and its verdict is set.
func (c *Correlator) Observe(m *policy.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	began := m.Began
	if s := c.sessions.byID[m.Session]; s != nil {
		began = s.began
		c.sessions.queued(s, "")
	}
	group := ""
	for _, e := range c.pendingAbout(m, began) {
		for _, v := range e.Verdicts {
			m.Verdicts = m.Verdicts.With(v)
		}
		if m.Trouble == "" {
			m.Trouble = e.Trouble
		}
		if e.group != "" {
			group = e.group
		}
		c.take(e)
		c.Stats.Joined.Add(1)
	}
	m.Verdict = m.Verdicts.Resolve()
	e := &entry{Message: *m, sessionBegan: began}
	c.enter(e)
	c.gather(e, group)
}

// pendingAbout are the pending signals about a message whose session began at a time.
func (c *Correlator) pendingAbout(m *policy.Message, sessionBegan time.Time) (about []*entry) {
	candidates := c.pendingByClient[m.Client.Addr]
	if e := c.byQueue[m.QueueID]; e != nil && m.QueueID != "" && !slices.Contains(candidates, e) {
		candidates = append(slices.Clip(candidates), e)
	}
	// Of a client that has too many, the last.
	for _, e := range candidates[max(0, len(candidates)-2*mostOfClient):] {
		began := sessionBegan
		if e.Mail {
			began = m.Began
		}
		switch {
		case e.observation == nil || !sameClient(e.Client, m.Client):
		case e.QueueID != "" && m.QueueID != "":
			if e.QueueID == m.QueueID {
				about = append(about, e)
			}
		case e.last.Before(began.Add(-e.early(m.Client.Port))) || e.Began.After(m.Time.Add(slack)):
		case !toldBy(m.Verdicts, e.Verdicts[0]) && c.sessions.about(e.Client, e.QueueID, e.last, e.early(e.Client.Port), m.Session):
			// It may be about the other session that is open. If that does not take it, Due finds
			// m.
		default:
			about = append(about, e)
		}
	}
	return about
}

// early is how long before its session a signal may come.
func (e *entry) early(port uint16) time.Duration {
	if e.screened() && e.Client.Port == port {
		return ScreenWait
	}
	return slack
}

// screened reports whether the signals may be postscreen's: it names the client's port always, and
// no message.
func (e *entry) screened() bool { return e.Client.Port != 0 && !e.Mail && e.QueueID == "" }

// sameClient reports whether two clients may be one, as far as they are known.
func sameClient(a, b policy.Client) bool {
	return (!a.Addr.IsValid() || !b.Addr.IsValid() || a.Addr == b.Addr) && (a.Port == 0 || b.Port == 0 || a.Port == b.Port)
}

// Signal adds a signal to the message that it is about, with its verdict. It returns a correction
// if that was observed already, and the signal says something new of it; known says that it was
// observed already. Otherwise the signal is pending, until Observe takes it or Due yields it.
func (c *Correlator) Signal(s policy.Signal, v policy.Verdict) (correction *policy.Correction, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.find(&s, v); e != nil {
		return c.join(e, &s, v)
	}
	c.hold(&s, v)
	return nil, false
}

// find is the message that a signal is about, nil if that is not here yet.
func (c *Correlator) find(s *policy.Signal, v policy.Verdict) *entry {
	client := policy.Client{Addr: s.Addr, Port: s.Port}
	if e := c.byGroup[s.Group]; s.Group != "" && e != nil && sameClient(e.Client, policy.Client{Addr: s.Addr}) {
		return e
	}
	if e := c.byQueue[s.QueueID]; s.QueueID != "" && e != nil && sameClient(e.Client, policy.Client{Addr: s.Addr}) {
		return e
	}
	if !s.Addr.IsValid() {
		return nil
	}
	observed, how := c.findObserved(s, v)
	if how == again {
		return observed
	}
	for i, e := range slices.Backward(c.pendingByClient[s.Addr]) {
		if len(c.pendingByClient[s.Addr])-i > 2*mostOfClient {
			// They came faster than they can be looked through.
			break
		}
		if e.distinct(s) || !sameClient(e.Client, client) {
			continue
		}
		if !s.Time.Before(e.Began.Add(-slack)) && !s.Time.After(e.last.Add(slack)) {
			return e
		}
	}
	// The milter tells of much that the log tells of, too. What it has not told of a message is
	// rather about another one, of a session that is open.
	if c.sessions.about(client, s.QueueID, s.Time, slack, "") {
		return nil
	}
	return observed
}

// match is how well a message fits a signal, from not at all to best.
type match int

const (
	none match = iota
	// near: the signal came just after the message, or after we stopped listening to its session.
	near
	// within: the signal came while the message was under way; one that is not about a message,
	// while the message's session was.
	within
	// kind: the same, and both are about a message, or neither is.
	kind
	// again: the same, and the signal's source has spoken of the message before.
	again
)

// findObserved is the message of the client's that fits a signal best, of several the last.
func (c *Correlator) findObserved(s *policy.Signal, v policy.Verdict) (best *entry, how match) {
	old, examined := 0, 0
	for _, e := range slices.Backward(c.byClient[s.Addr]) {
		if m := e.matches(s, v); m > how {
			best, how = e, m
		}
		if e.ended().Before(s.Time) {
			old++
		}
		if examined++; old > outOfOrder || examined == mostExamined {
			break
		}
	}
	return best, how
}

// ended is the latest time of a signal about a message.
func (e *entry) ended() time.Time {
	if e.Unfinished {
		return e.last.Add(unfinishedFor)
	}
	return e.last.Add(slack)
}

// matches tells how well a message that was observed fits a signal with a verdict.
func (e *entry) matches(s *policy.Signal, v policy.Verdict) match {
	samePort := s.Port != 0 && s.Port == e.Client.Port
	has := toldBy(e.Verdicts, v)
	began, early := e.sessionBegan, slack
	switch {
	case s.Mail:
		began = e.Began
	case has && e.restored:
		// The event log does not say when the session began in which the message was sent.
		early = HoldMost
	case samePort:
		early = ScreenWait
	}
	switch {
	case e.distinct(s) || s.Port != 0 && e.Client.Port != 0 && !samePort:
		return none
	case s.Time.Before(began.Add(-early)) || s.Time.After(e.ended()):
		return none
	case s.Time.After(e.last):
		if has || s.Mail == e.Mail || samePort || e.Unfinished {
			return near
		}
		return none
	case has:
		return again
	case s.Mail == e.Mail || samePort:
		return kind
	}
	return within
}

// toldBy reports whether the source of a verdict has said the same already.
func toldBy(verdicts policy.Verdicts, v policy.Verdict) bool {
	return slices.ContainsFunc(verdicts, func(old policy.Verdict) bool { return old.Source == v.Source && old.Class == v.Class })
}

// distinct reports whether a message and a signal have different queue ids.
func (e *entry) distinct(s *policy.Signal) bool {
	return e.QueueID != "" && s.QueueID != "" && e.QueueID != s.QueueID
}

// join adds a signal to a message.
func (c *Correlator) join(e *entry, s *policy.Signal, v policy.Verdict) (correction *policy.Correction, known bool) {
	c.adopt(e, s.QueueID)
	c.gather(e, s.Group)
	if e.observation != nil {
		c.name(e, s)
		e.extend(s, v)
		e.posted = e.posted && s.Posted
	} else if e.Session == "" && s.Time.After(e.last) {
		// Nobody heard when the session ended: what the log tells of it shows how long it lasted.
		e.last = s.Time
	}
	return c.add(e, policy.Verdicts{v}, s.Trouble), e.observation == nil
}

// adopt gives a message its queue id, if it has none yet. From then on, what has another queue id
// is another message.
func (c *Correlator) adopt(e *entry, queueID string) {
	if e.QueueID == "" && queueID != "" {
		e.QueueID = queueID
		c.byQueue[queueID] = e
	}
}

// name gives what is pending its client, if that is not known yet.
func (c *Correlator) name(e *entry, s *policy.Signal) {
	if e.Client.Addr.IsValid() || !s.Addr.IsValid() {
		return
	}
	e.Client.Addr, e.Client.Port = s.Addr, s.Port
	c.indexByClient(e)
}

// gather makes a message the one that the further signals of a group are about.
func (c *Correlator) gather(e *entry, group string) {
	if group == "" || e.group == group || e.gone {
		return
	}
	if e.group != "" && c.byGroup[e.group] == e {
		delete(c.byGroup, e.group)
	}
	e.group = group
	c.byGroup[group] = e
}

// add adds verdicts and trouble to a message, and returns a correction if it was observed and that
// says something new of it.
func (c *Correlator) add(e *entry, more policy.Verdicts, trouble policy.Trouble) *policy.Correction {
	verdicts := e.Verdicts
	for _, v := range more {
		verdicts = verdicts.With(v)
	}
	troubled := e.Trouble == "" && trouble != ""
	if e.Trouble != "" {
		trouble = e.Trouble
	}
	if slices.Equal(verdicts, e.Verdicts) && trouble == e.Trouble {
		c.Stats.Repeated.Add(1)
		return nil
	}
	e.Verdicts, e.Trouble = verdicts, trouble
	if e.observation != nil {
		return nil
	}
	c.Stats.Joined.Add(1)
	was := e.Verdict
	e.Verdict = verdicts.Resolve()
	correction := &policy.Correction{Message: e.Message, Was: was, NewTrouble: troubled}
	e.Forgotten = policy.Verdict{}
	return correction
}

// extend adds what a further signal tells to a message that is pending.
func (e *entry) extend(s *policy.Signal, v policy.Verdict) {
	o, more := e.observation, s.Observation(v)
	e.Mail = e.Mail || s.Mail
	e.Authenticated = e.Authenticated || s.Authenticated
	if o.FromDomain == "" {
		o.FromDomain = s.FromDomain
	}
	if o.HELO == "" {
		o.HELO = s.HELO
	}
	// How it came in the MTA's log knows, and a program that posts may not.
	if said := s.TLS != nil || s.InClear; said && (e.posted || !s.Posted || o.TLS == nil && !o.InClear) {
		o.TLS, o.InClear = s.TLS, s.TLS == nil
		if o.TLS != nil {
			o.STARTTLS = more.STARTTLS
		}
	}
	if s.Outcome != "" || o.Outcome == policy.NoMail {
		o.Outcome = more.Outcome
	}
	// One that was found by its queue id may bear another time: the first one's stays.
	switch {
	case s.Time.Before(e.Began) && e.Began.Sub(s.Time) <= slack:
		e.Began = s.Time
	case s.Time.After(e.Time) && s.Time.Sub(e.Time) <= slack:
		e.Time, e.last = s.Time, s.Time
	}
}
