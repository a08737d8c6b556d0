package store

import (
	"encoding/binary"
	"iter"
	"net/netip"

	"github.com/ehlogate/ehlogate/policy/reputation"
)

// records are evidence by key, kept small: a record is held as it is written to disk, under a key
// of as few bytes as tell it from the others.
type records struct {
	// v4 has IPv4 hosts and networks: the address, and the prefix length in the last byte.
	v4      map[uint64]record
	v6      map[key6]record
	systems map[uint32]record
}

type record [reputation.RecordSize]byte

// key6 is an IPv6 host or network.
type key6 struct {
	addr [16]byte
	bits uint8
}

func newRecords() records {
	return records{map[uint64]record{}, map[key6]record{}, map[uint32]record{}}
}

func pack4(n netip.Prefix) uint64 {
	a := n.Addr().As4()
	return uint64(binary.BigEndian.Uint32(a[:]))<<8 | uint64(n.Bits())
}

func unpack4(k uint64) netip.Prefix {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], uint32(k>>8))
	return netip.PrefixFrom(netip.AddrFrom4(a), int(k&0xff))
}

func pack6(n netip.Prefix) key6 { return key6{n.Addr().As16(), uint8(n.Bits())} }

func (k key6) unpack() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16(k.addr), int(k.bits))
}

// find returns the record of a key, and whether there is one.
func (r *records) find(k key) (v record, ok bool) {
	switch {
	case k.asn != 0:
		v, ok = r.systems[k.asn]
	case k.network.Addr().Is4():
		v, ok = r.v4[pack4(k.network)]
	default:
		v, ok = r.v6[pack6(k.network)]
	}
	return v, ok
}

func (r *records) put(k key, v record) {
	switch {
	case k.asn != 0:
		r.systems[k.asn] = v
	case k.network.Addr().Is4():
		r.v4[pack4(k.network)] = v
	default:
		r.v6[pack6(k.network)] = v
	}
}

func (r *records) delete(k key) {
	switch {
	case k.asn != 0:
		delete(r.systems, k.asn)
	case k.network.Addr().Is4():
		delete(r.v4, pack4(k.network))
	default:
		delete(r.v6, pack6(k.network))
	}
}

func (r *records) len() int { return len(r.v4) + len(r.v6) + len(r.systems) }

func (r *records) all() iter.Seq2[key, record] {
	return func(yield func(key, record) bool) {
		for k, v := range r.v4 {
			if !yield(key{network: unpack4(k)}, v) {
				return
			}
		}
		for k, v := range r.v6 {
			if !yield(key{network: k.unpack()}, v) {
				return
			}
		}
		for k, v := range r.systems {
			if !yield(key{asn: k}, v) {
				return
			}
		}
	}
}

// evidence decodes a record, which is sound: it was encoded here, or checked when it was read.
func (v *record) evidence() (e reputation.Evidence) {
	e.UnmarshalBinary(v[:])
	return e
}

// recordOf encodes evidence.
func recordOf(e reputation.Evidence) (v record) {
	e.AppendBinary(v[:0])
	return v
}
