package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/tune"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

// tunes runs tune over a trace, and returns what it printed.
func tunes(t *testing.T, trace string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.WriteFile("trace", []byte(trace), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errors bytes.Buffer
	status = run(context.Background(), append([]string{"tune", "--trace", "trace"}, args...), &out, &errors)
	return status, out.String(), errors.String()
}

func tunedFrom(t *testing.T, trace string, args ...string) (found tuned) {
	t.Helper()
	status, stdout, stderr := tunes(t, trace, append(args, "--json")...)
	if status != done {
		t.Fatalf("status %d: %s", status, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), &found); err != nil {
		t.Fatal(err)
	}
	return found
}

// someMail is the mail of spammers and honest hosts in a few networks over ten days, of which the
// filter errs on some.
func someMail(rows int) string {
	rng := rand.New(rand.NewPCG(7, 7))
	var b strings.Builder
	for i := range rows {
		host := rng.IntN(300)
		spam := host%3 == 0
		if rng.IntN(20) == 0 {
			spam = !spam
		}
		class := "ham"
		if spam {
			class = "spam"
		}
		at := 240 * time.Hour * time.Duration(i) / time.Duration(rows)
		b.WriteString(event(i+1, at, fmt.Sprintf("198.51.%d.%d", host%10, host/10), class, `,"tls":{"version":"TLSv1.3"}`))
	}
	return b.String()
}

// corrected is a trace in which every other row has no id, with corrections of all kinds: before
// their row and after it, of rows before the trace and of rows that are missing. It returns what
// each row's mail was in the end, too.
func corrected(t *testing.T, trace string) (with string, truth []string) {
	t.Helper()
	rng := rand.New(rand.NewPCG(8, 8))
	type row struct {
		ID      int
		Time    string
		Client  struct{ Addr string }
		Verdict struct{ Class string }
	}
	lines := slices.Collect(strings.Lines(trace))
	rows := make([]row, len(lines))
	for i, line := range lines {
		if err := json.Unmarshal([]byte(line), &rows[i]); err != nil {
			t.Fatal(err)
		}
		truth = append(truth, rows[i].Verdict.Class)
	}
	opposite := map[string]string{"spam": "ham", "ham": "spam"}
	var b strings.Builder
	for i, line := range lines {
		if i%2 == 1 {
			line = strings.Replace(line, fmt.Sprintf(`"id":%d,`, rows[i].ID), "", 1)
		}
		b.WriteString(line)
		at := 240 * time.Hour * time.Duration(i) / time.Duration(len(lines))
		n := rng.IntN(len(rows))
		about := rows[n]
		other := opposite[about.Verdict.Class]
		line = event(len(lines)+i+1, at, about.Client.Addr, other, "%s")
		correct := func(more string) { fmt.Fprintf(&b, line, more) }
		own := func(of string) {
			line = strings.Replace(line, `"of":"later versions",`, "", 1)
			correct(fmt.Sprintf(`,"event":"correction","of":%q,"was":{"class":%q,"weight":1}`, of, about.Verdict.Class))
		}
		switch rng.IntN(12) {
		case 0, 1, 2, 3:
			if n%2 == 0 {
				correct(fmt.Sprintf(`,"correction_of":%d`, about.ID))
				truth[n] = other
			} else if n <= i {
				own(about.Time)
				truth[n] = other
			}
		case 4:
			own(day.Add(-time.Hour).Format(time.RFC3339))
		case 5:
			own(day.Add(at/2 + time.Second).Format(time.RFC3339Nano))
		case 6:
			correct(`,"correction_of":999999`)
		}
	}
	return b.String(), truth
}

// What tune says of a setting is what replay decides, and what the daemon would.
func TestTuneDecidesAsReplayDoes(t *testing.T) {
	withheld := func(decisions string, truth []string) float64 {
		all, held := 0, 0
		for i, d := range strings.Split(strings.TrimSpace(decisions), "\n") {
			if truth[i] == "spam" {
				all++
				held += strings.Count(d, "withhold")
			}
		}
		return float64(held) / float64(all)
	}
	trace, truth := corrected(t, someMail(5000))
	decisions, s := replayed(t, trace)
	found := tunedFrom(t, trace)
	if want := withheld(decisions, truth); math.Abs(found.InForce.SpamWithheld-want) > 1e-9 || want < 0.5 || found.Sessions != s.Connections || s.Orphans < 100 || s.Corrections < 1500 {
		t.Errorf("of %d sessions %v of the spam is withheld; by replay %v: %+v", found.Sessions, found.InForce.SpamWithheld, want, s)
	}
	// And so it is with another setting, as it is printed, in force.
	for _, r := range found.Tried {
		if r.Enter != 2.2 || r.Prior != 0.2 || r.HalfLife != "4h" {
			continue
		}
		config := fmt.Sprintf("[[policy.tier]]\nname = 'bad'\nenter = %g\nleave = %g\n[reputation]\nhalf_life = %q\nnetwork_half_life = %q\nprior = %g\n",
			r.Enter, r.Leave, r.HalfLife, r.NetworkHalfLife, r.Prior)
		if err := os.WriteFile("../tried.toml", []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		dir, _ := os.Getwd()
		decisions, _ := replayed(t, trace, "--config", dir+"/../tried.toml")
		if got := withheld(decisions, truth); math.Abs(got-r.SpamWithheld) > 1e-9 {
			t.Errorf("%+v; by replay %v", r, got)
		}
	}
}

// A trace that was rotated and compressed is read like another.
func TestATraceCanBeCompressed(t *testing.T) {
	plain := someMail(2000)
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	w.Write([]byte(plain))
	w.Close()
	if a, b := tunedFrom(t, plain), tunedFrom(t, packed.String()); a.InForce != b.InForce || a.Sessions != b.Sessions {
		t.Errorf("%+v, compressed %+v", a.InForce, b.InForce)
	}
	if decisions, _ := replayed(t, packed.String()); strings.Count(decisions, "starttls") != 2000 {
		t.Error("replay does not read it")
	}
	if status, _, stderr := tunes(t, packed.String()[:packed.Len()/2]); status != wanting || !strings.Contains(stderr, "trace: line ") {
		t.Errorf("cut short: status %d, %s", status, stderr)
	}
}

// What is to be changed is printed, and no more, and a choice by few sessions says so.
func TestTunePrintsWhatChanges(t *testing.T) {
	inForce := tune.Result{Setting: tune.Setting{Params: reputation.DefaultParams, Bad: reputation.DefaultThresholds.Bad}}
	chosen := inForce
	chosen.Params.HalfLife = time.Hour
	if got := chosenTOML(inForce, chosen); got != "[reputation]\nhalf_life = \"1h\"\n" {
		t.Errorf("%q", got)
	}
	chosen = inForce
	chosen.Bad = reputation.Threshold{Enter: 2.6, Leave: 2.4000000000000004}
	if got := chosenTOML(inForce, chosen); got != "[[policy.tier]]\nname = \"bad\"\nenter = 2.6\nleave = 2.4\n\n" {
		t.Errorf("%q", got)
	}
	if _, stdout, _ := tunes(t, someMail(100), "--harm", "100%"); !strings.Contains(stdout, "too few") && !strings.Contains(stdout, "Nothing avoids more") {
		t.Error(stdout)
	}
}

func TestTuneTakesPeoplesWordForIt(t *testing.T) {
	var b strings.Builder
	for i := range 10 {
		b.WriteString(event(i+1, time.Duration(i)*time.Minute, "192.0.2.7", "spam", ""))
		b.WriteString(event(i+100, time.Duration(i)*time.Minute, "198.51.100.7", "ham", ""))
		// A filter's ham amid spam is doubted, a person's is not.
		b.WriteString(event(i+200, time.Duration(i)*time.Minute, fmt.Sprintf("192.0.2.%d", 8+i), "ham", ""))
	}
	found := tunedFrom(t, b.String())
	if found.Spam != 10 || found.Ham != 20 || found.Doubtful != 0 {
		t.Errorf("%+v", found)
	}
	for i := range 12 {
		b.WriteString(event(i+300, time.Hour, "192.0.2.7", "spam", ""))
	}
	if found = tunedFrom(t, b.String()); found.Spam != 22 || found.Ham != 10 || found.Doubtful != 10 {
		t.Errorf("%+v", found)
	}
	fix := strings.Replace(event(400, 2*time.Hour, "192.0.2.8", "ham", `,"correction_of":200`), `"score":7`, `"source":"person"`, 1)
	fix += strings.Replace(event(401, 2*time.Hour, "192.0.2.7", "ham", `,"correction_of":1`), `"score":7`, `"source":"person"`, 1)
	if found = tunedFrom(t, b.String()+fix); found.Spam != 21 || found.Ham != 12 || found.Doubtful != 9 || found.Corrected != 2 {
		t.Errorf("%+v", found)
	}
}

func TestTuneChoosesWithinTheHarmThatIsNamed(t *testing.T) {
	trace := someMail(20000)
	last := -1.0
	for _, harm := range []float64{0.5, 2, 10} {
		found := tunedFrom(t, trace, "--harm", fmt.Sprintf("%g%%", harm))
		if found.Chosen == nil {
			continue
		}
		if found.Chosen.Harmed > harm/100 || found.Chosen.Avoided < last {
			t.Errorf("for %g %%: %+v", harm, *found.Chosen)
		}
		last = found.Chosen.Avoided
	}
	if last < 0.5 {
		t.Errorf("%v avoided at most", last)
	}
	status, stdout, stderr := tunes(t, trace, "--harm", "10%")
	if status != done || !strings.Contains(stdout, "in force") || !strings.Contains(stdout, "HALF_LIFE") {
		t.Errorf("status %d: %s%s", status, stdout, stderr)
	}
}

func TestTuneSaysWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		trace  string
		args   []string
		status int
		says   string
	}{
		{someMail(10), []string{"--harm", "0.3"}, misuse, `--harm "0.3": write a percentage between 0% and 100%, such as 0.3%`},
		{someMail(10), []string{"--harm", "-1%"}, misuse, "write a percentage"},
		{someMail(10), []string{"more"}, misuse, `no argument "more"`},
		{"", nil, wanting, "0 sessions of spam and 0 of ham: there is nothing to choose by"},
		{"{}\n", nil, wanting, "line 1"},
	} {
		status, _, stderr := tunes(t, c.trace, c.args...)
		if status != c.status || !strings.Contains(stderr, c.says) {
			t.Errorf("%v: status %d, %s; want %d, %s", c.args, status, stderr, c.status, c.says)
		}
	}
}
