package intake

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// own is the evidence of a host.
func (n *node) own(addr string) string {
	a := netip.MustParseAddr(addr)
	host := n.memory.Recall(a, n.in.Judge.Policy().Keys(a), n.now()).Host.Total()
	return fmt.Sprintf("%.1f spam, %.1f ham", host.Spam, host.Ham)
}

// What an after-queue filter writes into a message that it puts back is said of the client that sent
// it, once, whether the milter or the log is first.
func TestAVerdictOnMailThatWasPutBackIsItsClients(t *testing.T) {
	put := policy.Reinjection{QueueID: "BACK1", Original: "FIRST1", Addr: client.Addr, Port: client.Port}
	here := policy.Client{Addr: netip.MustParseAddr("127.0.0.1"), Port: 4712}
	steps := map[string]func(n *node){
		"the message": func(n *node) {
			n.observe(&policy.Observation{Message: policy.Message{Time: n.clock, Began: n.clock, Session: "s1", QueueID: "FIRST1", Client: client, Mail: true}, Outcome: policy.Accepted})
		},
		"put back": func(n *node) {
			n.observe(&policy.Observation{Message: policy.Message{Time: n.clock, Began: n.clock, Session: "s2", QueueID: "BACK1", Client: here, Mail: true}, Outcome: policy.Accepted}, spam(policy.FromHeader))
		},
		"the log": func(n *node) { n.in.Reinjected(put) },
	}
	for _, order := range [][]string{
		{"the message", "put back", "the log"}, {"the message", "the log", "put back"}, {"the message", "the log", "put back", "the log", "put back"},
		{"the log", "the message", "put back"}, {"the message", "put back", "the log", "the log"},
	} {
		t.Run(strings.Join(order, ", "), func(t *testing.T) {
			n := newNode(t, t.TempDir())
			for _, step := range order {
				steps[step](n)
				n.clock = n.clock.Add(100 * time.Millisecond)
			}
			n.until(n.clock.Add(10 * time.Second))
			if got := n.own(client.Addr.String()); got != "1.0 spam, 0.0 ham" {
				t.Errorf("the client has %s", got)
			}
			if got := n.own("127.0.0.1"); got != "0.0 spam, 0.0 ham" {
				t.Errorf("this host has %s", got)
			}
		})
	}
}

func TestAHostOfItsOwnIsNeverAccused(t *testing.T) {
	n := newNode(t, t.TempDir())
	for _, addr := range []string{"127.0.0.1", "::1"} {
		c := policy.Client{Addr: netip.MustParseAddr(addr)}
		n.observe(&policy.Observation{Message: policy.Message{Time: n.clock, Session: "s", QueueID: "Q" + addr, Client: c, Mail: true}, Outcome: policy.Accepted}, spam(policy.FromHeader))
		n.signal(policy.Signal{Time: n.clock, Addr: c.Addr, QueueID: "R" + addr, Mail: true, Assessment: spam(policy.FromMilterReject)})
		n.until(n.clock.Add(5 * time.Second))
		if got := n.own(addr); got != "0.0 spam, 0.0 ham" {
			t.Errorf("%s has %s", addr, got)
		}
	}
}

func TestAResolverThatIsRefusedIsSaid(t *testing.T) {
	n := newNode(t, t.TempDir())
	refused := policy.Assessment{Class: policy.None, Source: policy.FromDNSBL, Reason: "blocked using zen.example; Error: open resolver"}
	n.signal(policy.Signal{Time: n.clock, Addr: client.Addr, Mail: true, Assessment: refused})
	n.observe(&policy.Observation{Message: policy.Message{Time: n.clock, Session: "s", Client: client, Mail: true}}, refused)
	n.until(n.clock.Add(5 * time.Second))
	if h := n.in.Heard(); h.ResolverRefused != 2 {
		t.Errorf("%+v", h)
	}
	if log := n.log.String(); strings.Count(log, "does not serve this host's resolver") != 1 || !strings.Contains(log, "open resolver") {
		t.Error(log)
	}
	if got := n.own(client.Addr.String()); got != "0.0 spam, 0.0 ham" {
		t.Errorf("the client has %s", got)
	}
}

// A queue id that somebody else wrote is believed only where the message is known.
func TestReportsAreBelievedAsFarAsTheirLinesCanBe(t *testing.T) {
	n := newNode(t, t.TempDir())
	n.observe(&policy.Observation{Message: policy.Message{Time: n.clock, Session: "s", QueueID: "KNOWN1", Client: client, Mail: true}, Outcome: policy.Accepted})
	other := netip.MustParseAddr("198.51.100.7")
	for _, c := range []struct {
		name    string
		queueID string
		addr    netip.Addr
		trust   Trust
		print   string
		want    Status
	}{
		{"a line of a host inside, of a message that is known", "KNOWN1", client.Addr, Claimed, "", Corrected},
		{"of one that is not known", "FAKE01", other, Claimed, "report-0", Unknown},
		{"of one of another client", "KNOWN1", other, Claimed, "", Unknown},
		{"a provider's queue id", "CD3B99A0021", other, Foreign, "report-1", New},
		{"the same again", "CD3B99A0021", other, Foreign, "report-1", Again},
		{"another of the same provider", "CD3B99A0022", other, Foreign, "report-2", New},
		{"a message without a queue id", "", other, Certain, "report-3", New},
		{"that again", "", other, Certain, "report-3", Again},
	} {
		done, err := n.in.Learn([]Report{{Trust: c.trust, Fingerprint: c.print, Signal: policy.Signal{Time: n.clock, Addr: c.addr, QueueID: c.queueID, Mail: true, Assessment: spam(policy.FromPerson)}}})
		if err != nil || done[0].Status != c.want {
			t.Errorf("%s: %+v, %v, want %s", c.name, done, err, c.want)
		}
		for _, d := range done {
			if d.Receipt != nil {
				n.await(*d.Receipt)
			}
		}
	}
	n.restart()
	if done, err := n.in.Learn([]Report{{Trust: Foreign, Fingerprint: "report-1", Signal: policy.Signal{Time: n.clock, Addr: other, Mail: true, Assessment: spam(policy.FromPerson)}}}); err != nil || done[0].Status != Again {
		t.Errorf("after a restart: %+v, %v", done, err)
	}
	old := policy.Signal{Time: n.clock.AddDate(0, 0, -30), Addr: other, QueueID: "OLD1", Mail: true, Assessment: spam(policy.FromPerson)}
	if done, err := n.in.Learn(told(old)); err != nil || done[0].Status != TooOld {
		t.Errorf("a message of last month: %+v, %v", done, err)
	}
	// The queue id of what a filter has put back is as good as the first one.
	n.in.Reinjected(policy.Reinjection{QueueID: "BACK1", Original: "KNOWN1", Addr: client.Addr})
	if done, err := n.in.Learn(told(policy.Signal{QueueID: "BACK1", Mail: true, Assessment: policy.Assessment{Class: policy.Ham, Confidence: 1, Source: policy.FromPerson}})); err != nil || done[0].Status != Corrected || done[0].Addr != client.Addr {
		t.Errorf("what was put back: %+v, %v", done, err)
	}
	for _, e := range n.lines() {
		if slices.Contains([]string{"FAKE01", "CD3B99A0021"}, e.QueueID) {
			t.Errorf("a foreign queue id is in the event log: %+v", e)
		}
	}
}

// The signals of one session give the total so far. However far apart they come, and whether the
// milter heard the session or not, it is the total that counts.
func TestTheTotalOfASessionCountsOnce(t *testing.T) {
	for _, apart := range []time.Duration{0, time.Second, 5 * time.Second, time.Minute} {
		for _, heard := range []bool{false, true} {
			n := newNode(t, t.TempDir())
			for i := 1; i <= 10; i++ {
				a := policy.Assessment{Class: policy.Spam, Confidence: policy.Confidence(i) / 10, Source: policy.FromUnknownUser}
				n.signal(policy.Signal{Time: n.clock, Addr: client.Addr, Group: "log-1", Mail: true, Outcome: policy.Rejected, Assessment: a})
				if heard && i == 5 {
					n.observe(&policy.Observation{Message: policy.Message{Time: n.clock, Began: start, Session: "s1", Client: client, Mail: true}, Outcome: policy.Rejected})
				}
				n.until(n.clock.Add(apart))
			}
			n.until(n.clock.Add(10 * time.Second))
			if got := n.own(client.Addr.String()); got != "1.0 spam, 0.0 ham" {
				t.Errorf("%v apart, heard %v: %s", apart, heard, got)
			}
		}
	}
}

// Queue ids are used again: what was put back hours ago is another message.
func TestAReinjectionIsForgotten(t *testing.T) {
	n := newNode(t, t.TempDir())
	here := policy.Client{Addr: netip.MustParseAddr("127.0.0.1")}
	local := func() {
		n.observe(&policy.Observation{Message: policy.Message{Time: n.clock, Began: n.clock, Session: "s2", QueueID: "BACK1", Client: here, Mail: true}, Outcome: policy.Accepted}, spam(policy.FromHeader))
	}
	put := policy.Reinjection{QueueID: "BACK1", Original: "FIRST1", Addr: client.Addr}
	n.in.Reinjected(put)
	n.clock = n.clock.Add(3 * time.Hour)
	local()
	n.clock = n.clock.Add(3 * time.Hour)
	n.in.Reinjected(put)
	n.until(n.clock.Add(10 * time.Second))
	if got := n.own(client.Addr.String()); got != "0.0 spam, 0.0 ham" {
		t.Errorf("the client has %s", got)
	}
}
