package policy

import (
	"net/netip"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy/reputation"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func knows(spam, ham float64) Known {
	host, moved := reputation.Evidence{}.Add(now, spam, ham)
	return Known{Host: host, Network: reputation.Evidence{}.Apply(moved)}
}

func overridden(k Known, network string, allow bool, until time.Time) Known {
	k.Override = &Override{Network: netip.MustParsePrefix(network), Allow: allow, Until: until, Note: "ticket 7"}
	return k
}

func unavailable(k Known) Known {
	k.Unavailable = true
	return k
}

func TestDecide(t *testing.T) {
	spammer, stranger, proven := knows(5, 0), Known{}, knows(0, 6)
	for _, c := range []struct {
		name     string
		mode     Mode
		addr     string
		known    Known
		keywords string
		would    bool
		tier     reputation.Tier
	}{
		{"protect withholds from a spammer", Protect, "192.0.2.7", spammer, "starttls, silent-discard", true, reputation.Bad},
		{"protect offers to a stranger", Protect, "192.0.2.7", stranger, "", false, reputation.Unknown},
		{"observe withholds nothing and knows what it would do", Observe, "192.0.2.7", spammer, "", true, reputation.Bad},
		{"earn withholds from a stranger", Earn, "192.0.2.7", stranger, "starttls, silent-discard", true, reputation.Unknown},
		{"earn offers to the proven", Earn, "192.0.2.7", proven, "", false, reputation.Good},
		{"IPv6 alike", Protect, "2001:db8::7", spammer, "starttls, silent-discard", true, reputation.Bad},
		{"loopback is exempt in every mode", Earn, "127.0.0.9", spammer, "", false, reputation.Bad},
		{"IPv6 loopback, too", Earn, "::1", spammer, "", false, reputation.Bad},
		{"an allow goes before the score", Protect, "192.0.2.7", overridden(spammer, "192.0.2.0/24", true, time.Time{}), "", false, reputation.Bad},
		{"a deny goes before the score", Protect, "192.0.2.7", overridden(proven, "192.0.2.7/32", false, time.Time{}), "starttls, silent-discard", true, reputation.Bad},
		{"a deny holds in observe", Observe, "192.0.2.7", overridden(proven, "192.0.2.7/32", false, time.Time{}), "starttls, silent-discard", true, reputation.Bad},
		{"a store that does not answer is a doubt: offer, in every mode", Earn, "192.0.2.7", unavailable(stranger), "", false, reputation.Unknown},
		{"so is one that is away while ham comes in", Earn, "192.0.2.7", unavailable(knows(0, 1)), "", false, reputation.Unknown},
		{"spam that comes in meanwhile convicts all the same", Protect, "192.0.2.7", unavailable(spammer), "starttls, silent-discard", true, reputation.Bad},
		{"an override holds without the store", Earn, "192.0.2.7", overridden(unavailable(stranger), "192.0.2.0/24", false, time.Time{}), "starttls, silent-discard", true, reputation.Bad},
		{"an override ends", Protect, "192.0.2.7", overridden(proven, "192.0.2.7/32", false, now), "", false, reputation.Good},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Default()
			p.Mode = c.mode
			d := New(p).Decide(netip.MustParseAddr(c.addr), c.known, now)
			if d.Keywords() != c.keywords || d.Would != c.would || d.Tier != c.tier {
				t.Errorf("keywords %q, would %v, tier %v (%s), want %q, %v, %v", d.Keywords(), d.Would, d.Tier, d.Why(), c.keywords, c.would, c.tier)
			}
			if (d.Answer() == Withheld) != (c.keywords != "") {
				t.Errorf("answer %s beside keywords %q", d.Answer(), d.Keywords())
			}
		})
	}
}

func TestThisHostStaysExemptWhenTheListIsReplaced(t *testing.T) {
	p := Default()
	p.Exempt = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	for addr, offered := range map[string]bool{"127.0.0.1": true, "::1": true, "127.0.0.2": false, "198.51.100.9": true} {
		if d := New(p).Decide(netip.MustParseAddr(addr), knows(9, 0), now); d.Withhold == offered {
			t.Errorf("%s: %s", addr, d.Why())
		}
	}
}

func TestTiersNameKeywordsAndActions(t *testing.T) {
	p := Default()
	p.Treatments = map[reputation.Tier]Treatment{
		reputation.Bad:     {Discard: []string{"chunking", "starttls", "silent-discard"}, Action: ActHeader},
		reputation.Unknown: {Discard: []string{"etrn"}},
	}
	addr := netip.MustParseAddr("192.0.2.7")
	if d := New(p).Decide(addr, knows(9, 0), now); d.Keywords() != "starttls, chunking, silent-discard" || d.Action != ActHeader {
		t.Errorf("bad: %q, %s", d.Keywords(), d.Action)
	}
	if d := New(p).Decide(addr, Known{}, now); d.Keywords() != "etrn, silent-discard" || d.Action != ActNone || d.Withhold {
		t.Errorf("unknown: %q, %s", d.Keywords(), d.Action)
	}
	p.Mode = Observe
	if d := New(p).Decide(addr, knows(9, 0), now); d.Keywords() != "" || d.Action != ActNone {
		t.Errorf("observe: %q, %s", d.Keywords(), d.Action)
	}
}

// TestAVerdictTakenBackLeavesNothing corrects a message again and again, with weights that evidence
// cannot hold exactly.
func TestAVerdictTakenBackLeavesNothing(t *testing.T) {
	o := Observation{Message: Message{Time: now, Mail: true, Client: Client{Addr: netip.MustParseAddr("192.0.2.7")}, Verdict: Verdict{Class: Spam, Weight: 0.31}}}
	lesson, _ := o.Lesson()
	e, _ := reputation.Evidence{}.Add(lesson.At, lesson.Spam, lesson.Ham)
	was := o.Verdict
	for _, next := range []Verdict{{Class: Spam, Weight: 1.0 / 9}, {Class: Ham, Weight: 0.7}, {Class: Spam, Weight: 0.19}, {Class: Spam, Weight: 3}, {Class: None}} {
		c := Correction{Message: o.Message, Was: was}
		c.Verdict = next
		l, _ := c.Lesson()
		e, _ = e.Add(l.At, l.Spam, l.Ham)
		was = next
	}
	if total := e.Total(); total.Spam != 0 || total.Ham != 0 {
		t.Errorf("%+v is left of it", total)
	}
}

func TestWhatTeachesNothing(t *testing.T) {
	spam := Observation{Message: Message{Time: now, Mail: true, Client: Client{Addr: netip.MustParseAddr("192.0.2.7")}, Verdict: Verdict{Class: Spam, Weight: 1}}}
	if l, ok := spam.Lesson(); !ok || l.Spam != 1 || l.Ham != 0 {
		t.Fatalf("spam teaches %v, %v", l, ok)
	}
	for name, change := range map[string]func(*Observation){
		"a user who logged in":  func(o *Observation) { o.Authenticated = true },
		"an unknown address":    func(o *Observation) { o.Client.Addr = netip.Addr{} },
		"a filter that is mute": func(o *Observation) { o.Verdict.Class = None },
	} {
		o := spam
		change(&o)
		if l, ok := o.Lesson(); ok {
			t.Errorf("%s teaches %v", name, l)
		}
	}
}
