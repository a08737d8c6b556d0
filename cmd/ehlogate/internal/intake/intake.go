// Package intake is where all that is heard of a message meets: what the milter observes of SMTP
// sessions, and the signals of logs, feeds and people.
//
// Each message counts once, for its own client, at its own time. The correlator finds the message
// that a signal is about; the judge learns its verdict; the event log records it. What is noticed
// of a host and STARTTLS is kept as an exception in the store.
package intake

import (
	"log/slog"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/behaviour"
	"github.com/ehlogate/ehlogate/policy/correlate"
	"github.com/ehlogate/ehlogate/policy/eventlog"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

// Ahead is how far ahead of our clock a time may be that others tell.
const Ahead = time.Minute

// recentMost is how much of the event log is read at the start, in bytes.
const recentMost = 64 << 20

// Store is what intake needs of the store besides the judge.
type Store interface {
	// SetException makes an exception hold, and takes others away that have to go for it.
	SetException(e policy.Exception, gone ...policy.Exception) error
	// KeptExceptions are all exceptions.
	KeptExceptions() *policy.Exceptions
}

// Settings are what the configuration says of intake.
type Settings struct {
	Weights policy.Weights
	// Believed are the sources that are believed whatever they say.
	Believed []policy.Source
	// Node is this host's name in the event log, Events the event log's path.
	Node, Events string
	Anonymize    bool
}

// Stats are counts since the start.
type Stats struct {
	// Messages counts observations of messages, Spam and Ham verdicts on messages: the first of
	// each, and later ones of another class.
	Messages, Spam, Ham atomic.Uint64
	// Told counts messages of which only a log or a post told, ToldTLS those of them over TLS.
	Told, ToldTLS atomic.Uint64
	// Corrections counts later verdicts on messages, Orphaned signals about an unknown message that
	// do not name its client, and OrphanedPosts those of them that a program posted.
	Corrections, Orphaned, OrphanedPosts atomic.Uint64
	// FailedHandshakes counts TLS handshakes that failed, Exceptions what was made of them and of
	// clients that left.
	FailedHandshakes, Exceptions atomic.Uint64
	// Reinjected counts messages that an after-queue filter has put back, ResolverRefused refusals
	// by DNS block lists that are about our resolver.
	Reinjected, ResolverRefused atomic.Uint64
	// Distrusted counts verdicts that were not believed because their source was distrusted.
	Distrusted atomic.Uint64
	// Elsewhere counts what was posted here of messages that other nodes have heard.
	Elsewhere atomic.Uint64
	// Headers counts messages on which a verdict header said something; Observed what was observed
	// of clients other than this host, Private those of private addresses.
	Headers, Observed, Private atomic.Uint64
}

// Intake takes in all that is told of messages. Its exported fields are set before use.
type Intake struct {
	Correlator *correlate.Correlator
	Judge      *policy.Judge
	EventLog   *eventlog.Log
	Store      Store
	Clients    *behaviour.Clients
	Handshakes *behaviour.Handshakes
	Departures *behaviour.Departures
	Sources    *behaviour.Sources
	Variety    *behaviour.Variety
	Settings   func() Settings
	Now        func() time.Time
	Log        *slog.Logger
	// Peers is nil where there is one node.
	Peers Peers

	Stats Stats

	// only is the client that was observed first, several says that there were others.
	only    atomic.Pointer[netip.Addr]
	several atomic.Bool

	reinjections reinjections
	distrusted   distrusted
	elsewhere    elsewhere
	replies      replies
	// excepting bounds how many exceptions are made in a second.
	begin                                  sync.Once
	excepting                              *rate.Limiter
	unstored, oneSided, refused, misplaced throttle
}

// throttle lets a kind of log line through once in a while.
type throttle struct {
	begin sync.Once
	rate.Sometimes
}

func (t *throttle) every(interval time.Duration, say func()) {
	// Sessions and signals come by many ways at once.
	t.begin.Do(func() { t.First, t.Interval = 1, interval })
	t.Do(say)
}

// Receipt is what to wait for until something is durable: first for Learnt, which yields once or is
// nil, then for what Write returns, which yields once. In this order nothing counts twice: what is
// in the event log is known at the next start, and what a store has learnt and is not there, its
// journal tells.
type Receipt struct {
	Message *policy.Message
	Learnt  <-chan error
	Write   func() <-chan error
}

// Restore takes the last hours of the event log into the correlator, so that what is told again, or
// late, of messages before a restart is recognized.
func (in *Intake) Restore() error {
	set := in.Settings()
	if set.Anonymize {
		return nil
	}
	known, err := eventlog.Recent(set.Events, in.Now().Add(-correlate.Remember), recentMost)
	for _, m := range known {
		in.restore(m)
	}
	in.hearRestored(known[max(0, len(known)-restoredMost):])
	return err
}

// restore takes a message of the event log into the correlator.
func (in *Intake) restore(m *policy.Message) {
	if m.Time.After(in.Now()) {
		// The clock was wrong when it was written.
		m.Time = in.bound(m.Time)
	}
	in.Correlator.Restore(m)
}

// bound is a time that others told, no later than a little ahead of our clock, and no older than
// evidence can be.
func (in *Intake) bound(t time.Time) time.Time {
	now := in.Now()
	if latest := now.Add(Ahead); t.After(latest) {
		return latest
	}
	if oldest := now.Add(-reputation.Lifetime); t.Before(oldest) {
		return oldest
	}
	return t
}

// Observe takes an observation of the milter's, with the assessments of its session. The signals
// that came before it are added.
func (in *Intake) Observe(o *policy.Observation, assessments []policy.Assessment) Receipt {
	if policy.IsHere(o.Client.Addr) && o.Mail {
		in.putBack(o, assessments)
		assessments = nil
	}
	for _, a := range assessments {
		in.hearResolver(a)
		o.Verdicts = o.Verdicts.With(in.weigh(a))
	}
	standing := in.compare(o)
	o.Remember()
	in.Correlator.Observe(&o.Message)
	in.countClient(o)
	in.hear(&o.Message, standing)
	r := in.record(o)
	in.notice(o)
	if h := in.Heard(); h.OneSided() {
		in.oneSided.every(time.Hour, func() {
			in.Log.Warn("filters said spam and ham never: a client that sends some spam looks as if it sent nothing else; if your filter marks only spam, set verdict.silence = \"ham\"",
				"messages", h.Messages, "spam", h.Spam)
		})
	}
	return r
}

// compare compares a message with what else its host sent: how much it proves if it is ham, and
// whether it is a bounce that proves nothing. It returns whether the host is one of long standing.
func (in *Intake) compare(o *policy.Observation) (standing bool) {
	if !o.Mail || !o.Teachable() {
		return false
	}
	d, known := in.Judge.Explain(o.Client.Addr)
	now := in.Now()
	standing = known.OfLongStanding(now)
	few := in.Variety.FewBounces(d.Host, o.Bounce, o.Time)
	o.Backscatter = o.Bounce && standing && few
	if o.Outcome != policy.Accepted {
		return standing
	}
	share := in.Variety.Share(d.Host, o.FromDomain, o.To, standing || known.InGoodCompany(now), o.Time)
	if share < 1 {
		o.HamShare = math.Round(share*1000) / 1000
	}
	return standing
}

// Signal takes a signal. What there is to wait for is nil, unless it corrects a message.
func (in *Intake) Signal(s policy.Signal) *Receipt {
	s.Time = in.bound(s.Time)
	if s.Trouble == policy.HandshakeFailed {
		in.handshakeFailed(s.Addr, s.Time)
	}
	in.hearResolver(s.Assessment)
	if policy.IsHere(s.Addr) && s.QueueID != "" {
		// A feed told of what a filter has put back.
		in.reinjections.lock()
		if r, ok := in.reinjections.originalOf(s.QueueID, in.Now()); ok {
			s.QueueID, s.Addr, s.Port = r.Original, r.Addr, r.Port
		}
		in.reinjections.Unlock()
	}
	return in.take(s)
}

// take gives a signal to its message.
func (in *Intake) take(s policy.Signal) *Receipt {
	c, known := in.Correlator.Signal(s, in.weigh(s.Assessment))
	if !known {
		in.ask(s)
	}
	if c == nil {
		return nil
	}
	r := in.correct(c)
	return &r
}

// UnknownUser takes an unknown user that a client asked for, as a log tells; see
// behaviour.Clients.UnknownUser.
func (in *Intake) UnknownUser(client netip.Addr, recipient string, at time.Time) policy.Confidence {
	return in.Clients.UnknownUser(client, recipient, in.bound(at), behaviour.ByLog)
}

// Conclude learns and records what comes of the signals for which no session came, or of all that
// wait. A signal that does not name its client teaches nothing.
func (in *Intake) Conclude(all bool) (receipts []Receipt) {
	in.tellAgain()
	due, corrections := in.Correlator.Due(all)
	for _, c := range corrections {
		receipts = append(receipts, in.correct(c))
	}
	for _, o := range due {
		if !o.Client.Addr.IsValid() {
			in.Stats.Orphaned.Add(1)
			if o.Verdict.Source == policy.FromFeed || o.Verdict.Source == policy.FromRspamd {
				in.Stats.OrphanedPosts.Add(1)
			}
			continue
		}
		in.countTold(o)
		var known policy.Known
		o.Decision, known = in.Judge.Explain(o.Client.Addr)
		o.Remember()
		in.Correlator.Remember(&o.Message)
		in.hear(&o.Message, known.OfLongStanding(in.Now()))
		receipts = append(receipts, in.record(o))
	}
	for _, c := range in.takeBack() {
		receipts = append(receipts, in.correct(c))
	}
	return receipts
}

// Forgot takes note that the evidence of a network was dropped: nothing is taken back any more of
// what was learnt of its clients before. The channel yields nil when that is in the event log.
func (in *Intake) Forgot(n netip.Prefix) <-chan error {
	in.Correlator.Forgot(n)
	set := in.Settings()
	e := eventlog.OfForget(n, in.Now(), set.Node)
	if set.Anonymize {
		e.Anonymize()
	}
	return in.EventLog.Append(e)
}

// Changed writes down what an operator changed of a network. The channel yields nil when that is in
// the event log.
func (in *Intake) Changed(n netip.Prefix, c eventlog.Change) <-chan error {
	set := in.Settings()
	e := eventlog.OfChange(c, n, in.Now(), set.Node)
	if set.Anonymize {
		e.Anonymize()
	}
	return in.EventLog.Append(e)
}

// record learns an observation and writes it down.
func (in *Intake) record(o *policy.Observation) Receipt {
	in.count(o.Verdict)
	return in.receipt(&o.Message, eventlog.Of(o, in.Settings().Node), func(line []byte) <-chan error {
		return in.Judge.LearnLogged(&o.Message, line)
	})
}

// correct learns a correction and writes it down.
func (in *Intake) correct(c *policy.Correction) Receipt {
	in.Stats.Corrections.Add(1)
	if c.Verdict.Class != c.Was.Class {
		in.count(c.Verdict)
	}
	in.hear(&c.Message, false)
	return in.receipt(&c.Message, eventlog.OfCorrection(c, in.Now(), in.Settings().Node), func(line []byte) <-chan error {
		return in.Judge.CorrectLogged(c, line)
	})
}

func (in *Intake) receipt(m *policy.Message, e *eventlog.Event, learn func(line []byte) <-chan error) Receipt {
	if in.Settings().Anonymize {
		e.Anonymize()
	}
	line, err := e.Line()
	write := func() <-chan error { return in.EventLog.AppendLine(line) }
	if err != nil {
		write = func() <-chan error { return in.EventLog.Drop(err) }
	}
	return Receipt{Message: m, Learnt: learn(line), Write: write}
}

func (in *Intake) count(v policy.Verdict) {
	switch v.Class {
	case policy.Spam:
		in.Stats.Spam.Add(1)
	case policy.Ham:
		in.Stats.Ham.Add(1)
	}
}
