package behaviour

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// senders is a watch with the mail of hosts of long standing.
type senders struct {
	*Sources
	clock time.Time
	sent  int
	turns []Turn
}

func newSenders() *senders { return &senders{Sources: NewSources(), clock: now} }

func keys(network int) policy.Keys {
	return policy.Keys{Network: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, byte(network >> 8), byte(network), 0}), 24)}
}

// message is the next message of a host in a network.
func (s *senders) message(network, host int) *policy.Message {
	s.sent++
	addr := keys(network).Network.Addr().As4()
	addr[3] = byte(host)
	return &policy.Message{Time: s.clock, Session: fmt.Sprint(s.sent), Client: policy.Client{Addr: netip.AddrFrom4(addr)}, Mail: true}
}

func (s *senders) hear(m *policy.Message, network int, standing bool) {
	s.turns = append(s.turns, s.Hear(m, keys(network), standing, nil)...)
}

// send sends a message of a host of long standing half a minute later, of which the filter says a
// class.
func (s *senders) send(network int, class policy.Class) *policy.Message {
	s.clock = s.clock.Add(30 * time.Second)
	m := s.message(network, 7)
	s.say(m, class)
	s.hear(m, network, true)
	return m
}

func (s *senders) say(m *policy.Message, class policy.Class) {
	v := policy.Verdict{Class: class, Weight: 1, Source: policy.FromHeader}
	if s.Distrusts(v.Source) {
		v = v.Distrust()
	}
	m.Verdicts = policy.Verdicts{v}
}

// sane sends ham from some networks.
func (s *senders) sane(networks, rounds int) {
	for i := range networks * rounds {
		s.send(i%networks, policy.Ham)
	}
}

func TestAFilterGoneMadIsDistrustedUntilItIsOver(t *testing.T) {
	s := newSenders()
	s.sane(8, 20)
	began := s.clock
	for i := range 100 {
		s.send(i%8, policy.Spam)
	}
	if len(s.turns) != 1 || !s.turns[0].Distrusted || s.turns[0].Networks > 8 || s.turns[0].Since.Sub(began) != 30*time.Second {
		t.Fatalf("%+v", s.turns)
	}
	if d := s.Distrusted(); len(d) != 1 || d[0].Since != s.turns[0].Since {
		t.Errorf("%+v", d)
	}
	if s.Distrusts(policy.FromRspamd) {
		t.Error("another source is distrusted, too")
	}
	s.sane(8, 1)
	if len(s.turns) != 2 || s.turns[1].Distrusted || s.turns[1].Source != policy.FromHeader || len(s.Distrusted()) != 0 {
		t.Fatalf("%+v", s.turns)
	}
	s.sane(8, 20)
	if len(s.turns) != 2 {
		t.Errorf("%+v", s.turns)
	}
}

// One provider that is broken into is no crowd, however many hosts it has, nor are strangers.
func TestOneVoiceANetwork(t *testing.T) {
	s := newSenders()
	s.sane(8, 20)
	for i := range 200 {
		m := s.message(i%2, 10+i%100)
		s.say(m, policy.Spam)
		s.hear(m, i%2, true)
		m = s.message(100+i, 7)
		s.say(m, policy.Spam)
		s.hear(m, 100+i, false)
	}
	if len(s.turns) > 0 {
		t.Errorf("%+v", s.turns)
	}
	// An autonomous system has one voice, too, where it is known.
	for i := range 50 {
		m := s.message(200+i, 7)
		s.say(m, policy.Spam)
		k := keys(200 + i)
		k.ASN = 64500
		s.turns = append(s.turns, s.Hear(m, k, true, nil)...)
	}
	if len(s.turns) > 0 {
		t.Errorf("%+v", s.turns)
	}
}

// A log or a feed speaks of a message after the milter, of several messages at once.
func TestASourceThatSpeaksLateIsWatchedLikeAnother(t *testing.T) {
	s := newSenders()
	for i := range 400 {
		m := s.message(i%8, 7)
		s.hear(m, i%8, true)
		s.clock = s.clock.Add(2 * time.Second)
		if class := policy.Ham; i >= 200 && i < 300 {
			class = policy.Spam
			s.say(m, class)
			s.hear(m, i%8, false)
		}
		if want := i >= 205 && i < 300; i%100 > 20 && s.Distrusts(policy.FromHeader) != want {
			t.Fatalf("after %d: %+v", i, s.turns)
		}
	}
	if len(s.turns) != 2 {
		t.Errorf("%+v", s.turns)
	}
}

// What a filter usually does is no reason to distrust it: honest providers send 2 to 12 % spam, and
// a filter flags some of the ham.
func TestAFilterThatIsAsUsualIsTrusted(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, usual := range []float64{0.003, 0.03, 0.12, 0.3} {
		s := newSenders()
		for range 60_000 {
			class := policy.Ham
			if rng.Float64() < usual {
				class = policy.Spam
			}
			s.send(rng.IntN(40), class)
		}
		// Of a filter that always flagged so much it has to be learnt.
		if len(s.turns) > 0 && usual < 0.3 || len(s.turns) > 4 {
			t.Errorf("%v: %+v", usual, s.turns)
		}
		began := s.sent
		for !s.Distrusts(policy.FromHeader) {
			if s.send(rng.IntN(40), policy.Spam); s.sent > began+100 {
				t.Fatalf("%v: all is spam, and nobody is distrusted", usual)
			}
		}
		t.Logf("usually %.1f %% spam: distrusted after %d messages", 100*usual, s.sent-began)
	}
}

// A few of many is no reason, if they came one after another.
func TestWhatIsLongPastIsNotHeldAgainstASource(t *testing.T) {
	s := newSenders()
	s.sane(8, 20)
	for network := range 3 {
		s.send(network, policy.Spam)
	}
	s.clock = s.clock.Add(witnessFor)
	for network := 3; network < 5; network++ {
		s.send(network, policy.Spam)
	}
	if len(s.turns) > 0 {
		t.Errorf("%+v", s.turns)
	}
}

func TestPeopleTrapsAndWhoIsBelievedAreNotDistrusted(t *testing.T) {
	for _, c := range []struct {
		source   policy.Source
		believed []policy.Source
	}{
		{policy.FromPerson, nil}, {policy.FromReport, nil}, {policy.FromTrap, nil}, {policy.FromHeader, []policy.Source{policy.FromHeader}},
	} {
		s := newSenders()
		for i := range 100 {
			m := s.message(i%8, 7)
			m.Verdicts = policy.Verdicts{{Class: policy.Spam, Weight: 1, Source: c.source}}
			s.turns = append(s.turns, s.Hear(m, keys(i%8), true, c.believed)...)
		}
		if len(s.turns) > 0 {
			t.Errorf("%s: %+v", c.source, s.turns)
		}
	}
	// Who is believed from now on is trusted at once.
	s := newSenders()
	for i := range 8 {
		s.send(i, policy.Spam)
	}
	m := s.message(9, 7)
	s.say(m, policy.Spam)
	if s.Hear(m, keys(9), true, []policy.Source{policy.FromHeader}); !s.turns[0].Distrusted || s.Distrusts(policy.FromHeader) {
		t.Errorf("%+v", s.turns)
	}
}

func TestWitnessesAreBounded(t *testing.T) {
	s := newSenders()
	for i := range 10_000 {
		s.send(i, policy.Spam)
	}
	if len(s.witnesses) != mostWitnesses || len(s.witnesses[0].messages) > mostHeard {
		t.Errorf("%d", len(s.witnesses))
	}
}

// A filter that refuses all mail writes no headers, which is no proof that its headers are right.
func TestWhatAnotherSourceRefusedAcquitsNobody(t *testing.T) {
	s := newSenders()
	s.sane(8, 20)
	for i := range 20 {
		s.send(i%8, policy.Spam)
	}
	for i := range 40 {
		s.clock = s.clock.Add(30 * time.Second)
		m := s.message(i%8, 7)
		m.Verdicts = policy.Verdicts{{Class: policy.Spam, Weight: 1, Source: policy.FromMilterReject}}
		s.hear(m, i%8, true)
	}
	if len(s.turns) != 2 || !s.turns[1].Distrusted || !s.Distrusts(policy.FromHeader) {
		t.Errorf("%+v", s.turns)
	}
}

// A network that falls silent, or a clock that was ahead, does not keep a source distrusted.
func TestASourceIsNotDistrustedForEver(t *testing.T) {
	mad := func() *senders {
		s := newSenders()
		s.sane(8, 200)
		for i := range 40 {
			s.send(i%8, policy.Spam)
		}
		if !s.Distrusts(policy.FromHeader) {
			t.Fatal("it is believed")
		}
		return s
	}
	s := mad()
	for i := range 200 {
		s.send(i%7, policy.Ham)
	}
	if s.Distrusts(policy.FromHeader) {
		t.Error("one network of eight has fallen silent, and it is distrusted still")
	}
	s = newSenders()
	s.clock = s.clock.Add(48 * time.Hour)
	for i := range 16 {
		s.send(i%8, policy.Spam)
	}
	s.clock = now
	s.sane(8, 20)
	if s.Distrusts(policy.FromHeader) {
		t.Error("the clock was ahead, and it is distrusted still")
	}
	// It is still mad after a day: that is seen at once.
	s = mad()
	for range 3 {
		s.clock = s.clock.Add(distrustMost)
		for i := range 24 {
			s.send(i%8, policy.Spam)
		}
		if !s.Distrusts(policy.FromHeader) {
			t.Error("it is mad still, and believed")
		}
	}
}

// A bad hour of honest providers is no madness of the filter's.
func TestAWaveOfSpamIsNoMadness(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	s, distrusted := newSenders(), 0
	for hour := range 24 * 10 {
		share := 0.06
		if hour%24 == 3 {
			share = 0.24
		}
		for range 120 {
			class := policy.Ham
			if rng.Float64() < share {
				class = policy.Spam
			}
			if s.send(rng.IntN(8), class); s.Distrusts(policy.FromHeader) {
				distrusted++
			}
		}
	}
	if distrusted > 60 {
		t.Errorf("distrusted for %d of %d messages: %+v", distrusted, s.sent, s.turns)
	}
}
