package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/filters"
	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
	"github.com/ehlogate/ehlogate/contrib/e2e/redisd"
	"github.com/ehlogate/ehlogate/policy/correlate"
)

// kind is a kind of message, and what is to come of it.
type kind struct {
	name string
	letter
	// sources are whose word is to be in the event log, in any order.
	sources string
	class   string
	weight  float64
	outcome string
}

// letter is what is particular about a message.
type letter struct {
	subject, body, to string
	headers           []string
}

// chain is a real filter before the daemon.
type chain struct {
	name string
	*exchanger
	clients int
	table   *tabwriter.Writer
	text    *strings.Builder
}

func newChain(x *exchanger, name string) *chain {
	c := &chain{name: name, exchanger: x, text: new(strings.Builder)}
	c.table = tabwriter.NewWriter(c.text, 0, 8, 2, ' ', 0)
	fmt.Fprintln(c.table, "chain\tmessage\twhat each source told\tverdict\toutcome")
	return c
}

// sendAll sends messages of these kinds and prints what came of them.
func (c *chain) sendAll(t *testing.T, kinds []kind) {
	t.Helper()
	for _, k := range kinds {
		c.send(t, k)
	}
	c.end(t)
}

// send sends a message of a kind from an address of its own and holds what came of it against what
// was to.
func (c *chain) send(t *testing.T, k kind) {
	t.Helper()
	c.clients++
	// No two in one network, nor of one body: rspamd greylists by both.
	client := fmt.Sprintf("198.%d.100.7", 20+c.clients)
	s, err := c.Dial(client)
	must(t, err)
	m := mx.Message{From: "alice@sender.example", To: []string{"bob@mx.example"}, Subject: k.subject, Body: k.body + fmt.Sprint("\r\nmessage ", c.clients), Headers: k.headers}
	m.Last = append(slices.Clone(k.headers), "Date: "+time.Now().Format(time.RFC1123Z), fmt.Sprintf("Message-ID: <20261125.0559.%d.message@sender.example>", c.clients))
	if k.to != "" {
		m.To = []string{k.to}
	}
	sent := s.Deliver(m)
	s.Quit()
	events := c.settled(t, client)
	last := events[len(events)-1]
	said := last.Said
	if said == nil {
		said = []mx.Verdict{last.Verdict}
	}
	told := map[string]string{}
	for _, v := range said {
		told[v.Source] = v.Class
		if v.Score != 0 {
			told[v.Source] += fmt.Sprintf(" %.1f", v.Score)
		}
		if v.Weight != 0 {
			told[v.Source] += fmt.Sprintf(" weighing %.2f", v.Weight)
		}
	}
	var parts []string
	for _, source := range strings.Fields(k.sources) {
		if _, ok := told[source]; !ok {
			t.Errorf("%s: %s said nothing; said was %v", k.name, source, told)
		}
		parts = append(parts, source+": "+told[source])
		delete(told, source)
	}
	if len(told) > 0 {
		t.Errorf("%s: said besides: %v", k.name, told)
	}
	fmt.Fprintf(c.table, "%s\t%s\t%s\t%s %.2f\t%s\n", c.name, k.name, strings.Join(parts, "; "), last.Verdict.Class, last.Verdict.Weight, events[0].Outcome)
	if v := last.Verdict; v.Class != k.class || math.Abs(v.Weight-k.weight) > 0.005 || events[0].Outcome != k.outcome {
		t.Errorf("%s: %s weighing %.3f, %s; want %s weighing %.3f, %s (%v)\n%+v", k.name, v.Class, v.Weight, events[0].Outcome, k.class, k.weight, k.outcome, sent, events)
	}
	if a := events[0].Auth; a.SPF == "pass" || a.DMARC == "pass" || c.name == "rspamd" && strings.Contains(k.sources, "header") && a.SPF == "" {
		t.Errorf("%s: authentication %+v", k.name, a)
	}
	c.holds(t, k, client)
}

// settled waits until nothing more is said of a client's message, and returns its events: one
// observation, then corrections of it.
func (c *chain) settled(t *testing.T, client string) (own []mx.Event) {
	t.Helper()
	quiet := time.Now()
	for time.Since(quiet) < 700*time.Millisecond || len(own) == 0 {
		events, err := c.daemon.Events()
		must(t, err)
		var now []mx.Event
		for _, e := range events {
			if e.Client.Addr == client {
				now = append(now, e)
			}
		}
		// A correction that comes at once may stand before its event.
		slices.SortStableFunc(now, func(a, b mx.Event) int { return len(a.Of) - len(b.Of) })
		if len(now) != len(own) {
			own, quiet = now, time.Now()
		}
		if time.Since(quiet) > 10*time.Second {
			t.Fatalf("nothing was heard of %s", client)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return own
}

// end prints the table and waits for what may still come: every message was one observation.
func (c *chain) end(t *testing.T) {
	t.Helper()
	c.table.Flush()
	t.Logf("\n%s", c.text)
	time.Sleep(correlate.Wait + time.Second)
	events, err := c.daemon.Events()
	must(t, err)
	observed := map[string]int{}
	for _, e := range events {
		if e.Event != "correction" {
			observed[e.Client.Addr]++
		}
	}
	for _, e := range events {
		if observed[e.Client.Addr] == 0 {
			t.Errorf("a correction of nothing: %+v", e)
		}
	}
	for client, n := range observed {
		if n != 1 {
			t.Errorf("%s was observed %d times", client, n)
		}
	}
	if len(observed) != c.clients {
		t.Errorf("%d clients observed, %d sent", len(observed), c.clients)
	}
}

// holds compares the evidence that was kept with the one verdict.
func (c *chain) holds(t *testing.T, k kind, client string) {
	t.Helper()
	var e struct{ Own struct{ Spam, Ham float64 } }
	must(t, json.Unmarshal([]byte(c.command("explain", "--json", client)), &e))
	want := math.Round(k.weight*8) / 8
	got, other := e.Own.Spam, e.Own.Ham
	if k.class == "ham" {
		got, other = other, got
	}
	if math.Abs(got-want) > 0.006 || other != 0 {
		t.Errorf("%s: evidence %+v, want %.3f of %s and nothing else", k.name, e.Own, want, k.class)
	}
}

// filterTOML follows Postfix's log and has weights of its own for nothing.
func filterTOML(x *exchanger, more string) string {
	return fmt.Sprintf("[verdict]\nlog_file = '%s'\nauthserv_id = 'mx.example'\ntraps = ['carol@mx.example']\n%s", filepath.Join(x.Dir, "mail.log"), more)
}

// behind puts real filters before the daemon in place of the tests' own.
func behind(x *exchanger, milters ...string) {
	x.t.Helper()
	checks := filepath.Join(x.ConfigDir(), "checks")
	must(x.t, os.WriteFile(checks, []byte("/pills/ REJECT no pills\n/casino/ DISCARD no casino\n"), 0o644))
	must(x.t, x.Set("smtpd_milters = "+strings.Join(milters, ", "), "header_checks = regexp:"+checks, "body_checks = regexp:"+checks))
	x.apply()
	x.run()
}

// forged are verdicts of a client on its own message. It writes them before and after its other
// headers, and in whatever way they can be written.
var forged = []string{
	"X-Spam-Flag: NO", "x-sPAM-fLAG : NO", "X-Spam-Status: No, score=-99.0 required=5.0", "X-Spam-Status:\r\n\tNo,\r\n\tscore=-99.0\r\n\trequired=5.0", "X-Spam: No",
	"Authentication-Results: mx.example; spf=pass smtp.mailfrom=bank.example; dmarc=pass header.from=bank.example", "Authentication-Results: (ours) mx.example; dmarc=pass header.from=bank.example",
	"X-Spam-Level: ", "X-Spamd-Result: default: False [-99.00 / 15.00]; A(1)", "X-Rspamd-Action: no action",
}

// common are kinds that no filter has a part in.
func common(filter string) []kind {
	return []kind{
		{"unknown user", letter{subject: "hello", to: "nobody@mx.example"}, "unknown-user", "none", 0, "rejected"},
		{"relaying", letter{subject: "hello", to: "bob@elsewhere.example"}, "relay", "spam", 0.25, "rejected"},
		{"to a spam trap", letter{subject: "hello", to: "carol@mx.example"}, "trap " + filter, "spam", 3, "accepted"},
		{"refused by header_checks", letter{subject: "pills"}, "content", "spam", 1, "aborted"},
		{"discarded by body_checks", letter{subject: "hello", body: "casino"}, "content", "spam", 1, "aborted"},
	}
}

// withRspamd puts a real rspamd, configured as contrib/rspamd says and with further files, before
// the daemon, which follows Postfix's log.
func withRspamd(t *testing.T, more map[string]string) *exchanger {
	t.Helper()
	redis, err := redisd.New(tempDir(t))
	must(t, err)
	must(t, redis.Start())
	t.Cleanup(redis.Stop)
	x := withLog(t, "")
	behind(x, rspamdFor(t, x, redis, more).Milter())
	return x
}

// rspamdFor starts an rspamd that posts to an exchanger's daemon.
func rspamdFor(t *testing.T, x *exchanger, redis *redisd.Server, more map[string]string) *filters.Rspamd {
	t.Helper()
	token, err := x.daemon.FeedToken()
	must(t, err)
	for _, name := range []string{"metadata_exporter.conf", "milter_headers.conf"} {
		text, err := os.ReadFile(filepath.Join("../rspamd", name))
		must(t, err)
		more["local.d/"+name] = strings.NewReplacer("127.0.0.1:8896", fmt.Sprint("127.0.0.1:", x.daemon.HTTP), "PUT THE TOKEN HERE", token).Replace(string(text))
	}
	r, err := filters.StartRspamd(tempDir(t), redis.Port, more)
	must(t, err)
	t.Cleanup(r.Stop)
	return r
}

// TestRspamd puts a real rspamd before the daemon: it adds headers, greylists and rejects, and
// exports what it found.
func TestRspamd(t *testing.T) {
	t.Parallel()
	x := withRspamd(t, map[string]string{})
	newChain(x, "rspamd").sendAll(t, append([]kind{
		{"clean", letter{subject: "hello"}, "header rspamd", "ham", 1, "accepted"},
		{"middling", letter{subject: "score3"}, "header rspamd", "ham", 0.8066, "accepted"},
		{"greylisted", letter{subject: "score5"}, "rspamd tempfail", "none", 0, "aborted"},
		{"spam, header added", letter{subject: "score9"}, "header rspamd", "spam", 0.6611, "accepted"},
		{"spam, verdicts forged", letter{subject: "score9", headers: forged}, "header rspamd", "spam", 0.6611, "accepted"},
		{"middling, verdicts forged", letter{subject: "score3", headers: forged}, "header rspamd", "ham", 0.8066, "accepted"},
		{"spam, rejected", letter{subject: "score20"}, "rspamd milter-reject", "spam", 1, "aborted"},
		{"GTUBE", letter{subject: "hello", body: filters.GTUBE}, "milter-reject", "spam", 1, "aborted"},
	}, common("header rspamd")...))
}

// TestOneRspamdServesTwoNodes has two exchangers that share a Redis use one rspamd, which posts to
// the first one's daemon: each message counts once, at the node that has heard it.
func TestOneRspamdServesTwoNodes(t *testing.T) {
	t.Parallel()
	redis, err := redisd.New(tempDir(t))
	must(t, err)
	must(t, redis.Start())
	t.Cleanup(redis.Stop)
	var xs []*exchanger
	for range 2 {
		x := prepareOn(t, "redis://"+redis.Addr(), "")
		must(t, x.daemon.Configure(filterTOML(x, "")))
		must(t, x.Set("enable_long_queue_ids = yes"))
		xs = append(xs, x)
	}
	r := rspamdFor(t, xs[0], redis, map[string]string{})
	chains := make([]*chain, len(xs))
	for i, x := range xs {
		behind(x, r.Milter())
		chains[i] = newChain(x, "rspamd")
		chains[i].clients = 10 * i
	}
	kinds := []kind{
		{"clean", letter{subject: "hello"}, "header rspamd", "ham", 1, "accepted"},
		{"spam, header added", letter{subject: "score9"}, "header rspamd", "spam", 0.6611, "accepted"},
		{"spam, rejected", letter{subject: "score20"}, "rspamd milter-reject", "spam", 1, "aborted"},
	}
	for _, c := range chains {
		for _, k := range kinds {
			c.send(t, k)
		}
	}
	chains[1].clients -= 10
	for _, c := range chains {
		c.end(t)
	}
	if n, err := xs[0].daemon.Metric("ehlogate_posts_elsewhere_total"); err != nil || n != float64(len(kinds)) {
		t.Errorf("%v posts were of messages that the other node has heard, %v, want %d", n, err, len(kinds))
	}

	// What a person reports at one node, too.
	events, err := xs[1].daemon.Events()
	must(t, err)
	ham := events[slices.IndexFunc(events, func(e mx.Event) bool { return e.Event == "message" && e.Verdict.Class == "ham" })]
	if out := xs[0].command("learn", "spam", ham.QueueID); !strings.Contains(out, "corrected") {
		t.Errorf("a report at the other node: %s", out)
	}
	waitUntil(t, func() bool {
		events, err := xs[1].daemon.Events()
		must(t, err)
		return slices.ContainsFunc(events, func(e mx.Event) bool {
			return e.Event == "correction" && e.QueueID == ham.QueueID && e.Verdict.Source == "person" && e.Verdict.Class == "spam"
		})
	})
}

// TestSpamAssassin puts a real SpamAssassin behind spamass-milter before the daemon: it adds
// headers, and rejects from 15 on.
func TestSpamAssassin(t *testing.T) {
	t.Parallel()
	x := withLog(t, "")
	s, err := filters.StartSpamAssassin(tempDir(t), 15)
	must(t, err)
	t.Cleanup(s.Stop)
	behind(x, s.Milter())
	newChain(x, "SpamAssassin").sendAll(t, append([]kind{
		{"clean", letter{subject: "hello"}, "header", "ham", 1, "accepted"},
		{"middling", letter{subject: "score3"}, "header", "ham", 0.4, "accepted"},
		{"spam, header added", letter{subject: "score9"}, "header", "spam", 0.9, "accepted"},
		{"spam, verdicts forged", letter{subject: "score9", headers: forged}, "header", "spam", 0.9, "accepted"},
		{"middling, verdicts forged", letter{subject: "score3", headers: forged}, "header", "ham", 0.4, "accepted"},
		{"spam, rejected", letter{subject: "score20"}, "milter-reject", "spam", 1, "aborted"},
		{"GTUBE", letter{subject: "hello", body: filters.GTUBE}, "milter-reject", "spam", 1, "aborted"},
	}, common("header")...))
}
