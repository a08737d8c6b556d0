package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/replay"
)

var day = time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC)

// event is a row of a trace with an id.
func event(id int, after time.Duration, addr, class, more string) string {
	return fmt.Sprintf(`{"id":%d,"time":%q,"client":{"addr":%q,"unheard":[1,{}]},"of":"later versions","verdict":{"class":%q,"score":7}%s}`+"\n",
		id, day.Add(after).Format(time.RFC3339Nano), addr, class, more)
}

// replayed runs a trace and returns the decisions in their order and the summary.
func replayed(t *testing.T, trace string, args ...string) (decisions string, s replay.Summary) {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.WriteFile("trace", []byte(trace), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if status := run(context.Background(), append([]string{"replay", "--trace", "trace", "--decisions", "out", "--json"}, args...), &stdout, &stderr); status != done {
		t.Fatalf("status %d: %s", status, &stderr)
	}
	if err := json.Unmarshal(stdout.Bytes(), &s); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("out")
	if err != nil {
		t.Fatal(err)
	}
	return string(b), s
}

func TestReplayDecidesBeforeItLearns(t *testing.T) {
	var trace strings.Builder
	for i := range 4 {
		trace.WriteString(event(10+i, time.Duration(i)*time.Minute, "192.0.2.7", "spam", ""))
	}
	trace.WriteString(event(20, 5*time.Minute, "198.51.100.7", "none", ""))
	trace.WriteString(event(21, 6*time.Minute, "", "spam", ""))
	trace.WriteString(event(22, 9*24*time.Hour, "192.0.2.7", "ham", ""))
	decisions, s := replayed(t, trace.String())
	want := `{"id":10,"starttls":"offer"}
{"id":11,"starttls":"offer"}
{"id":12,"starttls":"withhold"}
{"id":13,"starttls":"withhold"}
{"id":20,"starttls":"offer"}
{"id":21,"starttls":"offer"}
{"id":22,"starttls":"offer"}
`
	if decisions != want {
		t.Errorf("decided\n%s\nwant\n%s", decisions, want)
	}
	if s.Rows != 7 || s.Connections != 7 || s.NoAddress != 1 || s.OutOfOrder != 0 || s.Verdicts["spam"].WithheldNow != 2 {
		t.Errorf("%+v", s)
	}
}

// A correction that follows its row and one that precedes it leave the same, and one of a row that
// is not there is counted.
func TestReplayTakesVerdictsBack(t *testing.T) {
	spam := event(1, 0, "192.0.2.7", "spam", "") + event(2, time.Minute, "192.0.2.7", "spam", "")
	fix := event(3, 2*time.Minute, "192.0.2.7", "ham", `,"correction_of":2`)
	asks := event(4, 3*time.Minute, "192.0.2.7", "none", "")
	for name, c := range map[string]struct {
		trace    string
		withheld bool
		orphans  int
	}{
		"no correction":          {spam + asks, true, 0},
		"after its row":          {spam + fix + asks, false, 0},
		"before its row":         {fix + spam + asks, false, 0},
		"taken back once more":   {spam + fix + event(5, 2*time.Minute, "192.0.2.7", "spam", `,"correction_of":2`) + asks, true, 0},
		"of a row never written": {spam + event(3, 2*time.Minute, "192.0.2.7", "ham", `,"correction_of":77`) + asks, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			decisions, s := replayed(t, c.trace)
			if got := strings.HasSuffix(decisions, `{"id":4,"starttls":"withhold"}`+"\n"); got != c.withheld || s.Orphans != c.orphans {
				t.Errorf("withheld %v, orphans %d, want %v, %d", got, s.Orphans, c.withheld, c.orphans)
			}
		})
	}
}

func TestReplayCountsWhatIsOutOfOrder(t *testing.T) {
	decisions, s := replayed(t, event(1, time.Hour, "192.0.2.7", "spam", "")+event(2, 0, "192.0.2.7", "spam", "")+event(3, time.Hour, "192.0.2.7", "ham", ""))
	if s.OutOfOrder != 1 || s.Back != 3600 || !s.First.Equal(day) || strings.Count(decisions, "\n") != 3 {
		t.Errorf("%+v\n%s", s, decisions)
	}
}

// logged is a row of the daemon's event log.
func logged(session, addr, class, starttls string, tls bool) string {
	more := ""
	if tls {
		more = `,"tls":{"version":"TLSv1.3"}`
	}
	return fmt.Sprintf(`{"time":%q,"node":"mx1","event":"message","session":%q,"client":{"addr":%q},"starttls":%q%s,"verdict":{"class":%q}}`+"\n",
		day.Format(time.RFC3339), session, addr, starttls, more, class)
}

func TestReplayHoldsAgainstWhatWasDecidedThen(t *testing.T) {
	log := logged("a", "192.0.2.7", "spam", "offered", true) + logged("a", "192.0.2.7", "spam", "offered", true) +
		logged("b", "192.0.2.7", "spam", "offered", true) + logged("c", "198.51.100.7", "ham", "withheld", false) +
		logged("d", "198.51.100.7", "ham", "unknown", true)
	decisions, s := replayed(t, log, "--against")
	if strings.Count(decisions, "\n") != 4 || !strings.Contains(decisions, `{"id":3,"starttls":"withhold"}`) {
		t.Errorf("one decision a session, by its first line:\n%s", decisions)
	}
	spam, ham := s.Verdicts["spam"], s.Verdicts["ham"]
	if spam.NewlyWithheld != 1 || spam.TLS != 2 || spam.TLSNow != 1 || ham.NewlyOffered != 1 || ham.WithheldThen != 1 || ham.Unasked != 1 {
		t.Errorf("spam %+v, ham %+v", spam, ham)
	}
	if len(s.Clients) != 2 || s.Clients[0].Addr.String() != "192.0.2.7" || s.Clients[0].Spam != 1 {
		t.Errorf("%+v", s.Clients)
	}
	if _, s := replayed(t, log, "--against", "--policy.mode", "observe"); s.Verdicts["spam"].NewlyWithheld != 0 {
		t.Errorf("in observe: %+v", s.Verdicts)
	}
}

func TestReplayRefusesWhatIsNoTraceByItsLine(t *testing.T) {
	good := event(1, 0, "192.0.2.7", "spam", "")
	for name, c := range map[string]struct{ bad, want string }{
		"no JSON":               {"hello\n", "line 601: no event in JSON"},
		"cut short":             {`{"time":"2026-11-24T08:00`, "line 601: no event in JSON: jsontext: unexpected EOF"},
		"an empty line":         {"\n", "line 601: no event in JSON"},
		"no time":               {`{"client":{"addr":"192.0.2.7"},"verdict":{"class":"spam"}}`, `line 601: no "time"`},
		"a wrong time":          {`{"time":"yesterday","client":{"addr":"192.0.2.7"},"verdict":{"class":"spam"}}`, "line 601: no event in JSON"},
		"no client":             {`{"time":"2026-11-24T08:00:00Z","verdict":{"class":"spam"}}`, `line 601: no "client" with its "addr"`},
		"no address":            {`{"time":"2026-11-24T08:00:00Z","client":{},"verdict":{"class":"spam"}}`, `line 601: no "client" with its "addr"`},
		"a wrong address":       {event(2, 0, "192.0.2", "spam", ""), "line 601: client.addr"},
		"no verdict":            {`{"time":"2026-11-24T08:00:00Z","client":{"addr":"192.0.2.7"}}`, `line 601: no "verdict" with its "class"`},
		"an unknown class":      {event(2, 0, "192.0.2.7", "greylist", ""), `line 601: verdict.class is "greylist"; want spam, ham or none`},
		"a line without an end": {strings.Repeat("x", 2<<20), "line 601: longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			if err := os.WriteFile("trace", []byte(strings.Repeat(good, 600)+c.bad), 0o600); err != nil {
				t.Fatal(err)
			}
			var stdout, stderr bytes.Buffer
			if status := run(context.Background(), []string{"replay", "--trace", "trace"}, &stdout, &stderr); status != wanting || !strings.Contains(stderr.String(), "trace: "+c.want) {
				t.Errorf("status %d, %s, want %q", status, &stderr, c.want)
			}
		})
	}
	var stdout, stderr bytes.Buffer
	t.Chdir(t.TempDir())
	if err := os.WriteFile("trace", []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	if status := run(context.Background(), []string{"replay", "--trace", "trace", "--against"}, &stdout, &stderr); status != wanting || !strings.Contains(stderr.String(), `line 1: no "starttls" to compare with`) {
		t.Errorf("status %d: %s", status, &stderr)
	}
}

// TestReplayTakesCorrectionsOfTheEventLog corrects a message twice, and one from before the log
// began.
func TestReplayTakesCorrectionsOfTheEventLog(t *testing.T) {
	corrected := func(of time.Time, was, is string) string {
		return fmt.Sprintf(`{"time":%q,"event":"correction","session":"a","client":{"addr":"192.0.2.7"},"of":%q,"was":{"class":%q,"weight":1},"verdict":{"class":%q,"weight":1}}`+"\n",
			day.Add(time.Minute).Format(time.RFC3339), of.Format(time.RFC3339), was, is)
	}
	spam := strings.Repeat(logged("a", "192.0.2.7", "none", "offered", true), 3)
	next := event(9, 2*time.Minute, "192.0.2.7", "none", "")
	for name, c := range map[string]struct {
		trace    string
		withheld bool
		orphans  int
	}{
		"nothing said":             {spam + next, false, 0},
		"it was spam":              {spam + strings.Repeat(corrected(day, "none", "spam"), 3) + next, true, 0},
		"it was no spam after all": {spam + strings.Repeat(corrected(day, "none", "spam"), 3) + strings.Repeat(corrected(day, "spam", "ham"), 3) + next, false, 0},
		"of before the log began":  {spam + strings.Repeat(corrected(day.Add(-time.Hour), "none", "spam"), 3) + next, false, 3},
	} {
		t.Run(name, func(t *testing.T) {
			decisions, s := replayed(t, c.trace)
			if got := strings.HasSuffix(decisions, `{"id":9,"starttls":"withhold"}`+"\n"); got != c.withheld || s.Orphans != c.orphans {
				t.Errorf("withheld %v, %d orphans\n%s", got, s.Orphans, decisions)
			}
		})
	}
}
