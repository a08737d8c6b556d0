package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
	"github.com/ehlogate/ehlogate/policy/store"
)

// mx is a mail exchanger of one policy with a clock of its own: the real judge over the real
// memory, with a filter that errs as told.
type mx struct {
	t      *testing.T
	now    time.Time
	rng    *rand.Rand
	memory *store.Memory
	judge  *policy.Judge
}

func newMX(t *testing.T) *mx {
	m := &mx{t: t, now: time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC), rng: rand.New(rand.NewPCG(1, 2))}
	inForce := policy.NewInForce(policy.New(policy.Default()), func() time.Time { return m.now })
	m.memory = store.NewMemory(inForce.Tier, func() time.Time { return m.now })
	m.judge = policy.NewJudge(inForce, m.memory)
	return m
}

// verdict is one that counts a whole message, if it says anything.
func verdict(class policy.Class) policy.Verdict {
	if class == policy.None {
		return policy.Verdict{Class: class}
	}
	return policy.Verdict{Class: class, Weight: 1}
}

// offered says whether an address would be offered STARTTLS now.
func (m *mx) offered(addr string) bool { return !m.judge.Decide(netip.MustParseAddr(addr)).Withhold }

// hear connects an address, learns the verdict on its message, and says whether STARTTLS was
// offered.
func (m *mx) hear(addr string, class policy.Class) (offered bool) {
	offered = m.offered(addr)
	m.judge.Learn(&policy.Message{Time: m.now, Client: policy.Client{Addr: netip.MustParseAddr(addr)}, Verdict: verdict(class), Mail: true})
	return offered
}

func (m *mx) wait(d time.Duration) { m.now = m.now.Add(d) }

// spamOf is the verdict on a spam message of which the filter misses a share.
func (m *mx) spamOf(missed float64) policy.Class {
	if m.rng.Float64() < missed {
		return policy.Ham
	}
	return policy.Spam
}

// spams hears so many spam messages, one every so often, of which the filter misses a share, and
// returns how many of the clients were offered STARTTLS.
func (m *mx) spams(messages int, every time.Duration, missed float64, client func(i int) string) (through int) {
	for i := range messages {
		if m.hear(client(i), m.spamOf(missed)) {
			through++
		}
		m.wait(every)
	}
	return through
}

func always(addr string) func(int) string { return func(int) string { return addr } }

// A hopper that takes a new address of its /64 for every message is one host: the /64 is the
// smallest network that a provider gives a customer (RFC 6177), so that what one address did counts
// for all of them.
func TestHoppingWithinA64IsOneHost(t *testing.T) {
	m := newMX(t)
	through := m.spams(200, 2*time.Minute, 0, func(i int) string { return fmt.Sprintf("2001:db8:0:1::%x", i+1) })
	if through > 2 {
		t.Errorf("%d of 200 messages were offered STARTTLS, want 2 at most", through)
	}
}

// Each /64 of a /48 has a voice in it, so a handful of them makes the next one expected to spam
// before it has.
func TestHoppingAcrossA48IsLearntFromTheNeighbours(t *testing.T) {
	m := newMX(t)
	through := m.spams(300, 2*time.Minute, 0.08, func(int) string {
		return fmt.Sprintf("2001:db8:7:%x::%x", m.rng.IntN(40), 1+m.rng.IntN(0xfffe))
	})
	if through > 20 {
		t.Errorf("%d of 300 messages were offered STARTTLS, want 20 at most", through)
	}
	if !m.offered("2001:db8:8:1::1") {
		t.Error("the next /48 is none of theirs")
	}
}

// Snowshoe: 120 hosts of a fresh /24 send a few messages each, of which the filter misses a third.
// No host has a history worth the name; the network has, and its ham is taken for spam that was
// missed as long as there is not much more of it.
func TestAFreshNetworkOfSnowshoeIsNoticed(t *testing.T) {
	m := newMX(t)
	through := m.spams(540, 80*time.Second, 0.30, func(int) string { return fmt.Sprintf("198.51.100.%d", 2+m.rng.IntN(120)) })
	if through > 80 {
		t.Errorf("%d of 540 messages were offered STARTTLS, want 80 at most", through)
	}
}

// The neighbours' evidence is bounded as the host's own is, so however bad they are, a host that
// sends ham proves itself, and its ham is remembered for days.
func TestOneGoodHostInABadNetworkProvesItself(t *testing.T) {
	m := newMX(t)
	const good = "198.51.100.200"
	denied := 0
	for hour := range 24 * 7 {
		for range 20 {
			m.hear(fmt.Sprintf("198.51.100.%d", 1+m.rng.IntN(100)), m.spamOf(0.08))
		}
		if hour >= 24 && hour%12 == 0 && !m.hear(good, policy.Ham) {
			denied++
		}
		m.wait(time.Hour)
	}
	if m.offered("198.51.100.201") {
		t.Error("a stranger of this network is offered STARTTLS")
	}
	if denied > 2 {
		t.Errorf("the good host was denied %d times, want its first messages at most", denied)
	}
	if d := m.judge.Decide(netip.MustParseAddr(good)); d.Withhold {
		t.Errorf("after a week of ham: %s", d.Why())
	}
}

// Big providers send some spam among much ham. A verdict of spam weighs less than two of ham, both
// are bounded, and the provider's other hosts speak for it.
func TestBigProvidersAreNotHarmed(t *testing.T) {
	for _, percent := range []int{2, 5, 8, 12} {
		m := newMX(t)
		denied, messages := 0, 0
		for range 72 * 30 {
			for range 12 {
				class := policy.Ham
				if m.rng.IntN(100) < percent {
					class = policy.Spam
				}
				messages++
				if !m.hear(fmt.Sprintf("203.0.113.%d", 1+m.rng.IntN(20)), class) {
					denied++
				}
			}
			m.wait(2 * time.Minute)
		}
		if denied*5000 > messages {
			t.Errorf("with %d %% of spam, %d of %d messages were denied STARTTLS, want 0.02 %% at most", percent, denied, messages)
		}
	}
}

// A server that is broken into loses its good name within a few messages, because a month of ham is
// bounded, and has it back within hours of the clean-up, because spam beside a month of ham fades
// by half within half an hour: by the clock alone, or with its first ham.
func TestAVictimOfABreakInFallsAndRecovers(t *testing.T) {
	m := newMX(t)
	const victim = "198.51.100.25"
	for range 60 {
		m.hear(victim, policy.Ham)
		m.wait(12 * time.Hour)
	}
	through := m.spams(150, 2*time.Minute, 0.08, always(victim))
	if through > 8 {
		t.Errorf("%d of 150 messages of the break-in were offered STARTTLS, want 8 at most", through)
	}
	if m.offered(victim) {
		t.Error("it is offered STARTTLS while the break-in goes on")
	}
	m.wait(5 * time.Hour)
	if !m.offered(victim) {
		t.Errorf("five hours after the clean-up: %s", m.judge.Decide(netip.MustParseAddr(victim)).Why())
	}
}

// Who sends nothing but spam, however slowly, stays out: spam without any ham beside it does not
// fade for a week, because there is no cleaned server to be fair to.
func TestASlowSpammerStaysOut(t *testing.T) {
	m := newMX(t)
	const slow = "198.51.100.25"
	through := m.spams(30, 4*time.Hour, 0, always(slow))
	if through > 5 {
		t.Errorf("%d of 30 messages, one in four hours, were offered STARTTLS, want 5 at most", through)
	}
}

// A session without mail is no evidence of anything: scanners and monitoring cost nobody his name,
// and no memory.
func TestTenThousandProbesTeachNothing(t *testing.T) {
	m := newMX(t)
	for i := range 10000 {
		addr := netip.AddrFrom4([4]byte{198, 51, 100, byte(i % 256)})
		if learnt := m.judge.Learn(&policy.Message{Time: m.now, Client: policy.Client{Addr: addr}, Verdict: verdict(policy.None)}); learnt != nil {
			t.Fatal("something was learnt")
		}
		m.wait(time.Second)
	}
	if m.memory.Len() != 0 || !m.offered("198.51.100.7") {
		t.Errorf("%d records, offered %v", m.memory.Len(), m.offered("198.51.100.7"))
	}
}

// A report that says ham of a message taken for spam leaves the client where it would be had the
// filter been right, and the other way round, whether the report or the verdict comes in first.
func TestALateReportTakesTheVerdictBack(t *testing.T) {
	client := netip.MustParseAddr("198.51.100.25")
	for _, c := range []struct{ wrong, right policy.Class }{{policy.Spam, policy.Ham}, {policy.Ham, policy.Spam}, {policy.None, policy.Spam}, {policy.Spam, policy.None}} {
		right := newMX(t)
		right.hear(client.String(), policy.Ham)
		right.hear(client.String(), c.right)
		right.wait(5 * time.Hour)
		want := right.judge.Decide(client)
		for _, late := range []bool{true, false} {
			m := newMX(t)
			m.hear(client.String(), policy.Ham)
			at := m.now
			correct := func() {
				message := policy.Message{Time: at, Client: policy.Client{Addr: client}, Verdict: verdict(c.right)}
				m.judge.Correct(&policy.Correction{Message: message, Was: verdict(c.wrong)})
			}
			if !late {
				correct()
			}
			m.hear(client.String(), c.wrong)
			m.wait(5 * time.Hour)
			if late {
				correct()
			}
			if got := m.judge.Decide(client); got.Score != want.Score || got.Own != want.Own {
				t.Errorf("%s corrected to %s, late %v: score %v, want %v", c.wrong, c.right, late, got.Score, want.Score)
			}
		}
	}
}

func TestWhatIfSaysWhatTurnsTheAnswer(t *testing.T) {
	m := newMX(t)
	const client = "198.51.100.25"
	addr := netip.MustParseAddr(client)
	whatIf := func() policy.WhatIf {
		p := m.judge.Policy()
		return p.WhatIf(addr, m.memory.Recall(addr, p.Keys(addr), m.now), m.now)
	}
	for range 3 {
		m.hear(client, policy.Spam)
	}
	o := whatIf()
	if o.Ham == 0 || o.Wait == 0 {
		t.Fatalf("of a spammer: %+v", o)
	}
	start := m.now
	m.wait(o.Wait - time.Minute*15)
	if m.offered(client) {
		t.Error("offered earlier than it said")
	}
	m.now = start.Add(o.Wait)
	if !m.offered(client) {
		t.Error("not offered when it said")
	}
	m.now = start
	for i := range o.Ham {
		if m.offered(client) {
			t.Errorf("offered after %d ham messages, it said %d", i, o.Ham)
		}
		m.hear(client, policy.Ham)
	}
	if !m.offered(client) {
		t.Errorf("not offered after the %d ham messages that it said", o.Ham)
	}
	if o := whatIf(); o.Spam == 0 || o.Spam > 3 {
		t.Errorf("of who is offered again: %+v", o)
	}
	p := policy.Default()
	p.Exempt = append(p.Exempt, netip.PrefixFrom(addr, 32))
	if o := policy.New(p).WhatIf(addr, policy.Known{Host: reputation.Evidence{}}, m.now); o != (policy.WhatIf{}) {
		t.Errorf("of an exempt one: %+v", o)
	}
}
