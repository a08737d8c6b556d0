// Package eventlog writes the event log and reads it back: one line of JSON per message, one per
// session that carried none, and one for each correction of either.
//
// Lines are appended whole, many in one write(2), so that a log rotated by rename or cut by a crash
// never holds half a line between two. Nobody waits for the disk longer than he wants to; what
// cannot be written is counted, and logged once a minute.
package eventlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/ehlogate/ehlogate/policy/fault"
	"github.com/ehlogate/ehlogate/policy/regular"
)

// mostQueued bounds the lines that wait for a slow disk; one more is dropped and counted.
const mostQueued = 16384

// ErrDropped is the error of a line that could not be written or queued.
var ErrDropped = errors.New("eventlog: line dropped")

// Stats are counts since the start.
type Stats struct{ Written, Dropped atomic.Uint64 }

// Log is an event log in a file. Open makes one.
type Log struct {
	Stats Stats

	path      string
	retain    time.Duration
	now       func() time.Time
	log       *slog.Logger
	throttled rate.Sometimes
	faults    fault.Guard

	mu     sync.Mutex
	closed bool
	lines  chan line
	reopen chan chan error
	done   chan struct{}

	// fault is why the last line could not be written, nil where it was; removed is when the file
	// was last found to be gone.
	fault   atomic.Pointer[error]
	removed atomic.Pointer[time.Time]

	file *os.File
	// looked is when it was last looked whether the file is still there, size its length then.
	looked time.Time
	size   int64
	// days are those on which the file was written to, as the clock had it then; no archive is
	// removed before pruneAfter.
	days       []string
	pruneAfter time.Time
}

// line is a line on its way to the file, and who waits for it.
type line struct {
	text    []byte
	written chan error
}

// Open opens the log for appending. With retain above zero it begins a new file each day (UTC),
// keeps the old ones beside it as archives under the name and date, and removes those older than
// retain; with zero it leaves rotation to logrotate(8) and SIGHUP.
func Open(path string, retain time.Duration, now func() time.Time, log *slog.Logger) (*Log, error) {
	l := &Log{
		path: path, retain: retain, now: now, log: log, throttled: rate.Sometimes{First: 1, Interval: time.Minute},
		faults: fault.Guard{Log: log}, lines: make(chan line, mostQueued), reopen: make(chan chan error), done: make(chan struct{}),
	}
	if err := l.openFile(); err != nil {
		return nil, err
	}
	go l.faults.Keep(context.Background(), "writing the event log", l.run)
	return l, nil
}

// Append queues an event. The channel yields once: nil when its line is in the file.
func (l *Log) Append(e *Event) <-chan error {
	text, err := e.Line()
	if err != nil {
		return l.Drop(err)
	}
	return l.AppendLine(text)
}

// Drop counts an event that has no line, and why.
func (l *Log) Drop(why error) <-chan error {
	l.Stats.Dropped.Add(1)
	dropped := make(chan error, 1)
	dropped <- fmt.Errorf("%w: %w", ErrDropped, why)
	return dropped
}

// AppendLine queues the line of an event, as Append does.
func (l *Log) AppendLine(text []byte) <-chan error {
	written := make(chan error, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		select {
		case l.lines <- line{text, written}:
			return written
		default:
		}
	}
	l.Stats.Dropped.Add(1)
	written <- ErrDropped
	return written
}

// Fault is why the last line could not be written, nil where it was.
func (l *Log) Fault() error {
	if err := l.fault.Load(); err != nil {
		return *err
	}
	return nil
}

// Notes are what was lost since the start.
func (l *Log) Notes() []string {
	notes := []string{}
	if n := l.Stats.Dropped.Load(); n > 0 {
		notes = append(notes, fmt.Sprintf("%d events are missing from %s", n, l.path))
	}
	if at := l.removed.Load(); at != nil {
		notes = append(notes, fmt.Sprintf("%s was removed while it was written to, and was begun anew at %s", l.path, at.Format(time.DateTime)))
	}
	return notes
}

// Reopen opens the file anew, after logrotate has renamed it. If that fails, the old file stays in
// use.
func (l *Log) Reopen() error {
	opened := make(chan error, 1)
	select {
	case l.reopen <- opened:
		return <-opened
	case <-l.done:
		return os.ErrClosed
	}
}

// Close writes what is queued and closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	close(l.lines)
	l.mu.Unlock()
	<-l.done
	if err := l.Fault(); err != nil {
		l.log.Error("the event log could not be written until the end", "file", l.path, "error", err, "dropped", l.Stats.Dropped.Load())
	}
	return l.file.Close()
}

func (l *Log) run(context.Context) {
	for {
		select {
		case opened := <-l.reopen:
			opened <- l.openFile()
		case first, ok := <-l.lines:
			if !ok {
				close(l.done)
				return
			}
			l.write(first)
		}
	}
}

// write appends a line and all that are queued behind it.
func (l *Log) write(first line) {
	l.lookAfter()
	l.rotate()
	batch := []line{first}
	text := append(slices.Clone(first.text), '\n')
	for range len(l.lines) {
		next := <-l.lines
		batch = append(batch, next)
		text = append(append(text, next.text...), '\n')
	}
	err := l.appendWhole(text)
	if err == nil && l.Fault() != nil {
		l.log.Warn("the event log can be written again", "file", l.path, "dropped", l.Stats.Dropped.Load())
	}
	fault := err
	l.fault.Store(&fault)
	if err != nil {
		l.Stats.Dropped.Add(uint64(len(batch)))
		err = fmt.Errorf("%w: %w", ErrDropped, err)
		l.throttled.Do(func() {
			l.log.Error("the event log cannot be written", "file", l.path, "error", err, "dropped", l.Stats.Dropped.Load())
		})
	} else {
		l.Stats.Written.Add(uint64(len(batch)))
	}
	for _, b := range batch {
		b.written <- err
	}
}

// lookEvery is how often it is looked whether the file is still there.
const lookEvery = time.Second

// lookAfter begins a new file if the old one has no name any more: somebody removed it, or its
// directory. One that was renamed has, and is logrotate's.
func (l *Log) lookAfter() {
	if time.Since(l.looked) < lookEvery {
		return
	}
	l.looked = time.Now()
	info, err := l.file.Stat()
	if err != nil {
		return
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || stat.Nlink > 0 {
		if info.Size() < l.size && halfLine(l.path) {
			// Somebody cut it within a line.
			l.file.WriteString("\n")
		}
		l.size = info.Size()
		return
	}
	now := l.now()
	l.removed.Store(&now)
	err = os.MkdirAll(filepath.Dir(l.path), 0o750)
	if err == nil {
		err = l.openFile()
	}
	if err != nil {
		l.log.Error("the event log was removed, and cannot be begun anew", "file", l.path, "error", err)
		return
	}
	l.log.Error("the event log was removed, and is begun anew", "file", l.path)
}

// appendWhole takes back what a full disk let through of a write, so that the next line begins on a
// line of its own.
func (l *Log) appendWhole(text []byte) error {
	n, err := l.file.Write(text)
	if err == nil || n == 0 {
		return err
	}
	info, statErr := l.file.Stat()
	if statErr != nil {
		return errors.Join(err, statErr)
	}
	return errors.Join(err, l.file.Truncate(info.Size()-int64(n)))
}

func (l *Log) openFile() error {
	f, err := regular.Append(l.path, 0o640)
	if err != nil {
		return fmt.Errorf("eventlog: %w", err)
	}
	if halfLine(l.path) {
		// The power went while it was written.
		f.WriteString("\n")
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file, l.days = f, nil
	info, err := f.Stat()
	if err == nil && info.Size() > 0 {
		l.wroteOn(info.ModTime())
	} else {
		l.wroteOn(l.now())
	}
	return nil
}

// halfLine reports whether a file ends within a line.
func halfLine(path string) bool {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return false
	}
	f, err := regular.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	last := make([]byte, 1)
	_, err = f.ReadAt(last, info.Size()-1)
	return err == nil && last[0] != '\n'
}
