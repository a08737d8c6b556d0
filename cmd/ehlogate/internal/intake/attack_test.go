package intake

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

var ham = policy.Assessment{Class: policy.Ham, Confidence: policy.Certain, Source: policy.FromHeader}

// A spammer sends ham within an hour, then spam. "go test -v -run Attack" prints what it buys.
func TestAttackWithHamThatIsMuchAlike(t *testing.T) {
	for _, c := range []struct {
		name               string
		recipients, domain int // how many of each
		within             time.Duration
		most               int
	}{
		{"to one mailbox of his own, of many domains", 1, 1000, 50 * time.Minute, 9},
		{"to ten mailboxes", 10, 1000, 50 * time.Minute, 37},
		{"of one domain, to many people", 1000, 1, 50 * time.Minute, 27},
		{"within a minute, of many domains, to many people", 1000, 1000, time.Minute, 27},
		{"of many domains, to many people", 1000, 1000, 50 * time.Minute, 72},
	} {
		n := newNode(t, t.TempDir())
		n.clock = start.Truncate(time.Hour)
		send := func(i int, domain string, a policy.Assessment) *policy.Observation {
			o := n.mail(0)
			o.To, o.FromDomain = []string{fmt.Sprintf("r%d@mx.example", i%c.recipients)}, domain
			n.observe(o, a)
			return o
		}
		for i := range 200 {
			send(i, fmt.Sprintf("d%d.example", i%c.domain), ham)
			n.clock = n.clock.Add(c.within / 200)
		}
		spam := 0
		for !n.in.Judge.Decide(host(0)).Withhold {
			send(spam, "spam.example", policy.Assessment{Class: policy.Spam, Confidence: policy.Certain, Source: policy.FromHeader})
			spam++
		}
		t.Logf("200 ham %s buy %d spam", c.name, spam)
		if spam > c.most {
			t.Errorf("%s: want %d at most", c.name, c.most)
		}
		n.relearn(t)
	}
}

// Honest hosts whose mail is much alike: the server of a small company, a mailing list with one
// subscriber here, a bulk sender of whose mail the filter flags three in a hundred.
func TestHonestHostsWhoseMailIsMuchAlikeAreOffered(t *testing.T) {
	for _, c := range []struct {
		name       string
		recipients int
		perHour    int
		days       int
		flagged    int // one in so many
	}{
		{"a company", 5, 4, 4, 20},
		{"a mailing list with one subscriber", 1, 10, 4, 20},
		{"a forwarder to one mailbox, with much spam", 1, 10, 4, 8},
		{"a busy forwarder to one mailbox", 1, 20, 4, 10},
		{"a very busy forwarder to one mailbox", 1, 40, 4, 20},
		{"a bulk sender", 1000, 150, 1, 33},
	} {
		n := newNode(t, t.TempDir())
		n.clock = start.Truncate(time.Hour)
		denied, sent := 0, 0
		for range 24 * c.days {
			for range c.perHour {
				sent++
				if n.in.Judge.Decide(host(0)).Withhold {
					denied++
				}
				o, a := n.mail(0), ham
				if sent%c.flagged == 0 {
					a = spam(policy.FromHeader)
				}
				o.To, o.FromDomain = []string{fmt.Sprintf("r%d@mx.example", sent%c.recipients)}, "company.example"
				n.observe(o, a)
				n.clock = n.clock.Add(time.Hour / time.Duration(2*c.perHour))
			}
			n.clock = n.clock.Truncate(time.Hour).Add(time.Hour)
		}
		if denied > 0 {
			t.Errorf("%s: %d of %d sessions are denied STARTTLS", c.name, denied, sent)
		}
	}
}

// What a later verdict takes back is what was learnt, and people's word counts whole.
func TestACorrectionTakesBackAsMuchAsCounted(t *testing.T) {
	n := newNode(t, t.TempDir())
	var last *policy.Observation
	for range 8 {
		last = n.mail(0)
		last.To = []string{"bob@mx.example"}
		n.observe(last, ham)
		n.wait(2 * time.Minute)
	}
	if m := n.known(host(0)).Host.Total(); m.Ham != 4+0.75+0.625+0.625+0.5 {
		t.Errorf("4 + 4/5 + 4/6 + 4/7 + 4/8 ham, in eighths: %+v", m)
	}
	n.signal(policy.Signal{QueueID: last.QueueID, Addr: host(0), Time: last.Time, Mail: true, Assessment: spam(policy.FromRspamd)})
	if m := n.known(host(0)).Host.Total(); m.Ham != 6 || m.Spam != 1 {
		t.Errorf("the eighth is spam: %+v", m)
	}
	n.restart()
	person := ham
	person.Source = policy.FromPerson
	learnt, err := n.in.Learn(told(policy.Signal{QueueID: last.QueueID, Mail: true, Assessment: person}))
	n.must(err)
	n.await(*learnt[0].Receipt)
	if m := n.known(host(0)).Host.Total(); m.Ham != 7 || m.Spam != 0 {
		t.Errorf("a person says that it is ham: %+v", m)
	}
	n.relearn(t)
}

// A host of long standing bounces what others forged: that the filter calls the bounces spam
// teaches nothing. A stranger that uses the null sender is judged like any other.
func TestBackscatterWeighsNothing(t *testing.T) {
	n := newNode(t, t.TempDir())
	n.grow()
	for _, c := range []struct {
		host int
		want float64
	}{{0, 0}, {100, 3}} {
		for range 3 {
			o := n.mail(c.host)
			o.Bounce = true
			n.observe(o, spam(policy.FromHeader))
			n.wait(time.Minute)
		}
		if m := n.known(host(c.host)).Host.Total(); m.Spam != c.want {
			t.Errorf("%s: %+v, want %v spam", host(c.host), m, c.want)
		}
	}
	// The null sender is no licence, nor does it save from a trap.
	n.observe(n.mail(1), ham)
	o := n.mail(1)
	o.Bounce = true
	n.observe(o, spam(policy.FromTrap))
	if n.known(host(1)).Host.Total().Spam == 0 {
		t.Error("a bounce to a trap counts nothing")
	}
	sent := 0
	for ; !n.in.Judge.Decide(host(0)).Withhold && sent < 100; sent++ {
		o := n.mail(0)
		o.Bounce = true
		n.observe(o, spam(policy.FromHeader))
		n.wait(time.Minute)
	}
	t.Logf("a host of long standing sends %d spam with the null sender until it is denied STARTTLS", sent)
	if sent > 5 {
		t.Error("it is much too many")
	}
	n.relearn(t)
}

// offered is what the table answers, with the exceptions that were made.
func (n *node) offered(addr netip.Addr) bool {
	known := n.known(addr)
	known.Exception = n.kept.Holds(addr, n.clock)
	return !n.in.Judge.Policy().Decide(addr, known, n.clock).Withhold
}

// A drone in a network of spammers, and a spammer that was convicted, leave again and again without
// mail, to be taken for a host that requires TLS; then they send spam.
func TestAttackByLeaving(t *testing.T) {
	for _, c := range []struct {
		name  string
		own   int // spam that it sent before
		every time.Duration
		hours float64 // that it takes until STARTTLS is offered, 0 for never within a day
		buys  int
	}{
		{"a stranger in a network of spammers that comes every ten seconds", 0, 10 * time.Second, 6, 1},
		{"a stranger in a network of spammers that comes every quarter of an hour", 0, 15 * time.Minute, 6, 1},
		{"a spammer that comes every quarter of an hour", 3, 15 * time.Minute, 0, 0},
	} {
		n := newNode(t, t.TempDir())
		addr := host(0)
		for i := range 20 {
			for range 2 {
				o := n.mail(0)
				o.Client.Addr = netip.AddrFrom4([4]byte{198, 51, 0, byte(100 + i)})
				n.observe(o, spam(policy.FromHeader))
				n.clock = n.clock.Add(5 * time.Second)
			}
		}
		for range c.own {
			n.observe(n.mail(0), spam(policy.FromHeader))
		}
		began := n.clock
		for !n.offered(addr) && n.clock.Sub(began) < 24*time.Hour {
			n.clock = n.clock.Add(c.every)
			n.observe(&policy.Observation{
				Message:  policy.Message{Time: n.clock, Client: policy.Client{Addr: addr}, Trouble: policy.LeftWithout},
				Decision: n.in.Judge.Decide(addr),
			})
		}
		hours := n.clock.Sub(began).Hours()
		if !n.offered(addr) {
			hours = 0
		}
		buys := 0
		for n.offered(addr) {
			n.observe(n.mail(0), spam(policy.FromHeader))
			buys++
		}
		if hours == 0 {
			t.Logf("%s: is not offered STARTTLS within a day", c.name)
		} else {
			t.Logf("%s: offered after %.1f hours of it, and %d spam get through", c.name, hours, buys)
		}
		if hours < c.hours-0.5 || hours > c.hours+0.5 || buys > c.buys {
			t.Errorf("want %v hours, %d spam", c.hours, c.buys)
		}
	}
}
