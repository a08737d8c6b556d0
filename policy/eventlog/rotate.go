package eventlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	day       = 24 * time.Hour
	dayFormat = time.DateOnly
	// distrust is for how long no archive is removed after the clock may have been stepped.
	distrust = 2 * day
)

// wroteOn notes that the file is written to at a time. Of a file that was last written to longer
// ago than archives are kept, the clock may have been wrong then: it is taken for one of today, so
// that it is not removed as soon as it is archived.
func (l *Log) wroteOn(t time.Time) {
	if l.now().Sub(t) > l.retain+day {
		t = l.now()
	}
	if d := t.UTC().Format(dayFormat); !slices.Contains(l.days, d) {
		l.days = append(l.days, d)
	}
}

// lastDay is the last day on which the file was written to that is not in the future, empty if
// there is none: the clock may have been stepped forth and back.
func (l *Log) lastDay(today string) (last string) {
	for _, d := range l.days {
		if d <= today {
			last = max(last, d)
		}
	}
	return last
}

// rotate makes an archive of the file and begins a new one, when the day has changed.
func (l *Log) rotate() {
	if l.retain == 0 {
		return
	}
	today := l.now().UTC().Format(dayFormat)
	switch last := l.lastDay(today); last {
	case today:
		return
	case "":
		// The clock was stepped back. The day is over when the next one begins.
		l.pruneAfter = l.now().Add(distrust)
	default:
		if begun, err := time.Parse(dayFormat, last); err == nil && l.now().Sub(begun) > 3*day {
			// The clock was stepped forth, or there was no mail for days.
			l.pruneAfter = l.now().Add(distrust)
		}
		if err := l.archive(last); err != nil {
			l.throttled.Do(func() { l.log.Error("the event log cannot be rotated", "file", l.path, "error", err) })
		} else {
			l.prune()
		}
	}
	l.wroteOn(l.now())
}

// archive renames the file to one with a day in its name, and begins a new one. Its lines are on
// disk before.
func (l *Log) archive(day string) error {
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("eventlog: %w", err)
	}
	name, err := l.free(day)
	if err == nil {
		err = os.Rename(l.path, name)
	}
	if err != nil {
		return fmt.Errorf("eventlog: %w", err)
	}
	if err := l.openFile(); err != nil {
		// The lines go on into the old file, under its old name.
		return errors.Join(err, os.Rename(name, l.path))
	}
	return nil
}

// free is the name of an archive that does not exist yet.
func (l *Log) free(day string) (string, error) {
	stem, ext := stem(l.path)
	name := stem + "-" + day + ext
	for n := 1; ; n++ {
		_, err := os.Lstat(name)
		if errors.Is(err, os.ErrNotExist) {
			return name, nil
		} else if err != nil {
			return "", err
		}
		name = fmt.Sprintf("%s-%s.%d%s", stem, day, n, ext)
	}
}

// stem is a path without its extension, and that: archives have their day between the two.
func stem(path string) (stem, ext string) {
	ext = filepath.Ext(path)
	return strings.TrimSuffix(path, ext), ext
}

// prune removes archives older than retain, but not shortly after the clock may have been stepped.
func (l *Log) prune() {
	if l.now().Before(l.pruneAfter) {
		return
	}
	stem, ext := stem(l.path)
	files, _ := filepath.Glob(stem + "-????-??-??*" + ext)
	for _, f := range files {
		name := strings.TrimPrefix(f, stem+"-")
		d, err := time.Parse(dayFormat, name[:len(dayFormat)])
		if err != nil {
			continue
		}
		if l.now().Sub(l.dated(f, d)) > l.retain+day {
			os.Remove(f)
		}
	}
}

// dated is the day of an archive. One that bears a day in the future was made when the clock was
// wrong, and counts from when it was last written to, or from now.
func (l *Log) dated(file string, named time.Time) time.Time {
	future := l.now().Add(day)
	if named.Before(future) {
		return named
	}
	if info, err := os.Stat(file); err == nil && info.ModTime().Before(future) {
		return info.ModTime()
	}
	os.Chtimes(file, l.now(), l.now())
	return l.now()
}
