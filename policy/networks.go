package policy

import (
	"net/netip"
	"time"

	"github.com/gaissmai/bart"
)

// Networks is a table of overrides, or of exceptions, by their networks. Stores keep one of each.
type Networks[V interface{ Ended(time.Time) bool }] struct{ *bart.Table[*V] }

// NewNetworks returns an empty table.
func NewNetworks[V interface{ Ended(time.Time) bool }]() *Networks[V] {
	return &Networks[V]{new(bart.Table[*V])}
}

// Holds is the entry of the longest network around an address that has not ended, nil if there is
// none.
func (n *Networks[V]) Holds(addr netip.Addr, now time.Time) *V {
	v, ok := n.Lookup(addr)
	if !ok || !(*v).Ended(now) {
		return v
	}
	for _, v := range n.Supernets(netip.PrefixFrom(addr, addr.BitLen())) {
		if !(*v).Ended(now) {
			return v
		}
	}
	return nil
}

// HoldsAll is Holds for all of a network: the entry of the longest network around it.
func (n *Networks[V]) HoldsAll(network netip.Prefix, now time.Time) *V {
	for _, v := range n.Supernets(network) {
		if !(*v).Ended(now) {
			return v
		}
	}
	return nil
}

// List is all entries in the order of their networks.
func (n *Networks[V]) List() (all []V) {
	for _, v := range n.AllSorted() {
		all = append(all, *v)
	}
	return all
}

// With is the table with one more entry, in place of that of the same network.
func (n *Networks[V]) With(network netip.Prefix, v *V) *Networks[V] {
	return &Networks[V]{n.InsertPersist(network, v)}
}

// Without is the table without the entry of a network.
func (n *Networks[V]) Without(network netip.Prefix) *Networks[V] {
	return &Networks[V]{n.DeletePersist(network)}
}
