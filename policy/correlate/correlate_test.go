package correlate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ehlogate/ehlogate/contrib/e2e/pace"
	"github.com/ehlogate/ehlogate/policy"
)

var (
	start  = time.Date(2026, 11, 24, 13, 21, 55, 0, time.UTC)
	client = netip.MustParseAddr("192.0.2.7")
	other  = netip.MustParseAddr("192.0.2.8")
)

func spam(s policy.Source) policy.Verdict {
	return policy.Verdict{Class: policy.Spam, Weight: 1, Source: s, Reason: "it is"}
}

// aborted is what the milter hears of a message that an earlier filter rejected.
func aborted() *policy.Message {
	return &policy.Message{
		Time: start.Add(time.Second), Began: start, Session: "s1", QueueID: "Q1",
		Client: policy.Client{Addr: client, Port: 4711}, Mail: true,
	}
}

// about is a signal about a message of the client's, some time after the start.
func about(at time.Duration, queueID string) policy.Signal {
	return policy.Signal{Time: start.Add(at), Addr: client, QueueID: queueID, Mail: true, Outcome: policy.Rejected}
}

// desk is a correlator with what came of it: for each queue id the sum of the spam that was learnt.
type desk struct {
	*Correlator
	clock    time.Time
	learnt   map[string]float64
	observed int
}

func newDesk() *desk {
	d := &desk{clock: start, learnt: map[string]float64{}}
	d.Correlator = New(func() time.Time { return d.clock })
	return d
}

func (d *desk) learn(m *policy.Message) {
	d.observed++
	l, _ := m.Lesson()
	d.learnt[m.QueueID] += l.Spam
}

func (d *desk) observe(m *policy.Message) { d.Observe(m); d.learn(m) }

func (d *desk) correct(c *policy.Correction) {
	l, _ := c.Lesson()
	d.learnt[c.QueueID] += l.Spam
}

func (d *desk) signal(s policy.Signal, v policy.Verdict) (known bool) {
	c, known := d.Signal(s, v)
	if c != nil {
		d.correct(c)
	}
	return known
}

// due concludes what is due and returns how many observations came of it.
func (d *desk) due(all bool) int { return len(d.concluded(all)) }

func (d *desk) concluded(all bool) []*policy.Observation {
	due, corrections := d.Due(all)
	for _, o := range due {
		d.learn(&o.Message)
	}
	for _, c := range corrections {
		d.correct(c)
	}
	return due
}

// TestAMessageCountsOnce tells of one message in every order.
func TestAMessageCountsOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := newDesk()
		weak := spam(policy.FromRspamd)
		weak.Weight = 0.75
		steps := []func(){
			func() { d.observe(aborted()) },
			func() { d.signal(about(time.Second, "Q1"), spam(policy.FromMilterReject)) },
			func() { d.signal(about(time.Second, "Q1"), spam(policy.FromMilterReject)) },
			func() { d.signal(about(900*time.Millisecond, "Q1"), weak) },
			func() { d.signal(about(time.Second, ""), spam(policy.FromContent)) },
			func() { d.signal(about(time.Minute, "Q2"), spam(policy.FromDNSBL)) },
		}
		for _, step := range rapid.Permutation(steps).Draw(t, "order") {
			step()
			d.clock = d.clock.Add(10 * time.Millisecond)
		}
		d.due(true)
		if d.observed != 2 || d.learnt["Q1"] != 1 || d.learnt["Q2"] != 1 {
			t.Fatalf("%d observations, learnt %v", d.observed, d.learnt)
		}
	})
}

func TestWhatNoSessionComesForIsAnObservationOfItsOwn(t *testing.T) {
	d := newDesk()
	screened := func(port uint16, mail bool) policy.Signal {
		return policy.Signal{Time: start, Addr: client, Port: port, Mail: mail}
	}
	d.signal(screened(1, false), spam(policy.FromPregreet))
	d.signal(screened(1, false), spam(policy.FromDNSBL))
	d.signal(screened(1, true), spam(policy.FromDNSBL))
	d.signal(screened(2, false), spam(policy.FromPregreet))
	d.clock = start.Add(ScreenWait - 1)
	if due := d.concluded(false); len(due) != 0 {
		t.Fatalf("concluded early: %+v", due[0])
	}
	d.clock = start.Add(ScreenWait)
	due := d.concluded(false)
	if len(due) != 2 || !due[0].Mail || due[1].Mail || len(due[0].Verdicts) != 2 || due[0].STARTTLS != policy.Unasked || due[0].Verdict.Class != policy.Spam {
		t.Fatalf("%d observations: %+v", len(due), due)
	}
	if more := d.concluded(true); len(more) != 0 {
		t.Errorf("concluded twice: %+v", more[0])
	}
	// What comes later still does not count again.
	if c, known := d.Signal(screened(2, false), spam(policy.FromDNSBL)); !known || c == nil || c.Was.Source != policy.FromPregreet || len(c.Verdicts) != 2 {
		t.Errorf("%+v, %v", c, known)
	}
	if n := d.Stats.Alone.Load(); n != 2 {
		t.Errorf("counted %d", n)
	}
}

func TestASignalAboutNoSessionWaitsThreeSeconds(t *testing.T) {
	d := newDesk()
	d.signal(about(0, ""), spam(policy.FromDNSBL))
	d.clock = start.Add(Wait - 1)
	if d.due(false) != 0 {
		t.Error("concluded early")
	}
	d.clock = start.Add(Wait)
	if d.due(false) != 1 {
		t.Error("not concluded in time")
	}
}

func TestMessagesAreToldApart(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*policy.Signal)
		joins  bool
	}{
		{"the queue id", func(s *policy.Signal) { s.QueueID, s.Addr = "Q1", netip.Addr{} }, true},
		{"the queue id, an hour later", func(s *policy.Signal) { s.QueueID, s.Time = "Q1", start.Add(time.Hour) }, true},
		{"the client and the time", func(s *policy.Signal) {}, true},
		{"the client, its port and the time", func(s *policy.Signal) { s.Port = 4711 }, true},
		{"another client", func(s *policy.Signal) { s.Addr = other }, false},
		{"another port", func(s *policy.Signal) { s.Port = 4712 }, false},
		{"another queue id", func(s *policy.Signal) { s.QueueID = "Q9" }, false},
		{"the queue id, used again by another client", func(s *policy.Signal) { s.QueueID, s.Addr = "Q1", other }, false},
		{"at the end", func(s *policy.Signal) { s.Time = start.Add(time.Second) }, true},
		{"two seconds after it", func(s *policy.Signal) { s.Time = start.Add(3 * time.Second) }, true},
		{"later than that", func(s *policy.Signal) { s.Time = start.Add(3*time.Second + 1) }, false},
		{"two seconds before it", func(s *policy.Signal) { s.Time = start.Add(-2 * time.Second) }, true},
		{"earlier than that", func(s *policy.Signal) { s.Time = start.Add(-2*time.Second - 1) }, false},
		{"about no message, while it was under way", func(s *policy.Signal) { s.Mail = false }, true},
		{"about no message, at the end", func(s *policy.Signal) { s.Mail, s.Time = false, start.Add(time.Second) }, true},
		{"about no message, after it", func(s *policy.Signal) { s.Mail, s.Time = false, start.Add(2*time.Second) }, false},
		{"about no message, after it, of the same port", func(s *policy.Signal) { s.Mail, s.Port, s.Time = false, 4711, start.Add(2*time.Second) }, true},
		{"by postscreen, ten seconds before it", func(s *policy.Signal) { s.Mail, s.Port, s.Time = false, 4711, start.Add(-ScreenWait) }, true},
		{"by postscreen, earlier than that", func(s *policy.Signal) { s.Mail, s.Port, s.Time = false, 4711, start.Add(-ScreenWait-1) }, false},
		{"of the same port, about a message ten seconds before it", func(s *policy.Signal) { s.Port, s.Time = 4711, start.Add(-ScreenWait) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := about(500*time.Millisecond, "")
			c.change(&s)
			for _, verdicts := range []policy.Verdicts{nil, {spam(policy.FromRelay)}} {
				d := newDesk()
				m := aborted()
				m.Verdicts = verdicts
				d.Observe(m)
				if known := d.signal(s, spam(policy.FromMilterReject)); known != c.joins {
					t.Errorf("joined: %v", known)
				}
			}
			// Waiting for the message, it is joined by the same rules; but what was before any
			// message may be about any of its session's.
			d := newDesk()
			d.signal(s, spam(policy.FromMilterReject))
			m := aborted()
			if d.Observe(m); (len(m.Verdicts) == 1) != c.joins && s.Mail {
				t.Errorf("waiting, joined: %v", len(m.Verdicts) == 1)
			}
		})
	}
}

// TestASignalFitsTheBestOfSeveral has two messages of one client.
func TestASignalFitsTheBestOfSeveral(t *testing.T) {
	message := func(session string, from, to time.Duration, mail bool, v ...policy.Verdict) *policy.Message {
		return &policy.Message{
			Session: session, Client: policy.Client{Addr: client}, Began: start.Add(from), Time: start.Add(to), Mail: mail, Verdicts: v,
		}
	}
	const s = time.Second
	reject := spam(policy.FromDNSBL)
	for _, c := range []struct {
		name     string
		messages []*policy.Message
		at       time.Duration
		mail     bool
		want     string
	}{
		{"the last one of two", []*policy.Message{message("a", 0, 5*s, true), message("b", 0, 5*s, true)}, 3 * s, true, "b"},
		{"under way rather than just over", []*policy.Message{message("a", 0, 5*s, true), message("b", 0, 2*s, true)}, 3 * s, true, "a"},
		{"of the kind", []*policy.Message{message("a", 0, 5*s, true), message("b", 0, 5*s, false)}, 3 * s, true, "a"},
		{"no message, of the kind", []*policy.Message{message("a", 0, 5*s, false), message("b", 0, 5*s, true)}, 3 * s, false, "a"},
		{"of another kind, if there is no other", []*policy.Message{message("a", 0, 5*s, true), message("b", 8*s, 9*s, false)}, 3 * s, false, "a"},
		{"told already", []*policy.Message{message("a", 0, 5*s, true, reject), message("b", 0, 5*s, true)}, 3 * s, true, "a"},
		{"told already by another source", []*policy.Message{message("a", 0, 5*s, true, spam(policy.FromRelay)), message("b", 0, 5*s, true)}, 3 * s, true, "b"},
		{"told already of another class", []*policy.Message{message("a", 0, 5*s, true, policy.Verdict{Class: policy.None, Source: policy.FromDNSBL}), message("b", 0, 5*s, true)}, 3 * s, true, "b"},
		{"told already and just over, of another kind", []*policy.Message{message("a", 0, 2*s, false, reject)}, 3 * s, true, "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDesk()
			for _, m := range c.messages {
				d.Observe(m)
			}
			v := reject
			v.Weight, v.Reason = 1.5, "graver"
			correction, known := d.Signal(policy.Signal{Time: start.Add(c.at), Addr: client, Mail: c.mail}, v)
			if !known || correction == nil || correction.Session != c.want {
				t.Errorf("joined %+v, want that of session %s", correction, c.want)
			}
		})
	}
}

// TestASignalWaitsForItsSession has a session that is open for a long time, and signals about it.
func TestASignalWaitsForItsSession(t *testing.T) {
	const open = 10 * time.Minute
	for _, c := range []struct {
		name   string
		signal policy.Signal
		waits  bool
	}{
		{"of the client", policy.Signal{Addr: client, Mail: true}, true},
		{"of the client, about no message", policy.Signal{Addr: client}, true},
		{"of the client and its port", policy.Signal{Addr: client, Port: 4711, Mail: true}, true},
		{"with the queue id, and without the client", policy.Signal{QueueID: "Q1", Mail: true}, true},
		{"with the client and the queue id", policy.Signal{Addr: client, QueueID: "Q1", Mail: true}, true},
		{"of another port", policy.Signal{Addr: client, Port: 4712, Mail: true}, false},
		{"of another client", policy.Signal{Addr: other, Mail: true}, false},
		{"with another queue id", policy.Signal{Addr: client, QueueID: "Q2", Mail: true}, false},
		{"with another queue id, and without the client", policy.Signal{QueueID: "Q2", Mail: true}, false},
		{"from before the session", policy.Signal{Addr: client, Mail: true, Time: start.Add(-2*time.Second - 1)}, false},
		{"from just before the session", policy.Signal{Addr: client, Mail: true, Time: start.Add(-2 * time.Second)}, true},
		{"by postscreen, before the session", policy.Signal{Addr: client, Port: 4711, Time: start.Add(-ScreenWait)}, true},
		{"by postscreen, long before the session", policy.Signal{Addr: client, Port: 4711, Time: start.Add(-ScreenWait - 1)}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDesk()
			d.Begin("s1", policy.Client{Addr: client, Port: 4711}, start)
			d.Queued("s1", "Q1")
			s := c.signal
			if s.Time.IsZero() {
				s.Time = start.Add(time.Second)
			}
			d.signal(s, spam(policy.FromDNSBL))
			concluded := 0
			for ; d.clock.Before(start.Add(open)); d.clock = d.clock.Add(time.Second) {
				concluded += d.due(false)
			}
			if (concluded == 0) != c.waits {
				t.Fatalf("%d concluded while the session was open", concluded)
			}
			m := aborted()
			m.Time = d.clock
			m.Verdicts = policy.Verdicts{spam(policy.FromDNSBL)}
			d.observe(m)
			d.End("s1")
			d.due(true)
			if want := map[bool]int{true: 1, false: 2}[c.waits]; d.observed != want {
				t.Errorf("%d observations, want %d", d.observed, want)
			}
		})
	}
}

func TestASignalDoesNotWaitForEver(t *testing.T) {
	d := newDesk()
	d.Begin("s1", policy.Client{Addr: client}, start)
	d.signal(about(0, ""), spam(policy.FromDNSBL))
	d.clock = start.Add(HoldMost - 1)
	if d.due(false) != 0 {
		t.Error("concluded early")
	}
	d.clock = start.Add(HoldMost)
	if d.due(false) != 1 {
		t.Error("not concluded")
	}
}

func TestWhenItsSessionHasEndedASignalIsConcluded(t *testing.T) {
	d := newDesk()
	d.Begin("s1", policy.Client{Addr: client}, start)
	d.Begin("s2", policy.Client{Addr: client}, start)
	d.Begin("s3", policy.Client{Addr: other}, start)
	d.signal(about(0, ""), spam(policy.FromDNSBL))
	d.clock = start.Add(time.Minute)
	d.End("s1")
	d.End("s1")
	if d.due(false) != 0 {
		t.Error("concluded although another session is open")
	}
	d.End("s2")
	if d.due(false) != 1 {
		t.Error("not concluded")
	}
	d.End("s3")
	if s := d.sessions; len(s.byID)+len(s.byClient)+len(s.byQueue) != 0 {
		t.Errorf("sessions are left: %+v", s)
	}
}

// TestTheQueueIDOfAnOpenSessionMoves has a session with several messages.
func TestTheQueueIDOfAnOpenSessionMoves(t *testing.T) {
	d := newDesk()
	d.Begin("s1", policy.Client{Addr: client}, start)
	d.Queued("s1", "Q1")
	d.Queued("s1", "Q2")
	d.Queued("s9", "Q9")
	d.signal(about(0, "Q1"), spam(policy.FromMilterReject))
	d.signal(about(0, "Q2"), spam(policy.FromMilterReject))
	d.signal(policy.Signal{Time: start, QueueID: "Q9", Mail: true}, spam(policy.FromMilterReject))
	d.clock = start.Add(time.Minute)
	var ids []string
	for _, o := range d.concluded(false) {
		ids = append(ids, o.QueueID)
	}
	if got := strings.Join(ids, " "); got != "Q1 Q9" {
		t.Errorf("concluded %s, want all but the one under way", got)
	}
}

// TestASignalOfTheSessionRatherThanOfTheLastMessage has a message that is just over, and its
// session going on.
func TestASignalOfTheSessionRatherThanOfTheLastMessage(t *testing.T) {
	d := newDesk()
	d.Begin("s1", policy.Client{Addr: client}, start)
	d.Observe(aborted())
	if d.signal(about(2*time.Second, ""), spam(policy.FromRelay)) {
		t.Error("joined the message before")
	}
	if d.signal(about(2*time.Second, ""), spam(policy.FromDNSBL)) {
		t.Error("joined the message before")
	}
	second := aborted()
	second.QueueID, second.Began, second.Time = "Q2", start.Add(1500*time.Millisecond), start.Add(time.Minute)
	d.Observe(second)
	if len(second.Verdicts) != 2 {
		t.Errorf("%+v", second.Verdicts)
	}
}

// TestWhatBelongsToAnEarlierMessageIsNotTakenByTheNext has a signal that fits no message that is
// observed in its session.
func TestWhatBelongsToAnEarlierMessageIsNotTakenByTheNext(t *testing.T) {
	d := newDesk()
	d.Begin("s1", policy.Client{Addr: client}, start)
	d.signal(about(10*time.Second, ""), spam(policy.FromDNSBL))
	later := aborted()
	later.Began, later.Time = start.Add(12*time.Second+1), start.Add(20*time.Second)
	if d.Observe(later); len(later.Verdicts) != 0 {
		t.Errorf("taken: %+v", later.Verdicts)
	}
	earlier := aborted()
	earlier.QueueID, earlier.Time = "", start.Add(8*time.Second-1)
	if d.Observe(earlier); len(earlier.Verdicts) != 0 {
		t.Errorf("taken: %+v", earlier.Verdicts)
	}
	just := aborted()
	just.QueueID, just.Time = "", start.Add(8*time.Second)
	if d.Observe(just); len(just.Verdicts) != 1 || d.Stats.Joined.Load() != 1 {
		t.Errorf("not taken: %+v", just.Verdicts)
	}
	if d.due(true) != 0 {
		t.Error("concluded, too")
	}
}

// TestAWarningOfTheSessionIsTakenByItsMessage is what smtpd says before any message.
func TestAWarningOfTheSessionIsTakenByItsMessage(t *testing.T) {
	d := newDesk()
	d.Begin("s1", policy.Client{Addr: client}, start)
	d.signal(policy.Signal{Time: start.Add(time.Second), Addr: client, Trouble: policy.HandshakeFailed}, policy.Verdict{Class: policy.None, Source: policy.FromTLS})
	m := aborted()
	m.Began, m.Time = start.Add(time.Minute), start.Add(2*time.Minute)
	d.Observe(m)
	if len(m.Verdicts) != 1 || m.Trouble != policy.HandshakeFailed || len(d.pendingByClient) != 0 {
		t.Errorf("%+v", m)
	}
	// Late, or told again, it is about the same.
	late := policy.Signal{Time: start.Add(time.Second), Addr: client}
	if c, known := d.Signal(late, policy.Verdict{Class: policy.None, Source: policy.FromTLS}); c != nil || !known || d.Stats.Repeated.Load() != 1 {
		t.Errorf("told again: %+v, %v", c, known)
	}
	d.End("s1")
	late.Trouble = policy.LeftWithout
	if c, _ := d.Signal(late, spam(policy.FromLimit)); c == nil || c.Trouble != policy.HandshakeFailed {
		t.Errorf("late: %+v", c)
	}
}

func TestTroubleComesWithACorrection(t *testing.T) {
	d := newDesk()
	m := aborted()
	m.Verdicts = policy.Verdicts{{Class: policy.None, Source: policy.FromTLS}}
	d.Observe(m)
	s := about(time.Second, "")
	s.Trouble = policy.HandshakeFailed
	if c, _ := d.Signal(s, policy.Verdict{Class: policy.None, Source: policy.FromTLS}); c == nil || c.Trouble != policy.HandshakeFailed {
		t.Errorf("%+v", c)
	}
	if c, known := d.Signal(s, policy.Verdict{Class: policy.None, Source: policy.FromTLS}); c != nil || !known {
		t.Errorf("told again: %+v", c)
	}
}

// TestASessionThatNobodyHeardLastsAsLongAsTheLogTellsOfIt refuses a recipient every two seconds.
func TestASessionThatNobodyHeardLastsAsLongAsTheLogTellsOfIt(t *testing.T) {
	d := newDesk()
	for i := range 20 {
		d.signal(about(time.Duration(2*i)*time.Second, ""), spam(policy.FromDNSBL))
		d.clock = start.Add(time.Duration(2*i+1) * time.Second)
		d.due(false)
	}
	d.due(true)
	if d.observed != 1 || d.learnt[""] != 1 {
		t.Errorf("%d observations, learnt %v", d.observed, d.learnt)
	}
	if len(d.byQueue) != 0 {
		t.Errorf("queue ids out of nothing: %v", d.byQueue)
	}
	d.signal(about(41*time.Second, ""), spam(policy.FromDNSBL))
	if d.due(true) != 1 {
		t.Error("another session is not another one")
	}
}

// TestASessionThatWasHeardEndsWhenItEnds has signals that come ever later.
func TestASessionThatWasHeardEndsWhenItEnds(t *testing.T) {
	d := newDesk()
	d.Observe(aborted())
	for i, known := range []bool{true, false} {
		if got := d.signal(about(time.Second+time.Duration(2*i+2)*time.Second, ""), spam(policy.FromDNSBL)); got != known {
			t.Errorf("%d s after the end: known %v", 2*i+2, got)
		}
	}
}

// TestWhatWasConcludedIsRemembered also when it was pending for so long that its turn to be
// forgotten had come.
func TestWhatWasConcludedIsRemembered(t *testing.T) {
	d := newDesk()
	d.signal(about(0, ""), spam(policy.FromDNSBL))
	d.due(true)
	if !d.signal(about(0, ""), spam(policy.FromRelay)) || len(d.byClient) != 1 || len(d.pendingByClient) != 0 {
		t.Error("forgotten")
	}
	d.signal(about(time.Minute, ""), spam(policy.FromDNSBL))
	d.pending[0].gone = true
	d.due(true)
	if len(d.byClient[client]) != 1 {
		t.Errorf("%d messages of the client, one of them in no other index", len(d.byClient[client]))
	}
}

// TestSignalsThatWaitTogether join one another as they would a message.
func TestSignalsThatWaitTogether(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*policy.Signal)
		cases  int
	}{
		{"two seconds later", func(s *policy.Signal) { s.Time = start.Add(2 * time.Second) }, 1},
		{"later than that", func(s *policy.Signal) { s.Time = start.Add(2*time.Second + 1) }, 2},
		{"two seconds before", func(s *policy.Signal) { s.Time = start.Add(-2 * time.Second) }, 1},
		{"earlier than that", func(s *policy.Signal) { s.Time = start.Add(-2*time.Second - 1) }, 2},
		{"of another port", func(s *policy.Signal) { s.Port = 4712 }, 2},
		{"with another queue id", func(s *policy.Signal) { s.QueueID = "Q2" }, 2},
		{"with the queue id", func(s *policy.Signal) { s.QueueID, s.Addr = "Q1", netip.Addr{} }, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDesk()
			first := about(0, "Q1")
			first.Port = 4711
			d.signal(first, spam(policy.FromDNSBL))
			s := about(0, "")
			c.change(&s)
			d.signal(s, spam(policy.FromRelay))
			due := d.concluded(true)
			if len(due) != c.cases {
				t.Fatalf("%d observations, want %d", len(due), c.cases)
			}
			from, to := start, start
			if c.cases == 1 && s.Time.Before(from) {
				from = s.Time
			} else if c.cases == 1 {
				to = s.Time
			}
			if o := due[0]; !o.Began.Equal(from) || !o.Time.Equal(to) {
				t.Errorf("from %s to %s, want from %s to %s", o.Began, o.Time, from, to)
			}
		})
	}
}

// TestWhatWaitsKeepsWhatEachSignalTells adds several to one.
func TestWhatWaitsKeepsWhatEachSignalTells(t *testing.T) {
	d := newDesk()
	first := policy.Signal{Time: start, Addr: client}
	d.signal(first, spam(policy.FromPipelining))
	second := policy.Signal{Time: start.Add(-time.Second), Addr: client, Mail: true, FromDomain: "sender.example", HELO: "client.example", Outcome: policy.Rejected}
	d.signal(second, spam(policy.FromDNSBL))
	third := policy.Signal{Time: start.Add(time.Second), Addr: client, FromDomain: "other.example", HELO: "other.example", Trouble: policy.HandshakeFailed}
	d.signal(third, spam(policy.FromTLS))
	due := d.concluded(true)
	if len(due) != 1 {
		t.Fatalf("%d observations", len(due))
	}
	o := due[0]
	if !o.Mail || o.FromDomain != "sender.example" || o.HELO != "client.example" || o.Outcome != policy.Rejected || o.Trouble != policy.HandshakeFailed ||
		!o.Began.Equal(start.Add(-time.Second)) || !o.Time.Equal(start.Add(time.Second)) || len(o.Verdicts) != 3 {
		t.Errorf("%+v", o)
	}
	// How it came in is known when one of them says so.
	used := &policy.TLS{Version: "TLSv1.3"}
	for i, c := range []struct {
		first, second policy.Signal
		clear         bool
	}{
		{policy.Signal{}, policy.Signal{InClear: true}, true},
		{policy.Signal{InClear: true}, policy.Signal{}, true},
		{policy.Signal{InClear: true}, policy.Signal{TLS: used}, false},
		{policy.Signal{TLS: used}, policy.Signal{InClear: true}, true},
		// A program may not know what the log knows.
		{policy.Signal{InClear: true}, policy.Signal{TLS: used, Posted: true}, true},
		{policy.Signal{TLS: used, Posted: true}, policy.Signal{InClear: true}, true},
		{policy.Signal{Posted: true}, policy.Signal{TLS: used, Posted: true}, false},
		{policy.Signal{Posted: true}, policy.Signal{TLS: used}, false},
	} {
		for _, s := range []policy.Signal{c.first, c.second} {
			s.Time, s.Addr, s.Mail = start.AddDate(0, 0, i+1), client, true
			d.signal(s, spam(policy.FromRelay))
		}
		if o := d.concluded(true)[0]; o.InClear != c.clear || (o.TLS != nil) == c.clear {
			t.Errorf("%+v, then %+v: %v, %v", c.first, c.second, o.InClear, o.TLS)
		}
	}
	// One that says less takes nothing back.
	d.signal(policy.Signal{Time: start.Add(time.Minute), Addr: client, Mail: true, Outcome: policy.Rejected}, spam(policy.FromDNSBL))
	d.signal(policy.Signal{Time: start.Add(time.Minute), Addr: client, Mail: true}, spam(policy.FromRelay))
	if o := d.concluded(true)[0]; o.Outcome != policy.Rejected {
		t.Errorf("%s", o.Outcome)
	}
	// A session of which it turns out that it had a message.
	d.signal(policy.Signal{Time: start.Add(time.Hour), Addr: client}, spam(policy.FromPipelining))
	d.signal(policy.Signal{Time: start.Add(time.Hour), Addr: client, Mail: true}, spam(policy.FromRelay))
	if o := d.concluded(true)[0]; o.Outcome != policy.Accepted {
		t.Errorf("%s", o.Outcome)
	}
}

// TestAPostByQueueIDAloneIsAboutWhatTheLogTells: the log names the client afterwards, and says that
// a user logged in.
func TestAPostByQueueIDAloneIsAboutWhatTheLogTells(t *testing.T) {
	for _, authenticated := range []bool{false, true} {
		d := newDesk()
		d.signal(policy.Signal{Time: start, QueueID: "Q1", Mail: true, Posted: true}, spam(policy.FromFeed))
		d.signal(policy.Signal{Time: start.Add(time.Second), Addr: client, Port: 4711, QueueID: "Q1", Mail: true, InClear: true, Authenticated: authenticated}, policy.Verdict{Class: policy.None, Source: policy.FromLogin})
		due := d.concluded(true)
		if len(due) != 1 {
			t.Fatalf("%d observations", len(due))
		}
		if o := due[0]; o.Client.Addr != client || o.Client.Port != 4711 || o.Verdict.Class != policy.Spam || o.Authenticated != authenticated || o.Teachable() == authenticated {
			t.Errorf("%+v", o)
		}
	}
}

// TestASessionThatWeStoppedListeningTo goes on without us.
func TestASessionThatWeStoppedListeningTo(t *testing.T) {
	for _, c := range []struct {
		name       string
		unfinished bool
		at         time.Duration
		joins      bool
	}{
		{"a quarter of an hour after we stopped", true, time.Second + 15*time.Minute, true},
		{"later than that", true, time.Second + 15*time.Minute + 1, false},
		{"a minute after it ended", false, time.Minute, false},
	} {
		for _, mail := range []bool{true, false} {
			d := newDesk()
			m := aborted()
			m.Unfinished = c.unfinished
			d.Restore(m)
			s := about(c.at, "")
			s.Mail = mail
			if known := d.signal(s, spam(policy.FromDNSBL)); known != c.joins {
				t.Errorf("%s, about a message %v: joined %v", c.name, mail, known)
			}
		}
	}
}

// TestAfterARestartWhatIsReadAgainIsKnown has a message that was joined by a warning from the start
// of its session.
func TestAfterARestartWhatIsReadAgainIsKnown(t *testing.T) {
	d := newDesk()
	m := aborted()
	m.Began = start.Add(30 * time.Minute)
	m.Time = m.Began.Add(time.Second)
	m.Verdicts = policy.Verdicts{spam(policy.FromLimit)}
	d.Restore(m)
	warning := policy.Signal{Time: start, Addr: client}
	if !d.signal(warning, spam(policy.FromLimit)) {
		t.Error("read again, it counts again")
	}
	if d.signal(warning, spam(policy.FromPipelining)) {
		t.Error("what was not known joins")
	}
	warning.Time = m.Began.Add(-HoldMost - 1)
	if d.signal(warning, spam(policy.FromLimit)) {
		t.Error("what is too old joins")
	}
	mail := about(0, "")
	if d.signal(mail, spam(policy.FromLimit)) {
		t.Error("what is about another message joins")
	}
}

func TestPeopleCorrect(t *testing.T) {
	d := newDesk()
	m := aborted()
	ham := policy.Verdict{Class: policy.Ham, Weight: 1, Source: policy.FromHeader}
	m.Verdicts = policy.Verdicts{ham}
	d.observe(m)
	person := func(class policy.Class) policy.Verdict {
		return policy.Verdict{Class: class, Weight: 1, Source: policy.FromPerson}
	}
	for _, step := range []struct {
		class policy.Class
		was   policy.Verdict
		again bool
	}{
		{policy.Spam, ham, false},
		{policy.Spam, policy.Verdict{}, true},
		{policy.Ham, person(policy.Spam), false},
	} {
		c, found := d.Report(policy.Signal{QueueID: "Q1", Time: m.Time.Add(24 * time.Hour)}, person(step.class))
		if want := map[bool]Found{true: Repeated, false: Corrected}[step.again]; found != want || (c == nil) != step.again || c != nil && (c.Was != step.was || c.Verdict != person(step.class) || !c.Time.Equal(m.Time) || c.Client.Addr != client) {
			t.Errorf("%s: %+v, %v", step.class, c, found)
		}
	}
	for name, stranger := range map[string]policy.Signal{
		"an unknown message":                        {QueueID: "Q7", Addr: client},
		"no queue id":                               {Addr: client, Time: start},
		"the queue id of another client's":          {QueueID: "Q1", Addr: other},
		"the queue id of a message of another time": {QueueID: "Q1", Addr: client, Time: start.Add(time.Second + 24*time.Hour + 1)},
	} {
		if _, found := d.Report(stranger, person(policy.Spam)); found != Unknown {
			t.Errorf("%s is known", name)
		}
	}
	user := aborted()
	user.QueueID, user.Authenticated = "Q3", true
	d.Observe(user)
	c, _ := d.Report(policy.Signal{QueueID: "Q3"}, person(policy.Spam))
	if c == nil {
		t.Fatal("nothing came of it")
	}
	if l, ok := c.Lesson(); ok {
		t.Errorf("a logged-in client's address is accused: %+v", l)
	}
	// A message that waits has the verdict when it is concluded.
	d.signal(about(time.Minute, "Q5"), ham)
	if c, found := d.Report(policy.Signal{QueueID: "Q5", FromDomain: "sender.example"}, person(policy.Spam)); c != nil || found != Pending {
		t.Errorf("%+v, %v", c, found)
	}
	if due := d.concluded(true); len(due) != 1 || due[0].Verdict != person(policy.Spam) || due[0].FromDomain != "sender.example" {
		t.Errorf("%+v", due)
	}
}

// TestOldMessagesThatAreRestoredTogetherStay restores messages of last week to correct each.
func TestOldMessagesThatAreRestoredTogetherStay(t *testing.T) {
	d := newDesk()
	for i := range 500 {
		m := aborted()
		m.QueueID, m.Time, m.Began = fmt.Sprint("Q", i), start.AddDate(0, 0, -7), start.AddDate(0, 0, -7)
		d.Restore(m)
	}
	for i := range 500 {
		if id := fmt.Sprint("Q", i); !d.Has(id) {
			t.Fatalf("%s is forgotten", id)
		}
	}
	d.clock = start.Add(Remember + 1)
	d.Restore(aborted())
	if d.Has("Q0") || d.Has("Q499") || len(d.order) != 1 {
		t.Errorf("%d messages are left after two hours", len(d.order))
	}
}

func TestWhatWaitsIsNotForgotten(t *testing.T) {
	d := newDesk()
	d.Begin("s1", policy.Client{Addr: client}, start)
	d.signal(about(0, ""), spam(policy.FromDNSBL))
	if at, ok := d.OldestPending(); !ok || !at.Equal(start) {
		t.Errorf("waiting since %v, %v", at, ok)
	}
	d.clock = start.Add(Remember + 1)
	d.Observe(&policy.Message{Time: d.clock, Client: policy.Client{Addr: other}})
	d.clock = start.Add(HoldMost)
	if d.due(false) != 1 {
		t.Error("forgotten")
	}
	if at, ok := d.OldestPending(); ok {
		t.Errorf("still waiting since %v", at)
	}
}

func TestTheCorrelatorIsBounded(t *testing.T) {
	d := newDesk()
	addr := netip.MustParseAddr("10.0.0.0")
	for range mostPending + 100 {
		addr = addr.Next()
		d.Signal(policy.Signal{Time: d.clock, Addr: addr}, spam(policy.FromDNSBL))
	}
	if due := d.concluded(false); len(due) != 100 {
		t.Errorf("%d of %d pending concluded, want those beyond %d", len(due), mostPending+100, mostPending)
	}
	d.due(true)
	for range mostMessages {
		addr = addr.Next()
		d.Observe(&policy.Message{Time: d.clock, Client: policy.Client{Addr: addr}, QueueID: addr.String()})
	}
	if n := len(d.order); n != mostMessages || len(d.byClient) > mostMessages || len(d.byQueue) > mostMessages || len(d.pendingByClient) > 0 {
		t.Errorf("%d messages, %d clients, %d queue ids, %d pending", n, len(d.byClient), len(d.byQueue), len(d.pendingByClient))
	}
	d.clock = d.clock.Add(Remember + time.Second)
	d.Observe(aborted())
	d.Observe(&policy.Message{Time: d.clock, Client: policy.Client{Addr: addr}})
	if len(d.order) != 2 || len(d.byQueue) != 1 || len(d.byClient) != 2 {
		t.Errorf("%d messages and %d queue ids are left of long ago", len(d.order), len(d.byQueue))
	}
}

// TestABusyClientsOldMessagesAreNotWalked has more messages than are looked at.
func TestABusyClientsOldMessagesAreNotWalked(t *testing.T) {
	for extra, joins := range map[int]bool{0: true, 1: false} {
		d := newDesk()
		first := aborted()
		first.QueueID, first.Time = "", start.Add(time.Minute)
		d.Observe(first)
		for range outOfOrder + extra {
			m := aborted()
			m.QueueID = ""
			d.Observe(m)
		}
		if known := d.signal(about(30*time.Second, ""), spam(policy.FromDNSBL)); known != joins {
			t.Errorf("%d older ones before it: joined %v", outOfOrder+extra, known)
		}
	}
}

// TestOneClientsSignalsInTwoSessions has two sessions of a client at once: what both hear counts
// for both, and nothing counts three times.
func TestOneClientsSignalsInTwoSessions(t *testing.T) {
	d := newDesk()
	refused := spam(policy.FromDNSBL)
	var all []*policy.Message
	for i := range 2 {
		id := fmt.Sprint("s", i)
		d.Begin(id, policy.Client{Addr: client}, start)
		m := aborted()
		m.Session, m.QueueID, m.Client.Port, m.Time = id, "", 0, start.Add(time.Duration(8+i)*time.Second)
		m.Verdicts = policy.Verdicts{refused}
		all = append(all, m)
	}
	for range 2 {
		d.signal(about(time.Second, ""), refused)
	}
	d.clock = start.Add(5 * time.Second)
	d.due(false)
	for _, m := range slices.Backward(all) {
		d.observe(m)
		d.End(m.Session)
	}
	d.due(true)
	if d.observed != 2 || d.learnt[""] != 2 {
		t.Errorf("%d observations, learnt %v", d.observed, d.learnt)
	}
}

// BenchmarkABusyClient observes a provider's messages, of which there are a hundred thousand on
// record.
func BenchmarkABusyClient(b *testing.B) {
	d := newDesk()
	observe := func(i int) {
		d.clock = start.Add(time.Duration(i) * 10 * time.Millisecond)
		d.Observe(&policy.Message{
			Time: d.clock, Began: d.clock.Add(-50 * time.Millisecond), QueueID: fmt.Sprint("Q", i),
			Client: policy.Client{Addr: client}, Mail: true,
		})
	}
	for i := range 100_000 {
		observe(i)
	}
	b.ResetTimer()
	for i := range b.N {
		observe(100_000 + i)
	}
}

// TestWhatTheMilterHasNotToldOfAMessageIsAboutAnotherOne has a client whose one session sends ham
// while a recipient is refused in the other, and whose log names no ports.
func TestWhatTheMilterHasNotToldOfAMessageIsAboutAnotherOne(t *testing.T) {
	refused := spam(policy.FromRecipient)
	for _, c := range []struct {
		name string
		end  []string // the order in which the sessions end
		read int      // after how many of them the log is read
	}{
		{"the refused one ends last", []string{"ham", "refused"}, 0},
		{"the refused one ends first", []string{"refused", "ham"}, 0},
		{"the log is read in between, the refused one ends last", []string{"ham", "refused"}, 1},
		{"the log is read in between, the refused one ends first", []string{"refused", "ham"}, 1},
		{"the log is read late, the refused one ends last", []string{"ham", "refused"}, 2},
		{"the log is read late, the refused one ends first", []string{"refused", "ham"}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDesk()
			for _, id := range c.end {
				d.Begin(id, policy.Client{Addr: client, Port: 4711}, start)
			}
			tell := func(ended int) {
				if ended == c.read {
					d.signal(about(2*time.Second, ""), refused)
				}
			}
			tell(0)
			for i, id := range c.end {
				m := &policy.Message{Session: id, Client: policy.Client{Addr: client}, Began: start, Time: start.Add(time.Duration(4+4*i) * time.Second), Mail: true}
				if id == "refused" {
					m.Verdicts = policy.Verdicts{refused}
				} else {
					m.QueueID = "Q1"
				}
				d.observe(m)
				if i == 0 {
					tell(1)
				}
				d.clock = start.Add(time.Duration(8+4*i) * time.Second)
				d.due(false)
				d.End(id)
			}
			tell(2)
			d.clock = start.Add(time.Minute)
			if d.due(true); d.observed != 2 || d.learnt[""] != 1 || d.learnt["Q1"] != 0 {
				t.Errorf("%d observations, learnt %v", d.observed, d.learnt)
			}
		})
	}
}

// TestASignalThatWaitedForAMessageThatNeverCame is about the message before.
func TestASignalThatWaitedForAMessageThatNeverCame(t *testing.T) {
	d := newDesk()
	d.Begin("s1", policy.Client{Addr: client}, start)
	d.observe(aborted())
	if d.signal(about(500*time.Millisecond, ""), spam(policy.FromLimit)) {
		t.Error("joined at once, although its session is open")
	}
	d.clock = start.Add(time.Minute)
	d.End("s1")
	if d.due(false) != 0 || d.observed != 1 || d.learnt["Q1"] != 1 {
		t.Errorf("%d observations, learnt %v", d.observed, d.learnt)
	}
	// What is said again of it, or of one that had no queue id, is known as well.
	d.Begin("s2", policy.Client{Addr: other}, start)
	m := aborted()
	m.Client.Addr, m.QueueID, m.Session = other, "", "s2"
	d.observe(m)
	for _, source := range []policy.Source{policy.FromContent, policy.FromContent} {
		d.signal(policy.Signal{Time: start.Add(500 * time.Millisecond), Addr: other, QueueID: "Q7", Mail: true}, spam(source))
	}
	d.End("s2")
	if d.clock = start.Add(2 * time.Minute); d.due(false) != 0 || !d.Has("Q7") || d.learnt["Q7"] != 1 {
		t.Errorf("%d observations, learnt %v", d.observed, d.learnt)
	}
}

// TestWhatHasAnotherQueueIDIsAnotherMessage also where the first of them came without one.
func TestWhatHasAnotherQueueIDIsAnotherMessage(t *testing.T) {
	for _, observed := range []bool{true, false} {
		d := newDesk()
		if observed {
			m := aborted()
			m.QueueID, m.Unfinished = "", true
			d.observe(m)
		} else {
			d.signal(about(0, ""), spam(policy.FromDNSBL))
		}
		for i := range 5 {
			d.signal(about(time.Second, fmt.Sprint("Q", i)), spam(policy.FromContent))
		}
		d.due(true)
		if d.observed != 5 || d.learnt["Q0"] != 1 || d.learnt["Q4"] != 1 {
			t.Errorf("observed before %v: %d observations, learnt %v", observed, d.observed, d.learnt)
		}
	}
}

// TestASecondMessagesQueueIDIsNotTheFirstOnes has a session with two messages.
func TestASecondMessagesQueueIDIsNotTheFirstOnes(t *testing.T) {
	d := newDesk()
	d.Begin("s1", policy.Client{Addr: client}, start)
	d.Queued("s1", "Q1")
	d.observe(aborted())
	d.signal(about(2*time.Second, "Q2"), spam(policy.FromMilterReject))
	d.clock = start.Add(time.Minute)
	if d.due(false) != 0 {
		t.Error("concluded while its message is under way")
	}
	m := aborted()
	m.QueueID, m.Time = "Q2", d.clock
	d.observe(m)
	if d.End("s1"); d.observed != 2 || d.learnt["Q2"] != 1 || len(d.sessions.byQueue) != 0 {
		t.Errorf("%d observations, learnt %v", d.observed, d.learnt)
	}
}

// TestWhatIsForgottenIsNotTakenBack drops the evidence of a client before its message is corrected.
func TestWhatIsForgottenIsNotTakenBack(t *testing.T) {
	d := newDesk()
	m := aborted()
	m.Verdicts = policy.Verdicts{spam(policy.FromHeader)}
	d.observe(m)
	d.Forgot(netip.MustParsePrefix("198.51.100.0/24"))
	ham := policy.Verdict{Class: policy.Ham, Weight: 1, Source: policy.FromPerson}
	again := policy.Verdict{Class: policy.Spam, Weight: 1, Source: policy.FromPerson}
	if c, _ := d.Report(policy.Signal{QueueID: "Q1"}, ham); c == nil || c.Was.Class != policy.Spam {
		t.Errorf("another network was forgotten, and %+v", c)
	}
	d.Forgot(netip.MustParsePrefix("192.0.2.0/24"))
	if c, _ := d.Report(policy.Signal{QueueID: "Q1"}, again); c == nil || c.Was.Class != policy.None {
		t.Errorf("taken back is %+v", c)
	}
}

// TestAQueueIDAtAnotherTimeMovesNothing: the time of a message that is pending is the first
// signal's.
func TestAQueueIDAtAnotherTimeMovesNothing(t *testing.T) {
	for _, at := range []time.Duration{-24 * time.Hour, -slack - 1, slack + 1, 24 * time.Hour} {
		d := newDesk()
		d.signal(about(0, "Q1"), spam(policy.FromFeed))
		d.signal(about(at, "Q1"), spam(policy.FromRspamd))
		if due := d.concluded(true); len(due) != 1 || !due[0].Time.Equal(start) || !due[0].Began.Equal(start) {
			t.Errorf("%s: %+v", at, due)
		}
	}
}

// TestSignalsOfOneClientStayCheap posts 40,000 cases of one client: the last cost what the first
// did, and a session of another client does not wait for them.
func TestSignalsOfOneClientStayCheap(t *testing.T) {
	clock := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	c := New(func() time.Time { return clock })
	accused := netip.MustParseAddr("192.0.2.7")
	// Sessions are open, so that signals wait for them.
	for i := range 50 {
		c.Begin(fmt.Sprint("open", i), policy.Client{Addr: accused, Port: uint16(1000 + i)}, clock)
	}
	verdict := policy.Verdict{Class: policy.Spam, Source: policy.FromFeed, Weight: 1}
	post := func(i int) {
		c.Signal(policy.Signal{Time: clock.Add(-time.Duration(i%3600) * time.Second), Addr: accused, QueueID: fmt.Sprint("Q", i), Mail: true}, verdict)
	}
	const some, cases = 1000, 40_000
	timed := func(from int) time.Duration {
		began := time.Now()
		for i := range some {
			post(from + i)
		}
		return time.Since(began) / some
	}
	lag := pace.Start()
	first := timed(0)
	longest := time.Duration(0)
	for i := some; i < cases; i++ {
		post(i)
		if i%2500 == 0 {
			// Due is called four times a second.
			clock = clock.Add(250 * time.Millisecond)
			for more := true; more; {
				began := time.Now()
				_, _, more = c.someDue(false)
				longest = max(longest, time.Since(began))
			}
		}
	}
	last := timed(cases)
	lag.Stop()
	t.Logf("a signal took %v at first and %v at last; sessions waited for %v at most", first, last, longest)
	if last > time.Millisecond {
		t.Errorf("a signal takes %v", last)
	}
	if longest > 50*time.Millisecond+10*lag.Most() {
		t.Errorf("a session waited for %v", longest)
	}
	if n := len(c.pendingByClient[accused]); n > 20*mostOfClient {
		t.Errorf("%d wait", n)
	}
}
