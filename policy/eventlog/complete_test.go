package eventlog

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// What a process had no time to write comes once: lines that are in the log, or in the archive that
// it was just rotated to, are not written again, and older ones that are not there were lost for
// another reason.
func TestALogIsCompletedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.ndjson")
	start := time.Date(2026, 11, 24, 23, 59, 30, 0, time.UTC)
	var lines [][]byte
	for i := range 30 {
		e := event(fmt.Sprint("s", i))
		e.Time = Stamp{start.Add(time.Duration(i) * time.Second)}
		line, err := e.Line()
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	join := func(some [][]byte) []byte { return append(bytes.Join(some, []byte("\n")), '\n') }
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "events-2026-11-24.ndjson"), join(lines[15:22]), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, join(lines[22:27]), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{3, 0} {
		l, err := Open(path, 0, time.Now, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		added, err := l.Complete(lines)
		if err != nil || added != want {
			t.Errorf("time %d: %d lines added, %v; want %d", i+1, added, err, want)
		}
		l.Close()
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, join(lines[22:])) {
		t.Errorf("the log is\n%s", got)
	}
	l, err := Open(path, 0, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if added, err := l.Complete(nil); added != 0 || err != nil {
		t.Errorf("of nothing %d lines, %v", added, err)
	}
}
