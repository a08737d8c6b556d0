package store

import (
	"encoding/json"
	"fmt"
	"net/netip"

	bolt "go.etcd.io/bbolt"

	"github.com/ehlogate/ehlogate/policy"
)

// SetOverride makes an override hold, in place of one on the same network. It is durable when this returns nil.
func (e *Embedded) SetOverride(o policy.Override) error {
	value, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("store: override of %s: %w", o.Network, err)
	}
	return e.changeOverride(o.Network, func(b *bolt.Bucket, key []byte) error { return b.Put(key, value) }, func() {
		e.overrides.Store(e.overrides.Load().InsertPersist(o.Network, o))
	})
}

// LiftOverride removes the override on exactly this network and says whether there was one.
func (e *Embedded) LiftOverride(n netip.Prefix) (bool, error) {
	if _, ok := e.overrides.Load().Get(n); !ok {
		return false, nil
	}
	return true, e.changeOverride(n, (*bolt.Bucket).Delete, func() {
		e.overrides.Store(e.overrides.Load().DeletePersist(n))
	})
}

// Overrides are all overrides in the order of their networks.
func (e *Embedded) Overrides() []policy.Override {
	var all []policy.Override
	for _, o := range e.overrides.Load().AllSorted() {
		all = append(all, o)
	}
	return all
}

// changeOverride writes a change to disk and then to memory, one at a time.
func (e *Embedded) changeOverride(n netip.Prefix, write func(*bolt.Bucket, []byte) error, remember func()) error {
	e.writing.Lock()
	defer e.writing.Unlock()
	key, err := n.MarshalBinary()
	if err != nil {
		return fmt.Errorf("store: override of %s: %w", n, err)
	}
	if err := e.db.Update(func(tx *bolt.Tx) error { return write(tx.Bucket(bucketOverrides), key) }); err != nil {
		return fmt.Errorf("store: override of %s: %w", n, err)
	}
	remember()
	return nil
}
