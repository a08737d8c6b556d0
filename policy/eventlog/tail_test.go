package eventlog

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tailed reads an event log on as a counter of lines does, and keeps its position.
type tailed struct {
	t    *testing.T
	path string
	at   *Position
}

func (l *tailed) write(lines ...string) {
	l.t.Helper()
	f, err := os.OpenFile(l.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	f.WriteString(strings.Join(lines, "\n") + "\n")
}

func (l *tailed) reads(want ...string) {
	l.t.Helper()
	var got []string
	at, err := ReadOn(l.t.Context(), l.path, l.at, func(line []byte, _ Position) bool {
		got = append(got, string(line))
		return true
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.at = &at
	if !slices.Equal(got, want) {
		l.t.Errorf("read %q; want %q", got, want)
	}
}

// TestEachLineIsReadOnce whatever becomes of the file meanwhile.
func TestEachLineIsReadOnce(t *testing.T) {
	l := &tailed{t: t, path: filepath.Join(t.TempDir(), "events.ndjson")}
	l.reads()
	l.write("one", "two")
	l.reads("one", "two")
	l.reads()

	// A line that is being written is read when it is whole.
	f, _ := os.OpenFile(l.path, os.O_APPEND|os.O_WRONLY, 0)
	f.WriteString("thr")
	l.reads()
	f.WriteString("ee\n")
	f.Close()
	l.reads("three")

	// It is rotated by name, once while nobody reads and once more.
	l.write("four")
	os.Rename(l.path, strings.Replace(l.path, ".ndjson", "-2026-11-24.ndjson", 1))
	l.reads("four")
	l.write("five")
	os.Rename(l.path, strings.Replace(l.path, ".ndjson", "-2026-11-25.ndjson", 1))
	l.write("six")
	l.reads("five", "six")

	// It is rotated by logrotate's copytruncate, and lines were written before.
	l.write("six and a half")
	content, _ := os.ReadFile(l.path)
	os.WriteFile(l.path+".1", content, 0o644)
	os.Truncate(l.path, 0)
	l.reads("six and a half")
	l.reads()
	l.write("seven")
	l.reads("seven")

	// It is rotated with dateext.
	l.write("seven and a half")
	os.Rename(l.path, l.path+"-20261127")
	l.reads("seven and a half")
	l.write("seven and three quarters")
	l.reads("seven and three quarters")

	// It is removed.
	os.Remove(l.path)
	l.reads()
	l.write("eight")
	l.reads("eight")

	// A line that is longer than any of ours is passed over.
	l.write(strings.Repeat("x", 3*maxEvent), "nine")
	l.reads("nine")

	// The daemon is stopped while its archive is compressed.
	l.write("ten")
	os.Remove(l.path)
	l.write("eleven", "a file with another beginning")
	l.reads("eleven", "a file with another beginning")
}

// TestAllThatIsThereIsReadAtFirst: what was written before there was a reader.
func TestAllThatIsThereIsReadAtFirst(t *testing.T) {
	l := &tailed{t: t, path: filepath.Join(t.TempDir(), "events.ndjson")}
	for i := range 3 {
		l.write(fmt.Sprint("day ", i))
		os.Rename(l.path, strings.Replace(l.path, ".ndjson", fmt.Sprintf("-2026-11-2%d.ndjson", i), 1))
	}
	l.write("today")
	l.reads("day 0", "day 1", "day 2", "today")
}

// TestReadingStopsWhereItIsTold, and goes on there.
func TestReadingStopsWhereItIsTold(t *testing.T) {
	l := &tailed{t: t, path: filepath.Join(t.TempDir(), "events.ndjson")}
	l.write("one", "two", "three")
	at, err := ReadOn(t.Context(), l.path, nil, func([]byte, Position) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	l.at = &at
	l.reads("two", "three")
	end, err := End(l.path)
	if err != nil || end != *l.at {
		t.Errorf("the end is %+v, %v; it was read to %+v", end, err, *l.at)
	}
}
