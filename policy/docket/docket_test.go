package docket

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ehlogate/ehlogate/policy"
)

var (
	start  = time.Date(2026, 11, 24, 13, 21, 55, 0, time.UTC)
	client = netip.MustParseAddr("192.0.2.7")
)

func spam(s policy.Source) policy.Verdict {
	return policy.Verdict{Class: policy.Spam, Weight: 1, Source: s, Reason: "it is"}
}

// aborted is what the milter hears of a message that an earlier filter rejected.
func aborted() *policy.Observation {
	return &policy.Observation{Time: start.Add(time.Second), Began: start, Session: "s1", QueueID: "Q1", Client: policy.Client{Addr: client, Port: 4711}, Mail: true, Outcome: policy.Aborted}
}

func told(source policy.Source, at time.Duration, queueID string) policy.Testimony {
	return policy.Testimony{Time: start.Add(at), Addr: client, QueueID: queueID, Mail: true, Outcome: policy.Rejected, Verdict: spam(source)}
}

// court is a docket with what came of it: for each case the sum of what was learnt.
type court struct {
	*Docket
	clock    time.Time
	learnt   map[string]float64
	verdicts map[string]policy.Verdict
	observed int
}

func newCourt() *court {
	c := &court{clock: start, learnt: map[string]float64{}, verdicts: map[string]policy.Verdict{}}
	c.Docket = New(func() time.Time { return c.clock })
	return c
}

func (c *court) learn(o *policy.Observation) {
	c.observed++
	c.learnt[o.QueueID] += o.Verdict.Messages()
	c.verdicts[o.QueueID] = o.Verdict
}

func (c *court) hear(o *policy.Observation) { c.Hear(o); c.learn(o) }

func (c *court) tell(t policy.Testimony) {
	if correction, _ := c.Tell(t); correction != nil {
		l, _ := correction.Policy().Lesson()
		c.learnt[correction.Now.QueueID] += l.Spam
		c.verdicts[correction.Now.QueueID] = correction.Now.Verdict
	}
}

func (c *court) due() {
	for _, o := range c.Due(true) {
		c.learn(o)
	}
}

// TestAMessageIsCountedOnceWhateverTellsOfIt tells of one message in every order.
func TestAMessageIsCountedOnceWhateverTellsOfIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCourt()
		steps := []func(){
			func() { c.hear(aborted()) },
			func() { c.tell(told(policy.FromMilterReject, time.Second, "Q1")) },
			func() { c.tell(told(policy.FromMilterReject, time.Second, "Q1")) },
			func() {
				feed := told(policy.FromRspamd, 900*time.Millisecond, "Q1")
				feed.Verdict.Weight = 0.75
				c.tell(feed)
			},
			func() { c.tell(told(policy.FromContent, time.Second, "")) },
			func() {
				other := told(policy.FromDNSBL, time.Minute, "Q2")
				c.tell(other)
			},
		}
		for _, step := range rapid.Permutation(steps).Draw(t, "order") {
			step()
			c.clock = c.clock.Add(10 * time.Millisecond)
		}
		c.due()
		if c.observed != 2 || c.learnt["Q1"] != 1 || c.learnt["Q2"] != 1 {
			t.Fatalf("%d observations, learnt %v", c.observed, c.learnt)
		}
		if v := c.verdicts["Q1"]; v.Class != policy.Spam || v.Weight != 1 {
			t.Fatalf("verdict %+v", v)
		}
	})
}

func TestWhatIsNoSessionOfOursIsOneByItself(t *testing.T) {
	c := newCourt()
	screened := func(source policy.Source, port uint16, mail bool) policy.Testimony {
		return policy.Testimony{Time: start, Addr: client, Port: port, Mail: mail, Verdict: spam(source)}
	}
	c.tell(screened(policy.FromPregreet, 1, false))
	c.tell(screened(policy.FromDNSBL, 1, false))
	c.tell(screened(policy.FromDNSBL, 1, true))
	c.tell(screened(policy.FromPregreet, 2, false))
	if due := c.Due(false); len(due) != 0 {
		t.Fatalf("concluded at once: %+v", due[0])
	}
	c.clock = c.clock.Add(Wait)
	due := c.Due(false)
	if len(due) != 2 || !due[0].Mail || due[1].Mail || len(due[0].Said) != 2 || due[0].STARTTLS != policy.Unasked {
		t.Fatalf("%d observations: %+v", len(due), due)
	}
	if more := c.Due(true); len(more) != 0 {
		t.Errorf("concluded twice: %+v", more[0])
	}
	// What comes later still is no second one.
	if correction, known := c.Tell(screened(policy.FromDNSBL, 2, false)); !known || correction == nil || correction.Was.Source != policy.FromPregreet {
		t.Errorf("%+v, %v", correction, known)
	}
}

func TestSessionsAreToldApart(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*policy.Testimony)
		joins  bool
	}{
		{"the queue id", func(t *policy.Testimony) { t.QueueID, t.Addr = "Q1", netip.Addr{} }, true},
		{"the client and the time", func(t *policy.Testimony) {}, true},
		{"the client, its port and the time", func(t *policy.Testimony) { t.Port = 4711 }, true},
		{"another port", func(t *policy.Testimony) { t.Port = 4712 }, false},
		{"another queue id", func(t *policy.Testimony) { t.QueueID = "Q9" }, false},
		{"the queue id, used again by another client", func(t *policy.Testimony) { t.QueueID, t.Addr = "Q1", netip.MustParseAddr("192.0.2.8") }, false},
		{"a minute later", func(t *policy.Testimony) { t.Time = t.Time.Add(time.Minute) }, false},
		{"a minute before", func(t *policy.Testimony) { t.Time = t.Time.Add(-time.Minute) }, false},
		{"no message", func(t *policy.Testimony) { t.Mail = false }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newCourt()
			d.Hear(aborted())
			testimony := told(policy.FromMilterReject, time.Second, "")
			c.change(&testimony)
			if _, known := d.Tell(testimony); known != c.joins {
				t.Errorf("joined: %v", known)
			}
		})
	}
}

func TestPeopleCorrect(t *testing.T) {
	c := newCourt()
	o := aborted()
	o.Said = []policy.Verdict{{Class: policy.Ham, Weight: 1, Source: policy.FromHeader}}
	c.hear(o)
	for _, step := range []struct {
		class policy.Class
		want  *policy.Correction
	}{
		{policy.Spam, &policy.Correction{Addr: client, At: o.Time, Old: o.Said[0], New: policy.Verdict{Class: policy.Spam, Weight: 1, Source: policy.FromPerson}}},
		{policy.Spam, nil},
		{policy.Ham, &policy.Correction{Addr: client, At: o.Time, Old: policy.Verdict{Class: policy.Spam, Weight: 1, Source: policy.FromPerson}, New: policy.Verdict{Class: policy.Ham, Weight: 1, Source: policy.FromPerson}}},
	} {
		got, known := c.Report(policy.Testimony{QueueID: "Q1", Time: start.Add(time.Hour), Mail: true, Verdict: policy.Verdict{Class: step.class, Weight: 1, Source: policy.FromPerson}})
		if !known || (got == nil) != (step.want == nil) || got != nil && got.Policy() != *step.want {
			t.Errorf("%s: %+v, %v, want %+v", step.class, got, known, step.want)
		}
	}
	for name, stranger := range map[string]policy.Testimony{
		"an unknown message":                        {QueueID: "Q7", Addr: client},
		"no queue id":                               {Addr: client, Time: start},
		"the queue id of another client's":          {QueueID: "Q1", Addr: netip.MustParseAddr("192.0.2.8")},
		"the queue id of a message of another time": {QueueID: "Q1", Addr: client, Time: start.Add(48 * time.Hour)},
	} {
		if _, known := c.Report(stranger); known {
			t.Errorf("%s is known", name)
		}
	}
	auth := aborted()
	auth.QueueID, auth.Authenticated = "Q3", true
	c.Hear(auth)
	if got, _ := c.Report(policy.Testimony{QueueID: "Q3", Verdict: spam(policy.FromPerson)}); got == nil || got.Policy().Addr.IsValid() {
		t.Errorf("a logged-in client's address is accused: %+v", got)
	}
}

func TestTheDocketIsBounded(t *testing.T) {
	c := newCourt()
	addr := netip.MustParseAddr("10.0.0.0")
	for range waitingMost + 100 {
		addr = addr.Next()
		c.Tell(policy.Testimony{Time: c.clock, Addr: addr, Verdict: spam(policy.FromDNSBL)})
	}
	if due := c.Due(false); len(due) != 100 {
		t.Errorf("%d of %d waiting cases concluded, want those beyond %d", len(due), waitingMost+100, waitingMost)
	}
	c.Due(true)
	for range most {
		addr = addr.Next()
		c.Hear(&policy.Observation{Time: c.clock, Client: policy.Client{Addr: addr}, QueueID: addr.String()})
	}
	if n := len(c.order); n > most || len(c.byClient) > most || len(c.byQueue) > most {
		t.Errorf("%d cases, %d clients, %d queue ids", n, len(c.byClient), len(c.byQueue))
	}
	c.clock = c.clock.Add(Remember + time.Second)
	c.Hear(aborted())
	c.Hear(&policy.Observation{Time: c.clock, Client: policy.Client{Addr: addr}})
	if len(c.order) > 2 || len(c.byQueue) > 1 {
		t.Errorf("%d cases and %d queue ids are left of long ago", len(c.order), len(c.byQueue))
	}
}

// TestResolveDoesNotDependOnTheOrder holds the verdict of what was said to be one, whoever spoke first.
func TestResolveDoesNotDependOnTheOrder(t *testing.T) {
	verdict := rapid.Custom(func(t *rapid.T) policy.Verdict {
		var sources []policy.Source
		for _, s := range policy.Sources() {
			if !s.Source.People() {
				sources = append(sources, s.Source)
			}
		}
		return policy.Verdict{
			Class:  rapid.SampledFrom([]policy.Class{policy.Spam, policy.Ham, policy.None}).Draw(t, "class"),
			Weight: float64(rapid.IntRange(1, 24).Draw(t, "eighths")) / 8, Source: rapid.SampledFrom(sources).Draw(t, "source"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(verdict, 0, 8).Draw(t, "said")
		resolve := func(all []policy.Verdict) policy.Verdict {
			var said []policy.Verdict
			for _, v := range all {
				said = policy.Add(said, v)
			}
			return policy.Resolve(said)
		}
		if a, b := resolve(all), resolve(rapid.Permutation(slices.Clone(all)).Draw(t, "order")); a != b {
			t.Fatalf("%+v in one order, %+v in another", a, b)
		}
	})
}

func TestResolve(t *testing.T) {
	v := func(class policy.Class, weight float64, source policy.Source) policy.Verdict {
		return policy.Verdict{Class: class, Weight: weight, Source: source}
	}
	for _, c := range []struct {
		name string
		said []policy.Verdict
		want policy.Verdict
	}{
		{"nothing said", nil, policy.Verdict{Class: policy.None}},
		{"a filter's ham and one unknown user", []policy.Verdict{v(policy.Ham, 1, policy.FromHeader), v(policy.Spam, 0.125, policy.FromUnknownUser)}, v(policy.Ham, 1, policy.FromHeader)},
		{"a filter's ham and a harvest", []policy.Verdict{v(policy.Ham, 1, policy.FromHeader), v(policy.Spam, 1, policy.FromUnknownUser)}, v(policy.Spam, 1, policy.FromUnknownUser)},
		{"two filters of two minds", []policy.Verdict{v(policy.Ham, 1, policy.FromHeader), v(policy.Spam, 0.5, policy.FromRspamd)}, v(policy.Spam, 0.5, policy.FromRspamd)},
		{"silence and a doubtful refusal", []policy.Verdict{v(policy.Ham, 1, policy.FromSilence), v(policy.Spam, 0.25, policy.FromRelay)}, v(policy.Spam, 0.25, policy.FromRelay)},
		{"a trap and a filter's ham", []policy.Verdict{v(policy.Spam, 3, policy.FromTrap), v(policy.Ham, 1, policy.FromHeader)}, v(policy.Spam, 3, policy.FromTrap)},
		{"a person and a trap", []policy.Verdict{v(policy.Spam, 3, policy.FromTrap), v(policy.Ham, 1, policy.FromPerson)}, v(policy.Ham, 1, policy.FromPerson)},
		{"greylisting and a filter's ham", []policy.Verdict{v(policy.None, 0, policy.FromGreylist), v(policy.Ham, 1, policy.FromHeader)}, v(policy.Ham, 1, policy.FromHeader)},
		{"greylisting alone", []policy.Verdict{v(policy.None, 0, policy.FromGreylist), v(policy.None, 0, "")}, v(policy.None, 0, policy.FromGreylist)},
	} {
		if got := policy.Resolve(c.said); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// BenchmarkABusyClient hears a provider's messages, of which there are a hundred thousand on record.
func BenchmarkABusyClient(b *testing.B) {
	c := newCourt()
	hear := func(i int) {
		c.clock = start.Add(time.Duration(i) * 10 * time.Millisecond)
		c.Hear(&policy.Observation{Time: c.clock, Began: c.clock.Add(-50 * time.Millisecond), QueueID: fmt.Sprint("Q", i), Client: policy.Client{Addr: client}, Mail: true})
	}
	for i := range 100_000 {
		hear(i)
	}
	b.ResetTimer()
	for i := range b.N {
		hear(100_000 + i)
	}
}
