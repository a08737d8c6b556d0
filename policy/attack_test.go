package policy_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// The tests here are attacks on the judgement, each with what it costs the attacker. The figures
// are in contrib/model; "go test -v -run Attack ./policy" prints them.

// buys is how many spam messages a client gets through until STARTTLS is withheld.
func (m *mx) buys(addr string, every time.Duration) (n int) {
	for n < 2000 && m.hear(addr, policy.Spam) {
		n++
		m.wait(every)
	}
	return n
}

// A spammer sends ham for a while, then spam: what he bought with it is bounded within the hour,
// too.
func TestAttackWhitewashing(t *testing.T) {
	for _, c := range []struct {
		ham   int
		every time.Duration
		pause time.Duration
		most  int
	}{
		{2, time.Second, 0, 4},
		{20, time.Second, 0, 12},
		{200, time.Second, 0, 72},
		{1000, time.Second, 0, 340},
		// Once the hour is over, the ham weighs cap, no matter how much there was.
		{1000, time.Second, time.Hour, 4},
		{1000, 10 * time.Minute, time.Hour, 4},
	} {
		m := newMX(t)
		const addr = "198.51.100.25"
		for range c.ham {
			m.hear(addr, policy.Ham)
			m.wait(c.every)
		}
		m.wait(c.pause)
		got := m.buys(addr, time.Second)
		t.Logf("%4d ham, one in %s, and %s later: %d spam get through", c.ham, c.every, c.pause, got)
		if got > c.most {
			t.Errorf("want %d at most", c.most)
		}
	}
}

// What share of its spam a client gets through that mixes ham into it for three days, by the share
// of spam and the number of messages an hour: an honest provider, of which up to an eighth is spam,
// is offered STARTTLS, a spammer with two ham messages for each of spam is not, or sends little.
func TestAttackMixing(t *testing.T) {
	for _, perHour := range []int{2, 10, 100} {
		for _, percent := range []int{6, 12, 20, 33, 50, 67, 90} {
			m := newMX(t)
			const addr = "198.51.100.25"
			spam, through, ham, denied := 0, 0, 0, 0
			for range 72 * perHour {
				if m.rng.IntN(100) < percent {
					spam++
					if m.hear(addr, policy.Spam) {
						through++
					}
				} else {
					ham++
					if !m.hear(addr, policy.Ham) {
						denied++
					}
				}
				m.wait(time.Hour / time.Duration(perHour))
			}
			t.Logf("%3d messages an hour, %2d %% spam: %3d %% of its spam gets through, %2d %% of its ham is denied STARTTLS",
				perHour, percent, 100*through/max(spam, 1), 100*denied/max(ham, 1))
			switch {
			case percent <= 12 && denied*200 > ham:
				t.Errorf("%d of %d ham messages of an honest provider were denied STARTTLS", denied, ham)
			case percent >= 50 && perHour >= 100 && through*20 > spam:
				t.Errorf("%d of %d spam messages got through", through, spam)
			}
		}
	}
}

// What spamming neighbours can do to a client: a stranger in their /24, and one with so much ham.
func TestAttackNeighbours(t *testing.T) {
	denies := func(ham int) int {
		m := newMX(t)
		for range ham {
			m.hear("198.51.100.200", policy.Ham)
		}
		for hosts := range 150 {
			if !m.offered("198.51.100.200") {
				return hosts
			}
			for range 2 {
				m.hear(fmt.Sprintf("198.51.100.%d", hosts), policy.Spam)
			}
		}
		return 0
	}
	stranger, once, twice := denies(0), denies(1), denies(2)
	t.Logf("hosts of two spam each that deny a stranger %d, one with a ham message %d, with two %d", stranger, once, twice)
	if stranger < 4 || once != 0 && once < 16 || twice != 0 {
		t.Error("want 4, 16 and none (0), or better for the client")
	}
	const ham, spam = policy.Ham, policy.Spam
	for _, c := range []struct {
		order   []policy.Class
		hosts   int
		offered bool
	}{
		{[]policy.Class{ham, ham, ham, spam}, 100, true},
		{[]policy.Class{spam, ham, spam, ham, ham}, 4, true},
		{[]policy.Class{spam, ham, spam, ham, ham, ham}, 100, true},
		// As long as nothing good followed the last two, nothing shows that they were mistakes.
		{[]policy.Class{ham, ham, ham, spam, spam}, 4, false},
	} {
		m := newMX(t)
		for i := range c.hosts {
			for range 2 {
				m.hear(fmt.Sprintf("198.51.100.%d", i), spam)
			}
		}
		const honest = "198.51.100.200"
		for _, class := range c.order {
			m.hear(honest, class)
			m.wait(time.Hour)
		}
		offered := m.offered(honest)
		t.Logf("in a /24 of %d spammers, a host with %s is offered STARTTLS: %v", c.hosts, c.order, offered)
		if offered != c.offered {
			t.Errorf("want %v", c.offered)
		}
	}
}

// Bounces that a spammer has a server send to his mailbox, or sends himself, are no merit. What is
// spam in them counts, or spam would be sent with the null sender.
func TestAttackBounces(t *testing.T) {
	const addr = "198.51.100.25"
	bounce := func(m *mx, class policy.Class) {
		m.judge.Learn(&policy.Message{Time: m.now, Client: policy.Client{Addr: netip.MustParseAddr(addr)}, Verdict: verdict(class), Mail: true, Bounce: true})
	}
	m, other := newMX(t), newMX(t)
	for range 200 {
		bounce(m, policy.Ham)
	}
	if got, want := m.buys(addr, time.Second), other.buys(addr, time.Second); got != want {
		t.Errorf("200 bounces buy %d spam, none buy %d", got, want)
	}
	m = newMX(t)
	for range 3 {
		bounce(m, policy.Spam)
	}
	if m.offered(addr) {
		t.Error("three spam with the null sender, and STARTTLS is offered")
	}
	// A filter's ham that a person takes back, or confirms, leaves what the person said.
	m = newMX(t)
	message := policy.Message{Time: m.now, Client: policy.Client{Addr: netip.MustParseAddr(addr)}, Mail: true, Bounce: true, Verdict: verdict(policy.Spam)}
	message.Verdict.Source = policy.FromPerson
	m.judge.Correct(&policy.Correction{Message: message, Was: verdict(policy.Ham)})
	if d := m.judge.Decide(message.Client.Addr); d.Own.Spam != 1 || d.Own.Ham != 0 {
		t.Errorf("%v", d.Own)
	}
}
