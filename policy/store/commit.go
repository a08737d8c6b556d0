package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ehlogate/ehlogate/policy/reputation"
)

// changed has keys committed; the channel yields once.
func (e *Embedded) changed(keys ...key) <-chan error {
	committed := make(chan error, 1)
	e.enqueue(committed, keys...)
	return committed
}

func (e *Embedded) enqueue(committed chan<- error, keys ...key) {
	if !e.queue.note(keys) {
		committed <- ErrClosed
		return
	}
	e.commitFor([]chan<- error{committed})
}

// note notes what the next commit has to write, and reports whether there will be one.
func (q *queue) note(keys []key) bool {
	q.Lock()
	defer q.Unlock()
	if q.closed {
		return false
	}
	for _, k := range keys {
		q.dirty[k] = struct{}{}
	}
	return true
}

// commitFor has what is dirty committed, and those told who wait for it.
func (e *Embedded) commitFor(waiting []chan<- error) {
	q := &e.queue
	q.Lock()
	q.waiting = append(q.waiting, waiting...)
	q.Unlock()
	rouse(q.wake)
}

// rouse wakes who waits, if he is not awake.
func rouse(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

func (e *Embedded) commitLoop(ctx context.Context) {
	step := time.NewTicker(stepEvery)
	defer step.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.queue.wake:
		case <-step.C:
		}
		if e.commit() == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryAfter):
			e.commitFor(nil)
		}
	}
}

// step is what a commit writes: what was dirty at one moment, and the first part of the journal
// that has only what came after it.
type step struct {
	values  map[key]reputation.Evidence
	loaded  map[string]uint64
	waiting []chan<- error
	from    uint64
}

// take takes what is dirty. committing is held.
func (e *Embedded) take() (s step) {
	next := e.nextPart()
	q := &e.queue
	e.gate.Lock()
	defer e.gate.Unlock()
	q.Lock()
	dirty := q.dirty
	s.loaded, s.waiting = q.loaded, q.waiting
	q.dirty, q.loaded, q.waiting = map[key]struct{}{}, map[string]uint64{}, nil
	q.Unlock()
	s.values = make(map[key]reputation.Evidence, len(dirty))
	for k := range dirty {
		s.values[k] = e.get(k)
	}
	s.from = e.turn(next)
	return s
}

// commit writes what is dirty in one transaction and tells those who wait. After a failure the keys
// stay dirty.
func (e *Embedded) commit() error {
	e.committing.Lock()
	defer e.committing.Unlock()
	q := &e.queue
	q.Lock()
	idle := len(q.dirty) == 0 && len(q.waiting) == 0
	q.Unlock()
	if idle {
		return nil
	}
	s := e.take()
	renewed := e.Stats.Renewed.Load()
	err := e.write(func(tx *bolt.Tx) error {
		if e.Stats.Renewed.Load() != renewed {
			// A new file has all that is in memory, and more than this.
			return nil
		}
		for _, k := range slices.SortedFunc(maps.Keys(s.values), key.compare) {
			if err := putEvidence(tx, k, s.values[k]); err != nil {
				return err
			}
		}
		return errors.Join(putLoaded(tx, s.loaded), putFrom(tx, s.from))
	})
	if err != nil {
		err = fmt.Errorf("store: commit %d records: %w", len(s.values), err)
		e.Stats.Failed.Add(1)
		q.Lock()
		for k := range s.values {
			q.dirty[k] = struct{}{}
		}
		for dump, chunk := range s.loaded {
			q.loaded[dump] = max(q.loaded[dump], chunk)
		}
		q.Unlock()
	} else {
		e.Stats.Commits.Add(1)
		// If the newer one of the file's two heads is damaged, bbolt goes on from the one before:
		// what that one has not stays in the journal.
		e.journal.removeParts(e.from)
		e.from = max(e.from, s.from)
		e.journal.markParts(e.from)
	}
	e.found.commit(e.log, e.path, err)
	for _, w := range s.waiting {
		w <- err
	}
	return err
}
