package eventlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	rep "github.com/ehlogate/ehlogate/policy/reputation"
)

var now = time.Date(2026, 11, 24, 13, 21, 55, 365e6, time.UTC)

func open(t *testing.T, retain time.Duration, now func() time.Time) (*Log, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "events.ndjson")
	l, err := Open(path, retain, now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, path
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// event is one that is told from others by its session.
func event(session string) *Event { return &Event{Session: session} }

// sessions are those of the events in a file, in their order.
func sessions(t *testing.T, path string) string {
	t.Helper()
	var all []string
	for line := range strings.Lines(read(t, path)) {
		var e Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%s: %q: %v", path, line, err)
		}
		all = append(all, e.Session)
	}
	return strings.Join(all, " ")
}

func TestLinesAreWholeAndNoneIsLost(t *testing.T) {
	l, path := open(t, 0, time.Now)
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := range 200 {
				if err := <-l.Append(event(fmt.Sprint(w, "-", i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	if n := len(strings.Fields(sessions(t, path))); n != 1600 || l.Stats.Written.Load() != 1600 {
		t.Errorf("%d lines, counted %d", n, l.Stats.Written.Load())
	}
}

func TestReopenAfterRename(t *testing.T) {
	l, path := open(t, 0, time.Now)
	<-l.Append(event("one"))
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	<-l.Append(event("two"))
	renamed := l.file
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	if _, err := renamed.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the renamed file stays open: %v", err)
	}
	<-l.Append(event("three"))
	if old, fresh := sessions(t, path+".1"), sessions(t, path); old != "one two" || fresh != "three" {
		t.Errorf("renamed file %q, new file %q", old, fresh)
	}
}

func TestAFullDiskDropsWholeLinesAndIsCounted(t *testing.T) {
	l, path := open(t, 0, time.Now)
	<-l.Append(event("one"))
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	l.file, full = full, l.file
	if err := <-l.Append(event("two")); !errors.Is(err, ErrDropped) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full disk: %v", err)
	}
	l.file, full = full, l.file
	full.Close()
	<-l.Append(event("three"))
	if got := sessions(t, path); got != "one three" || l.Stats.Dropped.Load() != 1 {
		t.Errorf("file %q, dropped %d", got, l.Stats.Dropped.Load())
	}
}

// TestADiskThatFillsUpWithinALine runs this test program with a limit on the size of files, which
// lets a part of a write through.
func TestADiskThatFillsUpWithinALine(t *testing.T) {
	if path := os.Getenv("EHLOGATE_TEST_LIMITED"); path != "" {
		signal.Ignore(syscall.SIGXFSZ)
		l, err := Open(path, 0, time.Now, slog.New(slog.DiscardHandler))
		if err == nil {
			err = syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1010, Max: 1010})
		}
		for i := 0; err == nil; i++ {
			err = <-l.Append(event(fmt.Sprint(i)))
		}
		if !errors.Is(err, syscall.EFBIG) {
			t.Fatal(err)
		}
		return
	}
	path := filepath.Join(t.TempDir(), "events.ndjson")
	cmd := exec.Command(os.Args[0], "-test.run=^TestADiskThatFillsUpWithinALine$")
	cmd.Env = append(os.Environ(), "EHLOGATE_TEST_LIMITED="+path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text := read(t, path)
	if !strings.HasSuffix(text, "\n") || !strings.HasPrefix(sessions(t, path), "0 1 2 3") {
		t.Errorf("it ends within a line: %q", text)
	}
}

func observation() *policy.Observation {
	o := &policy.Observation{
		Message: policy.Message{
			Time: now, Session: "b1f0c2", QueueID: "780D29842A2", Mail: true,
			Client:  policy.Client{Addr: netip.MustParseAddr("192.0.2.7"), Port: 58433, Name: "unknown"},
			Verdict: policy.Verdict{Class: policy.Spam, Weight: 1, Score: 12.3, Source: "header", Reason: "X-Spam-Flag: YES"},
		},
		HELO: "client.example", STARTTLS: policy.Offered, TLS: &policy.TLS{Version: "TLSv1.3", Cipher: "TLS_AES_256_GCM_SHA384", Bits: 256}, FromDomain: "sender.example", Rcpts: 1, Decision: policy.Decision{Judgement: rep.Judgement{Score: 1.2}, Tier: rep.Unknown, Mode: policy.Protect}, Outcome: policy.Accepted}
	o.Verdicts = policy.Verdicts{o.Verdict}
	return o
}

// lineOf is the line of an observation, anonymized or not.
func lineOf(t *testing.T, o *policy.Observation, anonymize bool) string {
	t.Helper()
	e := Of(o, "mx1")
	if anonymize {
		e.Anonymize()
	}
	b, err := e.Line()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestAnEventHasTheShapeOfTheDesign(t *testing.T) {
	got, want := map[string]any{}, map[string]any{}
	const design = `{"time":"2026-11-24T13:21:55.365Z","node":"mx1","event":"message","session":"b1f0c2","queue_id":"780D29842A2",` +
		`"client":{"addr":"192.0.2.7","port":58433,"name":"unknown"},"helo":"client.example",` +
		`"starttls":"offered","tls":{"version":"TLSv1.3","cipher":"TLS_AES_256_GCM_SHA384","bits":256},` +
		`"from_domain":"sender.example","rcpts":1,"rcpts_rejected":0,` +
		`"verdict":{"class":"spam","score":12.3,"weight":1,"source":"header","reason":"X-Spam-Flag: YES"},` +
		`"reputation":{"score":1.2,"tier":"unknown"},"outcome":"accepted"}`
	line := lineOf(t, observation(), false)
	if err := errors.Join(json.Unmarshal([]byte(line), &got), json.Unmarshal([]byte(design), &want)); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n got %s\nwant %s", line, design)
	}
}

func TestWhatIsPrivateIsHidden(t *testing.T) {
	o := observation()
	o.HELO = "bob@client.example"
	o.Verdict.Reason = `5.1.1 <alice@mx.example>: User unknown; "a b"@x.example; Client host [192.0.2.7] blocked, [2001:db8::7] too`
	o.Verdicts = policy.Verdicts{o.Verdict, {Class: policy.None, Source: policy.FromTLS, Reason: "from dave@192.0.2.7"}}
	o.TLS.CertSubject = "carol@client.example"
	correction := OfCorrection(&policy.Correction{Message: o.Message, Was: o.Verdict}, now, "mx1")
	plain := lineOf(t, o, false)
	corrected, _ := correction.Line()
	for _, local := range []string{"alice", "bob", "carol", "a b", "dave"} {
		if strings.Contains(plain+string(corrected), local) {
			t.Errorf("%s is in %s or %s", local, plain, corrected)
		}
	}
	hidden := lineOf(t, o, true)
	correction.Anonymize()
	corrected, _ = correction.Line()
	for _, s := range []string{"192.0.2.7", "58433", "client.example", "2001:db8::7"} {
		if strings.Contains(hidden+string(corrected), s) {
			t.Errorf("%s is in the anonymized %s or %s", s, hidden, corrected)
		}
	}
	var e Event
	if json.Unmarshal([]byte(hidden), &e); e.Client.Addr != "192.0.2.0" {
		t.Errorf("anonymized address %q", e.Client.Addr)
	}
	for addr, want := range map[string]string{"2001:db8:1:2::7": "2001:db8:1::", "": ""} {
		e := &Event{Client: Client{Addr: addr, Port: 7}}
		if e.Anonymize(); e.Client != (Client{Addr: want}) {
			t.Errorf("%q anonymized as %+v", addr, e.Client)
		}
	}
}

// TestAMessageIsReadBackAsItWasWritten writes messages of every kind and reads them back.
func TestAMessageIsReadBackAsItWasWritten(t *testing.T) {
	with := func(change func(*policy.Observation)) *policy.Observation {
		o := observation()
		o.Began = o.Time.Add(-1500 * time.Millisecond)
		o.Client.Name = ""
		o.Verdicts = policy.Verdicts{o.Verdict}
		change(o)
		return o
	}
	for name, o := range map[string]*policy.Observation{
		"a message":             with(func(*policy.Observation) {}),
		"a session without one": with(func(o *policy.Observation) { o.Mail, o.QueueID = false, "" }),
		"of a logged-in client": with(func(o *policy.Observation) { o.Authenticated = true }),
		"a bounce":              with(func(o *policy.Observation) { o.Bounce, o.Backscatter = true, true }),
		"much like others":      with(func(o *policy.Observation) { o.HamShare = 0.333 }),
		"of a distrusted source": with(func(o *policy.Observation) {
			o.Verdict = o.Verdict.Distrust()
			o.Verdicts = policy.Verdicts{o.Verdict}
		}),
		"cut off by a stop":       with(func(o *policy.Observation) { o.Unfinished = true }),
		"with a failed handshake": with(func(o *policy.Observation) { o.Trouble = policy.HandshakeFailed }),
		"of an unknown client":    with(func(o *policy.Observation) { o.Client = policy.Client{} }),
		"of an IPv6 client":       with(func(o *policy.Observation) { o.Client.Addr = netip.MustParseAddr("2001:db8::7") }),
		"with verdicts of several": with(func(o *policy.Observation) {
			o.Verdicts = o.Verdicts.With(policy.Verdict{Class: policy.Ham, Weight: 0.5, Source: policy.FromRspamd})
		}),
		"the second of a session, of a filter": with(func(o *policy.Observation) { o.Nth, o.Reinjected = 2, true }),
		"with no verdict":                      with(func(o *policy.Observation) { o.Verdict, o.Verdicts = policy.Verdict{Class: policy.None}, nil }),
	} {
		t.Run(name, func(t *testing.T) {
			o.Remember()
			var e Event
			if err := json.Unmarshal([]byte(lineOf(t, o, false)), &e); err != nil {
				t.Fatal(err)
			}
			if m, ok := e.Message(); !ok || !reflect.DeepEqual(m, o.Message) {
				t.Errorf("read back as\n     %+v\nwant %+v", m, o.Message)
			}
			c := &policy.Correction{Message: o.Message, Was: policy.Verdict{Class: policy.None}, NewTrouble: true}
			line, _ := OfCorrection(c, o.Time.Add(time.Hour), "mx1").Line()
			var corrected Event
			if err := json.Unmarshal(line, &corrected); err != nil {
				t.Fatal(err)
			}
			m, ok := corrected.Message()
			want := o.Message
			// A correction does not say these.
			want.Began, want.Mail = want.Time, true
			if !ok || !reflect.DeepEqual(m, want) {
				t.Errorf("a correction read back as\n     %+v\nwant %+v", m, want)
			}
		})
	}
	if m, ok := (&Event{Client: Client{Addr: "192.0.2"}}).Message(); ok {
		t.Errorf("an address that is none: %+v", m)
	}
}

// TestALogThatIsRemovedIsBegunAnew: lines do not go on into a file that nobody can read.
func TestALogThatIsRemovedIsBegunAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "events.ndjson")
	if err := os.Mkdir(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	l, err := Open(path, 0, time.Now, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	write := func() {
		t.Helper()
		if err := <-l.Append(OfForget(netip.MustParsePrefix("192.0.2.0/24"), time.Now(), "mx1")); err != nil {
			t.Fatal(err)
		}
	}
	write()
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(lookEvery)
	write()
	l.Close()
	b, err := os.ReadFile(path)
	if err != nil || bytes.Count(b, []byte("\n")) != 1 {
		t.Errorf("%q, %v", b, err)
	}
	if !strings.Contains(log.String(), "was removed") {
		t.Errorf("nobody is told: %s", log.String())
	}
}

// TestAChangeIsAnonymizedToo: an override, or its end, names no host, nor who set it and why.
func TestAChangeIsAnonymizedToo(t *testing.T) {
	for n, want := range map[string]string{"192.0.2.7/32": "192.0.2.0/24", "192.0.0.0/16": "192.0.0.0/16", "2001:db8:0:1::/64": "2001:db8::/48"} {
		e := OfChange(Change{Verb: "forget", By: "alice", Note: "asked by 192.0.2.7"}, netip.MustParsePrefix(n), time.Now(), "mx1")
		if e.Anonymize(); e.Client != (Client{Addr: want}) || e.Change.By != "" || e.Change.Note != "" || e.Change.Verb != "forget" {
			t.Errorf("%s: %+v, %+v", n, e.Client, e.Change)
		}
	}
}
