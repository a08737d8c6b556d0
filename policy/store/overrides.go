package store

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ehlogate/ehlogate/policy"
)

// SetOverride makes an override hold, in place of one on the same network. It is durable when this
// returns nil.
func (e *Embedded) SetOverride(o policy.Override) error {
	return e.ChangeOverrides([]policy.Override{o}, nil)
}

// ChangeOverrides makes overrides hold, each in place of one on the same network, and removes those
// on others: all of them, or where it returns an error none. They are durable when it returns nil.
func (e *Embedded) ChangeOverrides(set []policy.Override, lift []netip.Prefix) error {
	e.writing.Lock()
	defer e.writing.Unlock()
	before := e.overrides.Load()
	after := before
	var changed []netip.Prefix
	for _, o := range set {
		after, changed = after.With(o.Network, &o), append(changed, o.Network)
	}
	for _, n := range lift {
		after, changed = after.Without(n), append(changed, n)
	}
	asIn := func(t *policy.Networks[policy.Override]) value {
		return func(b *bolt.Bucket) error {
			for _, n := range changed {
				v, _ := t.Get(n)
				if err := put(b, overrideKey(n), v); err != nil {
					return err
				}
			}
			return nil
		}
	}
	if err := e.writeTwice(asIn(after), asIn(before)); err != nil {
		return fmt.Errorf("store: overrides of %d networks, the first %s: %w", len(changed), changed[0], err)
	}
	e.overrides.Store(after)
	if after.Size() > 1000 && time.Since(e.copiedAt) < 10*e.copyTook {
		// There are many, and they come in parts: the copy is written when they are there.
		e.dropCopy()
		return nil
	}
	e.writeCopy()
	return nil
}

// SetException makes an exception hold, in place of one for the same host and of those that have to
// go for it. It is durable when this returns nil.
func (e *Embedded) SetException(x policy.Exception, gone ...policy.Exception) error {
	if !e.early.over.Load() {
		// A session waits for it.
		return ErrStarting
	}
	e.writing.Lock()
	defer e.writing.Unlock()
	e.committing.Lock()
	defer e.committing.Unlock()
	err := e.write(func(tx *bolt.Tx) error {
		bucket := tx.Bucket(bucketOverrides)
		for _, g := range gone {
			if err := bucket.Delete(exceptionKey(g.Network)); err != nil {
				return err
			}
		}
		return putJSON(bucket, exceptionKey(x.Network), x)
	})
	if err != nil {
		return fmt.Errorf("store: exception for %s: %w", x.Network, err)
	}
	e.exceptions.Store(policy.Replace(e.exceptions.Load(), x, gone))
	return nil
}

// LiftOverride removes the override and the exception on exactly this network, and says whether
// there was one.
func (e *Embedded) LiftOverride(n netip.Prefix) (lifted bool, err error) {
	override, err := lift(e, &e.overrides, n, overrideKey, func(policy.Override) bool { return true })
	if err != nil {
		return override, err
	}
	exception, err := lift(e, &e.exceptions, n, exceptionKey, func(policy.Exception) bool { return true })
	return override || exception, err
}

// Overrides are all overrides in the order of their networks.
func (e *Embedded) Overrides() []policy.Override { return e.overrides.Load().List() }

// Exceptions are all exceptions in the order of their hosts.
func (e *Embedded) Exceptions() []policy.Exception { return e.exceptions.Load().List() }

// KeptExceptions are all exceptions, by their hosts.
func (e *Embedded) KeptExceptions() *policy.Exceptions { return e.exceptions.Load() }

// exceptionTag ends the stored key of an exception.
const exceptionTag = 'm'

func overrideKey(n netip.Prefix) []byte {
	key, _ := n.MarshalBinary()
	return key
}

func exceptionKey(n netip.Prefix) []byte { return append(overrideKey(n), exceptionTag) }

// isException reports whether a stored key is that of an exception. A network's own has 5 or 17
// bytes.
func isException(key []byte) bool { return len(key) == 6 || len(key) == 18 }

// table is where overrides, or exceptions, are kept in memory.
type table[V ending] = atomic.Pointer[policy.Networks[V]]

// ending is an override or an exception.
type ending interface{ Ended(time.Time) bool }

// lift removes an override or exception, if there is one that matches, from disk and then from
// memory.
func lift[V ending](e *Embedded, t *table[V], n netip.Prefix, key func(netip.Prefix) []byte, match func(V) bool) (bool, error) {
	e.writing.Lock()
	defer e.writing.Unlock()
	v, ok := t.Load().Get(n)
	if !ok || !match(*v) {
		return false, nil
	}
	write := func(v *V) value { return func(b *bolt.Bucket) error { return put(b, key(n), v) } }
	if err := e.writeTwice(write(nil), write(v)); err != nil {
		return false, fmt.Errorf("store: override of %s: %w", n, err)
	}
	t.Store(t.Load().Without(n))
	e.writeCopy()
	return true, nil
}

// value puts values into the bucket of overrides.
type value func(*bolt.Bucket) error

// put puts a value under a key, or removes what is there.
func put[V ending](b *bolt.Bucket, key []byte, v *V) error {
	if v == nil {
		return b.Delete(key)
	}
	return putJSON(b, key, v)
}

// writeTwice puts values into the bucket of overrides, and then again: the file has two heads, and
// when the newer one is damaged, bbolt goes on silently from the one before, which then has the
// change, too. If the first write failed, it may be in the file all the same, because bbolt writes
// the head before it knows that it is on disk; then the second one puts the old value back.
func (e *Embedded) writeTwice(values, old value) error {
	<-e.Ready()
	e.committing.Lock()
	defer e.committing.Unlock()
	write := func(v value) error {
		return e.write(func(tx *bolt.Tx) error { return v(tx.Bucket(bucketOverrides)) })
	}
	err := write(values)
	if err != nil {
		values = old
	}
	if again := write(values); again != nil {
		e.log.Error("an override is in one half only of the head of the store's file, or was refused and is in it all the same", "file", e.path, "error", again)
	}
	return err
}
