package store

import (
	"time"

	"github.com/ehlogate/ehlogate/policy/reputation"
)

const (
	// DefaultMostRecords is how many records are kept at most where nothing else is configured.
	DefaultMostRecords = 2_000_000
	// beyond is the share of the most that may be kept beyond it for a moment, and is taken off
	// below it: a walk through all records makes room for many.
	beyond = 64
	// hamStays and networkStays are how much longer a record with ham, and one of a network, is
	// kept than one of a host that has sent only spam: an honest sender may be a rare one, and a
	// network speaks for its hosts that are gone.
	hamStays     = 72 * time.Hour
	networkStays = 24 * time.Hour
)

// turn is the recent slice after which a record is due to go, where not all can be kept: the one in
// which something was last heard, and later where it is worth more. What goes first is silent
// longest.
func (m *Memory) turn(k key, e reputation.Evidence) uint32 {
	n := e.Newest
	if e.Total().Ham > 0 {
		n += uint32(hamStays / reputation.SliceWidth)
	}
	if m.isNetwork != nil && m.isNetwork(k.network) {
		n += uint32(networkStays / reputation.SliceWidth)
	}
	return n
}

// crowded reports whether more records are kept than may be.
func (m *Memory) crowded() bool {
	return m.most > 0 && m.Len() > m.most+m.most/beyond
}

// makeRoom removes the records that are missed least until there is room again, and shows the keys
// of those that are gone, some at a time. What a host said in its network stays there. Autonomous
// systems, of which there are few, stay.
func (m *Memory) makeRoom(gone func([]key)) {
	excess := m.Len() - (m.most - m.most/beyond)
	byTurn := map[uint32]int{}
	for i := range m.shards {
		s := &m.shards[i]
		s.RLock()
		for k, v := range s.all() {
			if k.asn == 0 {
				byTurn[m.turn(k, v.evidence())]++
			}
		}
		s.RUnlock()
	}
	// last is the turn at which enough are gone, of which only some go.
	last := uint32(0)
	for excess > 0 && len(byTurn) > 0 {
		last = ^uint32(0)
		for t := range byTurn {
			last = min(last, t)
		}
		if excess <= byTurn[last] {
			break
		}
		excess -= byTurn[last]
		delete(byTurn, last)
	}
	for i := range m.shards {
		some := m.removeFrom(&m.shards[i], func(k key, v reputation.Evidence) bool {
			if k.asn != 0 {
				return false
			}
			switch t := m.turn(k, v); {
			case t < last:
				return true
			case t == last && excess > 0:
				excess--
				return true
			}
			return false
		})
		if len(some) > 0 {
			gone(some)
		}
	}
}

// bound removes records if there are too many.
func (e *Embedded) bound() {
	e.bounding.Lock()
	defer e.bounding.Unlock()
	if e.crowded() {
		before := e.Len()
		e.makeRoom(e.removed)
		e.Stats.Crowded.Add(uint64(max(0, before-e.Len())))
	}
}
