// Package store keeps evidence and the operator's overrides.
//
// Embedded is the store of a single host: everything in memory, so that a lookup never waits, and
// durable in one bbolt file and a journal. A lesson is appended to the journal, and the file
// follows once a minute; every other change is committed to the file at once, in groups. Because
// memory has all of it, a file that turns out to be damaged, or is gone, is replaced by a new one.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/time/rate"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/fault"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

// FileName is the name of the embedded store's file in its directory, LockName that of the file
// that is locked while a process has the store open.
const (
	FileName = "reputation.db"
	LockName = "reputation.lock"
)

const (
	// retryAfter is the pause after a commit that failed: a full disk is asked again once a second.
	retryAfter = time.Second
	sweepEvery = 10 * time.Minute
	// inspectEvery is how often the file is looked after where nothing is committed.
	inspectEvery = 10 * time.Second
	// openWait is how long Open waits until all is read; what takes longer goes on behind it.
	openWait = 500 * time.Millisecond
	// atOnce is how many records are removed or healed in one commit, so that lessons do not wait
	// long for theirs.
	atOnce = 1000
)

// ErrClosed is what a change gets after Close.
var ErrClosed = errors.New("store: closed")

// Stats are counts since the start; read them at any time.
type Stats struct {
	// Commits and Failed count commits that reached the disk and those that did not; what failed is
	// tried again.
	Commits, Failed atomic.Uint64
	// Journalled counts lessons that were written to the journal, JournalFailed writes that failed.
	Journalled, JournalFailed atomic.Uint64
	// Learnt counts lessons, Expired records removed because nothing in them counts any more,
	// Crowded those removed because there were too many.
	Learnt, Expired, Crowded atomic.Uint64
	// Renewed counts files that were begun anew because the old one was damaged or gone.
	Renewed atomic.Uint64
}

// Embedded is the embedded store. Open makes one.
type Embedded struct {
	*Memory
	Stats Stats

	layout string
	// id names the store, for dumps of it.
	id   string
	path string
	lock *os.File
	// before says that there was a store here before.
	before bool
	log    *slog.Logger
	// db is nil while there is no file that can be written. committing guards it, and is held by
	// whoever adds what must be committed as one; writing is held by whoever changes the overrides.
	db                  *bolt.DB
	writing, committing sync.Mutex
	// bounding is held by whoever makes room.
	bounding sync.Mutex
	// loaded is how far each dump has been loaded.
	loaded map[string]uint64
	// found is what is wrong, or was, with the file. copied says that the copy of the overrides is
	// up to date, or was; writing guards it.
	found  findings
	copied bool
	// copiedAt is when it was last looked after, copyTook how long that took.
	copiedAt time.Time
	copyTook time.Duration

	// gate is held, for reading, by a lesson on its way into memory and into the journal, so that
	// whoever holds it for writing finds both to have the same lessons.
	gate    sync.RWMutex
	journal *journal
	// from is the number of the first part of the journal that is not in the file, next that of the
	// next part to begin; committing guards them. putOff are lessons that wait while a new file is
	// written; gate guards them. lines are those of the journal that was found.
	from, next uint64
	putOff     *postponed
	lines      [][]byte

	queue   queue
	early   early
	faults  fault.Guard
	running context.Context
	stop    context.CancelFunc
	done    sync.WaitGroup
}

// queue is what the next commit has to write and whom it has to tell.
type queue struct {
	sync.Mutex
	dirty   map[key]struct{}
	loaded  map[string]uint64
	waiting []chan<- error
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
	// Most is how many records are kept at most, 0 for DefaultMostRecords.
	Most int
	// Always says that a lesson waits until it is on disk, and not only written.
	Always bool
	// Log is told what is wrong with the file; nil for nobody.
	Log *slog.Logger
}

// Open opens the store in a directory, which it makes if it is missing. A file of a later version,
// of another program or layout, or in use is refused, and nothing in it is touched. One that is
// damaged is moved aside, and what can be read of it is kept. A large file is read behind Open:
// until Ready, nothing is known of any client, and what is learnt waits.
func Open(dir string, o Options) (*Embedded, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	e := newEmbedded(filepath.Join(dir, FileName), o)
	var err error
	if e.lock, e.before, err = lock(dir); err != nil {
		return nil, err
	}
	source, err := e.begin()
	if err != nil {
		e.lock.Close()
		return nil, err
	}
	e.readJournal()
	e.done.Go(func() {
		e.faults.Do("reading the store", func() { e.read(source) })
		e.lookAfterCopy()
		e.beginJournal()
		e.start()
		e.done.Go(func() { e.faults.Keep(e.running, "writing the journal", e.journal.run) })
		e.done.Go(func() { e.faults.Keep(e.running, "bringing the journal to disk", e.syncLoop) })
		e.done.Go(func() { e.faults.Keep(e.running, "committing", e.commitLoop) })
		e.done.Go(func() { e.faults.Keep(e.running, "sweeping", e.sweepLoop) })
	})
	select {
	case <-e.early.ready:
	case <-time.After(openWait):
	}
	return e, nil
}

// ID names the store: it is the same as long as the file is.
func (e *Embedded) ID() string { return e.id }

func newEmbedded(path string, o Options) *Embedded {
	e := &Embedded{Memory: NewMemory(o.Tier, o.Now), layout: o.Layout.Text(), path: path, log: o.Log, loaded: map[string]uint64{}}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	e.faults.Log = e.log
	e.running, e.stop = context.WithCancel(context.Background())
	e.queue.dirty, e.queue.loaded, e.queue.wake = map[key]struct{}{}, map[string]uint64{}, make(chan struct{}, 1)
	e.early.ready = make(chan struct{})
	e.journal = &journal{dir: filepath.Dir(path), always: o.Always, log: e.log, stats: &e.Stats, failed: e.commitFor, failing: rate.Sometimes{First: 1, Interval: time.Minute}, wake: make(chan struct{}, 1)}
	if e.most = o.Most; e.most == 0 {
		e.most = DefaultMostRecords
	}
	e.isNetwork = func(n netip.Prefix) bool {
		if n.Addr().Is4() {
			return n.Bits() < 32
		}
		return n.Bits() < o.Layout.IPv6Host
	}
	return e
}

// Close commits what is waiting and closes the file.
func (e *Embedded) Close() error {
	<-e.Ready()
	e.queue.Lock()
	if e.queue.closed {
		e.queue.Unlock()
		return nil
	}
	e.queue.closed = true
	e.queue.Unlock()
	e.stop()
	e.done.Wait()
	e.journal.flush()
	e.committing.Lock()
	// This is the last time.
	e.found.renewed = time.Time{}
	e.committing.Unlock()
	err := e.commit()
	e.committing.Lock()
	defer e.committing.Unlock()
	if err == nil && e.db != nil {
		// Both heads have all of it, so that no journal is needed.
		err = e.write(func(tx *bolt.Tx) error { return putFrom(tx, e.from) })
	}
	if left := e.leaveWhole(); left == nil {
		// What could not be committed is in a new file.
		err = nil
	} else {
		err = errors.Join(err, left)
	}
	e.writeCopy()
	e.journal.end(err == nil)
	if e.db != nil {
		err = errors.Join(err, guard(e.path, e.db.Close))
		e.db = nil
	}
	return errors.Join(err, e.lock.Close())
}

// leaveWhole looks at the file a last time: what is in memory goes with the process. committing is
// held.
func (e *Embedded) leaveWhole() error {
	e.lookAfter()
	if e.db != nil {
		if err := e.scrub(); err != nil {
			e.abandon(err)
		}
	}
	if e.db != nil {
		return nil
	}
	e.found.renewed = time.Time{}
	return e.renew()
}

// Recall returns what is known of an address. Before all is read it is Unavailable.
func (e *Embedded) Recall(addr netip.Addr, k policy.Keys, now time.Time) policy.Known {
	known := e.Memory.Recall(addr, k, now)
	known.Unavailable = !e.early.known.Load()
	return known
}

// Learn adds a lesson; see policy.Store.
func (e *Embedded) Learn(k policy.Keys, l policy.Lesson) <-chan error {
	e.Stats.Learnt.Add(1)
	committed := make(chan error, 1)
	if !e.early.over.Load() && e.wait(k, l, committed) {
		return committed
	}
	e.learn(k, l, committed)
	return committed
}

// learn takes a lesson into memory and into the journal, or where that cannot be written into the
// file.
func (e *Embedded) learn(k policy.Keys, l policy.Lesson, committed chan<- error) {
	keys := keysOf(k)
	e.gate.RLock()
	defer e.gate.RUnlock()
	if !e.putOff.add(k, l) {
		e.Memory.Learn(k, l)
	}
	if !e.queue.note(keys) {
		committed <- ErrClosed
		return
	}
	ok, long := e.journal.append(k, l, committed)
	if !ok {
		e.commitFor([]chan<- error{committed})
	} else if long {
		e.commitFor(nil)
	}
}

// Forget removes the evidence of every host and network inside a network, takes the hosts' parts
// out of what is around them, given how addresses are cut, and removes the override and the
// exception on exactly that network. It returns how many records and overrides it removed.
func (e *Embedded) Forget(n netip.Prefix, keysOf func(netip.Addr) policy.Keys) (int, error) {
	<-e.Ready()
	gone, changed := e.forget(n, keysOf)
	removed := len(gone)
	lifted, err := e.LiftOverride(n)
	if lifted {
		removed++
	}
	return removed, errors.Join(err, <-e.changed(append(changed, gone...)...))
}

// Each calls f for every record until it returns an error, which it returns. Records that change
// meanwhile may be seen before or after the change.
func (e *Embedded) Each(f func(policy.Record) error) error {
	<-e.Ready()
	return e.Memory.Each(f)
}

// Load adds a chunk of another store's dump to what is known, given the network of each host, and
// reports whether it was new: chunks are loaded in the order of their numbers, from 1, each once,
// however often they are sent. It returns nil when the chunk is on disk.
func (e *Embedded) Load(dump string, chunk uint64, records []policy.Record, networkOf func(netip.Prefix) netip.Prefix) (bool, error) {
	<-e.Ready()
	e.committing.Lock()
	if chunk <= e.loaded[dump] {
		e.committing.Unlock()
		// Its commit may have failed the first time.
		return false, <-e.changed()
	}
	e.loaded[dump] = chunk
	e.queue.Lock()
	e.queue.loaded[dump] = chunk
	e.queue.Unlock()
	committed := e.changed(e.join(records, networkOf)...)
	e.committing.Unlock()
	return true, <-committed
}

// Restore adds what is not known any more of a chunk of this store's own dump: hosts, which speak
// in their networks again, and autonomous systems. What is known has all of it in it, and is left
// as it is. It returns nil when that is on disk.
func (e *Embedded) Restore(records []policy.Record, networkOf func(netip.Prefix) netip.Prefix) error {
	<-e.Ready()
	e.committing.Lock()
	committed := e.changed(e.restore(records, networkOf)...)
	e.committing.Unlock()
	return <-committed
}

func (e *Embedded) sweepLoop(ctx context.Context) {
	sweep, inspect := time.NewTicker(sweepEvery), time.NewTicker(inspectEvery)
	defer sweep.Stop()
	defer inspect.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			e.Sweep()
		case <-inspect.C:
			e.inspect()
			e.lookAfterCopy()
			e.bound()
		}
	}
}

// lookAfterCopy writes the copy of the overrides if it is gone, or out of date.
func (e *Embedded) lookAfterCopy() {
	e.writing.Lock()
	defer e.writing.Unlock()
	e.writeCopy()
}

// removed has records that are gone from memory removed from disk, a few in each commit.
func (e *Embedded) removed(gone []key) {
	for len(gone) > 0 {
		n := min(len(gone), atOnce)
		<-e.changed(gone[:n]...)
		gone = gone[n:]
	}
}

// Expire removes records in which nothing counts any more, from memory and from disk, and returns
// how many.
func (e *Embedded) Expire(now time.Time) (n int) {
	for i := range e.shards {
		gone := e.removeFrom(&e.shards[i], func(_ key, v reputation.Evidence) bool { return v.Empty(now) })
		n += len(gone)
		e.Stats.Expired.Add(uint64(len(gone)))
		e.removed(gone)
	}
	return n
}

// Sweep heals records, removes those in which nothing counts any more, and overrides and exceptions
// that have ended. The store does it by itself every ten minutes.
func (e *Embedded) Sweep() {
	now := e.now()
	for i := range e.shards {
		e.removed(e.heal(&e.shards[i]))
	}
	e.Expire(now)
	for _, o := range e.Overrides() {
		lift(e, &e.overrides, o.Network, overrideKey, func(o policy.Override) bool { return o.Ended(now) })
	}
	for _, x := range e.Exceptions() {
		lift(e, &e.exceptions, x.Network, exceptionKey, func(x policy.Exception) bool { return x.Ended(now) })
	}
}
