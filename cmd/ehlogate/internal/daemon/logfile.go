package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/milter/verdict/maillog"
	"github.com/ehlogate/ehlogate/policy/docket"
)

const (
	positionFile = "log-position.json"
	// keepEvery is how often the place in the log is kept on disk.
	keepEvery = time.Second
	// keepAfter is how long ago a place was read that is kept: what was read since may still wait for its session. It is read again after
	// a kill -9, and known then.
	keepAfter = docket.Wait + 2*time.Second
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

// logFollower is the place in the MTA's log.
type logFollower struct {
	path   string
	reader *maillog.Reader

	mu sync.Mutex
	// latest is how far was read, recent some places before it, the oldest first.
	latest place
	recent []place
}

// followLog follows the MTA's log until the context ends.
func (d *Daemon) followLog(ctx context.Context) {
	cfg := d.cfg.Load()
	l := &d.hearing.log
	if cfg.LogFile == "" {
		return
	}
	l.path = filepath.Join(cfg.Store.Dir, positionFile)
	from := l.load(cfg.LogFile)
	go l.keepOn(ctx)
	odd := func() { l.reader.Stats.Odd.Add(1) }
	switch source, dir, _ := strings.Cut(cfg.LogFile, ":"); {
	case source == config.Stdin:
		// A read of a pipe cannot be broken off: a stop does not wait for it.
		ended := make(chan error, 1)
		go func() { ended <- maillog.Lines(ctx, os.Stdin, odd, d.readLine) }()
		select {
		case err := <-ended:
			d.log.Info("standard input has ended; no log is followed any more", "error", err)
		case <-ctx.Done():
		}
	case source == config.Journal:
		j := &maillog.Journal{Directory: dir, Odd: odd}
		if from.Cursor == "" {
			from.Cursor = j.End(ctx)
			l.reached(place{Cursor: from.Cursor})
			l.keep(true)
		}
		for ctx.Err() == nil {
			err := j.Follow(ctx, from.Cursor, func(e maillog.Entry) {
				if t, ok := l.reader.ReadEntry(e.At, e.Program, e.Text); ok {
					d.tell(t)
				}
				from.Cursor = e.Cursor
				l.reached(place{Cursor: e.Cursor})
			})
			if ctx.Err() == nil {
				d.log.Error("the journal is not followed; it is tried again", "error", err)
				select {
				case <-ctx.Done():
				case <-time.After(journalRetry):
				}
			}
		}
	default:
		var position maillog.Position
		if from.File != nil {
			position = *from.File
		}
		f := &maillog.File{Path: cfg.LogFile, Log: d.log, Odd: odd}
		f.Follow(ctx, position, func(line []byte, after maillog.Position) {
			l.reached(place{File: &after})
			if line == nil {
				// The place at which it begins is the first that it can come back to.
				l.keep(true)
				return
			}
			d.readLine(line)
		})
	}
}

func (d *Daemon) readLine(line []byte) {
	if t, ok := d.hearing.log.reader.Read(line); ok {
		d.tell(t)
	}
}

// reached notes how far was read.
func (l *logFollower) reached(p place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.latest.Cursor = p.Cursor
	if p.File == nil {
		return
	}
	if l.latest.File == nil {
		l.latest.File = new(maillog.Position)
	}
	// The follower goes on writing into its tail.
	tail := append(l.latest.File.Tail[:0], p.File.Tail...)
	*l.latest.File = *p.File
	l.latest.File.Tail = tail
}

// keepOn keeps the place on disk.
func (l *logFollower) keepOn(ctx context.Context) {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			l.keep(false)
		}
	}
}

// keep writes a place to disk that was reached long enough ago, or the latest.
func (l *logFollower) keep(latest bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.path == "" || l.latest.File == nil && l.latest.Cursor == "" {
		return nil
	}
	now := time.Now()
	p := l.latest
	if p.File != nil {
		file := *p.File
		file.Tail = slices.Clone(file.Tail)
		p.File = &file
	}
	p.at = now
	l.recent = append(l.recent, p)
	if !latest {
		ripe := slices.IndexFunc(l.recent, func(p place) bool { return now.Sub(p.at) < keepAfter }) - 1
		if ripe < 0 {
			return nil
		}
		p = l.recent[ripe]
		l.recent = l.recent[ripe:]
	}
	text, err := json.Marshal(p)
	if err == nil {
		err = os.WriteFile(l.path+".new", append(text, '\n'), 0o640)
	}
	if err == nil {
		err = os.Rename(l.path+".new", l.path)
	}
	return err
}

// load reads the place that was kept, if it is one of this source.
func (l *logFollower) load(source string) place {
	fresh := place{Source: source}
	l.latest = fresh
	b, err := os.ReadFile(l.path)
	if errors.Is(err, os.ErrNotExist) {
		return fresh
	}
	var p place
	if err != nil || json.Unmarshal(b, &p) != nil || p.Source != source {
		return fresh
	}
	l.latest = p
	return p
}
