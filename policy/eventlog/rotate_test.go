package eventlog

import (
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// days writes an event on each day, named after it, and returns the files that are left with the
// events in each. A day that begins with a "!" is one at which the log is opened anew.
func days(t *testing.T, retain time.Duration, days ...string) map[string]string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "events.ndjson")
	var clock time.Time
	start := func() *Log {
		l, err := Open(path, retain, func() time.Time { return clock }, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	var l *Log
	for _, d := range days {
		d, restart := strings.CutPrefix(d, "!")
		at, err := time.Parse(time.DateOnly, d)
		if err != nil {
			t.Fatal(err)
		}
		if restart {
			l.Close()
			// The file bears the time of its last line.
			os.Chtimes(path, clock, clock)
		}
		clock = at.Add(13 * time.Hour)
		if l == nil || restart {
			l = start()
		}
		if err := <-l.Append(event(d)); err != nil {
			t.Fatal(err)
		}
	}
	l.Close()
	left := map[string]string{}
	files, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
	for _, f := range files {
		left[strings.TrimSuffix(filepath.Base(f), ".ndjson")] = sessions(t, f)
	}
	return left
}

func TestArchives(t *testing.T) {
	const retain = 48 * time.Hour
	for _, c := range []struct {
		name string
		days []string
		want map[string]string
	}{
		{"one a day, and the old ones go", []string{"2026-11-20", "2026-11-21", "2026-11-22", "2026-11-23", "2026-11-24"},
			map[string]string{"events-2026-11-22": "2026-11-22", "events-2026-11-23": "2026-11-23", "events": "2026-11-24"}},
		{"days without mail", []string{"2026-11-20", "2026-11-24", "2026-11-25", "2026-11-26"},
			map[string]string{"events-2026-11-24": "2026-11-24", "events-2026-11-25": "2026-11-25", "events": "2026-11-26"}},
		{"two days of the far future", []string{"2026-11-22", "2026-11-23", "2062-01-01", "2062-01-02", "2026-11-24", "2026-11-25"},
			map[string]string{"events-2026-11-22": "2026-11-22", "events-2026-11-23": "2026-11-23", "events-2062-01-01": "2062-01-01", "events-2026-11-24": "2062-01-02 2026-11-24", "events": "2026-11-25"}},
		{"the clock steps back and forth over midnight", []string{"2026-11-23", "2026-11-24", "2026-11-23", "2026-11-24", "2026-11-25"},
			map[string]string{"events-2026-11-23": "2026-11-23", "events-2026-11-24": "2026-11-24 2026-11-23 2026-11-24", "events": "2026-11-25"}},
		{"one line of long ago", []string{"2026-11-23", "2026-11-24", "1970-01-01", "2026-11-24", "2026-11-25"},
			map[string]string{"events-2026-11-23": "2026-11-23", "events-2026-11-24": "2026-11-24 1970-01-01 2026-11-24", "events": "2026-11-25"}},
		{"one line of the far future", []string{"2026-11-23", "2026-11-24", "2062-01-01", "2026-11-24", "2026-11-25"},
			map[string]string{"events-2026-11-23": "2026-11-23", "events-2026-11-24": "2026-11-24", "events-2026-11-24.1": "2062-01-01 2026-11-24", "events": "2026-11-25"}},
		{"two days of next week", []string{"2026-11-22", "2026-11-23", "2026-11-30", "2026-12-01", "2026-11-24", "2026-11-25"},
			map[string]string{"events-2026-11-22": "2026-11-22", "events-2026-11-23": "2026-11-23", "events-2026-11-30": "2026-11-30", "events-2026-11-24": "2026-12-01 2026-11-24", "events": "2026-11-25"}},
		{"a restart while the clock is wrong", []string{"2026-11-23", "2026-11-24", "!1970-01-01", "!2026-11-24", "2026-11-25"},
			map[string]string{"events-2026-11-23": "2026-11-23", "events-2026-11-24": "2026-11-24 1970-01-01 2026-11-24", "events": "2026-11-25"}},
		{"a restart on the same day", []string{"2026-11-24", "!2026-11-24", "!2026-11-25"},
			map[string]string{"events-2026-11-24": "2026-11-24 2026-11-24", "events": "2026-11-25"}},
		{"away for longer than archives are kept", []string{"2026-11-01", "!2026-11-24", "2026-11-25"},
			map[string]string{"events-2026-11-24": "2026-11-01 2026-11-24", "events": "2026-11-25"}},
		{"rotated twice on a day", []string{"2026-11-24", "2026-11-25", "2026-11-24", "!2026-11-25"},
			map[string]string{"events-2026-11-24": "2026-11-24", "events-2026-11-24.1": "2026-11-25 2026-11-24", "events": "2026-11-25"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := days(t, retain, c.days...)
			if !maps.Equal(got, c.want) {
				for _, f := range slices.Sorted(maps.Keys(got)) {
					t.Logf("%s: %s", f, got[f])
				}
				t.Errorf("want %v", c.want)
			}
		})
	}
}

func TestAFileOfLongAgoIsTakenForOneOfToday(t *testing.T) {
	const retain = 48 * time.Hour
	l, _ := open(t, retain, func() time.Time { return now })
	for age, want := range map[time.Duration]string{retain + day: "2026-11-21", retain + day + 1: "2026-11-24"} {
		l.days = nil
		if l.wroteOn(now.Add(-age)); l.days[0] != want {
			t.Errorf("written to %s ago, it is taken for one of %s, want %s", age, l.days[0], want)
		}
	}
}

func TestWithoutRetainNothingIsRotated(t *testing.T) {
	got := days(t, 0, "2026-11-23", "2026-11-24", "2026-12-24")
	if want := map[string]string{"events": "2026-11-23 2026-11-24 2026-12-24"}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestOtherFilesAreLeftAlone(t *testing.T) {
	clock := now
	l, path := open(t, 24*time.Hour, func() time.Time { return clock })
	stem := strings.TrimSuffix(path, ".ndjson")
	for _, other := range []string{stem + "-full-of-it.ndjson", stem + "-2020-01-01.txt", stem + ".ndjson.1"} {
		if err := os.WriteFile(other, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := stem + "-2020-01-01.ndjson"
	if err := os.WriteFile(old, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	<-l.Append(event("x"))
	clock = clock.Add(24 * time.Hour)
	<-l.Append(event("x"))
	if files, _ := filepath.Glob(filepath.Dir(path) + "/*"); len(files) != 5 || slices.Contains(files, old) {
		t.Errorf("left are %v", files)
	}
}

func TestAnArchiveIsKeptForAllOfItsLastDay(t *testing.T) {
	midnight := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	for after, kept := range map[time.Duration]bool{0: true, 1: false} {
		l, path := open(t, 24*time.Hour, func() time.Time { return midnight.Add(after) })
		stem := strings.TrimSuffix(path, ".ndjson")
		for _, d := range []string{"2026-11-23", "2026-11-24"} {
			if err := os.WriteFile(stem+"-"+d+".ndjson", nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		l.prune()
		if _, err := os.Stat(stem + "-2026-11-23.ndjson"); (err == nil) != kept {
			t.Errorf("%s after midnight: kept %v", after, err == nil)
		}
	}
}

func TestAnArchiveOfTheFutureAgesFromNow(t *testing.T) {
	clock := now
	l, path := open(t, 48*time.Hour, func() time.Time { return clock })
	future := strings.TrimSuffix(path, ".ndjson") + "-2062-01-01.ndjson"
	if err := os.WriteFile(future, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	os.Chtimes(future, now.AddDate(36, 0, 0), now.AddDate(36, 0, 0))
	kept := func() bool {
		_, err := os.Stat(future)
		return err == nil
	}
	// The first rotation, on the second day, dates it.
	for range 4 {
		<-l.Append(event("x"))
		if !kept() {
			t.Fatalf("removed on %s", clock)
		}
		clock = clock.Add(24 * time.Hour)
	}
	clock = clock.Add(24 * time.Hour)
	<-l.Append(event("x"))
	if kept() {
		t.Error("it is kept for ever")
	}
}

func TestAFileThatCannotBeSyncedIsNotRenamed(t *testing.T) {
	clock := now
	l, path := open(t, 48*time.Hour, func() time.Time { return clock })
	<-l.Append(event("one"))
	// fsync(2) fails on a pipe.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l.file, w = w, l.file
	clock = clock.Add(24 * time.Hour)
	<-l.Append(event("two"))
	if files, _ := filepath.Glob(filepath.Dir(path) + "/*"); len(files) != 1 {
		t.Errorf("renamed: %v", files)
	}
	if got := sessions(t, path); got != "one" {
		t.Errorf("file %q", got)
	}
	w.Close()
}

// TestAFileThatCannotBeBegunIsTriedAgain lets the new file fail once, after the old one was
// renamed. It needs root, as the other tests do, for a file system of its own.
func TestAFileThatCannotBeBegunIsTriedAgain(t *testing.T) {
	dir := t.TempDir()
	mount := exec.Command("mount", "-t", "tmpfs", "-o", "nr_inodes=2", "tmpfs", dir)
	if out, err := mount.CombinedOutput(); err != nil {
		t.Fatalf("tmpfs: %v: %s", err, out)
	}
	defer exec.Command("umount", "-l", dir).Run()
	clock := now
	path := filepath.Join(dir, "events.ndjson")
	l, err := Open(path, 72*time.Hour, func() time.Time { return clock }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// Two inodes are the directory's and the file's: the second day's file cannot be made.
	for _, d := range []string{"one", "two"} {
		if err := <-l.Append(event(d)); err != nil {
			t.Fatal(err)
		}
		clock = clock.Add(24 * time.Hour)
	}
	if got := sessions(t, path); got != "one two" {
		t.Errorf("file %q", got)
	}
	if out, err := exec.Command("mount", "-o", "remount,nr_inodes=100", dir).CombinedOutput(); err != nil {
		t.Fatalf("tmpfs: %v: %s", err, out)
	}
	if err := <-l.Append(event("three")); err != nil {
		t.Fatal(err)
	}
	if got := sessions(t, path); got != "three" {
		t.Errorf("file %q, want a new one", got)
	}
}
