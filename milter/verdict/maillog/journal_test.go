package maillog

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// journalRemote is the program of Debian's systemd-journal-remote, which writes journals.
const journalRemote = "/lib/systemd/systemd-journal-remote"

// writeJournal puts entries into a journal, given in the export format.
func writeJournal(t *testing.T, file string, texts ...string) {
	t.Helper()
	var export strings.Builder
	for _, text := range texts {
		fmt.Fprintf(&export, "__REALTIME_TIMESTAMP=%d\n__MONOTONIC_TIMESTAMP=%d\n_BOOT_ID=0123456789abcdef0123456789abcdef\nSYSLOG_FACILITY=2\nSYSLOG_IDENTIFIER=postfix/smtpd\nMESSAGE=%s\n\n",
			time.Now().UnixMicro(), time.Now().UnixMicro(), text)
		time.Sleep(time.Millisecond)
	}
	cmd := exec.Command(journalRemote, "--output="+file, "-")
	cmd.Stdin = strings.NewReader(export.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v; contrib/test installs what the tests need\n%s", err, out)
	}
}

// TestFollowTheJournal follows a real journal with the real journalctl, from its end, and again
// from where it was.
func TestFollowTheJournal(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "remote-test.journal")
	writeJournal(t, file, "before one", "before two")
	j := &Journal{Directory: dir, Malformed: func() { t.Error("a malformed entry") }}
	cursor := j.End(context.Background())
	if cursor == "" {
		t.Fatal("a journal without an end")
	}
	follow := func(cursor string, want []string, meanwhile func()) (last string) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		var mu sync.Mutex
		var got []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			j.Follow(ctx, cursor, func(e Entry) {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, string(e.Text))
				last = e.Cursor
				if e.Program != "postfix/smtpd" || time.Since(e.At) > time.Minute {
					t.Errorf("%+v", e)
				}
				if len(got) == len(want) {
					cancel()
				}
			})
		}()
		meanwhile()
		<-done
		if !slices.Equal(got, want) {
			t.Errorf("read %q, want %q", got, want)
		}
		return last
	}
	cursor = follow(cursor, []string{"one", "two"}, func() { writeJournal(t, file, "one", "two") })
	writeJournal(t, file, "three")
	follow(cursor, []string{"three"}, func() {})
	if err := (&Journal{Directory: filepath.Join(dir, "none"), Malformed: func() {}}).Follow(context.Background(), "", func(Entry) {}); err == nil || !strings.Contains(err.Error(), "journalctl") {
		t.Errorf("a journal that is not there: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}
