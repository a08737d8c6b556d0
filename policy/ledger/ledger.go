// Package ledger writes the event log: one line of JSON per message, and one per session that carried none.
//
// Lines are appended whole, many in one write(2), so that a log rotated by rename or cut by a crash never holds half a line between
// two. Nothing waits for the disk longer than its caller wants to; what cannot be written is counted and said once a minute.
package ledger

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

const (
	// waitingMost bounds the lines that wait for a slow disk; one more is dropped and counted.
	waitingMost = 16384
	dayFormat   = "2006-01-02"
)

// ErrDropped is what a line gets that could not be written or queued.
var ErrDropped = errors.New("ledger: line dropped")

// Stats are counts since the start.
type Stats struct{ Written, Dropped atomic.Uint64 }

// Log is an event log in a file. Open makes one.
type Log struct {
	Stats Stats

	path   string
	retain time.Duration
	now    func() time.Time
	log    *slog.Logger
	odd    rate.Sometimes

	mu     sync.Mutex
	closed bool
	lines  chan line
	reopen chan chan error
	done   chan struct{}

	file *os.File
	day  string
}

type line struct {
	text []byte
	told chan error
}

// Open opens the log for appending. With retain above zero it starts a new file each day (UTC), keeps the old ones beside it under
// the name and date, and removes those older than retain; with zero it leaves rotation to logrotate(8) and SIGHUP.
func Open(path string, retain time.Duration, now func() time.Time, log *slog.Logger) (*Log, error) {
	l := &Log{
		path: path, retain: retain, now: now, log: log, odd: rate.Sometimes{First: 1, Interval: time.Minute},
		lines: make(chan line, waitingMost), reopen: make(chan chan error), done: make(chan struct{}),
	}
	if err := l.openFile(); err != nil {
		return nil, err
	}
	go l.run()
	return l, nil
}

// Append queues a line, without its newline. The channel yields once: nil when the line is in the file.
func (l *Log) Append(text []byte) <-chan error {
	told := make(chan error, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		select {
		case l.lines <- line{text, told}:
			return told
		default:
		}
	}
	l.Stats.Dropped.Add(1)
	told <- ErrDropped
	return told
}

// Reopen opens the file anew, after logrotate has renamed it. If that fails, the old file stays in use.
func (l *Log) Reopen() error {
	told := make(chan error, 1)
	select {
	case l.reopen <- told:
		return <-told
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
	return l.file.Close()
}

func (l *Log) run() {
	defer close(l.done)
	for {
		select {
		case told := <-l.reopen:
			told <- l.openFile()
		case first, ok := <-l.lines:
			if !ok {
				return
			}
			l.write(first)
		}
	}
}

// write appends a line and all that are queued behind it.
func (l *Log) write(first line) {
	l.rotate()
	batch := []line{first}
	text := append(first.text, '\n')
	for len(batch) < waitingMost && len(l.lines) > 0 {
		next, ok := <-l.lines
		if !ok {
			break
		}
		batch = append(batch, next)
		text = append(append(text, next.text...), '\n')
	}
	err := l.appendWhole(text)
	if err != nil {
		l.Stats.Dropped.Add(uint64(len(batch)))
		err = fmt.Errorf("%w: %w", ErrDropped, err)
		l.odd.Do(func() {
			l.log.Error("ledger: the event log cannot be written", "file", l.path, "error", err, "dropped", l.Stats.Dropped.Load())
		})
	} else {
		l.Stats.Written.Add(uint64(len(batch)))
	}
	for _, b := range batch {
		b.told <- err
	}
}

// appendWhole takes back what a full disk let through of a write, so that the next line starts on a line of its own.
func (l *Log) appendWhole(text []byte) error {
	n, err := l.file.Write(text)
	if err != nil && n > 0 {
		if info, statErr := l.file.Stat(); statErr == nil {
			err = errors.Join(err, l.file.Truncate(info.Size()-int64(n)))
		}
	}
	return err
}

func (l *Log) openFile() error {
	f, err := os.OpenFile(l.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file, l.day = f, l.now().UTC().Format(dayFormat)
	if info, err := f.Stat(); err == nil && info.Size() > 0 {
		l.day = info.ModTime().UTC().Format(dayFormat)
	}
	return nil
}

// rotate starts a new file when the day has changed, and removes what is older than retain.
func (l *Log) rotate() {
	today := l.now().UTC().Format(dayFormat)
	if l.retain == 0 || l.day == today {
		return
	}
	stem := strings.TrimSuffix(l.path, filepath.Ext(l.path))
	err := os.Rename(l.path, stem+"-"+l.day+filepath.Ext(l.path))
	if err == nil {
		err = l.openFile()
	}
	l.day = today
	if err != nil {
		l.log.Error("ledger: rotate", "file", l.path, "error", err)
		return
	}
	old, _ := filepath.Glob(stem + "-????-??-??" + filepath.Ext(l.path))
	for _, f := range old {
		day := strings.TrimSuffix(strings.TrimPrefix(f, stem+"-"), filepath.Ext(l.path))
		if t, err := time.Parse(dayFormat, day); err == nil && l.now().Sub(t) > l.retain+24*time.Hour {
			os.Remove(f)
		}
	}
}
