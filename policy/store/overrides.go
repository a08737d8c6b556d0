package store

import (
	"encoding/json"
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
	return set(e, &e.overrides, o.Network, overrideKey, o)
}

// SetException makes an exception hold, in place of one for the same host. It is durable when this
// returns nil.
func (e *Embedded) SetException(x policy.Exception) error {
	if !e.early.over.Load() {
		// A session waits for it.
		return ErrStarting
	}
	return set(e, &e.exceptions, x.Network, exceptionKey, x)
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

// ExceptionCount is how many exceptions there are.
func (e *Embedded) ExceptionCount() int { return e.exceptions.Load().Size() }

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

// set writes an override or exception to disk and then to memory.
func set[V ending](e *Embedded, t *table[V], n netip.Prefix, key func(netip.Prefix) []byte, v V) error {
	e.writing.Lock()
	defer e.writing.Unlock()
	err := e.writeTwice(func(tx *bolt.Tx) error { return putJSON(tx.Bucket(bucketOverrides), key(n), v) })
	if err != nil {
		return fmt.Errorf("store: override of %s: %w", n, err)
	}
	t.Store(t.Load().With(n, &v))
	return nil
}

// lift removes an override or exception, if there is one that matches, from disk and then from
// memory.
func lift[V ending](e *Embedded, t *table[V], n netip.Prefix, key func(netip.Prefix) []byte, match func(V) bool) (bool, error) {
	e.writing.Lock()
	defer e.writing.Unlock()
	if v, ok := t.Load().Get(n); !ok || !match(*v) {
		return false, nil
	}
	if err := e.writeTwice(func(tx *bolt.Tx) error { return tx.Bucket(bucketOverrides).Delete(key(n)) }); err != nil {
		return false, fmt.Errorf("store: override of %s: %w", n, err)
	}
	t.Store(t.Load().Without(n))
	return true, nil
}

func putJSON(b *bolt.Bucket, key []byte, v any) error {
	value, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Put(key, value)
}

// writeTwice makes a change, and one more that changes nothing: the file has two heads, and when the
// newer one is damaged, bbolt goes on silently from the one before, which then has the change, too.
func (e *Embedded) writeTwice(change func(*bolt.Tx) error) error {
	<-e.Ready()
	e.committing.Lock()
	defer e.committing.Unlock()
	err := e.write(change)
	if err == nil {
		err = e.write(func(*bolt.Tx) error { return nil })
	}
	return err
}
