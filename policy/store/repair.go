package store

import (
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

	bolt "go.etcd.io/bbolt"

	"github.com/ehlogate/ehlogate/policy/store/bolted"
)

const (
	// renewAgain is the least time between two files that are begun anew.
	renewAgain = 10 * time.Second
	// mostAside is how many files that were moved aside are kept, the newest.
	mostAside = 3
	// fillAtOnce is how many records of a new file are written in one transaction.
	fillAtOnce = 20_000
)

// findings are what is wrong, or was, with the file.
type findings struct {
	// file is the file that is open, renewed when one was begun anew; the store's committing guards
	// both.
	file    os.FileInfo
	renewed time.Time

	mu     sync.Mutex
	notes  []string
	failed error
}

// mostNotes bounds the notes that are kept.
const mostNotes = 8

// note logs something that an operator has to know, and keeps it for the status.
func (f *findings) note(log *slog.Logger, what string, args ...any) {
	log.Error(what, args...)
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.notes) < mostNotes {
		for i := 0; i+1 < len(args); i += 2 {
			what += fmt.Sprintf("; %s: %v", strings.ReplaceAll(fmt.Sprint(args[i]), "_", " "), args[i+1])
		}
		f.notes = append(f.notes, time.Now().Format(time.DateTime)+": "+what)
	}
}

// commit takes what came of a commit.
func (f *findings) commit(log *slog.Logger, path string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed != nil && err == nil {
		log.Warn("the store's file can be written again: all that was learnt is in it", "file", path)
	}
	f.failed = err
}

// Notes are what was wrong with the store's file since the start, and was repaired.
func (e *Embedded) Notes() []string {
	e.found.mu.Lock()
	defer e.found.mu.Unlock()
	return slices.Clone(e.found.notes)
}

// Fault is why the store's file cannot be written now, nil where it can.
func (e *Embedded) Fault() error {
	e.found.mu.Lock()
	defer e.found.mu.Unlock()
	return e.found.failed
}

// write makes a change in the file, or in a new one if it turns out that it is damaged or gone.
// committing is held.
func (e *Embedded) write(change func(*bolt.Tx) error) error {
	e.lookAfter()
	for range 2 {
		if e.db == nil {
			if err := e.renew(); err != nil {
				return err
			}
		}
		err := bolted.Update(e.db, change)
		if !errors.Is(err, ErrDamaged) {
			return err
		}
		e.abandon(err)
	}
	return damaged(e.path, errors.New("again"))
}

// inspect looks after the file where nothing is committed.
func (e *Embedded) inspect() {
	e.committing.Lock()
	defer e.committing.Unlock()
	e.lookAfter()
	if e.db == nil {
		e.found.commit(e.log, e.path, e.renew())
	}
}

// lookAfter gives up the file if it is not there any more, or not whole.
func (e *Embedded) lookAfter() {
	if e.db == nil {
		return
	}
	info, err := os.Stat(e.path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		e.abandon(errors.New("the file is gone"))
	case err != nil:
	case !os.SameFile(info, e.found.file):
		e.abandon(errors.New("another file is in its place"))
	default:
		var size int64
		err := guard(e.path, func() error {
			return e.db.View(func(tx *bolt.Tx) error { size = tx.Size(); return nil })
		})
		if err == nil && info.Size() < size {
			err = damaged(e.path, fmt.Errorf("somebody cut it to %d bytes of %d", info.Size(), size))
		}
		if err != nil {
			e.abandon(err)
		}
	}
}

// closeAside closes a file by the way: bbolt may hold a lock of its own after a panic, and never
// come back.
func (e *Embedded) closeAside(db *bolt.DB) {
	go e.faults.Do("closing a damaged store", func() { guard(e.path, db.Close) })
}

// abandon gives up the open file.
func (e *Embedded) abandon(why error) {
	e.log.Error("the store's file can no longer be used; memory has all of it, and a new one is written", "file", e.path, "error", why)
	db := e.db
	e.db = nil
	e.closeAside(db)
}

// renew moves whatever is in the file's place aside, and writes a new file of all that is in
// memory. committing is held.
func (e *Embedded) renew() error {
	if since := time.Since(e.found.renewed); since < renewAgain {
		return fmt.Errorf("store: %s will be rewritten in %s", e.path, (renewAgain - since).Round(time.Second))
	}
	e.found.renewed = time.Now()
	if err := os.MkdirAll(filepath.Dir(e.path), 0o750); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if err := e.relock(); err != nil {
		return err
	}
	part, err := newPart(e.path)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer os.Remove(part)
	from, learnOn := e.putOffLessons()
	defer learnOn()
	var db *bolt.DB
	err = guard(part, func() (err error) {
		if db, err = bolt.Open(part, fileMode, bolted.Options()); err != nil {
			return explain(part, err)
		}
		return e.fillWith(db, from)
	})
	if err != nil {
		if db != nil {
			guard(part, db.Close)
		}
		return fmt.Errorf("store: a new file cannot be written: %w", err)
	}
	aside, err := e.moveAside()
	if err == nil {
		err = os.Rename(part, e.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(e.path))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("store: %w", err), db.Close())
	}
	e.Stats.Renewed.Add(1)
	e.found.note(e.log, "a new store file was written", "file", e.path, "records", e.Len(), "moved_aside", aside)
	e.from = from
	return e.use(db)
}

// relock locks the directory anew, if the lock's file is not there any more, or another one is:
// another ehlogate may have begun there.
func (e *Embedded) relock() error {
	path := filepath.Join(filepath.Dir(e.path), LockName)
	ours, err := e.lock.Stat()
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if info, err := os.Stat(path); err == nil && os.SameFile(info, ours) {
		return nil
	}
	lock, err := lockFile(path)
	if err != nil {
		return err
	}
	e.lock.Close()
	e.lock = lock
	return nil
}

// fillWith writes all that is in memory to a new file, and which part of the journal is the first
// that is not in it.
func (e *Embedded) fillWith(db *bolt.DB, from uint64) error {
	db.NoSync = true
	defer func() { db.NoSync = false }()
	err := db.Update(func(tx *bolt.Tx) error {
		if err := e.fill(tx); err != nil {
			return err
		}
		if err := errors.Join(putLoaded(tx, e.loaded), putFrom(tx, from)); err != nil {
			return err
		}
		overrides := tx.Bucket(bucketOverrides)
		for _, o := range e.Overrides() {
			if err := putJSON(overrides, overrideKey(o.Network), o); err != nil {
				return err
			}
		}
		for _, x := range e.Exceptions() {
			if err := putJSON(overrides, exceptionKey(x.Network), x); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := 0; i < len(e.shards) && err == nil; {
		err = db.Update(func(tx *bolt.Tx) error {
			for n := 0; i < len(e.shards) && n < fillAtOnce; i++ {
				s := &e.shards[i]
				s.RLock()
				some := make(map[key]record, s.len())
				for k, v := range s.all() {
					some[k] = v
				}
				s.RUnlock()
				for k, v := range some {
					if err := putEvidence(tx, k, v.evidence()); err != nil {
						return err
					}
				}
				n += len(some)
			}
			return nil
		})
	}
	return errors.Join(err, db.Sync())
}

// moveAside gives what is in the file's place another name, which it returns, and removes the
// oldest of those that were moved aside before. A file keeps its own name, too, until another one
// takes it: there is one at every moment.
func (e *Embedded) moveAside() (string, error) {
	if _, err := os.Lstat(e.path); errors.Is(err, os.ErrNotExist) {
		return "nothing", nil
	}
	const mark = ".damaged-"
	aside := e.path + mark + time.Now().UTC().Format("20060102T150405.000")
	if os.Link(e.path, aside) != nil {
		// A directory, or a file system without links.
		if err := os.Rename(e.path, aside); err != nil {
			return "", err
		}
	}
	// The names are in the order of their times.
	all, _ := filepath.Glob(e.path + mark + "*")
	for _, old := range all[:max(0, len(all)-mostAside)] {
		os.Remove(old)
	}
	return aside, nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// repair takes what can be read of a damaged file into memory, and begins a new one. committing is
// held.
func (e *Embedded) repair(src *source, why error) {
	e.found.note(e.log, "the store's file is damaged; what can be read of it is kept", "error", why)
	if src.db != nil {
		e.closeAside(src.db)
	}
	if !src.head {
		e.readCopy()
	}
	raw, err := e.readPages()
	if err != nil {
		e.log.Error("the damaged file cannot be read", "file", e.path, "error", err)
	}
	e.log.Warn("read of the damaged file", "records", e.Len(), "from_pages_alone", raw, "overrides", len(e.Overrides()), "exceptions", len(e.Exceptions()))
	if err := e.renew(); err != nil {
		e.found.commit(e.log, e.path, err)
		e.log.Error("the store cannot be written", "file", e.path, "error", err)
	}
}

// putMissing takes a record that is missing, or with newer one that is newer than the known, and
// reports whether it did.
func (e *Embedded) putMissing(k key, v record, newer bool) bool {
	s := e.shard(k)
	s.Lock()
	defer s.Unlock()
	old, known := s.find(k)
	if known && (!newer || !v.newerThan(&old)) {
		return false
	}
	if !known {
		e.count.Add(1)
	}
	s.put(k, v)
	return true
}

// newerThan reports whether a record is a later state of the same key's.
func (v *record) newerThan(old *record) bool {
	a, b := v.evidence(), old.evidence()
	if a.Newest != b.Newest {
		return a.Newest > b.Newest
	}
	x, y := a.Total(), b.Total()
	return x.Spam+x.Ham > y.Spam+y.Ham
}

// mostDamagedLen bounds how much of a damaged file is read.
const mostDamagedLen = 64 << 30

// readPages takes what is in the leaf pages of a damaged file, whatever leads to them: records that
// are missing. Pages that were free have what was there before, so of several records of a key the
// newest counts. Overrides are not taken: those that were lifted would come back.
func (e *Embedded) readPages() (n int, err error) {
	f, err := os.Open(e.path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	page := make([]byte, bolted.ReadHeads(f).PageSize)
	fresh := map[key]bool{}
	for at := 0; at < mostDamagedLen; at += len(page) {
		got, err := io.ReadFull(f, page)
		for k, v := range bolted.Leaves(page[:got]) {
			if key, record, err := readEvidence(k, v); err == nil && e.putMissing(key, record, fresh[key]) {
				fresh[key] = true
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return len(fresh), err
		}
	}
	return len(fresh), nil
}
