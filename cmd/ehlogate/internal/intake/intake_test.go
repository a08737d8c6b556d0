package intake

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/behaviour"
	"github.com/ehlogate/ehlogate/policy/correlate"
	"github.com/ehlogate/ehlogate/policy/eventlog"
	"github.com/ehlogate/ehlogate/policy/reputation"
	"github.com/ehlogate/ehlogate/policy/store"
)

var (
	start  = time.Date(2026, 11, 24, 13, 21, 55, 0, time.UTC)
	client = policy.Client{Addr: netip.MustParseAddr("192.0.2.7"), Port: 4711}
)

// node is an intake over a real store, correlator and event log, with a clock of its own. It can be
// restarted.
type node struct {
	t        *testing.T
	in       *Intake
	clock    time.Time
	memory   *store.Memory
	events   string
	settings Settings
	log      strings.Builder
	// exceptions are those that were made; refuse is what the store says of the next.
	exceptions []policy.Exception
	kept       *policy.Exceptions
	refuse     error
}

func newNode(t *testing.T, dir string) *node {
	n := makeNode(t, dir)
	t.Cleanup(func() { n.in.EventLog.Close() })
	return n
}

// makeNode is newNode where the caller closes the event log.
func makeNode(t *testing.T, dir string) *node {
	n := &node{t: t, clock: start, kept: policy.NewNetworks[policy.Exception](), events: filepath.Join(dir, "events.ndjson")}
	n.settings = Settings{Weights: policy.DefaultWeights(), Node: "mx1", Events: n.events}
	inForce := policy.NewInForce(policy.New(policy.Default()), n.now)
	n.memory = store.NewMemory(inForce.Tier, n.now)
	n.in = &Intake{
		Judge: policy.NewJudge(inForce, n.memory), Store: n, Clients: behaviour.NewClients(), Handshakes: behaviour.NewHandshakes(), Departures: behaviour.NewDepartures(), Sources: behaviour.NewSources(), Variety: behaviour.NewVariety(),
		Settings: func() Settings { return n.settings }, Now: n.now, Log: slog.New(slog.NewTextHandler(&n.log, nil)),
	}
	n.boot()
	return n
}

// told are reports of people who can be believed.
func told(signals ...policy.Signal) (all []Report) {
	for _, s := range signals {
		all = append(all, Report{Signal: s})
	}
	return all
}

func (n *node) now() time.Time { return n.clock }

func (n *node) SetException(e policy.Exception, gone ...policy.Exception) error {
	if n.refuse == nil {
		n.exceptions = append(n.exceptions, e)
		n.kept = policy.Replace(n.kept, e, gone)
	}
	return n.refuse
}

func (n *node) KeptExceptions() *policy.Exceptions { return n.kept }

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// boot starts with what the event log has. The store outlives it.
func (n *node) boot() {
	n.t.Helper()
	if n.in.EventLog != nil {
		n.must(n.in.EventLog.Close())
	}
	log, err := eventlog.Open(n.events, 0, n.now, n.in.Log)
	n.must(err)
	n.in.EventLog, n.in.Correlator = log, correlate.New(n.now)
	n.must(n.in.Restore())
}

// restart stops in good order, as the daemon does, and starts again.
func (n *node) restart() {
	n.t.Helper()
	for _, r := range n.in.Conclude(true) {
		n.await(r)
	}
	n.boot()
}

// await waits until something is learnt and written.
func (n *node) await(r Receipt) {
	n.t.Helper()
	if r.Learnt != nil {
		n.must(<-r.Learnt)
	}
	n.must(<-r.Write())
}

func (n *node) signal(s policy.Signal) {
	n.t.Helper()
	if r := n.in.Signal(s); r != nil {
		n.await(*r)
	}
}

func (n *node) observe(o *policy.Observation, a ...policy.Assessment) {
	n.t.Helper()
	n.await(n.in.Observe(o, a))
}

// until lets the time pass.
func (n *node) until(at time.Time) {
	n.t.Helper()
	for from := n.clock; n.clock.Before(at); {
		n.conclude()
		step := time.Second
		if n.clock.Sub(from) > correlate.ScreenWait {
			// What was pending has been concluded.
			step = 10 * time.Second
		}
		n.clock = n.clock.Add(min(step, at.Sub(n.clock)))
	}
	n.conclude()
}

func (n *node) conclude() {
	n.t.Helper()
	for _, r := range n.in.Conclude(false) {
		n.await(r)
	}
}

func (n *node) known(addr netip.Addr) policy.Known {
	return n.memory.Recall(addr, n.in.Judge.Policy().Keys(addr), n.now())
}

// thaw holds it against the client's network that what its hosts send is added to it.
func (n *node) thaw() {
	n.t.Helper()
	before := n.known(client.Addr).Network.Total().Spam
	neighbour := policy.Client{Addr: netip.MustParseAddr("192.0.2.200")}
	n.observe(&policy.Observation{Message: policy.Message{Time: n.clock, Client: neighbour, Mail: true}}, spam(policy.FromHeader))
	if after := n.known(client.Addr).Network.Total().Spam; after != before+1 {
		n.t.Errorf("the network is frozen: it had %v spam, and has %v after one more", before, after)
	}
}

// learnt is all that is known of the client.
func (n *node) learnt() reputation.Mass { return n.known(client.Addr).Host.Total() }

// lines are the events in the event log.
func (n *node) lines() (all []eventlog.Event) {
	n.t.Helper()
	b, err := os.ReadFile(n.events)
	n.must(err)
	for line := range strings.Lines(string(b)) {
		var e eventlog.Event
		n.must(json.Unmarshal([]byte(line), &e))
		all = append(all, e)
	}
	return all
}

// observed counts the events that are no corrections.
func (n *node) observed() (count int) {
	for _, e := range n.lines() {
		if e.Kind != eventlog.KindCorrection {
			count++
		}
	}
	return count
}

// of are sessions' own: what is said of no message.
var ofSession = []policy.Source{
	policy.FromLimit, policy.FromPipelining, policy.FromPregreet, policy.FromHangup, policy.FromTLS, policy.FromFlood, policy.FromProbe,
}

// screened are said by postscreen, up to six seconds before smtpd sees the client.
var screened = []policy.Source{policy.FromPregreet, policy.FromHangup}

func spam(source policy.Source) policy.Assessment {
	return policy.Assessment{Class: policy.Spam, Confidence: policy.Certain, Source: source, Reason: "it is"}
}

// position is when a signal comes, and what time it bears.
type position int

const (
	before position = iota
	during
	after
)

var positions = map[position]string{before: "before", during: "during", after: "after"}

// scene is a session of some length, and signals about it.
type scene struct {
	length time.Duration
	mail   bool
	// queued says that signals name the queue id, ported that they name the port.
	queued, ported bool
	// restart is when the daemon is restarted.
	restart restart
}

type restart int

const (
	never restart = iota
	within
	afterwards
)

var restarts = map[restart]string{never: "no restart", within: "a restart within", afterwards: "a restart after it"}

// telling is a signal at a position.
type telling struct {
	assessment policy.Assessment
	at         position
}

func (s scene) signal(t telling) policy.Signal {
	source := t.assessment.Source
	signal := policy.Signal{
		Addr: client.Addr, Mail: !slices.Contains(ofSession, source), Assessment: t.assessment,
		Time: start.Add(s.length / 2),
	}
	if s.queued && signal.Mail {
		signal.QueueID = "Q1"
	}
	if s.ported || slices.Contains(screened, source) {
		signal.Port = client.Port
	}
	switch {
	case t.at == before && slices.Contains(screened, source):
		signal.Time = start.Add(-6 * time.Second)
	case t.at == before:
		signal.Time = start.Add(-time.Second)
	}
	return signal
}

// play lets a scene happen.
func (s scene) play(n *node, tellings ...telling) {
	end := start.Add(s.length)
	tell := func(at position) {
		for _, t := range tellings {
			if t.at != at {
				continue
			}
			signal := s.signal(t)
			if at == before {
				n.until(signal.Time)
			}
			if t.assessment.Source.People() {
				n.in.Learn([]Report{{Signal: signal}})
				continue
			}
			n.signal(signal)
		}
	}
	n.clock = start.Add(-time.Minute)
	tell(before)
	n.until(start)
	n.in.Correlator.Begin("s1", client, start)
	n.until(start.Add(s.length / 2))
	observation := func() *policy.Observation {
		o := &policy.Observation{Message: policy.Message{Time: n.clock, Began: start, Session: "s1", Client: client, Mail: s.mail}}
		if s.mail {
			o.QueueID = "Q1"
		}
		return o
	}
	if s.restart == within {
		// The milter's session is cut off; the MTA's goes on.
		o := observation()
		o.Unfinished = true
		n.observe(o)
		n.in.Correlator.End("s1")
		n.restart()
	}
	tell(during)
	n.until(end)
	if s.restart != within {
		n.observe(observation())
		n.in.Correlator.End("s1")
	}
	if s.restart == afterwards {
		n.restart()
	}
	n.until(end.Add(5 * time.Second))
	tell(after)
	n.until(end.Add(30 * time.Second))
}

// TestEachMessageCountsOnce tells of a message by every source, before, during and after its
// session, beside another source that does so, too, in sessions of all lengths, with and without a
// restart.
func TestEachMessageCountsOnce(t *testing.T) {
	feed := policy.Assessment{Class: policy.Ham, Confidence: 0.5, Score: 3, Source: policy.FromRspamd}
	n := 0
	dir := t.TempDir()
	try := func(s scene, tellings ...telling) {
		n++
		name := fmt.Sprintf("a session of %s, mail %v, queue id %v, port %v, %s", s.length, s.mail, s.queued, s.ported, restarts[s.restart])
		var verdicts policy.Verdicts
		for _, x := range tellings {
			name += fmt.Sprintf(", %s %s", x.assessment.Source, positions[x.at])
			verdicts = verdicts.With(policy.DefaultWeights().Weigh(x.assessment))
		}
		x := makeNode(t, dir)
		// Not the log of before a restart.
		defer func() { x.in.EventLog.Close(); os.Remove(x.events) }()
		s.play(x, tellings...)
		want := policy.Message{Time: start, Client: client, Verdict: verdicts.Resolve()}
		lesson, _ := want.Lesson()
		if got := x.learnt(); got.Spam != lesson.Spam || got.Ham != lesson.Ham || x.observed() != 1 {
			t.Errorf("%s: learnt %+v of %d messages, want %v spam and %v ham of 1: %+v", name, got, x.observed(), lesson.Spam, lesson.Ham, verdicts)
		}
	}
	lengths := []time.Duration{time.Second, 10 * time.Second, 10 * time.Minute}
	for _, info := range policy.Sources() {
		a := spam(info.Source)
		for _, length := range lengths {
			for _, r := range []restart{never, within, afterwards} {
				for _, queued := range []bool{true, false} {
					s := scene{length: length, mail: true, queued: queued, ported: !queued && length == lengths[1], restart: r}
					if info.Source.People() {
						// People tell of a message when they have it, by its queue id.
						if queued {
							try(s, telling{a, after}, telling{feed, during})
						}
						continue
					}
					for first := range positions {
						try(s, telling{a, first})
						for second := range positions {
							try(s, telling{a, first}, telling{feed, second})
							try(s, telling{feed, second}, telling{a, first})
						}
					}
				}
				if slices.Contains(ofSession, info.Source) {
					for at := range positions {
						try(scene{length: length, restart: r}, telling{a, at}, telling{a, after})
					}
				}
			}
		}
	}
	t.Logf("%d scenes", n)
}

// TestARecipientRefusedInASessionThatLasts is what counted twice: the milter and the log tell of a
// recipient that a block list refused, and the session ends eight seconds later.
func TestARecipientRefusedInASessionThatLasts(t *testing.T) {
	n := newNode(t, t.TempDir())
	n.in.Correlator.Begin("s1", client, start)
	n.signal(policy.Signal{Time: start.Add(time.Second), Addr: client.Addr, Mail: true, Outcome: policy.Rejected, Assessment: spam(policy.FromDNSBL)})
	n.until(start.Add(9 * time.Second))
	n.observe(&policy.Observation{Message: policy.Message{Time: n.clock, Began: start, Session: "s1", Client: client, Mail: true}}, spam(policy.FromDNSBL))
	n.in.Correlator.End("s1")
	n.until(start.Add(time.Minute))
	if got := n.learnt(); got.Spam != 1 || n.observed() != 1 {
		t.Errorf("learnt %+v, %d events", got, n.observed())
	}
}

// TestAKillLosesNothingThatTheLogTells kills the daemon while a signal waits for its session: the
// place in the log that was kept is before it, so it is read again.
func TestAKillLosesNothingThatTheLogTells(t *testing.T) {
	n := newNode(t, t.TempDir())
	refused := policy.Signal{Time: start, Addr: client.Addr, Mail: true, Assessment: spam(policy.FromDNSBL)}
	n.in.Correlator.Begin("s1", client, start)
	n.signal(refused)
	n.until(start.Add(10 * time.Minute))
	if at, ok := n.in.Correlator.OldestPending(); !ok || !at.Equal(start) {
		t.Fatalf("the oldest that waits came at %v, %v", at, ok)
	}
	// No Conclude: what waited is gone.
	n.boot()
	n.signal(refused)
	n.until(n.clock.Add(time.Minute))
	n.signal(refused)
	n.until(n.clock.Add(time.Minute))
	if got := n.learnt(); got.Spam != 1 || n.observed() != 1 {
		t.Errorf("learnt %+v, %d events", got, n.observed())
	}
}

func TestTimesThatOthersTellAreBounded(t *testing.T) {
	const future, past = "2062-01-01", "1999-12-31"
	for _, c := range []struct {
		name string
		tell func(*node, time.Time)
	}{
		{"a signal", func(n *node, at time.Time) {
			n.signal(policy.Signal{Time: at, Addr: client.Addr, Mail: true, Assessment: policy.Assessment{Class: policy.Ham, Confidence: 1, Source: policy.FromFeed}})
			n.until(n.clock.Add(time.Minute))
		}},
		{"a person's report", func(n *node, at time.Time) {
			_, err := n.in.Learn([]Report{{Signal: policy.Signal{Time: at, Addr: client.Addr, Mail: true, Assessment: policy.Assessment{Class: policy.Ham, Confidence: 1, Source: policy.FromPerson}}}})
			n.must(err)
		}},
		{"the event log, and a correction", func(n *node, at time.Time) {
			m := policy.Message{Time: at, Began: at, QueueID: "Q1", Client: client, Mail: true}
			<-n.in.EventLog.Append(eventlog.Of(&policy.Observation{Message: m}, "mx1"))
			n.boot()
			n.signal(policy.Signal{Time: at, QueueID: "Q1", Assessment: policy.Assessment{Class: policy.Ham, Confidence: 1, Source: policy.FromFeed}})
			n.until(n.clock.Add(time.Minute))
		}},
	} {
		for _, day := range []string{future, past} {
			t.Run(c.name+" of "+day, func(t *testing.T) {
				n := newNode(t, t.TempDir())
				bad := func() {
					for range 5 {
						n.observe(&policy.Observation{Message: policy.Message{Time: n.clock, Began: n.clock, Client: client, Mail: true}}, spam(policy.FromHeader))
					}
				}
				bad()
				at, _ := time.Parse(time.DateOnly, day)
				c.tell(n, at)
				if d := n.in.Judge.Decide(client.Addr); d.Tier != reputation.Bad {
					t.Errorf("a bad host is %s after it: %s", d.Tier, d.Why())
				}
				known := n.known(client.Addr)
				if newest := max(known.Host.Newest, known.Network.Newest); newest > reputation.Slice(n.clock.Add(Ahead)) {
					t.Errorf("the newest slice is %d, it is %d now", newest, reputation.Slice(n.clock))
				}
				n.thaw()
				n.memory.Expire(n.clock.Add(reputation.Lifetime + reputation.PastWidth))
				if n.memory.Len() != 0 {
					t.Errorf("%d records live for ever", n.memory.Len())
				}
			})
		}
	}
}

func TestBound(t *testing.T) {
	n := newNode(t, t.TempDir())
	for _, c := range []struct{ in, want time.Duration }{
		{0, 0}, {time.Minute, time.Minute}, {time.Minute + 1, time.Minute}, {time.Hour, time.Minute},
		{-reputation.Lifetime, -reputation.Lifetime}, {-reputation.Lifetime - 1, -reputation.Lifetime}, {-time.Hour, -time.Hour},
	} {
		if got := n.in.bound(start.Add(c.in)).Sub(start); got != c.want {
			t.Errorf("%s is bounded to %s, want %s", c.in, got, c.want)
		}
	}
}

// TestAClockThatStepsDoesNoLastingHarm lets the clock step by a day or a year for a while, in which
// mail comes in.
func TestAClockThatStepsDoesNoLastingHarm(t *testing.T) {
	good := policy.Client{Addr: netip.MustParseAddr("198.51.100.9")}
	ham := policy.Assessment{Class: policy.Ham, Confidence: 1, Source: policy.FromHeader}
	for _, days := range []int{1, -1, 365, -365} {
		t.Run(fmt.Sprint(days, " days"), func(t *testing.T) {
			n := newNode(t, t.TempDir())
			mail := func(messages int) {
				for range messages {
					n.observe(&policy.Observation{Message: policy.Message{Time: n.clock, Client: client, Mail: true}}, spam(policy.FromHeader))
					n.observe(&policy.Observation{Message: policy.Message{Time: n.clock, Client: good, Mail: true}}, ham)
				}
			}
			mail(5)
			n.clock = start.AddDate(0, 0, days)
			mail(1)
			n.boot()
			n.clock = start.Add(time.Minute)
			mail(5)
			n.boot()
			if d := n.in.Judge.Decide(client.Addr); d.Tier != reputation.Bad {
				t.Errorf("a bad host is %s: %s", d.Tier, d.Why())
			}
			if d := n.in.Judge.Decide(good.Addr); d.Tier != reputation.Good {
				t.Errorf("a good host is %s: %s", d.Tier, d.Why())
			}
			n.thaw()
			n.clock = start.Add(reputation.Lifetime + reputation.PastWidth)
			n.memory.Expire(n.clock)
			if n.memory.Len() != 0 {
				t.Errorf("%d records live for ever", n.memory.Len())
			}
		})
	}
}

// TestLearnOnOldMessages corrects messages of last week, several in one request: each once.
func TestLearnOnOldMessages(t *testing.T) {
	n := newNode(t, t.TempDir())
	week := start.AddDate(0, 0, -7)
	n.clock = week
	const messages = 300
	var reports []policy.Signal
	for i := range messages {
		id := fmt.Sprint("Q", i)
		c := policy.Client{Addr: netip.AddrFrom4([4]byte{198, 51, 100, byte(i % 100)})}
		n.observe(&policy.Observation{Message: policy.Message{Time: week, Began: week, QueueID: id, Session: id, Client: c, Mail: true}},
			policy.Assessment{Class: policy.Ham, Confidence: 1, Source: policy.FromHeader})
		reports = append(reports, policy.Signal{QueueID: id, Addr: c.Addr, Mail: true, Assessment: spam(policy.FromPerson)})
	}
	n.clock = start
	n.boot()
	for round, want := range []Status{Corrected, Again} {
		done, err := n.in.Learn(told(reports...))
		n.must(err)
		for i, l := range done {
			if l.Status != want || (l.Receipt != nil) != (want == Corrected) {
				t.Fatalf("round %d, report %d: %+v", round, i, l)
			}
			if l.Receipt != nil {
				n.await(*l.Receipt)
			}
		}
	}
	for i := range 100 {
		if m := n.known(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})).Host.Total(); m != (reputation.Mass{Spam: 3}) {
			t.Fatalf("of a host with three messages: %+v", m)
		}
	}
	if n.observed() != messages {
		t.Errorf("%d events of %d messages", n.observed(), messages)
	}
}

func TestLearn(t *testing.T) {
	for _, c := range []struct {
		name   string
		report policy.Signal
		want   Status
		spam   float64
	}{
		{"a message that is known", policy.Signal{QueueID: "Q1"}, Corrected, 1},
		{"one of a user who logged in", policy.Signal{QueueID: "Q2", Addr: client.Addr}, OwnUser, 0},
		{"an address", policy.Signal{Addr: client.Addr}, New, 1},
		{"an unknown message with its client", policy.Signal{QueueID: "Q9", Addr: client.Addr, Time: start.Add(-time.Hour)}, New, 1},
		{"an unknown message without it", policy.Signal{QueueID: "Q9"}, Unknown, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, t.TempDir())
			for _, id := range []string{"Q1", "Q2"} {
				o := &policy.Observation{Message: policy.Message{Time: start, Began: start, QueueID: id, Client: client, Mail: true, Authenticated: id == "Q2"}}
				n.observe(o)
			}
			c.report.Mail, c.report.Assessment = true, spam(policy.FromPerson)
			done, err := n.in.Learn(told(c.report))
			n.must(err)
			if got := done[0]; got.Status != c.want || (c.spam > 0) != (got.Receipt != nil) || got.Addr != client.Addr && c.want != Unknown {
				t.Errorf("%+v, want %s", got, c.want)
			}
			if got := n.learnt(); got != (reputation.Mass{Spam: c.spam}) {
				t.Errorf("learnt %+v", got)
			}
			if c.want != New || c.report.QueueID == "" {
				return
			}
			if done, _ := n.in.Learn(told(c.report)); done[0].Status != Again {
				t.Errorf("again: %+v", done[0])
			}
		})
	}
}

func TestAnAnonymizedLogIsNotReadBack(t *testing.T) {
	n := newNode(t, t.TempDir())
	n.settings.Anonymize = true
	n.observe(&policy.Observation{Message: policy.Message{Time: start, QueueID: "Q1", Client: client, Mail: true}})
	if e := n.lines()[0]; e.Client.Addr != "192.0.2.0" || e.Node != "mx1" {
		t.Errorf("%+v", e)
	}
	report := policy.Signal{QueueID: "Q1", Mail: true, Assessment: spam(policy.FromPerson)}
	n.boot()
	if done, err := n.in.Learn(told(report)); err != nil || done[0].Status != Unknown {
		t.Errorf("%+v, %v", done, err)
	}
	// With its client it is a new verdict, which is remembered.
	report.Addr = client.Addr
	for _, want := range []Status{New, Again} {
		if done, err := n.in.Learn(told(report)); err != nil || done[0].Status != want {
			t.Errorf("%+v, %v, want %s", done, err, want)
		}
	}
}

func TestAnEventLogThatCannotBeReadIsSaid(t *testing.T) {
	n := newNode(t, t.TempDir())
	n.settings.Events = t.TempDir()
	if err := n.in.Restore(); err == nil {
		t.Error("a directory is read")
	}
	if _, err := n.in.Learn(told(policy.Signal{QueueID: "Q1", Assessment: spam(policy.FromPerson)})); err == nil {
		t.Error("a directory is looked in")
	}
	// Who names no message needs no event log.
	if done, err := n.in.Learn(told(policy.Signal{Addr: client.Addr, Assessment: spam(policy.FromPerson)})); err != nil || done[0].Status != New {
		t.Errorf("%+v, %v", done, err)
	}
}

func TestASignalWithoutAClientTeachesNothing(t *testing.T) {
	n := newNode(t, t.TempDir())
	n.signal(policy.Signal{Time: start, QueueID: "Q1", Mail: true, Assessment: spam(policy.FromFeed)})
	n.until(start.Add(time.Minute))
	if n.observed() != 0 || n.in.Stats.Orphaned.Load() != 1 || n.in.Stats.OrphanedPosts.Load() != 1 {
		t.Errorf("%d events, %d orphaned, %d of them posts", n.observed(), n.in.Stats.Orphaned.Load(), n.in.Stats.OrphanedPosts.Load())
	}
}

func TestVerdictsAreCounted(t *testing.T) {
	n := newNode(t, t.TempDir())
	message := func(id string, a ...policy.Assessment) {
		n.observe(&policy.Observation{Message: policy.Message{Time: n.clock, Began: n.clock, QueueID: id, Client: client, Mail: true}}, a...)
	}
	ham := policy.Assessment{Class: policy.Ham, Confidence: 1, Source: policy.FromHeader}
	message("Q1", spam(policy.FromHeader))
	message("Q2", ham)
	message("Q3")
	n.observe(&policy.Observation{Message: policy.Message{Time: n.clock, Client: client}})
	tell := func(id string, class policy.Class) {
		n.signal(policy.Signal{Time: n.clock, QueueID: id, Mail: true, Assessment: policy.Assessment{Class: class, Confidence: 1, Source: policy.FromTrap}})
	}
	tell("Q1", policy.Spam)
	tell("Q2", policy.Spam)
	tell("Q3", policy.Ham)
	if h, s := n.in.Heard(), &n.in.Stats; h != (Heard{Messages: 3, Spam: 2, Ham: 2, Observed: 4, Only: client.Addr}) || s.Corrections.Load() != 3 {
		t.Errorf("%+v, %d corrections", h, s.Corrections.Load())
	}
	e := n.lines()
	last := e[len(e)-1]
	if last.Kind != eventlog.KindCorrection || last.QueueID != "Q3" || last.Was.Class != policy.None || last.Verdict.Class != policy.Ham || !last.Of.Equal(start) || last.Node != "mx1" {
		t.Errorf("%+v", last)
	}
}

func TestSpamOfSomeAndHamOfNoneIsSaidOnce(t *testing.T) {
	for _, c := range []struct {
		name       string
		spam, more int
		ham        bool
		said       bool
	}{
		{"enough messages", 1, 19, false, true},
		{"too few messages", 1, 18, false, false},
		{"there is ham", 1, 30, true, false},
		{"there is no spam", 0, 30, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, t.TempDir())
			message := func(a ...policy.Assessment) {
				n.observe(&policy.Observation{Message: policy.Message{Time: n.clock, Client: client, Mail: true}}, a...)
			}
			for range c.spam {
				message(spam(policy.FromHeader))
			}
			if c.ham {
				message(policy.Assessment{Class: policy.Ham, Confidence: 1, Source: policy.FromHeader})
			}
			for range c.more {
				message()
			}
			if got := strings.Count(n.log.String(), "verdict.silence"); got != map[bool]int{true: 1}[c.said] {
				t.Errorf("said %d times: %s", got, n.log.String())
			}
		})
	}
}

func TestFailedHandshakesMakeAnException(t *testing.T) {
	failed := func(n *node, at time.Time) {
		n.signal(policy.Signal{Time: at, Addr: client.Addr, Trouble: policy.HandshakeFailed, Assessment: policy.Assessment{Class: policy.None, Source: policy.FromTLS}})
	}
	n := newNode(t, t.TempDir())
	for i := range 3 {
		failed(n, start.Add(time.Duration(i-3)*20*time.Minute))
	}
	if len(n.exceptions) != 1 || n.exceptions[0].Cause != policy.BrokenTLS || n.exceptions[0].Network.Addr() != client.Addr {
		t.Fatalf("%+v", n.exceptions)
	}
	if s := &n.in.Stats; s.FailedHandshakes.Load() != 3 || s.Exceptions.Load() != 1 {
		t.Errorf("%d failed, %d exceptions", s.FailedHandshakes.Load(), s.Exceptions.Load())
	}
	// After a session over TLS, failures are not the host's.
	d := n.in.Judge.Decide(client.Addr)
	n.observe(&policy.Observation{Message: policy.Message{Time: start, Client: client}, TLS: &policy.TLS{Version: "TLSv1.3"}, Decision: d})
	for i := range 9 {
		failed(n, start.Add(time.Duration(i-9)*time.Minute))
	}
	if len(n.exceptions) != 1 {
		t.Errorf("after a handshake that succeeded: %+v", n.exceptions)
	}
	// A log that is read days late.
	n = newNode(t, t.TempDir())
	for i := range 3 {
		failed(n, start.Add(-48*time.Hour+time.Duration(i)*time.Hour))
	}
	if len(n.exceptions) != 0 {
		t.Errorf("one that has ended: %+v", n.exceptions)
	}
	// A line without a client.
	n.signal(policy.Signal{Time: start, Trouble: policy.HandshakeFailed})
}

// leave has a client leave without a message, a minute after the last.
func (n *node) leave(addr netip.Addr, rule policy.Rule, trouble policy.Trouble) {
	n.clock = n.clock.Add(time.Minute)
	d := n.in.Judge.Decide(addr)
	d.Rule = rule
	n.observe(&policy.Observation{Message: policy.Message{Time: n.clock, Client: policy.Client{Addr: addr, Port: 4711}, Trouble: trouble}, Decision: d})
}

// TestExceptionsCannotBeUsedUp has 2,000 hosts of one network leave as if they required TLS. Then a
// host that does is offered it like anybody else.
func TestExceptionsCannotBeUsedUp(t *testing.T) {
	n := newNode(t, t.TempDir())
	needs := netip.MustParseAddr("203.0.113.7")
	for i := range 2000 {
		a := netip.MustParsePrefix("2001:db8::/48").Addr().As16()
		a[6], a[7] = byte(i>>8), byte(i)
		n.leave(netip.AddrFrom16(a), policy.RuleTier, policy.LeftWithout)
		n.leave(netip.AddrFrom16(a), policy.RuleTier, policy.LeftWithout)
	}
	if got := n.kept.Size(); got > policy.MostInNetwork {
		t.Errorf("one network has %d exceptions", got)
	}
	n.leave(needs, policy.RuleTier, policy.LeftWithout)
	n.leave(needs, policy.RuleTier, policy.LeftWithout)
	if _, ok := n.kept.Get(netip.PrefixFrom(needs, 32)); !ok {
		t.Error("the host that requires TLS has no exception")
	}
}

// TestLeavingIsNoMeritForWhoHasSentOnlySpam, nor for a stranger of a network that has.
func TestLeavingIsNoMeritForWhoHasSentOnlySpam(t *testing.T) {
	for _, c := range []struct {
		name      string
		spam, ham int
		who       string
		leaves    int
		want      bool
	}{
		{"a stranger of a network of spam", 10, 0, "198.51.100.200", 5, false},
		{"a host of spam itself", 10, 0, "198.51.100.1", 5, false},
		{"a stranger of a network that has sent ham, too", 10, 10, "198.51.100.200", 2, true},
		{"a stranger of an unknown network", 0, 0, "198.51.100.200", 2, true},
		{"one that comes again for hours, as a queue does", 10, 0, "198.51.100.200", 400, true},
	} {
		n := newNode(t, t.TempDir())
		say := func(i int, spam, ham float64) {
			a := netip.AddrFrom4([4]byte{198, 51, 100, byte(i + 1)})
			n.memory.Learn(n.in.Judge.Policy().Keys(a), policy.Lesson{At: n.clock, Spam: spam, Ham: ham})
		}
		for i := range c.spam {
			say(i, 2, 0)
		}
		for i := range c.ham {
			say(50+i, 0, 2)
		}
		for range c.leaves {
			n.leave(netip.MustParseAddr(c.who), policy.RuleTier, policy.LeftWithout)
		}
		if got := len(n.exceptions) > 0; got != c.want {
			t.Errorf("%s: an exception %t after leaving %d times, want %t", c.name, got, c.leaves, c.want)
		}
	}
}

func TestWhoLeavesWithoutSTARTTLSGetsAnException(t *testing.T) {
	leave := func(n *node, rule policy.Rule, trouble policy.Trouble) { n.leave(client.Addr, rule, trouble) }
	n := newNode(t, t.TempDir())
	for _, rule := range []policy.Rule{policy.RuleOverride, policy.RuleException, policy.RuleExempt} {
		leave(n, rule, policy.LeftWithout)
	}
	leave(n, policy.RuleTier, "")
	n.observe(&policy.Observation{Message: policy.Message{Time: start, Trouble: policy.LeftWithout}, Decision: policy.Decision{Rule: policy.RuleTier}})
	if len(n.exceptions) != 0 {
		t.Fatalf("%+v", n.exceptions)
	}
	leave(n, policy.RuleTier, policy.LeftWithout)
	if len(n.exceptions) != 0 {
		t.Errorf("once is enough: %+v", n.exceptions)
	}
	leave(n, policy.RuleTier, policy.LeftWithout)
	if len(n.exceptions) != 1 || n.exceptions[0].Cause != policy.RequiresTLS {
		t.Errorf("%+v", n.exceptions)
	}
	for _, rule := range []policy.Rule{policy.RuleOverride, policy.RuleTier} {
		leave(n, rule, policy.RefusedWithout)
	}
	if len(n.exceptions) != 2 || n.exceptions[1].Cause != policy.TLSDemanded {
		t.Errorf("%+v", n.exceptions)
	}
	n.refuse = errors.New("the disk is full")
	for range 4 {
		leave(n, policy.RuleTier, policy.LeftWithout)
	}
	if got := strings.Count(n.log.String(), "the disk is full"); got != 1 {
		t.Errorf("said %d times: %s", got, n.log.String())
	}
}

// TestClientsWithoutAddressesOfTheirOwnAreSaid, as behind a proxy that does not tell them.
func TestClientsWithoutAddressesOfTheirOwnAreSaid(t *testing.T) {
	for _, c := range []struct {
		name  string
		count int
		addr  func(i int) string
		want  string
	}{
		{"one client", 20, func(int) string { return "203.0.113.1" }, "all 20 sessions came from 203.0.113.1"},
		{"private ones", 20, func(i int) string { return fmt.Sprintf("172.22.1.%d", i) }, "all 20 sessions came from private addresses"},
		{"too few to say", 19, func(int) string { return "203.0.113.1" }, ""},
		{"some of them private", 40, func(i int) string { return []string{"172.22.1.1", "203.0.113.1"}[i%2] }, ""},
		{"this host", 40, func(int) string { return "127.0.0.1" }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, t.TempDir())
			for i := range c.count {
				n.observe(&policy.Observation{Message: policy.Message{Time: n.clock, Client: policy.Client{Addr: netip.MustParseAddr(c.addr(i))}}})
			}
			if got := n.in.Heard().Hidden(); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// TestNothingIsWithheldFromWhereUsersLogIn makes exceptions of sessions of the operator's own
// users.
func TestNothingIsWithheldFromWhereUsersLogIn(t *testing.T) {
	for _, c := range []struct {
		name string
		o    policy.Observation
		age  time.Duration // of an exception that is there already, if not zero
		want int
	}{
		{"one who logged in", policy.Observation{Message: policy.Message{Mail: true, Authenticated: true}}, 0, 1},
		{"one whose service asked the table, and was told to withhold", policy.Observation{Message: policy.Message{Submission: true, Trouble: policy.LeftWithout}, STARTTLS: policy.Withheld}, 0, 1},
		{"a stranger at a service of users", policy.Observation{Message: policy.Message{Submission: true}, STARTTLS: policy.Unasked}, 0, 0},
		{"a stranger", policy.Observation{Message: policy.Message{Mail: true}, STARTTLS: policy.Withheld}, 0, 0},
		{"one who logged in an hour ago", policy.Observation{Message: policy.Message{Mail: true, Authenticated: true}}, time.Hour, 0},
		{"one who logged in two days ago", policy.Observation{Message: policy.Message{Mail: true, Authenticated: true}}, 48 * time.Hour, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, t.TempDir())
			c.o.Time, c.o.Client = start, client
			c.o.Decision = n.in.Judge.Decide(client.Addr)
			if c.age > 0 {
				c.o.Decision.Exception = &policy.Exception{Cause: policy.OwnUser, Set: start.Add(-c.age)}
			}
			n.observe(&c.o)
			if len(n.exceptions) != c.want || c.want > 0 && n.exceptions[0].Cause != policy.OwnUser {
				t.Errorf("%+v", n.exceptions)
			}
		})
	}
}

// TestTroubleIsNotLostWhenTheSessionIsHeard is about a failed handshake, of which only the log
// knows.
func TestTroubleIsNotLostWhenTheSessionIsHeard(t *testing.T) {
	failed := policy.Signal{
		Time: start, Addr: client.Addr, Trouble: policy.HandshakeFailed, Assessment: policy.Assessment{Class: policy.None, Source: policy.FromTLS},
	}
	session := &policy.Observation{Message: policy.Message{Time: start.Add(time.Second), Began: start, Session: "s1", Client: client}}
	for name, steps := range map[string][]func(*node){
		"the log first":     {func(n *node) { n.signal(failed) }, func(n *node) { n.observe(session) }},
		"the session first": {func(n *node) { n.observe(session) }, func(n *node) { n.signal(failed) }},
	} {
		n := newNode(t, t.TempDir())
		for _, step := range steps {
			step(n)
		}
		n.until(start.Add(time.Minute))
		lines := n.lines()
		if last := lines[len(lines)-1]; last.Trouble != policy.HandshakeFailed || n.observed() != 1 {
			t.Errorf("%s: %+v", name, lines)
		}
	}
}

func TestUnknownUsersAreCountedByTheLogsTime(t *testing.T) {
	n := newNode(t, t.TempDir())
	sum := policy.Confidence(0)
	for i := range 3 {
		// One that bears a false time is counted as one of now.
		sum += n.in.UnknownUser(client.Addr, fmt.Sprint(i), start.AddDate(10*i, 0, 0))
	}
	if sum < 0.2 || sum > 0.23 {
		t.Errorf("%v, want two ninths", sum)
	}
}

// TestWhatWasForgottenIsNotTakenBack drops a client's evidence, and corrects its messages then,
// with and without a restart between.
func TestWhatWasForgottenIsNotTakenBack(t *testing.T) {
	for _, restart := range []bool{false, true} {
		n := newNode(t, t.TempDir())
		for i := range 3 {
			n.observe(&policy.Observation{Message: policy.Message{Time: start, Began: start, QueueID: fmt.Sprint("Q", i), Client: client, Mail: true}}, spam(policy.FromHeader))
		}
		host := n.in.Judge.Policy().Keys(client.Addr).Host
		// As the store forgets.
		n.memory.Expire(start.AddDate(1, 0, 0))
		n.must(<-n.in.Forgot(host))
		if restart {
			n.boot()
		}
		for i, class := range []policy.Class{policy.Ham, policy.Spam, policy.Ham} {
			a := policy.Assessment{Class: class, Confidence: policy.Certain, Source: policy.FromPerson}
			done, err := n.in.Learn(told(policy.Signal{QueueID: fmt.Sprint("Q", i), Mail: true, Assessment: a}))
			n.must(err)
			if done[0].Status != Corrected {
				t.Fatalf("%+v", done[0])
			}
			n.await(*done[0].Receipt)
		}
		if got := n.learnt(); got != (reputation.Mass{Spam: 1, Ham: 2}) {
			t.Errorf("restart %v: learnt %+v", restart, got)
		}
		n.observe(&policy.Observation{Message: policy.Message{Time: start, QueueID: "Q9", Client: client, Mail: true}}, spam(policy.FromHeader))
		if got := n.learnt(); got.Spam != 2 {
			t.Errorf("restart %v: what comes in afterwards does not count: %+v", restart, got)
		}
	}
}

// TestAReportOnAMessageThatIsPending counts, and says so.
func TestAReportOnAMessageThatIsPending(t *testing.T) {
	n := newNode(t, t.TempDir())
	n.signal(policy.Signal{Time: start, QueueID: "Q1", Addr: client.Addr, Mail: true, Assessment: spam(policy.FromFeed)})
	ham := policy.Assessment{Class: policy.Ham, Confidence: policy.Certain, Source: policy.FromPerson}
	for _, want := range []Status{Corrected, Again} {
		if done, err := n.in.Learn(told(policy.Signal{QueueID: "Q1", Mail: true, Assessment: ham})); err != nil || done[0].Status != want || done[0].Receipt != nil {
			t.Errorf("%+v, %v, want %s", done, err, want)
		}
	}
	n.until(start.Add(time.Minute))
	if got := n.learnt(); got != (reputation.Mass{Ham: 1}) {
		t.Errorf("learnt %+v", got)
	}
}

// TestAQueueIDAtAnotherTimeIsTheSameMessage, at the time of the first signal.
func TestAQueueIDAtAnotherTimeIsTheSameMessage(t *testing.T) {
	n := newNode(t, t.TempDir())
	for _, at := range []time.Duration{-time.Hour, -24 * time.Hour, time.Hour, 0} {
		n.signal(policy.Signal{Time: start.Add(at), QueueID: "Q1", Addr: client.Addr, Mail: true, Assessment: spam(policy.FromFeed)})
	}
	n.until(start.Add(time.Minute))
	if lines := n.lines(); len(lines) != 1 || !lines[0].Time.Equal(start.Add(-time.Hour)) {
		t.Errorf("%+v", lines)
	}
}
