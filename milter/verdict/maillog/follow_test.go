package maillog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// follower follows a log in a directory of its own and can be ended and started again.
type follower struct {
	t    *testing.T
	path string

	mu        sync.Mutex
	lines     []string
	at        Position
	malformed int
	stop      func()
}

func newFollower(t *testing.T) *follower {
	f := &follower{t: t, path: filepath.Join(t.TempDir(), "mail.log"), stop: func() {}}
	t.Cleanup(func() { f.stop() })
	return f
}

// atOne follows a log of which it has read the line "one".
func atOne(t *testing.T) *follower {
	f := newFollower(t)
	f.write(f.path, "before\n")
	f.start()
	f.begun()
	f.write(f.path, "one\n")
	f.want("one")
	return f
}

func (f *follower) start() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	w := &File{Path: f.path, Log: slog.New(slog.DiscardHandler), Malformed: func() { f.mu.Lock(); f.malformed++; f.mu.Unlock() }}
	go func() {
		defer close(done)
		w.Follow(ctx, f.at, func(line []byte, after Position) {
			f.mu.Lock()
			defer f.mu.Unlock()
			if line != nil {
				f.lines = append(f.lines, string(line))
			}
			after.Tail = slices.Clone(after.Tail)
			f.at = after
		})
	}()
	f.stop = func() { cancel(); <-done }
}

func (f *follower) write(path, text string) {
	f.t.Helper()
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = file.WriteString(text)
		file.Close()
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// begun waits until the follower has found its place.
func (f *follower) begun() {
	f.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		f.mu.Lock()
		found := f.at.Inode != 0
		f.mu.Unlock()
		if found {
			return
		}
	}
	f.t.Fatal("the log is not followed")
}

// want waits until exactly these lines were read, and no more come.
func (f *follower) want(lines ...string) {
	f.t.Helper()
	read := func() []string { f.mu.Lock(); defer f.mu.Unlock(); return slices.Clone(f.lines) }
	for end := time.Now().Add(time.Minute); len(read()) < len(lines) && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(2 * pollEvery)
	got := read()
	for i := range max(len(got), len(lines)) {
		if i >= len(got) || i >= len(lines) || got[i] != lines[i] {
			f.t.Fatalf("read %d lines, want %d; from line %d on %q, want %q", len(got), len(lines), i+1, some(got, i), some(lines, i))
		}
	}
}

// some are up to three lines.
func some(lines []string, from int) []string {
	return lines[min(from, len(lines)):min(from+3, len(lines))]
}

// TestAReadErrorGoesOnWhereItWas lets the log be unreadable for a while: its name is a symbolic
// link to itself, whatever is behind it.
func TestAReadErrorGoesOnWhereItWas(t *testing.T) {
	for _, c := range []struct {
		name  string
		after func(f *follower)
		want  []string
	}{
		{"the same file", func(f *follower) { os.Rename(f.path+".away", f.path) }, []string{"one", "two", "three", "four"}},
		{"rotated meanwhile", func(f *follower) {
			os.Rename(f.path+".away", f.path+".1")
			f.write(f.path, "new\n")
		}, []string{"one", "two", "three", "four", "new"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := atOne(t)
			f.write(f.path, "two\n")
			f.want("one", "two")
			os.Rename(f.path, f.path+".away")
			if err := os.Symlink(f.path, f.path); err != nil {
				t.Fatal(err)
			}
			f.write(f.path+".away", "three\n")
			time.Sleep(3 * pollEvery)
			os.Remove(f.path)
			f.write(f.path+".away", "four\n")
			c.after(f)
			f.want(c.want...)
		})
	}
}

// TestWhatIsBeforeAPlace is read again, also where the file has another name now.
func TestWhatIsBeforeAPlace(t *testing.T) {
	f := newFollower(t)
	f.write(f.path, "one\ntwo\nthree\nfour\n")
	p := positionAtStart(t, f.path)
	p.Offset = int64(len("one\ntwo\nthree\n"))
	for _, c := range []struct {
		last   int64
		rename bool
		want   string
	}{{100, false, "one two three"}, {6, false, "three"}, {100, true, "one two three"}} {
		if c.rename {
			os.Rename(f.path, f.path+".1")
		}
		var got []string
		err := (&File{Path: f.path}).Before(p, c.last, func(line []byte) { got = append(got, string(line)) })
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%q, %v, want %q", got, err, c.want)
		}
	}
	if err := (&File{Path: f.path}).Before(Position{}, 100, func(line []byte) { t.Errorf("read %q", line) }); err != nil {
		t.Error(err)
	}
}

func TestFollowARotatedLog(t *testing.T) {
	for _, c := range []struct {
		name   string
		rotate func(f *follower)
		want   []string
	}{
		{"renamed", func(f *follower) {
			os.Rename(f.path, f.path+".1")
			f.write(f.path+".1", "late\n") // syslogd has not reopened it yet
			f.write(f.path, "new\n")
		}, []string{"one", "late", "new"}},
		{"renamed, and nothing new for a while", func(f *follower) {
			os.Rename(f.path, f.path+".1")
			f.write(f.path, "")
			time.Sleep(3 * pollEvery)
			f.write(f.path+".1", "late\n")
			time.Sleep(3 * pollEvery)
			f.write(f.path, "new\n")
		}, []string{"one", "late", "new"}},
		{"cut short", func(f *follower) {
			os.Truncate(f.path, 0)
			time.Sleep(2 * pollEvery)
			f.write(f.path, "new\n")
		}, []string{"one", "new"}},
		{"cut short, and longer than before at once", func(f *follower) {
			os.Truncate(f.path, 0)
			f.write(f.path, "a new first line\nnew\n")
		}, []string{"one", "a new first line", "new"}},
		{"removed", func(f *follower) {
			os.Remove(f.path)
			time.Sleep(3 * pollEvery)
			f.write(f.path, "new\n")
		}, []string{"one", "new"}},
		{"a line in two pieces", func(f *follower) {
			f.write(f.path, "new")
			time.Sleep(3 * pollEvery)
			f.write(f.path, "er\n")
		}, []string{"one", "newer"}},
		{"a line too long", func(f *follower) {
			f.write(f.path, strings.Repeat("x", 3*maxLine))
			time.Sleep(3 * pollEvery)
			f.write(f.path, "x\nnew\n")
		}, []string{"one", "new"}},
	} {
		for _, when := range []string{"while followed", "while nobody followed"} {
			t.Run(c.name+" "+when, func(t *testing.T) {
				t.Parallel()
				f := atOne(t)
				if when == "while nobody followed" {
					f.stop()
					c.rotate(f)
					f.start()
				} else {
					c.rotate(f)
				}
				f.want(c.want...)
				if long := strings.HasPrefix(c.name, "a line too"); long != (f.malformed == 1) {
					t.Errorf("%d malformed lines", f.malformed)
				}
			})
		}
	}
}

func TestSeveralRotationsWhileNobodyFollowed(t *testing.T) {
	f := atOne(t)
	f.stop()
	f.write(f.path, "two\n")
	os.Rename(f.path, f.path+".2")
	time.Sleep(20 * time.Millisecond)
	f.write(f.path, "three\n")
	os.Rename(f.path, f.path+".1")
	time.Sleep(20 * time.Millisecond)
	f.write(f.path, "four\n")
	f.start()
	f.want("one", "two", "three", "four")
}

// TestAnotherFileOfTheSameNumber removes what was read, and lets the number of its inode be another
// file's.
func TestAnotherFileOfTheSameNumber(t *testing.T) {
	f := atOne(t)
	f.stop()
	os.Rename(f.path, f.path+".1")
	os.WriteFile(f.path+".1", []byte("another file\nof older lines\n"), 0o600)
	f.write(f.path, "two\n")
	f.start()
	f.want("one", "two")
}

func TestALogThatComesLater(t *testing.T) {
	f := newFollower(t)
	f.start()
	time.Sleep(2 * pollEvery)
	f.write(f.path, "one\n")
	f.want("one")
}

// TestRotationUnderLoad writes and rotates without a pause, ends the follower again and again, and
// wants every line once.
func TestRotationUnderLoad(t *testing.T) {
	f := newFollower(t)
	f.write(f.path, "")
	f.start()
	time.Sleep(pollEvery)
	const lines = 20_000
	var want []string
	done := make(chan struct{})
	for i := range lines {
		want = append(want, fmt.Sprint("line ", i))
	}
	go func() {
		defer close(done)
		for i := 0; i < lines; i += 100 {
			f.write(f.path, strings.Join(want[i:i+100], "\n")+"\n")
			if i%2000 == 0 {
				// As logrotate does: .1 becomes .2 and so on.
				for n := 12; n > 0; n-- {
					os.Rename(fmt.Sprint(f.path, ".", n), fmt.Sprint(f.path, ".", n+1))
				}
				os.Rename(f.path, f.path+".1")
			}
			time.Sleep(2 * time.Millisecond)
		}
	}()
	for range 5 {
		time.Sleep(60 * time.Millisecond)
		f.stop()
		f.start()
	}
	<-done
	f.want(want...)
}

func TestLinesOfAStream(t *testing.T) {
	var got []string
	malformed := 0
	err := Lines(context.Background(), strings.NewReader("one\n\n"+strings.Repeat("x", 3*maxLine)+"\ntwo"), func() { malformed++ }, func(line []byte) { got = append(got, string(line)) })
	if err != nil || malformed != 1 || !slices.Equal(got, []string{"one", "", "two"}) {
		t.Errorf("%q, %d malformed, %v", got, malformed, err)
	}
	if err := Lines(context.Background(), io.MultiReader(strings.NewReader("x"), failing{}), nil, func([]byte) {}); err == nil {
		t.Error("a broken stream ends well")
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("broken") }

// TestTenMillionLines follows a file of them. It wants 300,000 lines a second, which a log of some
// 3,000 messages a second has.
func TestTenMillionLines(t *testing.T) {
	if raceEnabled {
		t.Log("with the race detector, a million lines and no rate")
	}
	total := 10_000_000
	if raceEnabled {
		total = 1_000_000
	}
	f := newFollower(t)
	file, err := os.Create(f.path)
	if err != nil {
		t.Fatal(err)
	}
	out := bufio.NewWriterSize(file, 1<<20)
	for i := range total / 6 {
		out.WriteString(sampleLines(i))
	}
	for range total % 6 {
		out.WriteString("Nov 25 05:08:53 mx1 sshd[9]: x\n")
	}
	if err := errors.Join(out.Flush(), file.Close()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r := reader()
	began := time.Now()
	(&File{Path: f.path, Log: slog.New(slog.DiscardHandler)}).Follow(ctx, positionAtStart(t, f.path), func(line []byte, _ Position) {
		if line != nil {
			r.Read(line)
		}
		if r.Stats.Lines.Load() == uint64(total) {
			cancel()
		}
	})
	rate := float64(total) / time.Since(began).Seconds()
	t.Logf("%d lines, %d of which said something of a client: %.0f lines/s", total, r.Stats.Signals.Load(), rate)
	if r.Stats.Signals.Load() != uint64(total/6) {
		t.Errorf("%d signals", r.Stats.Signals.Load())
	}
	// A machine that only splits the file into lines a few million times a second is slower, too.
	if least := min(300_000, splitting(t, f.path)/50); !raceEnabled && rate < least {
		t.Errorf("%.0f lines/s, want %.0f at least", rate, least)
	}
}

// splitting is how many lines a second of a file are found by reading it and nothing else.
func splitting(t *testing.T, path string) float64 {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines, began := 0, time.Now()
	for in := bufio.NewScanner(file); in.Scan(); {
		lines++
	}
	return float64(lines) / time.Since(began).Seconds()
}

// positionAtStart is that of a file of which nothing was read yet.
func positionAtStart(t *testing.T, path string) (p Position) {
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	p.Device, p.Inode = identity(info)
	return p
}
