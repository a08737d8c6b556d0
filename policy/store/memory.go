package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

// Memory keeps evidence in memory and nowhere else: what the embedded store answers from, and what
// a replay needs.
type Memory struct {
	tier policy.Tiering
	now  func() time.Time

	seed   maphash.Seed
	shards [shards]shard
	// count is how many records there are, most how many may be; 0 is without bound.
	count atomic.Int64
	most  int
	// isNetwork tells networks from hosts, for those that have to go.
	isNetwork func(netip.Prefix) bool
	// Both tables are replaced whole by writers, one at a time.
	overrides  atomic.Pointer[policy.Networks[policy.Override]]
	exceptions atomic.Pointer[policy.Networks[policy.Exception]]
}

// shards is how many parts the records are in, each with a lock of its own, which nobody holds for
// longer than it takes to go through one.
const (
	shardBits = 10
	shards    = 1 << shardBits
)

type shard struct {
	sync.RWMutex
	records
}

// key is what evidence is kept of: a host or a network, else an autonomous system.
type key struct {
	network netip.Prefix
	asn     uint32
}

func (k key) String() string {
	if k.asn != 0 {
		return fmt.Sprintf("AS%d", k.asn)
	}
	return k.network.String()
}

// systemTag starts the stored key of an autonomous system; four bytes of number follow. No
// network's key is six bytes long.
const systemTag = "SA"

func (k key) AppendBinary(b []byte) ([]byte, error) {
	if k.asn != 0 {
		return binary.BigEndian.AppendUint32(append(b, systemTag...), k.asn), nil
	}
	return k.network.AppendBinary(b)
}

func (k *key) UnmarshalBinary(b []byte) error {
	if number, ok := bytes.CutPrefix(b, []byte(systemTag)); ok && len(number) == 4 {
		k.asn = binary.BigEndian.Uint32(number)
		return nil
	}
	return k.network.UnmarshalBinary(b)
}

// compare is an order near that of the stored keys, so that a commit goes through the file once.
func (k key) compare(other key) int {
	return cmp.Or(cmp.Compare(k.asn, other.asn), k.network.Compare(other.network))
}

func keysOf(k policy.Keys) []key {
	keys := []key{{network: k.Host}, {network: k.Network}}
	if k.ASN != 0 {
		keys = append(keys, key{asn: k.ASN})
	}
	return keys
}

// NewMemory returns an empty memory. A host's tier follows a change as tier says; times that lie
// ahead of the clock are healed.
func NewMemory(tier policy.Tiering, now func() time.Time) *Memory {
	m := &Memory{tier: tier, now: now, seed: maphash.MakeSeed()}
	for i := range m.shards {
		m.shards[i].records = newRecords()
	}
	m.overrides.Store(policy.NewNetworks[policy.Override]())
	m.exceptions.Store(policy.NewNetworks[policy.Exception]())
	return m
}

// Recall returns what is known of an address.
func (m *Memory) Recall(addr netip.Addr, k policy.Keys, now time.Time) policy.Known {
	known := policy.Known{
		Host: m.get(key{network: k.Host}).Heal(now), Network: m.get(key{network: k.Network}).Heal(now),
	}
	if k.ASN != 0 {
		known.AS = m.get(key{asn: k.ASN}).Heal(now)
	}
	known.Override, known.Exception = m.overrides.Load().Holds(addr, now), m.exceptions.Load().Holds(addr, now)
	return known
}

// durable is what a lesson yields that has nowhere else to go.
var durable = func() <-chan error { c := make(chan error); close(c); return c }()

// Learn adds a lesson; see policy.Store. The channel yields at once.
func (m *Memory) Learn(k policy.Keys, l policy.Lesson) <-chan error {
	var before, after policy.Known
	var moved reputation.Move
	m.update(key{network: k.Host}, func(v reputation.Evidence) reputation.Evidence {
		before.Host = v
		v, moved = v.Add(l.At, l.Spam, l.Ham)
		return v
	})
	move := func(into key, before, after *reputation.Evidence) {
		m.update(into, func(v reputation.Evidence) reputation.Evidence {
			*before, *after = v, v.Apply(moved)
			return *after
		})
	}
	move(key{network: k.Network}, &before.Network, &after.Network)
	if k.ASN != 0 {
		move(key{asn: k.ASN}, &before.AS, &after.AS)
	}
	// Others may have learnt of the host meanwhile: the tier is that of all that is known now.
	m.update(key{network: k.Host}, func(v reputation.Evidence) reputation.Evidence {
		after.Host = v
		return m.tier(before, after)
	})
	return durable
}

// forget removes the evidence of every host and network inside a network, and takes the hosts'
// parts out of the networks and autonomous systems around them that stay. It returns the keys that
// are gone and those that changed.
func (m *Memory) forget(n netip.Prefix, cut func(netip.Addr) policy.Keys) (gone, changed []key) {
	hosts := map[key]reputation.Evidence{}
	gone = m.remove(func(k key, v reputation.Evidence) bool {
		if k.asn != 0 || n.Bits() > k.network.Bits() || !n.Contains(k.network.Addr()) {
			return false
		}
		hosts[k] = v.Heal(m.now())
		return true
	})
	for h, evidence := range hosts {
		k := cut(h.network.Addr())
		if k.Host != h.network {
			continue
		}
		for _, around := range keysOf(k)[1:] {
			if _, gone := hosts[around]; gone {
				continue
			}
			m.update(around, func(v reputation.Evidence) reputation.Evidence { return v.Without(evidence) })
			changed = append(changed, around)
		}
	}
	return gone, changed
}

// Len is the number of records kept.
func (m *Memory) Len() int { return int(m.count.Load()) }

// Each calls f for every record until it returns an error, which it returns. Records that change
// meanwhile may be seen before or after the change.
func (m *Memory) Each(f func(policy.Record) error) error {
	type pair struct {
		key
		record
	}
	var some []pair
	for i := range m.shards {
		s := &m.shards[i]
		some = some[:0]
		s.RLock()
		for k, v := range s.all() {
			some = append(some, pair{k, v})
		}
		s.RUnlock()
		for _, p := range some {
			if err := f(policy.Record{Network: p.network, ASN: p.asn, Evidence: p.evidence()}); err != nil {
				return err
			}
		}
	}
	return nil
}

// join adds records of another store to what is known, given the network of a host. A host that
// both know speaks in its network as one.
func (m *Memory) join(records []policy.Record, networkOf func(netip.Prefix) netip.Prefix) (changed []key) {
	for _, r := range records {
		k := key{r.Network, r.ASN}
		more := r.Evidence.Heal(m.now())
		var before reputation.Evidence
		m.update(k, func(v reputation.Evidence) reputation.Evidence {
			before = v
			return reputation.Merge(v, more)
		})
		changed = append(changed, k)
		around := key{network: r.Network}
		if r.ASN == 0 {
			around.network = networkOf(r.Network)
		}
		if around.network != r.Network {
			m.update(around, func(v reputation.Evidence) reputation.Evidence { return v.Rejoin(before, more) })
			changed = append(changed, around)
		}
	}
	return changed
}

// restore adds the hosts and autonomous systems among records that are not known, given the network
// of a host.
func (m *Memory) restore(records []policy.Record, networkOf func(netip.Prefix) netip.Prefix) (changed []key) {
	for _, r := range records {
		k, around := key{r.Network, r.ASN}, key{}
		if r.ASN == 0 {
			around.network = networkOf(r.Network)
		}
		if around.network == r.Network && r.ASN == 0 || m.get(k) != (reputation.Evidence{}) {
			continue
		}
		evidence := r.Evidence.Heal(m.now())
		m.update(k, func(reputation.Evidence) reputation.Evidence { return evidence })
		changed = append(changed, k)
		if r.ASN == 0 {
			m.update(around, func(v reputation.Evidence) reputation.Evidence { return v.With(evidence) })
			changed = append(changed, around)
		}
	}
	return changed
}

// Expire removes records in which nothing counts any more and returns how many.
func (m *Memory) Expire(now time.Time) int {
	return len(m.remove(func(_ key, v reputation.Evidence) bool { return v.Empty(now) }))
}

func (m *Memory) shard(k key) *shard { return &m.shards[m.shardNumber(k)] }

func (m *Memory) shardNumber(k key) uint64 {
	if k.asn == 0 && k.network.Addr().Is4() {
		// Most are, and a number is hashed faster.
		return shardOf(maphash.Comparable(m.seed, pack4(k.network)))
	}
	return shardOf(maphash.Comparable(m.seed, k))
}

// shardOf is the shard of a hash. The last shard gets twice as many as the first, and those between
// them the more the later they are: a map doubles when it is full, and if all were as large, all
// would do so at the same time, and be half empty then.
func shardOf(hash uint64) uint64 {
	const bits = 30
	u := hash >> (64 - bits)
	// The integral of a share that grows: u*(4-u)/3 of u from 0 to 1.
	return u * (4<<bits - u) / 3 >> (2*bits - shardBits)
}

func (m *Memory) get(k key) reputation.Evidence {
	s := m.shard(k)
	s.RLock()
	v, ok := s.find(k)
	s.RUnlock()
	if !ok {
		return reputation.Evidence{}
	}
	return v.evidence()
}

// update changes a record, healed.
func (m *Memory) update(k key, f func(reputation.Evidence) reputation.Evidence) {
	s := m.shard(k)
	s.Lock()
	defer s.Unlock()
	v, ok := s.find(k)
	var e reputation.Evidence
	if ok {
		e = v.evidence()
	} else {
		m.count.Add(1)
	}
	s.put(k, recordOf(f(e.Heal(m.now()))))
}

// remove deletes the records that match and returns their keys.
func (m *Memory) remove(match func(key, reputation.Evidence) bool) (gone []key) {
	for i := range m.shards {
		gone = append(gone, m.removeFrom(&m.shards[i], match)...)
	}
	return gone
}

func (m *Memory) removeFrom(s *shard, match func(key, reputation.Evidence) bool) (gone []key) {
	s.Lock()
	defer s.Unlock()
	for k, v := range s.all() {
		if match(k, v.evidence()) {
			s.delete(k)
			gone = append(gone, k)
		}
	}
	m.count.Add(-int64(len(gone)))
	return gone
}

// heal heals the records of a shard and returns the keys of those that changed.
func (m *Memory) heal(s *shard) (changed []key) {
	now := m.now()
	s.Lock()
	defer s.Unlock()
	for k, v := range s.all() {
		e := v.evidence()
		if healed := e.Heal(now); healed != e {
			s.put(k, recordOf(healed))
			changed = append(changed, k)
		}
	}
	return changed
}
