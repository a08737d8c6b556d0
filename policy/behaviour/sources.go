package behaviour

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

const (
	// mostWitnesses bounds the networks of hosts of long standing that are remembered, the last
	// ones heard of; mostHeard the messages of one, of which one is looked at in heardEvery.
	mostWitnesses = 32
	mostHeard     = 12
	heardEvery    = time.Second
	// mostRun is how many messages in a row of one network count, leastNetworks how many networks
	// it takes.
	mostRun       = 3
	leastNetworks = 4
	// chance is how probable it may be that a source calls as much spam as it did, were it as it
	// always was, or twice as severe: for a wave of spam through honest providers it is.
	chance = 1e-7
	severe = 2
	// usualSpam of usualSeen messages are what a source calls spam before anything is known; what
	// it says of all networks counts as much as ofNetwork messages of each. leastUsual is the least
	// that is believed. One message of a network counts for what is usual in usualEvery, so that an
	// hour changes little, and usualOver are remembered, a week.
	usualSpam, usualSeen = 2.5, 50.0
	ofNetwork            = 10.0
	leastUsual           = 0.1
	usualEvery           = 5 * time.Minute
	usualOver            = 2000
	// settled is how old a message is when all sources have spoken of it that will, as a rule.
	settled = 10 * time.Second
	// witnessFor is how long a network is a witness after it was last heard of.
	witnessFor = 24 * time.Hour
	// distrustLeast is how long a source is distrusted at least; each time that it happens again
	// within relapseWithin, four times as long, up to distrustRelapsed. distrustMost is how long it
	// is distrusted without new evidence. After acquitAfter fewer networks are enough.
	distrustLeast    = settled
	distrustRelapsed = 6 * time.Hour
	distrustMost     = 24 * time.Hour
	relapseWithin    = 24 * time.Hour
	acquitAfter      = time.Hour
	acquitLeast      = 3
)

// Sources watches the sources of verdicts for one that has gone mad: a filter whose rules are
// broken and that calls all mail spam, or a block list that suddenly lists every address.
//
// Hosts of long standing bear witness, by the last messages of each network of theirs, or of each
// autonomous system where that is known: no more than three messages each, so that one sender that
// was broken into is no crowd. A source is distrusted when it called so many of them spam that this
// cannot be by chance, given how often it usually calls the mail of those networks so. It is
// trusted again when it calls no more than a quarter of them spam, or after a day; if it is still
// mad then, that shows within a few messages.
type Sources struct {
	mu sync.Mutex
	// witnesses are in the order in which they were last heard of, the last one first.
	witnesses []*witness
	// known are the sources that ever called anything spam, with what is usual of all networks.
	known map[policy.Source]*share
	// counted are the messages that were counted for what is usual.
	counted    float64
	distrusted map[policy.Source]Turn
	// last is when each source was last distrusted.
	last map[policy.Source]Turn
}

// Turn is that a source is distrusted, or no longer.
type Turn struct {
	Source     policy.Source
	Distrusted bool
	// Since is the time of the first message of those for which it is distrusted; Networks is how
	// many networks they came from, and Usual the share of their messages that it usually calls
	// spam. Relapse counts how often it was distrusted within a day before.
	Since    time.Time
	Networks int
	Usual    float64
	Relapse  int
	// accused are since when it called the mail of those networks spam; decided is the time of the
	// message that decided it.
	accused map[voice]time.Time
	decided time.Time
}

// From is the time from which on what the source said of a client is taken back: of those for which
// it is distrusted, all that it said in a row.
func (t Turn) From(k policy.Keys) time.Time {
	if since, ok := t.accused[voiceOf(k)]; ok {
		return since
	}
	return t.Since
}

// share counts messages.
type share struct{ spam, seen float64 }

// witness is a network of hosts of long standing.
type witness struct {
	by voice
	// messages are its last ones, the last one first.
	messages []*heard
	usual    map[policy.Source]*share
	// counted are its messages that were counted for what is usual, last is when.
	counted float64
	last    time.Time
}

// heard is a message, and what each source said of it.
type heard struct {
	id   messageID
	at   time.Time
	said map[policy.Source]policy.Class
}

// voice is who has a voice: an autonomous system, or a network where that is not known.
type voice struct {
	asn     uint32
	network netip.Prefix
}

func voiceOf(k policy.Keys) voice {
	if k.ASN != 0 {
		return voice{asn: k.ASN}
	}
	return voice{network: k.Network}
}

// messageID tells a message from others.
type messageID struct {
	session string
	addr    netip.Addr
	at      int64
}

// NewSources returns a watch that distrusts nobody.
func NewSources() *Sources {
	return &Sources{known: map[policy.Source]*share{}, distrusted: map[policy.Source]Turn{}, last: map[policy.Source]Turn{}}
}

// watched reports whether a source is one that may be distrusted: people are not, nor traps, which
// are the operator's own, nor silence, which calls nothing spam.
func watched(s policy.Source) bool {
	return s != "" && !s.People() && s != policy.FromTrap && s != policy.FromSilence
}

// Distrusts reports whether a source is distrusted.
func (s *Sources) Distrusts(source policy.Source) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.distrusted[source].Distrusted
}

// Distrusted are the sources that are distrusted.
func (s *Sources) Distrusted() (all []Turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.distrusted {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b Turn) int { return cmp.Compare(a.Source, b.Source) })
	return all
}

// Hear takes a message with the verdicts on it so far, and returns the sources that are distrusted
// from now on, or trusted again. standing says that the message's client is a host of long
// standing; a message that is heard again, for a later verdict, is known without it. What is
// believed in any case is never distrusted.
func (s *Sources) Hear(m *policy.Message, k policy.Keys, standing bool, believed []policy.Source) (turns []Turn) {
	by, id := voiceOf(k), messageID{m.Session, m.Client.Addr, m.Time.UnixNano()}
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.witness(by)
	h := w.find(id)
	switch {
	case h != nil:
	case !standing, w != nil && within(m.Time, w.messages[0].at, heardEvery):
		return nil
	default:
		h = s.step(w, by, &heard{id: id, at: m.Time, said: map[policy.Source]policy.Class{}})
	}
	for _, v := range m.Verdicts {
		if said := v.Said(); watched(v.Source) && said != policy.None {
			h.said[v.Source] = said
			if said == policy.Spam && s.known[v.Source] == nil {
				s.known[v.Source] = &share{usualSpam, min(usualSeen+s.counted, usualOver)}
			}
		}
	}
	for source := range s.known {
		if slices.Contains(believed, source) {
			s.trust(source)
		} else if t, turned := s.judge(source, m.Time); turned {
			turns = append(turns, t)
		}
	}
	return turns
}

func (s *Sources) witness(by voice) *witness {
	for _, w := range s.witnesses {
		if w.by == by {
			return w
		}
	}
	return nil
}

func (w *witness) find(id messageID) *heard {
	if w == nil {
		return nil
	}
	for _, h := range w.messages {
		if h.id == id {
			return h
		}
	}
	return nil
}

// step makes a network the last one heard of, with a new message.
func (s *Sources) step(w *witness, by voice, h *heard) *heard {
	if w == nil {
		w = &witness{by: by, usual: map[policy.Source]*share{}}
		s.witnesses = s.witnesses[:min(len(s.witnesses), mostWitnesses-1)]
	} else {
		s.witnesses = slices.DeleteFunc(s.witnesses, func(o *witness) bool { return o == w })
	}
	s.witnesses = slices.Insert(s.witnesses, 0, w)
	s.count(w, h.at)
	w.messages = slices.Insert(w.messages[:min(len(w.messages), mostHeard-1)], 0, h)
	return h
}

// count counts a message of a network into what the sources usually say of it: the last one of
// which all have spoken.
func (s *Sources) count(w *witness, at time.Time) {
	i := slices.IndexFunc(w.messages, func(h *heard) bool { return at.Sub(h.at) >= settled })
	if i < 0 || within(at, w.last, usualEvery) {
		return
	}
	w.last = at
	for source, all := range s.known {
		if s.distrusted[source].Distrusted {
			// What it says now is not what it usually says.
			continue
		}
		if w.usual[source] == nil {
			w.usual[source] = &share{seen: w.counted}
		}
		spam := w.messages[i].said[source] == policy.Spam
		all.add(spam)
		w.usual[source].add(spam)
	}
	w.counted, s.counted = min(w.counted+1, usualOver), min(s.counted+1, usualOver)
}

func (u *share) add(spam bool) {
	u.seen++
	if spam {
		u.spam++
	}
	if u.seen > usualOver {
		u.seen, u.spam = u.seen/2, u.spam/2
	}
}

// usually is the share of a network's messages that a source usually calls spam, by what it says of
// all networks and of this one.
func (s *Sources) usually(w *witness, source policy.Source) float64 {
	all := s.known[source].spam / s.known[source].seen
	u := w.usual[source]
	if u == nil {
		return all
	}
	return (ofNetwork*all + u.spam) / (ofNetwork + u.seen)
}

// calls reports how many of a network's last messages a source calls spam at a time, one after the
// other, and of how many. Of a new message of which the source has not spoken nothing is known; the
// last one that is settled stands for it then.
func (w *witness) calls(source policy.Source, at time.Time) (run, of int) {
	messages := w.messages
	if h := messages[0]; h.said[source] == "" && at.Sub(h.at) < settled {
		i := slices.IndexFunc(messages, func(h *heard) bool { return at.Sub(h.at) >= settled })
		if i < 0 {
			return 0, 0
		}
		messages = messages[i:]
	}
	for _, h := range messages {
		if h.said[source] == policy.Spam {
			if run++; run == mostRun {
				break
			}
		} else if h.said[source] != "" || at.Sub(h.at) >= settled {
			break
		}
	}
	return run, max(run, 1)
}

// since is the time of the first message in a row that a source called spam, of those remembered,
// and of the last of them.
func (w *witness) since(source policy.Source) (first, last time.Time) {
	for _, h := range w.messages {
		switch {
		case h.said[source] == policy.Spam:
			if first = h.at; last.IsZero() {
				last = h.at
			}
		case !last.IsZero() && h.said[source] != "":
			return first, last
		}
	}
	return first, last
}

// judge finds whether a source turns.
func (s *Sources) judge(source policy.Source, at time.Time) (t Turn, turned bool) {
	t, distrusted := s.distrusted[source]
	if distrusted {
		if t.decided.After(at) {
			// The clock was ahead.
			t.decided = at
			s.distrusted[source] = t
		}
		if turned = s.acquitted(&t, at); turned {
			t.Distrusted = false
			t.decided = at
			s.last[source] = t
			s.trust(source)
		}
		return t, turned
	}
	t = Turn{Source: source, Distrusted: true, Since: at, decided: at}
	spam, seen, usual, expected := 0, 0, 0.0, 0.0
	for _, w := range s.witnesses {
		if at.Sub(w.messages[0].at) > witnessFor {
			break
		}
		run, of := w.calls(source, at)
		usually := s.usually(w, source) * float64(of)
		seen, usual = seen+of, usual+usually
		expected += max(severe*usually, leastUsual*float64(of))
		if run == 0 {
			continue
		}
		spam += run
		t.Networks++
		first, last := w.since(source)
		if t.accused == nil {
			t.accused = map[voice]time.Time{}
		}
		t.accused[w.by] = first
		if last.Before(t.Since) {
			t.Since = last
		}
		if t.Networks >= leastNetworks && unlikely(spam, seen, expected/float64(seen)) {
			t.Usual = usual / float64(seen)
			if last, ok := s.last[source]; ok && within(at, last.decided, relapseWithin) {
				t.Relapse = last.Relapse + 1
			}
			s.distrusted[source] = t
			return t, true
		}
	}
	return t, false
}

// trust trusts a source, and forgets what it called spam until then.
func (s *Sources) trust(source policy.Source) {
	if _, distrusted := s.distrusted[source]; !distrusted {
		return
	}
	delete(s.distrusted, source)
	for _, w := range s.witnesses {
		for _, h := range w.messages {
			if h.said[source] == policy.Spam {
				delete(h.said, source)
			}
		}
	}
}

// acquitted reports whether a source is no longer distrusted.
func (s *Sources) acquitted(t *Turn, at time.Time) bool {
	age := at.Sub(t.decided)
	least := distrustRelapsed
	if t.Relapse < 6 {
		least = min(distrustLeast<<(2*t.Relapse), distrustRelapsed)
	}
	if age < least || age > distrustMost {
		return age > distrustMost
	}
	seen, spam := 0, 0
	for _, w := range s.witnesses {
		if seen == t.Networks || !w.messages[0].at.After(t.decided) {
			break
		}
		switch run, of := w.calls(t.Source, at); {
		case run > 0:
			seen, spam = seen+1, spam+1
		case of > 0 && !w.refused():
			seen++
		}
	}
	return (seen == t.Networks || seen >= acquitLeast && age >= acquitAfter) && 4*spam <= seen
}

// refused reports whether any source called a network's last message spam: it may have been refused
// then, and the others had nothing to speak of.
func (w *witness) refused() bool {
	for _, said := range w.messages[0].said {
		if said == policy.Spam {
			return true
		}
	}
	return false
}

// unlikely reports whether it cannot be by chance that so many of all have something that each has
// with a probability: by Chernoff's bound on the tail of the binomial distribution.
func unlikely(some, all int, p float64) bool {
	share := float64(some) / float64(all)
	if share <= p {
		return false
	}
	divergence := share * math.Log(share/p)
	if share < 1 {
		divergence += (1 - share) * math.Log((1-share)/(1-p))
	}
	return float64(all)*divergence > -math.Log(chance)
}
