package daemon

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/milter/verdict/maillog"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/fault"
)

// TestThePlaceThatIsKeptIsBeforeWhatIsPending reads a byte of the log each second, of which the
// tenth is a signal that is pending for a while.
func TestThePlaceThatIsKeptIsBeforeWhatIsPending(t *testing.T) {
	start := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	clock := start
	pending := false
	came := start.Add(10*time.Second - time.Millisecond)
	f := &follower{
		source: "/var/log/mail.log", path: filepath.Join(t.TempDir(), positionFile), log: slog.New(slog.DiscardHandler),
		now: func() time.Time { return clock }, oldestPending: func() (time.Time, bool) { return came, pending },
	}
	if p := f.load(); p.File != nil || p.Source != f.source {
		t.Fatalf("a place out of nothing: %+v", p)
	}
	kept := func() int64 {
		g := &follower{source: f.source, path: f.path}
		if p := g.load(); p.File != nil {
			return p.File.Offset
		}
		return -1
	}
	for second := range 120 {
		clock = start.Add(time.Duration(second) * time.Second)
		pending = second >= 10 && second < 90
		f.reached(place{File: &maillog.Position{Inode: 1, Offset: int64(second), Tail: []byte{byte(second)}}})
		f.keep(false)
		// Two seconds until what was read and is not pending is on disk for certain.
		want := int64(second) - 3
		switch {
		case second < 3:
			want = -1
		case pending && second > 12:
			want = 9
		}
		if got := kept(); got != want {
			t.Fatalf("after %d s byte %d is kept, want %d", second, got, want)
		}
	}
	f.keep(true)
	if got := kept(); got != 119 {
		t.Errorf("at a stop byte %d is kept, want the last", got)
	}
	if n := len(f.recent); n > 5 {
		t.Errorf("%d places are remembered", n)
	}
	other := &follower{source: "journal", path: f.path}
	if p := other.load(); p.File != nil || p.Source != "journal" {
		t.Errorf("the place in another log: %+v", p)
	}
}

// TestThePlaceThatIsReadFromIsNotTheOneThatIsKept, because the reader goes on writing into its
// tail.
func TestThePlaceThatIsReadFromIsNotTheOneThatIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), positionFile)
	f := &follower{
		source: "/var/log/mail.log", path: path, now: time.Now, log: slog.New(slog.DiscardHandler),
		oldestPending: func() (at time.Time, ok bool) { return at, false },
	}
	f.load()
	f.reached(place{File: &maillog.Position{Inode: 1, Offset: 3, Tail: []byte("abc")}})
	f.keep(true)
	g := &follower{source: f.source, path: path}
	from := g.load()
	copy(from.File.Tail, "xyz")
	if got := string(g.latest.File.Tail); got != "abc" {
		t.Errorf("the tail that is kept is %q", got)
	}
}

// A log that tells nothing is said at once, with its first line, and so is one that grows so.
func TestALogThatTellsNothingIsSaid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mail.log")
	if err := os.WriteFile(path, []byte("Nov 25 09:00:00 mx1 sshd[9]: hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	f := &follower{source: path, now: time.Now, log: slog.New(slog.NewTextHandler(&said, nil)), signal: func(policy.Signal) {}}
	f.reader = maillog.NewReader(maillog.Options{Now: time.Now, Zone: time.UTC})
	f.log.Error(f.inspect(f.source).Error())
	if out := said.String(); !strings.Contains(out, "the mail log tells nothing") || !strings.Contains(out, "sshd[9]: hello") {
		t.Error(out)
	}
	said.Reset()
	for range 3 * enough {
		f.read([]byte("rubbish"))
	}
	if out := said.String(); strings.Count(out, "the mail log tells nothing") != 1 || !strings.Contains(out, "rubbish") {
		t.Error(out)
	}
}

// told are the lines of a log, as they come.
type told chan string

func (c told) Write(b []byte) (int, error) {
	c <- string(b)
	return len(b), nil
}

// TestALogThatComesLaterIsSaid: who was told that it is not there is told when it is.
func TestALogThatComesLaterIsSaid(t *testing.T) {
	path, said := filepath.Join(t.TempDir(), "mail.log"), make(told, 10)
	log := slog.New(slog.NewTextHandler(said, nil))
	f := &follower{
		source: path, path: filepath.Join(t.TempDir(), positionFile), now: time.Now, log: log, faults: &fault.Guard{Log: log}, signal: func(policy.Signal) {},
		reader: maillog.NewReader(maillog.Options{Now: time.Now, Zone: time.UTC}), oldestPending: func() (at time.Time, ok bool) { return at, false },
	}
	var following sync.WaitGroup
	following.Go(func() { f.follow(t.Context(), nil) })
	t.Cleanup(following.Wait)
	for _, want := range []string{"cannot be read yet", "is there now"} {
		select {
		case line := <-said:
			if !strings.Contains(line, want) {
				t.Errorf("%q; want %q", line, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("nothing is said; want %q", want)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
