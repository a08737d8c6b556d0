package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/time/rate"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/milter/verdict/maillog"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/fault"
)

const (
	positionFile = "log-position.json"
	// keepEvery is how often the place in the log is kept on disk.
	keepEvery = time.Second
	// durableAfter is how long it takes at most until what was read and is not pending is on disk.
	durableAfter = 2 * time.Second
	// underWay is how much of the log before the place is read again at the start, in bytes, for
	// the clients of messages that are still under way.
	underWay = 4 << 20
	// journalRetry is the pause after journalctl has ended.
	journalRetry = 5 * time.Second
)

// place is how far a log was read: the position in a file, or the cursor in the journal.
type place struct {
	Source string            `json:"source"`
	File   *maillog.Position `json:"file,omitempty"`
	Cursor string            `json:"cursor,omitempty"`

	at time.Time
}

// clone is the place with a position of its own: the follower goes on writing into its tail.
func (p place) clone() place {
	if p.File != nil {
		file := *p.File
		file.Tail = slices.Clone(file.Tail)
		p.File = &file
	}
	return p
}

// follower follows the MTA's log, and keeps the place in it on disk, so that a restart goes on
// where it was. Signals that are still pending would be lost with a kill -9; the place that is kept
// is before them, and they are read again.
type follower struct {
	// source is the log as the configuration names it; path is the file in which the place is kept.
	source, path string
	reader       *maillog.Reader
	signal       func(policy.Signal)
	// oldestPending is when the oldest signal came that is pending; ok is false where none is.
	oldestPending func() (at time.Time, ok bool)
	now           func() time.Time
	log           *slog.Logger
	throttled     rate.Sometimes
	faults        *fault.Guard
	// sample is of the first lines.
	sample maillog.Sample

	mu sync.Mutex
	// latest is how far was read, recent some places before it, the oldest first.
	latest place
	recent []place
}

// follow follows the log until the context ends.
func (f *follower) follow(ctx context.Context, stdin io.Reader) {
	if f.source == "" {
		return
	}
	from := f.load()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go f.faults.Keep(ctx, "keeping the place in the log", f.keepOn)
	switch source, dir, _ := strings.Cut(f.source, ":"); source {
	case config.Stdin:
		f.followStdin(ctx, stdin)
	case config.Journal:
		f.followJournal(ctx, dir, from.Cursor)
	default:
		var position maillog.Position
		if from.File != nil {
			position = *from.File
		}
		unread := f.inspect(f.source)
		if unread != nil {
			f.log.Error(unread.Error())
		}
		begun := false
		file := &maillog.File{Path: f.source, Log: f.log, Malformed: f.malformed}
		if err := file.Before(position, underWay, f.reader.Remember); err != nil && unread == nil {
			f.log.Error("the clients of messages that are under way are not known from the mail log", "file", f.source, "error", err)
		}
		file.Follow(ctx, position, func(line []byte, after maillog.Position) {
			if line == nil {
				if errors.Is(unread, os.ErrNotExist) {
					f.log.Info("the mail log is there now, and is followed", "file", f.source)
					unread = nil
				}
				// The place at which it begins is the first that it can come back to.
				f.reached(place{File: &after})
				f.keep(!begun)
				begun = true
				return
			}
			f.read(line)
			f.reached(place{File: &after})
		})
	}
}

func (f *follower) malformed() { f.reader.Stats.Malformed.Add(1) }

// followStdin follows standard input. A read of a pipe cannot be broken off: a stop does not wait
// for it.
func (f *follower) followStdin(ctx context.Context, stdin io.Reader) {
	ended := make(chan error, 2)
	go func() {
		ended <- f.faults.Do("reading the log", func() { ended <- maillog.Lines(ctx, stdin, f.malformed, f.read) })
	}()
	select {
	case err := <-ended:
		f.log.Info("standard input has ended; no log is followed any more", "error", err)
	case <-ctx.Done():
	}
}

func (f *follower) followJournal(ctx context.Context, dir, cursor string) {
	j := &maillog.Journal{Directory: dir, Malformed: f.malformed}
	if cursor == "" {
		cursor = j.End(ctx)
		f.reached(place{Cursor: cursor})
		f.keep(true)
	}
	for ctx.Err() == nil {
		err := j.Follow(ctx, cursor, func(e maillog.Entry) {
			if s, ok := f.reader.ReadEntry(e); ok {
				f.signal(s)
			}
			cursor = e.Cursor
			f.reached(place{Cursor: cursor})
		})
		if ctx.Err() != nil {
			return
		}
		f.log.Error("the journal is not followed; retrying", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(journalRetry):
		}
	}
}

// inspect says at once what is wrong with a log that is not there, or of which nothing can be read.
func (f *follower) inspect(path string) error {
	if !filepath.IsAbs(path) {
		return nil
	}
	sample, err := maillog.Inspect(path, f.reader.Options)
	if err != nil {
		return fmt.Errorf("the mail log cannot be read yet, and is followed as soon as it can be: %w", err)
	}
	if fault := sample.Fault(); fault != "" {
		return fmt.Errorf("the mail log tells nothing: %s: %s", path, fault)
	}
	return nil
}

// enough is how many of the first lines that are read are inspected.
const enough = 20

// complain says that a log tells nothing, by the first lines that are read of it. What a file has
// before them counts, too, because other programs may write into it.
func (f *follower) complain(line []byte) {
	if f.sample.Lines >= enough {
		return
	}
	f.sample.Take(f.reader, line)
	if fault := f.sample.Fault(); f.sample.Lines == enough && f.sample.Postfix == 0 {
		if filepath.IsAbs(f.source) && f.inspect(f.source) == nil {
			return
		}
		f.log.Error("the mail log tells nothing", "file", f.source, "fault", fault)
	}
}

func (f *follower) read(line []byte) {
	f.complain(line)
	if s, ok := f.reader.Read(line); ok {
		f.signal(s)
	}
}

// reached notes how far was read.
func (f *follower) reached(p place) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.latest.Cursor = p.Cursor
	if p.File == nil {
		return
	}
	if f.latest.File == nil {
		f.latest.File = new(maillog.Position)
	}
	// The follower goes on writing into its tail.
	tail := append(f.latest.File.Tail[:0], p.File.Tail...)
	*f.latest.File = *p.File
	f.latest.File.Tail = tail
}

// keepOn keeps the place on disk.
func (f *follower) keepOn(ctx context.Context) {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f.keep(false)
		}
	}
}

// keep writes a place to disk: the last one that is before all signals that are not on disk yet, or
// the latest.
func (f *follower) keep(latest bool) {
	now := f.now()
	unsaved := now.Add(-durableAfter)
	if pending, ok := f.oldestPending(); ok && pending.Before(unsaved) {
		unsaved = pending
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.latest.File == nil && f.latest.Cursor == "" {
		return
	}
	p := f.latest.clone()
	p.at = now
	f.recent = append(f.recent, p)
	if !latest {
		before := slices.IndexFunc(f.recent, func(p place) bool { return !p.at.Before(unsaved) }) - 1
		if before < 0 {
			return
		}
		p = f.recent[before]
		f.recent = f.recent[before:]
	}
	text, err := json.Marshal(p)
	if err == nil {
		// It is on disk before it takes the old one's place.
		err = renameio.WriteFile(f.path, append(text, '\n'), 0o640)
	}
	if err != nil {
		f.throttled.Do(func() {
			f.log.Error("the place in the mail log could not be kept; after a kill -9 some of it would be read again", "file", f.path, "error", err)
		})
	}
}

// load reads the place that was kept, if it is one of this source.
func (f *follower) load() place {
	fresh := place{Source: f.source}
	f.latest = fresh
	b, err := os.ReadFile(f.path)
	if errors.Is(err, os.ErrNotExist) {
		return fresh
	}
	var p place
	if err != nil || json.Unmarshal(b, &p) != nil || p.Source != f.source {
		return fresh
	}
	f.latest = p.clone()
	return p
}
