// Package store keeps evidence and the operator's overrides.
//
// Embedded is the store of a single host: everything in memory, so that a lookup never waits, and
// durable in one bbolt file. Changes are committed in groups: a lesson that comes while a commit is
// under way is in the next one.
package store

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ehlogate/ehlogate/policy"
)

// FileName is the name of the embedded store's file in its directory.
const FileName = "reputation.db"

const (
	// retryAfter is the pause after a commit that failed: a full disk is asked again once a second.
	retryAfter = time.Second
	sweepEvery = 10 * time.Minute
)

// ErrClosed is what a change gets after Close.
var ErrClosed = errors.New("store: closed")

// Stats are counts since the start; read them at any time.
type Stats struct {
	// Commits and Failed count commits that reached the disk and those that did not; what failed is
	// tried again.
	Commits, Failed atomic.Uint64
	// Learnt counts lessons, Expired records removed because nothing in them counts any more.
	Learnt, Expired atomic.Uint64
}

// Embedded is the embedded store. Open makes one.
type Embedded struct {
	*Memory
	Stats Stats

	layout string
	// id names the store, for dumps of it.
	id string
	db *bolt.DB
	// writing is held by whoever changes the overrides, committing by a commit and by whoever adds
	// what must be committed as one.
	writing, committing sync.Mutex
	// loaded is how far each dump has been loaded.
	loaded map[string]uint64

	queue   queue
	closing chan struct{}
	done    sync.WaitGroup
}

// queue is what the next commit has to write and whom it has to tell.
type queue struct {
	sync.Mutex
	dirty   map[key]struct{}
	loaded  map[string]uint64
	waiting []chan error
	closed  bool
	wake    chan struct{}
}

// Options are what a store needs to know.
type Options struct {
	// Layout is how addresses are cut into hosts and networks.
	Layout policy.Layout
	// Tier finds a host's tier after a change.
	Tier policy.Tiering
	Now  func() time.Time
}

// Open opens the store in a directory, which it makes if it is missing. A file that is damaged, of
// a later version, of another program or layout, or in use is refused, and nothing in it is
// touched.
func Open(dir string, o Options) (*Embedded, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	e := newEmbedded(o)
	db, err := openFile(filepath.Join(dir, FileName), e)
	if err != nil {
		return nil, err
	}
	e.db = db
	e.done.Go(e.commitLoop)
	e.done.Go(e.sweepLoop)
	return e, nil
}

// ID names the store: it is the same as long as the file is.
func (e *Embedded) ID() string { return e.id }

func newEmbedded(o Options) *Embedded {
	e := &Embedded{Memory: NewMemory(o.Tier, o.Now), layout: o.Layout.Text(), closing: make(chan struct{}), loaded: map[string]uint64{}}
	e.queue.dirty, e.queue.loaded, e.queue.wake = map[key]struct{}{}, map[string]uint64{}, make(chan struct{}, 1)
	return e
}

// Close commits what is waiting and closes the file.
func (e *Embedded) Close() error {
	e.queue.Lock()
	if e.queue.closed {
		e.queue.Unlock()
		return nil
	}
	e.queue.closed = true
	e.queue.Unlock()
	close(e.closing)
	e.done.Wait()
	err := e.commit()
	return errors.Join(err, e.db.Close())
}

// Learn adds a lesson; see policy.Store.
func (e *Embedded) Learn(k policy.Keys, l policy.Lesson) <-chan error {
	e.Stats.Learnt.Add(1)
	e.Memory.Learn(k, l)
	return e.enqueue(keysOf(k)...)
}

// Forget removes the evidence of every host and network inside a network, takes the hosts' parts
// out of what is around them, given how addresses are cut, and removes the override and the
// exception on exactly that network. It returns how many records and overrides it removed.
func (e *Embedded) Forget(n netip.Prefix, keysOf func(netip.Addr) policy.Keys) (int, error) {
	gone, changed := e.forget(n, keysOf)
	removed := len(gone)
	lifted, err := e.LiftOverride(n)
	if lifted {
		removed++
	}
	return removed, errors.Join(err, <-e.enqueue(append(changed, gone...)...))
}

// Load adds a chunk of another store's dump to what is known, given the network of each host, and
// reports whether it was new: chunks are loaded in the order of their numbers, from 1, each once,
// however often they are sent. It returns nil when the chunk is on disk.
func (e *Embedded) Load(dump string, chunk uint64, records []policy.Record, networkOf func(netip.Prefix) netip.Prefix) (bool, error) {
	e.committing.Lock()
	if chunk <= e.loaded[dump] {
		e.committing.Unlock()
		// Its commit may have failed the first time.
		return false, <-e.enqueue()
	}
	e.loaded[dump] = chunk
	e.queue.Lock()
	e.queue.loaded[dump] = chunk
	e.queue.Unlock()
	committed := e.enqueue(e.join(records, networkOf)...)
	e.committing.Unlock()
	return true, <-committed
}

// Restore adds what is not known any more of a chunk of this store's own dump: hosts, which speak
// in their networks again, and autonomous systems. What is known has all of it in it, and is left
// as it is. It returns nil when that is on disk.
func (e *Embedded) Restore(records []policy.Record, networkOf func(netip.Prefix) netip.Prefix) error {
	e.committing.Lock()
	committed := e.enqueue(e.restore(records, networkOf)...)
	e.committing.Unlock()
	return <-committed
}

func (e *Embedded) enqueue(keys ...key) <-chan error {
	committed := make(chan error, 1)
	q := &e.queue
	q.Lock()
	defer q.Unlock()
	if q.closed {
		committed <- ErrClosed
		return committed
	}
	for _, k := range keys {
		q.dirty[k] = struct{}{}
	}
	q.waiting = append(q.waiting, committed)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return committed
}

func (e *Embedded) commitLoop() {
	for {
		select {
		case <-e.closing:
			return
		case <-e.queue.wake:
		}
		if e.commit() == nil {
			continue
		}
		select {
		case <-e.closing:
			return
		case <-time.After(retryAfter):
			select {
			case e.queue.wake <- struct{}{}:
			default:
			}
		}
	}
}

// commit writes what is dirty in one transaction and tells those who wait. After a failure the keys
// stay dirty.
func (e *Embedded) commit() error {
	e.committing.Lock()
	defer e.committing.Unlock()
	q := &e.queue
	q.Lock()
	dirty, loaded, waiting := q.dirty, q.loaded, q.waiting
	q.dirty, q.loaded, q.waiting = map[key]struct{}{}, map[string]uint64{}, nil
	q.Unlock()
	if len(dirty) == 0 && len(waiting) == 0 {
		return nil
	}
	err := e.db.Update(func(tx *bolt.Tx) error {
		for k := range dirty {
			if err := putEvidence(tx, k, e.get(k)); err != nil {
				return err
			}
		}
		return putLoaded(tx, loaded)
	})
	if err != nil {
		err = fmt.Errorf("store: commit %d records: %w", len(dirty), err)
		e.Stats.Failed.Add(1)
		q.Lock()
		for k := range dirty {
			q.dirty[k] = struct{}{}
		}
		for dump, chunk := range loaded {
			q.loaded[dump] = max(q.loaded[dump], chunk)
		}
		q.Unlock()
	} else {
		e.Stats.Commits.Add(1)
	}
	for _, w := range waiting {
		w <- err
	}
	return err
}

func (e *Embedded) sweepLoop() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-e.closing:
			return
		case <-tick.C:
			e.Sweep()
		}
	}
}

// Expire removes records in which nothing counts any more, from memory and from disk, and returns
// how many.
func (e *Embedded) Expire(now time.Time) int {
	gone := e.expire(now)
	e.Stats.Expired.Add(uint64(len(gone)))
	if len(gone) > 0 {
		e.enqueue(gone...)
	}
	return len(gone)
}

// Sweep heals records, removes those in which nothing counts any more, and overrides and exceptions
// that have ended. The store does it by itself every ten minutes.
func (e *Embedded) Sweep() {
	now := e.now()
	if healed := e.heal(); len(healed) > 0 {
		e.enqueue(healed...)
	}
	e.Expire(now)
	for _, o := range e.Overrides() {
		lift(e, &e.overrides, o.Network, overrideKey, func(o policy.Override) bool { return o.Ended(now) })
	}
	for _, x := range e.Exceptions() {
		lift(e, &e.exceptions, x.Network, exceptionKey, func(x policy.Exception) bool { return x.Ended(now) })
	}
}
