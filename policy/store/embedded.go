// Package store keeps evidence and the operator's overrides.
//
// Embedded is the store of a single host: everything in memory, so that a lookup never waits, and durable in one bbolt file.
// Changes are committed in groups: whoever learns while a commit is under way shares the next one, and each is told when his
// change is on disk.
package store

import (
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gaissmai/bart"
	bolt "go.etcd.io/bbolt"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

// FileName is the name of the embedded store's file in its directory.
const FileName = "reputation.db"

const (
	shards = 64
	// retryAfter is the pause after a commit that failed: a full disk is asked again once a second.
	retryAfter = time.Second
	sweepEvery = 10 * time.Minute
)

// ErrClosed is what a change gets after Close.
var ErrClosed = errors.New("store: closed")

// Stats are counts since the start; read them at any time.
type Stats struct {
	// Commits and Failed count commits that reached the disk and those that did not; what failed is tried again.
	Commits, Failed atomic.Uint64
	// Learnt counts lessons, Expired records removed because nothing in them counts any more.
	Learnt, Expired atomic.Uint64
}

// Embedded is the embedded store. Open makes one.
type Embedded struct {
	Stats Stats

	now    func() time.Time
	db     *bolt.DB
	seed   maphash.Seed
	shards [shards]shard
	// overrides is replaced whole by writers, who hold writing.
	overrides atomic.Pointer[bart.Table[policy.Override]]
	writing   sync.Mutex

	queue   queue
	closing chan struct{}
	done    sync.WaitGroup
}

type shard struct {
	sync.RWMutex
	evidence map[netip.Prefix]reputation.Evidence
}

// queue is what the next commit has to write and whom it has to tell.
type queue struct {
	sync.Mutex
	dirty   map[netip.Prefix]struct{}
	waiting []chan error
	closed  bool
	wake    chan struct{}
}

// Open opens the store in a directory, which it makes if it is missing, with the clock that expiry goes by. A file that is damaged,
// of a later version, of another program or in use is refused, and nothing in it is touched.
func Open(dir string, now func() time.Time) (*Embedded, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	e := newEmbedded(now)
	db, err := openFile(filepath.Join(dir, FileName), e)
	if err != nil {
		return nil, err
	}
	e.db = db
	e.done.Go(e.commitLoop)
	e.done.Go(e.sweepLoop)
	return e, nil
}

func newEmbedded(now func() time.Time) *Embedded {
	e := &Embedded{now: now, seed: maphash.MakeSeed(), closing: make(chan struct{})}
	e.queue.dirty, e.queue.wake = map[netip.Prefix]struct{}{}, make(chan struct{}, 1)
	for i := range e.shards {
		e.shards[i].evidence = map[netip.Prefix]reputation.Evidence{}
	}
	e.overrides.Store(new(bart.Table[policy.Override]))
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

// Recall returns what is known of an address, from memory.
func (e *Embedded) Recall(addr netip.Addr, k policy.Keys) policy.Known {
	known := policy.Known{Host: e.get(k.Host), Network: e.get(k.Network)}
	known.Override, known.Overridden = e.overrides.Load().Lookup(addr)
	return known
}

// Learn adds a lesson to the host and its network and sets the host's tier; see policy.Store.
func (e *Embedded) Learn(k policy.Keys, l policy.Lesson, tier func(before, after policy.Known) reputation.Tier) <-chan error {
	e.Stats.Learnt.Add(1)
	var before, after policy.Known
	e.update(k.Network, func(v reputation.Evidence) reputation.Evidence {
		before.Network = v
		after.Network = v.Add(l.At, l.Spam, l.Ham)
		return after.Network
	})
	e.update(k.Host, func(v reputation.Evidence) reputation.Evidence {
		before.Host = v
		after.Host = v.Add(l.At, l.Spam, l.Ham)
		after.Host.Tier = tier(before, after)
		return after.Host
	})
	return e.enqueue(k.Host, k.Network)
}

// Forget removes the evidence of every host and network inside a network, takes a single host's part out of its network given in
// keys, and removes the override on exactly that network. It returns how many records and overrides it removed.
func (e *Embedded) Forget(n netip.Prefix, k policy.Keys) (removed int, err error) {
	var changed []netip.Prefix
	if n == k.Host {
		host := e.get(k.Host)
		e.update(k.Network, func(v reputation.Evidence) reputation.Evidence { return v.Without(host) })
		changed = append(changed, k.Network)
	}
	gone := e.remove(func(key netip.Prefix, _ reputation.Evidence) bool {
		return n.Bits() <= key.Bits() && n.Contains(key.Addr())
	})
	removed = len(gone)
	lifted, err := e.LiftOverride(n)
	if lifted {
		removed++
	}
	return removed, errors.Join(err, <-e.enqueue(append(changed, gone...)...))
}

// Len is the number of records kept.
func (e *Embedded) Len() int {
	n := 0
	for i := range e.shards {
		s := &e.shards[i]
		s.RLock()
		n += len(s.evidence)
		s.RUnlock()
	}
	return n
}

// Each calls f for every record until it returns false. Records that change meanwhile may be seen before or after the change.
func (e *Embedded) Each(f func(netip.Prefix, reputation.Evidence) bool) {
	for i := range e.shards {
		s := &e.shards[i]
		s.RLock()
		keys := make([]netip.Prefix, 0, len(s.evidence))
		for k := range s.evidence {
			keys = append(keys, k)
		}
		s.RUnlock()
		for _, k := range keys {
			if !f(k, e.get(k)) {
				return
			}
		}
	}
}

func (e *Embedded) shard(k netip.Prefix) *shard {
	return &e.shards[maphash.Comparable(e.seed, k)%shards]
}

func (e *Embedded) get(k netip.Prefix) reputation.Evidence {
	s := e.shard(k)
	s.RLock()
	defer s.RUnlock()
	return s.evidence[k]
}

func (e *Embedded) update(k netip.Prefix, f func(reputation.Evidence) reputation.Evidence) {
	s := e.shard(k)
	s.Lock()
	defer s.Unlock()
	s.evidence[k] = f(s.evidence[k])
}

// remove deletes the records that match from memory and returns their keys, to be enqueued.
func (e *Embedded) remove(match func(netip.Prefix, reputation.Evidence) bool) (gone []netip.Prefix) {
	for i := range e.shards {
		s := &e.shards[i]
		s.Lock()
		for k, v := range s.evidence {
			if match(k, v) {
				delete(s.evidence, k)
				gone = append(gone, k)
			}
		}
		s.Unlock()
	}
	return gone
}

func (e *Embedded) enqueue(keys ...netip.Prefix) <-chan error {
	told := make(chan error, 1)
	q := &e.queue
	q.Lock()
	defer q.Unlock()
	if q.closed {
		told <- ErrClosed
		return told
	}
	for _, k := range keys {
		q.dirty[k] = struct{}{}
	}
	q.waiting = append(q.waiting, told)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return told
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

// commit writes what is dirty in one transaction and tells those who wait. After a failure the keys stay dirty.
func (e *Embedded) commit() error {
	q := &e.queue
	q.Lock()
	dirty, waiting := q.dirty, q.waiting
	q.dirty, q.waiting = map[netip.Prefix]struct{}{}, nil
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
		return nil
	})
	if err != nil {
		err = fmt.Errorf("store: commit %d records: %w", len(dirty), err)
		e.Stats.Failed.Add(1)
		q.Lock()
		for k := range dirty {
			q.dirty[k] = struct{}{}
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

// Sweep removes records in which nothing counts any more, and overrides that have ended. The store does it by itself every ten minutes.
func (e *Embedded) Sweep() {
	now := e.now()
	gone := e.remove(func(_ netip.Prefix, v reputation.Evidence) bool { return v.Empty(now) })
	e.Stats.Expired.Add(uint64(len(gone)))
	if len(gone) > 0 {
		e.enqueue(gone...)
	}
	for _, o := range e.Overrides() {
		if o.Ended(now) {
			e.LiftOverride(o.Network)
		}
	}
}
