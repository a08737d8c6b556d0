package ledger

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ehlogate/ehlogate/policy"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// node is a ledger of a test, with a clock.
type node struct {
	*Ledger
	t     *testing.T
	path  string
	name  string
	shelf Shelf
	clock time.Time
}

func newNode(t *testing.T, name string, shelf Shelf) *node {
	n := &node{t: t, path: filepath.Join(t.TempDir(), "ledger.db"), name: name, shelf: shelf, clock: noon}
	n.open()
	t.Cleanup(func() { n.Close() })
	return n
}

func (n *node) open() {
	n.t.Helper()
	l, err := Open(Options{
		Path: n.path, Node: n.name, Shelf: n.shelf, Now: func() time.Time { return n.clock }, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Network: networkOf,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.Ledger = l
}

func networkOf(a netip.Addr) netip.Prefix {
	n, _ := a.Prefix(24)
	return n
}

// kill ends the daemon as kill -9 does: what was not flushed is lost.
func (n *node) kill() {
	n.db.Close()
	n.open()
}

func (n *node) flush(position string) {
	n.t.Helper()
	if err := n.Flush(context.Background(), []byte(position)); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) report(since time.Time) *Report {
	n.t.Helper()
	return reportOf(n.t, n.Ledger, since, n.clock)
}

func reportOf(t *testing.T, l *Ledger, since, until time.Time) *Report {
	t.Helper()
	b, err := l.Read(context.Background(), since, until.Add(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return b.Report(View{Step: time.Hour, Location: time.UTC, Top: 10, Measure: Measures["spam"], HandshakeCost: time.Millisecond})
}

// message is spam over TLS 1.3 from a host.
func message(i int) *Entry {
	return &Entry{
		Time: noon, Addr: netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), Message: true, Session: true,
		Verdict: policy.Verdict{Class: policy.Spam, Source: policy.FromHeader},
		Facts: policy.Facts{
			STARTTLS: policy.Offered, TLS: &policy.TLS{Version: "TLSv1.3", Cipher: "TLS_AES_256_GCM_SHA384"}, FromDomain: "sender.example", Tier: "unknown", Outcome: policy.Accepted,
			Auth: policy.Auth{DKIM: "pass", DKIMDomain: "signer.example"}, Message: true,
		},
	}
}

func TestEveryNameHasItsPlace(t *testing.T) {
	for _, s := range policy.Sources() {
		if i := place(Sources, s.Source); Sources[i] != s.Source {
			t.Errorf("source %q is counted as %q", s.Source, Sources[i])
		}
	}
	for name, room := range map[string][2]int{
		"versions": {len(Versions), 8}, "ciphers": {len(Ciphers), 16}, "exchanges": {len(Exchanges), 8}, "sources": {len(Sources), 64},
		"tiers": {len(Tiers), 8}, "outcomes": {len(Outcomes), 8}, "answers": {len(Answers), 8}, "troubles": {len(Troubles), 8},
	} {
		if room[0] > room[1] {
			t.Errorf("%d %s do not fit into %d", room[0], name, room[1])
		}
	}
}

func TestCipherSuitesHaveTheirGroups(t *testing.T) {
	for suite, want := range map[string][2]string{
		"TLS_AES_256_GCM_SHA384":        {"AES-GCM", "TLSv1.3"},
		"TLS_CHACHA20_POLY1305_SHA256":  {"CHACHA20", "TLSv1.3"},
		"ECDHE-RSA-AES256-GCM-SHA384":   {"AES-GCM", "ECDHE"},
		"ECDHE-ECDSA-CHACHA20-POLY1305": {"CHACHA20", "ECDHE"},
		"DHE-RSA-AES128-SHA":            {"AES-CBC", "DHE"},
		"AES256-SHA":                    {"AES-CBC", "RSA"},
		"DES-CBC3-SHA":                  {"3DES", "RSA"},
		"ADH-AES256-GCM-SHA384":         {"AES-GCM", "other"},
		"<script>":                      {"other", "other"},
	} {
		if got := [2]string{cipherGroup(suite), exchange(&policy.TLS{Cipher: suite})}; got != want {
			t.Errorf("%s: %v; want %v", suite, got, want)
		}
	}
}

// TestClientsMakeNoSeries: whatever clients send, the counts are those that have a name, and a
// tally is bounded.
func TestClientsMakeNoSeries(t *testing.T) {
	n := newNode(t, "mx1", nil)
	for i := range 5000 {
		e := message(i)
		e.TLS.Version, e.TLS.Cipher = fmt.Sprint("TLSx", i), fmt.Sprint("CIPHER-", i)
		e.FromDomain, e.Verdict.Source, e.Tier, e.Outcome = fmt.Sprint(i, ".example"), policy.Source(fmt.Sprint(i)), fmt.Sprint(i), policy.Outcome(fmt.Sprint(i))
		n.Count(e, false)
	}
	r := n.report(noon)
	if len(r.Versions) != 1 || r.Versions["other"].Spam != 5000 || r.Ciphers["other"].Spam != 5000 || r.Sources["other"].Spam != 5000 || r.Tiers["other"].Spam != 5000 || r.Outcomes["other"].Spam != 5000 {
		t.Errorf("%+v", r.Messages)
	}
	b, err := n.Read(context.Background(), noon, noon.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Tallies[ByDomain].tallied) > MostTallied {
		t.Errorf("%d domains are tallied", len(b.Tallies[ByDomain].tallied))
	}
	if got := float64(b.Clients); got < 4700 || got > 5300 {
		t.Errorf("%v clients; want some 5000", got)
	}
}

// TestWhatWasCountedSurvivesAKill: a kill loses what was not flushed, and the position says where
// to read on.
func TestWhatWasCountedSurvivesAKill(t *testing.T) {
	n := newNode(t, "mx1", nil)
	for i := range 10 {
		n.Count(message(i), false)
	}
	n.flush("ten")
	want := n.report(noon)
	n.Count(message(99), false)
	n.kill()
	if got := string(n.Position()); got != "ten" {
		t.Errorf("position %q", got)
	}
	if got := n.report(noon); !reflect.DeepEqual(got, want) {
		t.Errorf("after a kill\n     %+v\nwant %+v", got, want)
	}
	// And counting goes on where it was.
	n.Count(message(10), false)
	if got := n.report(noon); got.Messages[policy.Spam].TLS != 11 || got.Top[ByDomain][0].Spam.TLS != 11 || got.Clients.All != 11 {
		t.Errorf("%+v", got)
	}
}

func TestADamagedLedgerIsMovedAside(t *testing.T) {
	n := newNode(t, "mx1", nil)
	n.Count(message(1), false)
	n.flush("one")
	n.db.Close()
	content, err := os.ReadFile(n.path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range content {
		content[i] ^= byte(i)
	}
	os.WriteFile(n.path, content, 0o600)
	n.open()
	if n.Position() != nil {
		t.Error("the position is kept")
	}
	if aside, _ := filepath.Glob(n.path + ".damaged-*"); len(aside) != 1 {
		t.Errorf("moved aside: %v", aside)
	}
}

// TestALedgerThatIsDamagedMeanwhileIsGivenUp: nobody waits for it, and the next start counts anew.
func TestALedgerThatIsDamagedMeanwhileIsGivenUp(t *testing.T) {
	n := newNode(t, "mx1", nil)
	for i := range 2000 {
		e := message(i)
		e.FromDomain = fmt.Sprint(i, ".example")
		n.Count(e, false)
	}
	n.flush("one")
	if err := os.Truncate(n.path, 8192); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		var err error
		for range 3 {
			n.Count(message(1), false)
			err = n.Flush(context.Background(), []byte("two"))
		}
		n.Read(context.Background(), noon.Add(-time.Hour), noon.Add(time.Hour))
		n.Close()
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			t.Error("it is not noticed")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it is waited for")
	}
}

// TestAWrongClockRemovesNothing: two years ahead, and back.
func TestAWrongClockRemovesNothing(t *testing.T) {
	n := newNode(t, "mx1", nil)
	n.Count(message(1), false)
	n.flush("one")
	n.clock = noon.Add(2 * 365 * 24 * time.Hour)
	n.flush("two")
	n.clock = noon
	n.kill()
	if got := n.report(noon); got.Messages[policy.Spam].TLS != 1 {
		t.Errorf("%v", got.Messages)
	}
}

// TestACorrectionMayStandBeforeWhatItCorrects.
func TestACorrectionMayStandBeforeWhatItCorrects(t *testing.T) {
	n := newNode(t, "mx1", nil)
	ham := message(1)
	ham.Verdict.Class = policy.Ham
	n.Count(ham, true)
	n.Count(message(1), false)
	n.Count(ham, false)
	row := n.report(noon).Top[ByDomain][0]
	if row.Spam.TLS != 1 || row.Ham.TLS != 0 {
		t.Errorf("%+v", row)
	}
}

// TestTakenBackIsAsIfItWereNeverCounted is a law of all counts but the estimates of clients.
func TestTakenBackIsAsIfItWereNeverCounted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plain, both := new(Counts), new(Counts)
		var back []*Entry
		for range rapid.IntRange(0, 50).Draw(t, "entries") {
			e := message(rapid.IntRange(0, 9).Draw(t, "host"))
			e.Verdict = policy.Verdict{Class: rapid.SampledFrom(Classes).Draw(t, "class"), Source: rapid.SampledFrom(Sources).Draw(t, "source")}
			e.STARTTLS = rapid.SampledFrom(Answers).Draw(t, "answer")
			e.Trouble = rapid.SampledFrom(append([]policy.Trouble{""}, Troubles...)).Draw(t, "trouble")
			if rapid.Bool().Draw(t, "plain") {
				e.TLS = nil
			}
			both.Add(e, 1)
			if rapid.Bool().Draw(t, "back") {
				back = append(back, e)
			} else {
				plain.Add(e, 1)
			}
		}
		for _, e := range back {
			both.Add(e, -1)
		}
		if *plain != *both {
			t.Fatalf("%v; want %v", both, plain)
		}
		var again Counts
		if err := again.decode(both.encode()); err != nil || again != *both {
			t.Fatalf("read back as %v, %v", again, err)
		}
	})
}

// TestATallyKeepsTheMostFrequent: names that come more often than one in MostTallied times are in
// it, however many others there are, and never counted too high.
func TestATallyKeepsTheMostFrequent(t *testing.T) {
	tally, random := NewTally(), rand.New(rand.NewPCG(1, 2))
	want := map[string]int64{}
	for range 200_000 {
		name := fmt.Sprint("rare", random.IntN(100_000))
		if random.IntN(3) == 0 {
			name = fmt.Sprint("often", random.IntN(30))
		}
		want[name]++
		tally.Count(name, message(1), 1)
	}
	top := tally.Top(30, Measures["spam"])
	for i := range top {
		n := &top[i]
		if got, exact := total(n.Spam), want[n.Name]; exact < 1000 || got > exact || got+n.Missed < exact {
			t.Errorf("%s: %d and %d missed; it came %d times", n.Name, got, n.Missed, exact)
		}
	}
	again := NewTally()
	if err := again.decode(tally.encode()); err != nil || !slices.Equal(again.tallied, tally.tallied) {
		t.Errorf("it is read back differently: %v", err)
	}
}

// TestWithheldHamIsNotLostToTLS: what came in the clear because we withheld STARTTLS is no sign
// that its sender has no TLS.
func TestWithheldHamIsNotLostToTLS(t *testing.T) {
	n := newNode(t, "mx1", nil)
	for i, domain := range []string{"withheld.example", "withheld.example", "plain.example", "tls.example"} {
		e := message(i)
		e.Verdict.Class, e.FromDomain = policy.Ham, domain
		if domain != "tls.example" {
			e.TLS = nil
		}
		if domain == "withheld.example" {
			e.STARTTLS = policy.Withheld
		}
		n.Count(e, false)
	}
	q := n.report(noon.Add(-time.Hour)).RequireTLS
	if q.Ham != 2 || q.Plain != 1 || q.Withheld != 2 || *q.PlainShare != 0.5 || len(q.Senders) != 1 || q.Senders[0].Name != "plain.example" || len(q.Clients) != 1 {
		t.Errorf("%+v", q)
	}
}

// TestOwnUsersAreCountedApart: what the operator's own users send is not part of any share.
func TestOwnUsersAreCountedApart(t *testing.T) {
	n := newNode(t, "mx1", nil)
	e := message(1)
	e.Own = true
	n.Count(e, false)
	r := n.report(noon)
	if r.Own != (OwnCounts{1, 1}) || r.Sessions != 0 || r.Messages[policy.Spam].Sum() != 0 || len(r.Top[ByAddress]) != 0 {
		t.Errorf("%+v", r.Messages)
	}
}

// TestTheCourseHasNoGaps: hours without mail are in it.
func TestTheCourseHasNoGaps(t *testing.T) {
	n := newNode(t, "mx1", nil)
	n.Count(message(1), false)
	n.clock = noon.Add(3 * time.Hour)
	late := message(2)
	late.Time = n.clock
	n.Count(late, false)
	var spam []int64
	for _, p := range n.report(noon).Series {
		spam = append(spam, p.Messages[policy.Spam].TLS)
	}
	if !slices.Equal(spam, []int64{1, 0, 0, 1}) {
		t.Errorf("course %v", spam)
	}
}

// TestAYearIsReadSoon fills a year of hours and reads it, in 0.4 s on an idle processor. The limit
// is for the race detector on a busy one.
func TestAYearIsReadSoon(t *testing.T) {
	n := newNode(t, "mx1", nil)
	for h := range 365 * 24 {
		for i := range 20 {
			e := message(i)
			e.Time = noon.Add(-time.Duration(h) * time.Hour)
			e.Verdict.Class, e.FromDomain = Classes[i%3], fmt.Sprint(i, ".example")
			e.Verdict.Source = Sources[i]
			n.Count(e, false)
		}
		if h%1000 == 0 {
			n.flush("some")
		}
	}
	n.flush("all")
	began := time.Now()
	r := n.report(noon.Add(-365 * 24 * time.Hour))
	took := time.Since(began)
	t.Logf("a year of hours took %v", took)
	if r.Messages[policy.Spam].Sum() != 7*365*24 || len(r.Series) < 365*24 {
		t.Errorf("%d spam in %d hours", r.Messages[policy.Spam].Sum(), len(r.Series))
	}
	if took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
}
