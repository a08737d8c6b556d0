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
	// ones heard of.
	mostWitnesses = 32
	// chance is how probable at most it may be that a source which is as it always was calls the
	// last messages of so many networks spam: about once in some million messages.
	chance = 2e-7
	// usualSpam of usualSeen messages are what a source usually calls spam before anything is known
	// of it; leastUsual is the least that is believed: no filter is without fault.
	usualSpam, usualSeen = 1.0, 25.0
	leastUsual           = 0.02
	// usualOver is over how many messages the usual share goes. Of each network one counts in
	// usualEvery, so that what a busy sender is called now does not pass for usual.
	usualOver  = 1000
	usualEvery = time.Hour
	// settled is how old a message is when all sources have spoken of it that will, as a rule.
	settled = 10 * time.Second
	// witnessFor is how long a network is a witness after it was last heard of.
	witnessFor = 24 * time.Hour
)

// Sources watches the sources of verdicts for one that has gone mad: a filter whose rules are
// broken and that calls all mail spam, or a block list that suddenly lists every address.
//
// Hosts of long standing bear witness. Each network of theirs, or autonomous system where that is
// known, has one voice, which is its last message, so that one sender that was broken into is no
// crowd. A source is distrusted when it called the last messages of so many of them spam that this
// cannot be by chance, given how often it usually does. It is trusted again when it has called none
// of the last messages of as many networks spam.
type Sources struct {
	mu sync.Mutex
	// witnesses are in the order in which they were last heard of, the last one first.
	witnesses  []*witness
	usual      map[policy.Source]*share
	distrusted map[policy.Source]Turn
}

// Turn is that a source is distrusted, or no longer.
type Turn struct {
	Source     policy.Source
	Distrusted bool
	// Since is the time of the first message of those for which it is distrusted; Networks is how
	// many networks they came from, and Usual the share of such hosts' messages that it usually
	// calls spam.
	Since    time.Time
	Networks int
	Usual    float64
	// decided is the time of the message that decided it.
	decided time.Time
}

// share counts messages.
type share struct{ spam, seen float64 }

// witness is a network of hosts of long standing, with its last message.
type witness struct {
	by      voice
	message messageID
	at      time.Time
	// counted is the time of the last message that was counted for what is usual.
	counted time.Time
	// spam is for each source that called the last message spam, the time of the first of its
	// messages in a row that it called so; before is the same as it was at the message before, which
	// holds until the sources have spoken of the last one.
	spam, before map[policy.Source]time.Time
}

// voice is who has a voice: an autonomous system, or a network where that is not known.
type voice struct {
	asn     uint32
	network netip.Prefix
}

// messageID tells a message from others.
type messageID struct {
	session string
	addr    netip.Addr
	at      int64
}

// NewSources returns a watch that distrusts nobody.
func NewSources() *Sources {
	return &Sources{usual: map[policy.Source]*share{}, distrusted: map[policy.Source]Turn{}}
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
	by := voice{network: k.Network}
	if k.ASN != 0 {
		by = voice{asn: k.ASN}
	}
	id := messageID{m.Session, m.Client.Addr, m.Time.UnixNano()}
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.witness(by)
	switch {
	case w != nil && w.message == id:
	case !standing:
		return nil
	default:
		w = s.step(w, by, m.Time)
		w.message = id
	}
	for _, v := range m.Verdicts {
		if !watched(v.Source) || v.Said() != policy.Spam {
			continue
		}
		if s.usual[v.Source] == nil {
			s.usual[v.Source] = &share{usualSpam, usualSeen}
		}
		if _, known := w.spam[v.Source]; !known {
			w.call(v.Source, m.Time)
		}
	}
	for source := range s.usual {
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

// step makes a network the last one heard of, with a new message. The one before it is counted.
func (s *Sources) step(w *witness, by voice, at time.Time) *witness {
	if w == nil {
		w = &witness{by: by}
		if len(s.witnesses) == mostWitnesses {
			s.count(s.witnesses[mostWitnesses-1])
			s.witnesses = s.witnesses[:mostWitnesses-1]
		}
	} else {
		s.count(w)
		s.witnesses = slices.DeleteFunc(s.witnesses, func(o *witness) bool { return o == w })
	}
	s.witnesses = slices.Insert(s.witnesses, 0, w)
	w.before, w.spam, w.at = w.spam, nil, at
	return w
}

// call takes note that a source called the last message spam.
func (w *witness) call(source policy.Source, at time.Time) {
	if w.spam == nil {
		w.spam = map[policy.Source]time.Time{}
	}
	w.spam[source] = at
	if before, ok := w.before[source]; ok && before.Before(at) {
		w.spam[source] = before
	}
}

// count counts the last message of a network into what the sources usually do.
func (s *Sources) count(w *witness) {
	if within(w.at, w.counted, usualEvery) {
		return
	}
	w.counted = w.at
	for source, u := range s.usual {
		if s.distrusted[source].Distrusted {
			continue
		}
		u.seen++
		if _, spam := w.spam[source]; spam {
			u.spam++
		}
		if u.seen > usualOver {
			u.seen, u.spam = u.seen/2, u.spam/2
		}
	}
}

// calls reports whether a source calls the last message of a network spam at a time, and since when
// it has called its messages so. As long as it may not have spoken, what it said before holds.
func (w *witness) calls(source policy.Source, at time.Time) (since time.Time, ok bool) {
	if since, ok = w.spam[source]; !ok && at.Sub(w.at) < settled {
		since, ok = w.before[source]
	}
	return since, ok
}

// judge finds whether a source turns.
func (s *Sources) judge(source policy.Source, at time.Time) (t Turn, turned bool) {
	t, distrusted := s.distrusted[source]
	if distrusted {
		if turned = s.acquitted(source, t, at); turned {
			t.Distrusted = false
			s.trust(source)
		}
		return t, turned
	}
	usual := s.usual[source].spam / s.usual[source].seen
	t = Turn{Source: source, Distrusted: true, Usual: usual, Since: at, decided: at}
	seen := 0
	for _, w := range s.witnesses {
		if at.Sub(w.at) > witnessFor {
			break
		}
		seen++
		since, spam := w.calls(source, at)
		if !spam {
			continue
		}
		t.Networks++
		if since.Before(t.Since) {
			t.Since = since
		}
		if unlikely(t.Networks, seen, max(usual, leastUsual)) {
			s.distrusted[source] = t
			return t, true
		}
	}
	return t, false
}

// trust trusts a source again, and forgets what it called spam until then.
func (s *Sources) trust(source policy.Source) {
	delete(s.distrusted, source)
	for _, w := range s.witnesses {
		delete(w.spam, source)
		delete(w.before, source)
	}
}

// acquitted reports whether as many networks as a source is distrusted for were heard of since, and
// it called none of their last messages spam.
func (s *Sources) acquitted(source policy.Source, t Turn, at time.Time) bool {
	seen := 0
	for _, w := range s.witnesses {
		if _, spam := w.spam[source]; spam || !w.at.After(t.decided) {
			return false
		}
		if _, spam := w.calls(source, at); spam || len(w.spam) > 0 {
			// It may not have spoken yet, or had nothing to speak of: another source refused the
			// message.
			continue
		}
		if seen++; seen == t.Networks {
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
