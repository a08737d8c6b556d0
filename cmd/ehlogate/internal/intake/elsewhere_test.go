package intake

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/correlate"
)

// cluster is some nodes that share a clock and hear each other at once.
type cluster []*node

// seat is a node's place in a cluster.
type seat struct {
	cluster *cluster
	at      int
	// lost takes a line of its own that nobody hears.
	lost func(line string) bool
}

func (s *seat) Name() string { return fmt.Sprint("node", s.at) }

func (s *seat) Tell(line []byte) {
	if s.lost != nil && s.lost(string(line)) {
		return
	}
	for i, n := range *s.cluster {
		if i == s.at {
			continue
		}
		if r := n.in.Told(s.Name(), line); r != nil {
			n.await(*r)
		}
	}
}

func newCluster(t *testing.T) cluster {
	c := new(cluster)
	for i := range 2 {
		n := newNode(t, t.TempDir())
		n.in.Peers = &seat{cluster: c, at: i}
		*c = append(*c, n)
	}
	return *c
}

// once loses the first line of a kind.
func once(kind string) func(line string) bool {
	done := false
	return func(line string) bool {
		lost := !done && strings.HasPrefix(line, `{"`+kind+`":`)
		done = done || lost
		return lost
	}
}

// post has a filter post its word on a message to a node.
func (n *node) post(queueID string) {
	n.t.Helper()
	n.signal(policy.Signal{
		Time: n.clock, Addr: client.Addr, Posted: true, QueueID: queueID, Mail: true,
		Assessment: policy.Assessment{Class: policy.Spam, Confidence: policy.Certain, Source: policy.FromRspamd},
	})
}

// pass lets more time pass at all nodes than anything waits.
func (c cluster) pass() {
	for range 8 {
		for _, n := range c {
			n.clock = n.clock.Add(correlate.Wait / 4)
			n.conclude()
		}
	}
}

// TestAPostIsCountedWhereItsMessageWasHeard holds what two nodes count of a message that one of
// them has heard, and of which the filter posted to the other one.
func TestAPostIsCountedWhereItsMessageWasHeard(t *testing.T) {
	const here, there = 0, 1
	heard := func() *policy.Observation {
		return &policy.Observation{Message: policy.Message{Time: start, Began: start, Session: "s1", QueueID: "Q1", Client: client, Mail: true}, Outcome: policy.Accepted}
	}
	log := func(n *node) {
		n.signal(policy.Signal{Time: n.clock, Addr: client.Addr, QueueID: "Q1", Mail: true, Outcome: policy.Rejected,
			Assessment: policy.Assessment{Class: policy.None, Source: policy.FromTempfail}})
	}
	for _, test := range []struct {
		name  string
		tell  func(c cluster)
		spam  [2]float64
		asked uint64
	}{
		{"observed before", func(c cluster) { c[there].observe(heard()); c[here].post("Q1") }, [2]float64{0, 1}, 1},
		{"under way, the queue id known", func(c cluster) {
			c[there].in.Correlator.Begin("s1", client, start)
			c[there].in.Correlator.Queued("s1", "Q1")
			c[here].post("Q1")
			c[there].observe(heard())
			c[there].in.Correlator.End("s1")
		}, [2]float64{0, 1}, 1},
		{"observed a second later", func(c cluster) {
			c[here].post("Q1")
			c[there].clock = c[there].clock.Add(time.Second)
			c[there].observe(heard())
		}, [2]float64{0, 1}, 1},
		{"told by the log there, before", func(c cluster) { log(c[there]); c[here].post("Q1") }, [2]float64{0, 1}, 1},
		{"told by the log there, after", func(c cluster) { c[here].post("Q1"); log(c[there]) }, [2]float64{0, 1}, 1},
		{"heard here", func(c cluster) { c[here].observe(heard()); c[here].post("Q1") }, [2]float64{1, 0}, 0},
		{"posted to both", func(c cluster) { c[here].post("Q1"); c[there].post("Q1") }, [2]float64{1, 0}, 1},
		{"posted to both, the other first", func(c cluster) { c[there].post("Q1"); c[here].post("Q1") }, [2]float64{1, 0}, 1},
		{"posted to both, heard there", func(c cluster) { c[here].post("Q1"); c[there].observe(heard()); c[there].post("Q1") }, [2]float64{0, 1}, 1},
		{"posted twice", func(c cluster) { c[there].observe(heard()); c[here].post("Q1"); c[here].post("Q1") }, [2]float64{0, 1}, 2},
		{"heard nowhere", func(c cluster) { c[here].post("Q1") }, [2]float64{1, 0}, 0},
		{"the same queue id of another client's there", func(c cluster) {
			o := heard()
			o.Client.Addr = client.Addr.Next()
			c[there].observe(o)
			c[here].post("Q1")
		}, [2]float64{1, 0}, 0},
		{"nobody answers", func(c cluster) {
			c[there].in.Peers.(*seat).lost = func(string) bool { return true }
			c[there].observe(heard())
			c[here].post("Q1")
		}, [2]float64{1, 0}, 0},
		{"the first question is lost", func(c cluster) {
			c[here].in.Peers.(*seat).lost = once("posted")
			c[there].observe(heard())
			c[here].post("Q1")
		}, [2]float64{0, 1}, 1},
		{"the first answer is lost", func(c cluster) {
			c[there].in.Peers.(*seat).lost = once("heard")
			c[there].observe(heard())
			c[here].post("Q1")
		}, [2]float64{0, 1}, 1},
		{"what is given is lost at first", func(c cluster) {
			c[here].in.Peers.(*seat).lost = once("yours")
			c[there].observe(heard())
			c[here].post("Q1")
		}, [2]float64{0, 1}, 1},
		{"the answer comes when it is too late", func(c cluster) {
			var late []byte
			c[there].in.Peers.(*seat).lost = func(line string) bool { late = []byte(line); return true }
			c[there].observe(heard())
			c[here].post("Q1")
			c.pass()
			c[here].in.Told("node1", late)
		}, [2]float64{1, 0}, 0},
	} {
		for _, anonymize := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, logs anonymized %v", test.name, anonymize), func(t *testing.T) {
				c := newCluster(t)
				for _, n := range c {
					n.settings.Anonymize = anonymize
				}
				test.tell(c)
				c.pass()
				for i, n := range c {
					if got := n.learnt().Spam; got != test.spam[i] {
						t.Errorf("node %d has %v of spam, want %v", i, got, test.spam[i])
					}
				}
				if got := c[0].in.Stats.Elsewhere.Load() + c[1].in.Stats.Elsewhere.Load(); got != test.asked {
					t.Errorf("%d posts were of messages heard elsewhere, want %d", got, test.asked)
				}
			})
		}
	}
}

// TestAPostAfterARestartOfWhoHeardIt: the event log tells a node what it has heard, unless that is
// anonymized.
func TestAPostAfterARestartOfWhoHeardIt(t *testing.T) {
	for anonymize, spam := range map[bool][2]float64{false: {0, 1}, true: {1, 0}} {
		c := newCluster(t)
		peers := c[1].in.Peers
		c[1].settings.Anonymize = anonymize
		c[1].observe(&policy.Observation{Message: policy.Message{Time: start, Began: start, Session: "s1", QueueID: "Q1", Client: client, Mail: true}, Outcome: policy.Accepted})
		c[1].restart()
		c[1].in.Peers = peers
		c[0].post("Q1")
		c.pass()
		for i, n := range c {
			if got := n.learnt().Spam; got != spam[i] {
				t.Errorf("anonymized %v: node %d has %v of spam, want %v", anonymize, i, got, spam[i])
			}
		}
	}
}

// TestOtherVersionsOfPeers takes lines that this version does not write.
func TestOtherVersionsOfPeers(t *testing.T) {
	c := newCluster(t)
	for _, line := range []string{"", "null", "{", "[]", `{"posted":null}`, `{"heard":{}}`, `{"posted":{}}`, `{"yours":{"node":"node0"}}`, `{"heard":{"queue_id":"","addr":"192.0.2.7"}}`, `{"later":1}`} {
		if r := c[0].in.Told("node1", []byte(line)); r != nil {
			t.Errorf("%q was taken for a verdict", line)
		}
	}
}

// TestAReportIsLearntWhereItsMessageWasHeard gives reports of people at one node on messages that
// the other one has heard.
func TestAReportIsLearntWhereItsMessageWasHeard(t *testing.T) {
	const here, there = 0, 1
	ham := policy.Assessment{Class: policy.Ham, Confidence: policy.Certain, Source: policy.FromHeader}
	spam := policy.Assessment{Class: policy.Spam, Confidence: policy.Certain, Source: policy.FromPerson}
	for _, test := range []struct {
		name   string
		signal policy.Signal
		want   Status
		spam   [2]float64
	}{
		{"with its client", policy.Signal{QueueID: "Q1", Addr: client.Addr, Mail: true, Assessment: spam}, Corrected, [2]float64{0, 1}},
		{"of another client", policy.Signal{QueueID: "Q1", Addr: client.Addr.Next(), Mail: true, Assessment: spam}, New, [2]float64{0, 0}},
		{"by a short queue id alone", policy.Signal{QueueID: "Q1", Mail: true, Assessment: spam}, Unknown, [2]float64{0, 0}},
		{"by a long queue id alone", policy.Signal{QueueID: "4Xyz123456789ABC", Mail: true, Assessment: spam}, Corrected, [2]float64{0, 1}},
		{"of a message that nobody has heard", policy.Signal{QueueID: "Q2", Addr: client.Addr, Mail: true, Assessment: spam}, New, [2]float64{1, 0}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCluster(t)
			for _, id := range []string{"Q1", "4Xyz123456789ABC"} {
				if len(test.signal.QueueID) < longID && len(id) >= longID {
					continue
				}
				c[there].observe(&policy.Observation{
					Message: policy.Message{Time: start, Began: start, Session: "s" + id, QueueID: id, Client: client, Mail: true}, Outcome: policy.Accepted,
				}, ham)
			}
			done, err := c[here].in.Learn(told(test.signal))
			c[here].must(err)
			for _, l := range done {
				if l.Receipt != nil {
					c[here].await(*l.Receipt)
				}
			}
			if done[0].Status != test.want {
				t.Errorf("%+v, want %s", done[0], test.want)
			}
			for i, n := range c {
				if got := n.learnt().Spam; got != test.spam[i] {
					t.Errorf("node %d has %v of spam, want %v", i, got, test.spam[i])
				}
			}
			if test.want != Corrected {
				return
			}
			if again, err := c[here].in.Learn(told(test.signal)); err != nil || again[0].Status != Again {
				t.Errorf("reported again: %+v, %v", again, err)
			}
		})
	}
}
