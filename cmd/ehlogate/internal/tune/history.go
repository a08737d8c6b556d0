// Package tune runs a trace under many settings of the policy and tells what each would have
// withheld, and from whom.
package tune

import (
	"io"
	"math"
	"net/netip"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/eventlog"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

// History is a trace in memory, a few bytes a row.
type History struct {
	steps []step
	// hosts, networks and systems are how many of each there are; a step has their numbers.
	hosts, networks, systems int
	// First and Last are the times of the first row and the last.
	First, Last time.Time
	// Sessions counts those that were decided, Spam and Ham those of them whose first message was
	// that. Doubtful counts what a program took for ham, of hosts that sent more spam than ham in
	// all of the trace, or hardly anything in a network that did: it may be spam that the filter
	// missed, and is not in Ham. Corrected counts verdicts that were corrected, by people as a
	// rule.
	Sessions, Spam, Ham, Doubtful, Corrected int
}

// step is a row: a session to be decided, a lesson, or both.
type step struct {
	at             int64 // in Unix milliseconds
	host, network  int32
	system         int32 // -1 where it is not known
	slice          uint32
	lesson         reputation.Count
	truth          truth
	decided        bool
	tls            bool // it used TLS, or was not offered it
	early          bool // in the first half of the decided sessions
	exempt, taught bool
	person         bool // truth is what a person said
}

// truth is what a session's mail was, as far as is known by the end of the trace.
type truth int8

const (
	unknown truth = iota
	spam
	ham
)

func truthOf(c policy.Class) truth {
	switch c {
	case policy.Spam:
		return spam
	case policy.Ham:
		return ham
	}
	return unknown
}

// message is by what a correction of the daemon's own names what it corrects.
type message struct {
	addr netip.Addr
	at   int64
}

// reader makes a History of rows.
type reader struct {
	History
	policy   *policy.Policy
	host     map[netip.Prefix]int32
	network  map[netip.Prefix]int32
	system   map[uint32]int32
	sessions map[string]struct{}
	// byID and byTime have the steps of the rows that a later one may correct.
	byID        map[int]int
	byTime      map[message]int
	corrections *eventlog.Corrections
}

// Read reads a trace as the policy cuts addresses and exempts them.
func Read(trace io.Reader, p *policy.Policy) (*History, error) {
	r := &reader{
		policy: p, host: map[netip.Prefix]int32{}, network: map[netip.Prefix]int32{}, system: map[uint32]int32{},
		sessions: map[string]struct{}{}, byID: map[int]int{}, byTime: map[message]int{}, corrections: eventlog.NewCorrections(),
	}
	for row, err := range eventlog.Rows(trace) {
		if err != nil {
			return nil, err
		}
		r.row(&row)
	}
	r.hosts, r.networks, r.systems = len(r.host), len(r.network), len(r.system)
	r.settle()
	return &r.History, nil
}

// fewHam is how many ham messages a host of a network that sent mostly spam has at most, to be
// doubted for its neighbours.
const fewHam = 2

// settle counts the decided sessions by what their mail was.
func (r *reader) settle() {
	type tally struct{ spam, ham int }
	hosts, networks := make([]tally, r.hosts), make([]tally, r.networks)
	for i := range r.steps {
		switch s := &r.steps[i]; {
		case !s.decided:
		case s.truth == spam:
			hosts[s.host].spam++
			networks[s.network].spam++
		case s.truth == ham:
			hosts[s.host].ham++
			networks[s.network].ham++
		}
	}
	doubtful := func(s *step) bool {
		h, n := hosts[s.host], networks[s.network]
		return !s.person && (h.spam > 0 && h.spam >= h.ham || h.ham <= fewHam && n.spam > n.ham)
	}
	seen := 0
	for i := range r.steps {
		s := &r.steps[i]
		if !s.decided {
			continue
		}
		seen++
		s.early = seen <= r.Sessions/2
		switch {
		case s.truth == spam:
			r.Spam++
		case s.truth == ham && doubtful(s):
			r.Doubtful++
			s.truth = unknown
		case s.truth == ham:
			r.Ham++
		}
	}
}

func (r *reader) row(row *eventlog.Row) {
	if r.First.IsZero() || row.Time.Before(r.First) {
		r.First = row.Time
	}
	if row.Time.After(r.Last) {
		r.Last = row.Time
	}
	m := row.Message()
	switch {
	case row.Correction && row.Of.Before(r.First):
		// What it corrects lies before the trace.
		return
	case row.Correction:
		i, known := r.byTime[message{row.Addr, row.Of.UnixMilli()}]
		if !known {
			i = notInTrace
		}
		r.correct(row, &policy.Correction{Message: m, Was: row.Was}, i)
		return
	case row.CorrectionOf != 0:
		if c, ok := r.corrections.Correct(row); ok {
			r.correct(row, &c, r.byID[row.CorrectionOf])
		}
		return
	}
	_, again := r.sessions[row.Session]
	if row.Session != "" {
		r.sessions[row.Session] = struct{}{}
	}
	if !row.Addr.IsValid() {
		return
	}
	s := r.step(row.Time, row.Addr)
	s.truth, s.person = truthOf(row.Verdict.Class), row.Verdict.Source.People()
	s.tls = row.TLS || row.STARTTLS == policy.Withheld
	if !again {
		s.decided = true
		r.Sessions++
	}
	if l, ok := m.Lesson(); ok {
		s.teach(l)
	}
	r.steps = append(r.steps, s)
	if !row.Named {
		r.byTime[message{row.Addr, row.Time.UnixMilli()}] = len(r.steps) - 1
		return
	}
	r.byID[row.ID] = len(r.steps) - 1
	if c, ok := r.corrections.Row(row); ok {
		r.correct(row, &c, r.byID[row.ID])
	}
}

// notInTrace stands for the step of a message that is not in the trace.
const notInTrace = -1

// correct takes a verdict back when the correction came in. What the mail was is known from then
// on, and judged by from the start.
func (r *reader) correct(at *eventlog.Row, c *policy.Correction, i int) {
	r.Corrected++
	if i != notInTrace {
		r.steps[i].truth, r.steps[i].person = truthOf(c.Verdict.Class), c.Verdict.Source.People()
	}
	if l, ok := c.Lesson(); ok {
		s := r.step(at.Time, c.Client.Addr)
		s.teach(l)
		r.steps = append(r.steps, s)
	}
}

func (r *reader) step(at time.Time, addr netip.Addr) step {
	k := r.policy.Keys(addr)
	s := step{at: at.UnixMilli(), host: number(r.host, k.Host), network: number(r.network, k.Network), system: -1, exempt: r.policy.Exempts(addr)}
	if k.ASN != 0 {
		s.system = number(r.system, k.ASN)
	}
	return s
}

func (s *step) teach(l policy.Lesson) {
	s.slice, s.lesson, s.taught = reputation.Slice(l.At), reputation.CountOf(l.Spam, l.Ham), true
}

// number is the number of a key, in the order in which keys come.
func number[K comparable](m map[K]int32, k K) int32 {
	n, ok := m[k]
	if !ok {
		if len(m) == math.MaxInt32 {
			panic("more than two thousand million clients")
		}
		n = int32(len(m))
		m[k] = n
	}
	return n
}
