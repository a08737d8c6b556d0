package intake

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/behaviour"
	"github.com/ehlogate/ehlogate/policy/eventlog"
	"github.com/ehlogate/ehlogate/policy/store"
)

// wellKnown are hosts of long standing in as many networks.
const wellKnown = 8

func host(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, byte(i), 7}) }

// mail is a message of a host that ends now.
func (n *node) mail(i int) *policy.Observation {
	addr := host(i)
	o := &policy.Observation{
		Message: policy.Message{
			Time: n.clock, Began: n.clock.Add(-time.Second), Session: fmt.Sprint(n.clock.UnixNano(), addr), QueueID: fmt.Sprint("Q", n.clock.UnixNano(), "-", i),
			Client: policy.Client{Addr: addr}, Mail: true,
		},
		Outcome: policy.Accepted, STARTTLS: policy.Offered,
	}
	o.Decision = n.in.Judge.Decide(addr)
	return o
}

func (n *node) wait(d time.Duration) { n.until(n.clock.Add(d)) }

// grow makes hosts known for their ham, hours ago.
func (n *node) grow() {
	n.clock = start.Add(-12 * time.Hour)
	for range 6 {
		for i := range wellKnown {
			n.observe(n.mail(i), policy.Assessment{Class: policy.Ham, Confidence: policy.Certain, Source: policy.FromHeader})
			n.wait(10 * time.Second)
		}
	}
	n.until(start)
}

// spamOf is the spam on record of the hosts.
func (n *node) spamOf() (sum float64) {
	for i := range wellKnown {
		sum += n.known(host(i)).Host.Total().Spam
	}
	return sum
}

func (n *node) denied() (denied []netip.Addr) {
	for i := range wellKnown {
		if n.in.Judge.Decide(host(i)).Withhold {
			denied = append(denied, host(i))
		}
	}
	return denied
}

// A filter that goes mad for an hour costs no host of long standing anything that lasts: by
// headers, by a feed that speaks after the message, by refusals of which the log tells, and by a
// block list.
func TestAMadFilterTeachesNothing(t *testing.T) {
	for _, source := range []policy.Source{policy.FromHeader, policy.FromRspamd, policy.FromMilterReject, policy.FromDNSBL} {
		t.Run(string(source), func(t *testing.T) {
			n := newNode(t, t.TempDir())
			n.grow()
			say := func(i int, class policy.Class) {
				o, a := n.mail(i), policy.Assessment{Class: class, Confidence: policy.Certain, Source: source}
				if source == policy.FromHeader {
					n.observe(o, a)
					return
				}
				n.observe(o)
				n.wait(time.Second)
				n.signal(policy.Signal{Time: o.Time, Addr: o.Client.Addr, QueueID: o.QueueID, Mail: true, Assessment: a})
			}
			for i := range 600 {
				say(i%wellKnown, policy.Spam)
				n.wait(6 * time.Second)
				if denied := n.denied(); len(denied) > 0 {
					t.Fatalf("after %d messages %v are denied STARTTLS", i+1, denied)
				}
			}
			n.wait(time.Second)
			if spam := n.spamOf(); spam != 0 {
				t.Errorf("%v spam was learnt", spam)
			}
			if n.in.Stats.Distrusted.Load() < 500 || len(n.in.Sources.Distrusted()) != 1 {
				t.Errorf("%d verdicts were not believed", n.in.Stats.Distrusted.Load())
			}
			for i := range 20 {
				say(i%wellKnown, policy.None)
				n.wait(6 * time.Second)
			}
			if strings.Count(n.log.String(), "nothing is learnt from it") != 1 || strings.Count(n.log.String(), "is learnt from again") != 1 || len(n.in.Sources.Distrusted()) != 0 {
				t.Errorf("said: %s", &n.log)
			}
			say(100, policy.Spam)
			n.wait(time.Minute)
			if spam := n.known(host(100)).Host.Total().Spam; spam != 1 {
				t.Errorf("%v spam was learnt when all was well again", spam)
			}
			n.relearn(t)
		})
	}
}

// relearn holds the event log against what was learnt: a replay of it learns the same.
func (n *node) relearn(t *testing.T) {
	t.Helper()
	f, err := os.Open(n.events)
	n.must(err)
	defer f.Close()
	inForce := policy.NewInForce(policy.New(policy.Default()), n.now)
	again := store.NewMemory(inForce.Tier, n.now)
	judge := policy.NewJudge(inForce, again)
	for row, err := range eventlog.Rows(f) {
		n.must(err)
		m := row.Message()
		if row.Correction {
			judge.Correct(&policy.Correction{Message: m, Was: row.Was})
		} else {
			judge.Learn(&m)
		}
	}
	for _, i := range []int{0, 1, 2, 3, 4, 5, 6, 7, 100} {
		was, is := n.known(host(i)).Host.Total(), again.Recall(host(i), judge.Policy().Keys(host(i)), n.now()).Host.Total()
		if was != is {
			t.Errorf("%s: %+v by the event log, %+v learnt", host(i), is, was)
		}
	}
}

// One host sends most of the mail. It can be convicted before the others bear witness, and is then
// acquitted at once; a host that was broken into is not.
func TestAMadFilterIsToldFromAHostThatWasBrokenInto(t *testing.T) {
	n := newNode(t, t.TempDir())
	n.grow()
	for range 10 {
		n.observe(n.mail(0), spam(policy.FromHeader))
		n.wait(10 * time.Second)
	}
	if denied := n.denied(); len(denied) != 1 || denied[0] != host(0) {
		t.Fatalf("denied are %v", denied)
	}
	for i := 1; i < wellKnown; i++ {
		n.observe(n.mail(i), spam(policy.FromHeader))
		n.wait(10 * time.Second)
	}
	n.wait(time.Second)
	if denied := n.denied(); len(denied) > 0 || n.spamOf() != 0 {
		t.Errorf("%v are denied, %v spam is on record", denied, n.spamOf())
	}
}

// People are believed in the midst of it, and what they said is not taken back.
func TestPeopleAreBelievedWhateverAFilterDoes(t *testing.T) {
	n := newNode(t, t.TempDir())
	n.grow()
	var last *policy.Observation
	for i := range 40 {
		last = n.mail(i % wellKnown)
		n.observe(last, spam(policy.FromHeader))
		n.wait(10 * time.Second)
		if i == 0 {
			_, err := n.in.Learn(told(policy.Signal{QueueID: last.QueueID, Mail: true, Assessment: spam(policy.FromPerson)}))
			n.must(err)
		}
	}
	_, err := n.in.Learn(told(policy.Signal{QueueID: last.QueueID, Mail: true, Assessment: spam(policy.FromPerson)}))
	n.must(err)
	n.wait(time.Second)
	if spam := n.spamOf(); spam != 2 {
		t.Errorf("%v spam on record, people said so of 2", spam)
	}
}

// A restart forgets who was distrusted, and finds it out again.
func TestAMadFilterSurvivesNoRestart(t *testing.T) {
	n := newNode(t, t.TempDir())
	n.grow()
	for i := range 80 {
		if i == 40 {
			n.in.Sources = behaviour.NewSources()
			n.restart()
		}
		n.observe(n.mail(i%wellKnown), spam(policy.FromHeader))
		n.wait(10 * time.Second)
	}
	if denied := n.denied(); len(denied) > 0 || n.spamOf() != 0 || len(n.in.Sources.Distrusted()) != 1 {
		t.Errorf("%v are denied, %v spam is on record", denied, n.spamOf())
	}
}

func TestWhoIsBelievedIsLearntFrom(t *testing.T) {
	n := newNode(t, t.TempDir())
	n.settings.Believed = []policy.Source{policy.FromHeader}
	n.grow()
	for i := range 40 {
		n.observe(n.mail(i%wellKnown), spam(policy.FromHeader))
		n.wait(10 * time.Second)
	}
	if n.spamOf() != 40 || strings.Contains(n.log.String(), "nothing is learnt") {
		t.Errorf("%v spam learnt; said: %s", n.spamOf(), &n.log)
	}
}

// The same verdict that is posted again and again counts once, and a source that accuses everybody
// is distrusted before it has cost a host of long standing anything.
func TestReplaysAndFloodsOfOneSource(t *testing.T) {
	n := newNode(t, t.TempDir())
	n.grow()
	post := func(addr netip.Addr, queueID string, at time.Time) {
		n.signal(policy.Signal{Time: at, Addr: addr, QueueID: queueID, Mail: true, Assessment: spam(policy.FromFeed)})
	}
	for range 500 {
		post(host(0), "ABC", n.clock)
		post(host(1), "", start)
		n.wait(10 * time.Second)
	}
	if spam := n.spamOf(); spam != 2 {
		t.Errorf("two messages were told of 500 times: %v spam was learnt", spam)
	}
	n.until(n.clock.Add(12 * time.Hour))
	for i := range 2000 {
		for known := range wellKnown {
			post(host(known), "", n.clock)
		}
		post(host(100+i%100), "", n.clock)
		n.wait(5 * time.Second)
		if denied := n.denied(); len(denied) > 0 {
			t.Fatalf("in round %d %v are denied STARTTLS", i+1, denied)
		}
	}
	n.wait(time.Minute)
	if spam := n.spamOf(); spam != 2 {
		t.Errorf("%v spam was learnt", spam)
	}
	for i := range 100 {
		if m := n.known(host(100 + i)).Host.Total(); m.Spam != 0 {
			t.Errorf("%v spam was learnt of %s", m.Spam, host(100+i))
		}
	}
}

// A restart before it is noticed leaves nothing of the last hours: the messages of before are heard
// again.
func TestAMadFilterThatARestartFallsInto(t *testing.T) {
	n := newNode(t, t.TempDir())
	n.grow()
	for i := range 4 {
		for range 2 {
			n.observe(n.mail(i), spam(policy.FromHeader))
			n.wait(10 * time.Second)
		}
	}
	noticed := len(n.in.Sources.Distrusted())
	n.in.Sources = behaviour.NewSources()
	n.restart()
	for i := range 40 {
		n.observe(n.mail(i%wellKnown), spam(policy.FromHeader))
		n.wait(10 * time.Second)
	}
	if denied := n.denied(); len(denied) > 0 || n.spamOf() != 0 {
		t.Errorf("noticed before: %d; %v are denied, %v spam is on record", noticed, denied, n.spamOf())
	}
}

// What is noticed at the stop is taken back at the stop.
func TestAMadFilterThatIsNoticedAtTheStop(t *testing.T) {
	n := newNode(t, t.TempDir())
	n.grow()
	for i := range wellKnown {
		n.signal(policy.Signal{Time: n.clock, Addr: host(i), Mail: true, Assessment: spam(policy.FromFeed)})
	}
	n.restart()
	if n.spamOf() != 0 || len(n.in.Sources.Distrusted()) != 1 {
		t.Errorf("%v spam is on record", n.spamOf())
	}
}

// Messages that accuse a source cost its convictions of before nothing, nor can one host that was
// broken into keep it distrusted.
func TestAttackByAccusingTheFilter(t *testing.T) {
	n := newNode(t, t.TempDir())
	n.grow()
	withheld := func() (n1 int) {
		for d := 100; d < 104; d++ {
			if n.in.Judge.Decide(host(d)).Withhold {
				n1++
			}
		}
		return n1
	}
	round := func() {
		n.observe(n.mail(0), spam(policy.FromHeader))
		for d := 100; d < 104; d++ {
			n.observe(n.mail(d), spam(policy.FromHeader))
		}
		for i := 1; i < wellKnown; i++ {
			n.observe(n.mail(i), ham)
		}
		n.wait(10 * time.Minute)
	}
	for range 9 {
		round()
	}
	for k := 0; k < 40 && len(n.in.Sources.Distrusted()) == 0; k++ {
		n.observe(n.mail(k%wellKnown), spam(policy.FromHeader))
		n.wait(time.Second)
	}
	n.wait(time.Second)
	if len(n.in.Sources.Distrusted()) != 1 || withheld() != 4 {
		t.Errorf("%+v; %d of 4 drones are denied STARTTLS", n.in.Sources.Distrusted(), withheld())
	}
	for range 12 {
		round()
	}
	if len(n.in.Sources.Distrusted()) != 0 || !n.in.Judge.Decide(host(0)).Withhold {
		t.Error("one host keeps the filter distrusted")
	}
}

// Where silence means ham, a source that is not believed was not silent.
func TestWhatIsNotBelievedIsNoSilence(t *testing.T) {
	n := newNode(t, t.TempDir())
	n.grow()
	silence := ham
	silence.Source = policy.FromSilence
	for i := range 40 {
		for _, h := range []int{i % wellKnown, 100} {
			o := n.mail(h)
			n.observe(o, silence)
			n.wait(time.Second)
			n.signal(policy.Signal{Time: o.Time, Addr: o.Client.Addr, QueueID: o.QueueID, Mail: true, Assessment: spam(policy.FromRspamd)})
		}
		n.wait(20 * time.Second)
	}
	if m := n.known(host(100)).Host.Total(); m.Ham != 0 || len(n.in.Sources.Distrusted()) != 1 {
		t.Errorf("all of it was called spam by a source that is distrusted: %+v", m)
	}
}

// What was forgotten, or was not believed once, does not come back.
func TestWhatIsTakenBackDoesNotComeBack(t *testing.T) {
	n := newNode(t, t.TempDir())
	n.grow()
	for range 5 {
		n.observe(n.mail(100), spam(policy.FromHeader), spam(policy.FromMilterReject))
		n.wait(time.Second)
	}
	n.in.Forgot(netip.PrefixFrom(host(100), 24).Masked())
	n.must(<-n.memory.Learn(n.in.Judge.Policy().Keys(host(100)), policy.Lesson{At: n.clock, Spam: -5}))
	var sent []*policy.Observation
	for range 3 {
		for i := range wellKnown {
			o := n.mail(i)
			n.observe(o, spam(policy.FromHeader))
			sent = append(sent, o)
			n.wait(10 * time.Second)
		}
	}
	if spam := n.known(host(100)).Host.Total().Spam; spam != 0 || n.spamOf() != 0 || len(n.in.Sources.Distrusted()) != 1 {
		t.Errorf("%v spam of a host that was forgotten, %v of others", spam, n.spamOf())
	}
	n.settings.Believed = []policy.Source{policy.FromHeader}
	for _, o := range sent {
		n.signal(policy.Signal{Time: o.Time, Addr: o.Client.Addr, QueueID: o.QueueID, Mail: true, Assessment: spam(policy.FromHeader)})
	}
	if n.spamOf() != 0 {
		t.Errorf("told again: %v spam", n.spamOf())
	}
	n.observe(n.mail(101), spam(policy.FromHeader))
	if m := n.known(host(101)).Host.Total(); m.Spam != 1 {
		t.Error("who is believed is not believed at once")
	}
}
