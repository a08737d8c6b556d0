package store

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/gaissmai/bart"
	bolt "go.etcd.io/bbolt"

	"github.com/ehlogate/ehlogate/policy"
)

// SetOverride makes an override hold, in place of one on the same network; the operator's and the daemon's own do not replace each other. It
// is durable when this returns nil.
func (e *Embedded) SetOverride(o policy.Override) error {
	value, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("store: override of %s: %w", o.Network, err)
	}
	return e.changeOverride(o, func(b *bolt.Bucket, key []byte) error { return b.Put(key, value) }, func() {
		table := e.tableOf(&o)
		table.Store(table.Load().InsertPersist(o.Network, o))
	})
}

// LiftOverride removes the operator's override on exactly this network, and the daemon's own, and says whether there was one.
func (e *Embedded) LiftOverride(n netip.Prefix) (lifted bool, err error) {
	for _, table := range []*atomic.Pointer[bart.Table[policy.Override]]{&e.overrides, &e.marks} {
		o, ok := table.Load().Get(n)
		if !ok {
			continue
		}
		if err := e.lift(o); err != nil {
			return lifted, err
		}
		lifted = true
	}
	return lifted, nil
}

func (e *Embedded) lift(o policy.Override) error {
	return e.changeOverride(o, (*bolt.Bucket).Delete, func() {
		table := e.tableOf(&o)
		table.Store(table.Load().DeletePersist(o.Network))
	})
}

// Overrides are all overrides of the operator in the order of their networks.
func (e *Embedded) Overrides() []policy.Override { return sorted(e.overrides.Load()) }

// Marks are all overrides of the daemon's own in the order of their networks.
func (e *Embedded) Marks() []policy.Override { return sorted(e.marks.Load()) }

// Marked is how many marks there are.
func (e *Embedded) Marked() int { return e.marks.Load().Size() }

func sorted(table *bart.Table[policy.Override]) (all []policy.Override) {
	for _, o := range table.AllSorted() {
		all = append(all, o)
	}
	return all
}

// markTag ends the stored key of a mark.
const markTag = 'm'

// changeOverride writes a change to disk and then to memory, one at a time.
func (e *Embedded) changeOverride(o policy.Override, write func(*bolt.Bucket, []byte) error, remember func()) error {
	e.writing.Lock()
	defer e.writing.Unlock()
	key, err := o.Network.MarshalBinary()
	if err != nil {
		return fmt.Errorf("store: override of %s: %w", o.Network, err)
	}
	if o.Cause != "" {
		key = append(key, markTag)
	}
	if err := e.db.Update(func(tx *bolt.Tx) error { return write(tx.Bucket(bucketOverrides), key) }); err != nil {
		return fmt.Errorf("store: override of %s: %w", o.Network, err)
	}
	remember()
	return nil
}
