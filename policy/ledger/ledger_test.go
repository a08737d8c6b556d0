package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
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

func TestLinesAreWholeAndNoneIsLost(t *testing.T) {
	l, path := open(t, 0, time.Now)
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := range 200 {
				if err := <-l.Append(fmt.Appendf(nil, "%d-%d", w, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	if n := strings.Count(read(t, path), "\n"); n != 1600 || l.Stats.Written.Load() != 1600 {
		t.Errorf("%d lines, counted %d", n, l.Stats.Written.Load())
	}
}

func TestReopenAfterRename(t *testing.T) {
	l, path := open(t, 0, time.Now)
	<-l.Append([]byte("one"))
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	<-l.Append([]byte("two"))
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	<-l.Append([]byte("three"))
	if old, fresh := read(t, path+".1"), read(t, path); old != "one\ntwo\n" || fresh != "three\n" {
		t.Errorf("renamed file %q, new file %q", old, fresh)
	}
}

func TestRetainRotatesDailyAndRemovesTheOld(t *testing.T) {
	clock := now
	l, path := open(t, 48*time.Hour, func() time.Time { return clock })
	for range 5 {
		<-l.Append([]byte("x"))
		clock = clock.Add(24 * time.Hour)
	}
	old, _ := filepath.Glob(strings.TrimSuffix(path, ".ndjson") + "-*.ndjson")
	if len(old) != 2 && len(old) != 3 {
		t.Errorf("kept %q", old)
	}
	if got := read(t, path); got != "x\n" {
		t.Errorf("today's file %q", got)
	}
}

func TestAFullDiskDropsWholeLinesAndIsCounted(t *testing.T) {
	l, path := open(t, 0, time.Now)
	<-l.Append([]byte("one"))
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	l.file, full = full, l.file
	if err := <-l.Append([]byte("two")); !errors.Is(err, ErrDropped) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full disk: %v", err)
	}
	l.file, full = full, l.file
	full.Close()
	<-l.Append([]byte("three"))
	if got := read(t, path); got != "one\nthree\n" || l.Stats.Dropped.Load() != 1 {
		t.Errorf("file %q, dropped %d", got, l.Stats.Dropped.Load())
	}
}

func observation() *policy.Observation {
	return &policy.Observation{
		Time: now, Session: "b1f0c2", QueueID: "780D29842A2", HELO: "client.example", STARTTLS: policy.Offered,
		Client: policy.Client{Addr: netip.MustParseAddr("192.0.2.7"), Port: 58433, Name: "unknown"},
		TLS:    &policy.TLS{Version: "TLSv1.3", Cipher: "TLS_AES_256_GCM_SHA384", Bits: 256}, FromDomain: "sender.example", Rcpts: 1, Mail: true,
		Verdict:  policy.Verdict{Class: policy.Spam, Score: 12.3, Source: "header", Reason: "X-Spam-Flag: YES"},
		Decision: policy.Decision{Judgement: rep.Judgement{Score: 1.2}, Tier: rep.Unknown, Mode: policy.Protect}, Outcome: policy.Accepted,
	}
}

func TestEncodeIsTheShapeOfTheDesign(t *testing.T) {
	got, err := Encode(observation(), "mx1", false)
	want := `{"time":"2026-11-24T13:21:55.365Z","node":"mx1","event":"message","session":"b1f0c2","queue_id":"780D29842A2",` +
		`"client":{"addr":"192.0.2.7","port":58433,"name":"unknown"},"helo":"client.example",` +
		`"starttls":"offered","tls":{"version":"TLSv1.3","cipher":"TLS_AES_256_GCM_SHA384","bits":256},` +
		`"from_domain":"sender.example","rcpts":1,"rcpts_rejected":0,` +
		`"verdict":{"class":"spam","score":12.3,"source":"header","reason":"X-Spam-Flag: YES"},` +
		`"reputation":{"score":1.2,"tier":"unknown"},"outcome":"accepted"}`
	if err != nil || string(got) != want {
		t.Errorf("%v\n got %s\nwant %s", err, got, want)
	}
}

func TestEncodeHidesWhatIsPrivate(t *testing.T) {
	o := observation()
	o.HELO = "bob@client.example"
	o.Verdict.Reason = `5.1.1 <alice@mx.example>: User unknown; "a b"@x.example; Client host [192.0.2.7] blocked, [2001:db8::7] too`
	o.TLS.CertSubject = "carol@client.example"
	plain, _ := Encode(o, "mx1", false)
	for _, local := range []string{"alice", "bob", "carol", "a b"} {
		if strings.Contains(string(plain), local) {
			t.Errorf("%s is in %s", local, plain)
		}
	}
	hidden, _ := Encode(o, "mx1", true)
	for _, s := range []string{"192.0.2.7", "58433", "client.example", "2001:db8::7"} {
		if strings.Contains(string(hidden), s) {
			t.Errorf("%s is in the anonymized %s", s, hidden)
		}
	}
	var e struct{ Client struct{ Addr string } }
	if json.Unmarshal(hidden, &e); e.Client.Addr != "192.0.2.0" {
		t.Errorf("anonymized address %q", e.Client.Addr)
	}
}
