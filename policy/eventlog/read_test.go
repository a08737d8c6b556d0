package eventlog

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// written is the line of an observation, or of a correction of it.
func written(t *testing.T, o *policy.Observation, was *policy.Verdict) string {
	t.Helper()
	e := Of(o, "mx1")
	if was != nil {
		e = OfCorrection(&policy.Correction{Message: o.Message, Was: *was}, o.Time.Add(time.Minute), "mx1")
	}
	b, err := e.Line()
	if err != nil {
		t.Fatal(err)
	}
	return string(b) + "\n"
}

func numbered(queueID string, at time.Duration) *policy.Observation {
	o := observation()
	o.QueueID, o.Session, o.Time, o.Began = queueID, "s"+queueID, now.Add(at), now.Add(at-time.Second)
	o.Verdicts = policy.Verdicts{o.Verdict}
	return o
}

func TestRecentKnowsMessagesAsTheyWereLastCorrected(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.ndjson")
	old, one, two := numbered("Q0", -time.Hour), numbered("Q1", 0), numbered("Q2", time.Second)
	text := written(t, old, nil) + written(t, one, nil) + "rubbish\n" + written(t, two, nil)
	was := one.Verdict
	one.Verdict = policy.Verdict{Class: policy.Ham, Weight: 1, Source: policy.FromPerson, Reason: "by hand"}
	one.Verdicts = one.Verdicts.With(one.Verdict)
	text += written(t, one, &was) + `{"time":"2026-11-24T13:2` // cut short
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	known, err := Recent(path, now.Add(-time.Minute), 1<<20)
	if err != nil || len(known) != 2 {
		t.Fatalf("%d observations, %v", len(known), err)
	}
	got := known[0]
	if got.QueueID != "Q1" || got.Session != "sQ1" || !got.Time.Equal(one.Time) || !got.Began.Equal(one.Began) || got.Verdict != one.Verdict || len(got.Verdicts) != 2 || !got.Mail ||
		got.Client.Addr != netip.MustParseAddr("192.0.2.7") || got.Client.Port != one.Client.Port {
		t.Errorf("%+v", got)
	}
	if known[1].QueueID != "Q2" || len(known[1].Verdicts) != 1 {
		t.Errorf("%+v", known[1])
	}
	if known, err := Recent(path, now.Add(-2*time.Hour), int64(len(text))/2); err != nil || len(known) >= 3 || len(known) == 0 {
		t.Errorf("of the file's second half: %d, %v", len(known), err)
	}
	if known, err := Recent(path, now.Add(-2*time.Hour), int64(len(text))); err != nil || len(known) != 3 {
		t.Errorf("of all of the file: %d, %v", len(known), err)
	}
	if known, err := Recent(path+".none", now, 1<<20); err != nil || len(known) != 0 {
		t.Errorf("of no file: %d, %v", len(known), err)
	}
}

func TestFindLooksInRotatedFilesToo(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "events.ndjson")
	again := numbered("Q1", time.Hour)
	for name, text := range map[string]string{
		"events-2026-11-23.ndjson": written(t, numbered("Q1", -time.Hour), nil),
		"events.ndjson.1":          written(t, numbered("Q2", 0), nil),
		"events.ndjson.2.gz":       written(t, numbered("Q9", 0), nil), // not really compressed
		"events.ndjson":            written(t, again, nil) + written(t, numbered("Q3", time.Hour), nil) + written(t, numbered("", time.Hour), nil),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-time.Hour)
	os.Chtimes(filepath.Join(dir, "events-2026-11-23.ndjson"), past, past)
	found, err := Find(path, []string{"Q1", "Q2", "Q9"})
	if err != nil || len(found) != 2 || !found["Q1"].Time.Equal(again.Time) || found["Q2"] == nil {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestALineThatIsTooLongIsPassedOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.ndjson")
	text := written(t, numbered("Q1", 0), nil) + strings.Repeat("x", 3*maxEvent) + "\n" + written(t, numbered("Q2", 0), nil)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if known, err := Recent(path, now.Add(-time.Hour), 1<<20); err != nil || len(known) != 2 {
		t.Errorf("%d messages, %v", len(known), err)
	}
}

func TestAFileThatCannotBeReadIsAnError(t *testing.T) {
	dir := t.TempDir()
	if _, err := Find(dir, []string{"Q1"}); err == nil {
		t.Error("a directory is looked in")
	}
	if _, err := Recent(dir, now, 1<<20); err == nil {
		t.Error("a directory is read")
	}
	if found, err := Find(filepath.Join(dir, "events.ndjson"), []string{"Q1"}); err != nil || len(found) != 0 {
		t.Errorf("a file that is missing: %v, %v", found, err)
	}
}

// TestRecentLooksInTheLastArchive just after the log was rotated.
func TestRecentLooksInTheLastArchive(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "events.ndjson")
	for name, text := range map[string]string{
		"events.ndjson.2":          written(t, numbered("Q0", 0), nil), // of last week
		"events.ndjson.1":          written(t, numbered("Q1", 0), nil),
		"events-2026-11-24.ndjson": written(t, numbered("Q2", 0), nil),
		"events.ndjson":            written(t, numbered("Q3", 0), nil),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		os.Chtimes(filepath.Join(dir, name), now, now)
	}
	os.Chtimes(path+".2", now.AddDate(0, 0, -7), now.AddDate(0, 0, -7))
	known, err := Recent(path, now.Add(-time.Hour), 1<<20)
	if err != nil || len(known) != 3 || known[2].QueueID != "Q3" {
		t.Errorf("%d messages, %v", len(known), err)
	}
}

// TestWhatWasForgottenIsReadBackSo has the evidence of a network dropped between two messages.
func TestWhatWasForgottenIsReadBackSo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.ndjson")
	forget, err := OfForget(netip.MustParsePrefix("192.0.2.0/24"), now, "mx1").Line()
	if err != nil {
		t.Fatal(err)
	}
	text := written(t, numbered("Q1", 0), nil) + string(forget) + "\n" + written(t, numbered("Q2", 0), nil)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := Find(path, []string{"Q1", "Q2"})
	if err != nil || len(found) != 2 || found["Q1"].Verdict.Class != policy.None || found["Q2"].Verdict.Class != policy.Spam || len(found["Q1"].Verdicts) != 1 {
		t.Errorf("%+v, %v", found, err)
	}
	for row, err := range Rows(strings.NewReader(text)) {
		if err != nil || !row.Addr.IsValid() {
			t.Errorf("%+v, %v", row, err)
		}
	}
}

// TestAQueueIDThatCameWithACorrection belongs to the message that had none.
func TestAQueueIDThatCameWithACorrection(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.ndjson")
	o := numbered("", 0)
	text := written(t, o, nil)
	was := o.Verdict
	o.QueueID = "Q1"
	text += written(t, o, &was)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if known, err := Recent(path, now.Add(-time.Hour), 1<<20); err != nil || len(known) != 1 || known[0].QueueID != "Q1" {
		t.Errorf("%d messages, %v", len(known), err)
	}
}

func TestAHalfLineIsEnded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.ndjson")
	if err := os.WriteFile(path, []byte(written(t, numbered("Q1", 0), nil)+`{"time":"2026-11-24T13:2`), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Open(path, 0, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	<-l.Append(Of(numbered("Q2", 0), "mx1"))
	l.Close()
	if known, err := Recent(path, now.Add(-time.Hour), 1<<20); err != nil || len(known) != 2 {
		t.Errorf("%d messages, %v", len(known), err)
	}
}

// TestAPipeIsNotReadBack: a log that is written to a pipe has nothing to be read.
func TestAPipeIsNotReadBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.ndjson")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if known, err := Recent(path, now, 1<<20); err != nil || len(known) != 0 {
		t.Errorf("%d messages, %v", len(known), err)
	}
}

func FuzzRecent(f *testing.F) {
	f.Add([]byte(`{"time":"2026-11-24T13:21:55Z","event":"correction","queue_id":"Q1","client":{"addr":"192.0.2.7"},"of":"2026-11-24T13:21:55Z","verdict":{"class":"spam"}}` + "\n"))
	f.Add([]byte(strings.Repeat(`{"queue_id":"Q1","client":`, 100) + "\n"))
	path := filepath.Join(f.TempDir(), "events.ndjson")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Recent(path, time.Time{}, 1<<20); err != nil {
			t.Fatal(err)
		}
		if _, err := Find(path, []string{"Q1"}); err != nil {
			t.Fatal(err)
		}
	})
}
