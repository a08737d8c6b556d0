package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"runtime"
	"slices"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"github.com/ehlogate/ehlogate/policy/reputation"
	"github.com/ehlogate/ehlogate/policy/store/bolted"
)

// pair is a key and a value of the file.
type pair struct{ key, value []byte }

// readTogether is how many records are taken into memory together: as many as make it worth while
// to put those of a shard there one after another, while it is in the processor's cache.
const readTogether = 1 << 14

// readEvidence checks all of the file and takes the evidence in it into memory: one goes through
// the file, others look at the records that it finds, and keep them.
func (e *Embedded) readEvidence() error {
	found := make(chan []pair, 2*runtime.NumCPU())
	var loading errgroup.Group
	for range runtime.NumCPU() {
		loading.Go(func() (err error) {
			// To the end, even after an error, so that nobody waits for room.
			for pairs := range found {
				err = cmp.Or(err, e.loadEvidence(pairs))
			}
			return err
		})
	}
	pairs := make([]pair, 0, readTogether)
	err := bolted.Walk(e.path, func(bucket, k, v []byte) {
		if !bytes.Equal(bucket, bucketEvidence) {
			return
		}
		if pairs = append(pairs, pair{k, v}); len(pairs) == readTogether {
			found <- pairs
			pairs = make([]pair, 0, readTogether)
		}
	})
	found <- pairs
	close(found)
	if err = cmp.Or(err, loading.Wait()); err != nil {
		return damaged(e.path, err)
	}
	return nil
}

// loadEvidence takes up to readTogether records into memory, without those that are damaged.
func (e *Embedded) loadEvidence(pairs []pair) (first error) {
	keys, records := make([]key, len(pairs)), make([]record, len(pairs))
	// The number of a record's shard, and its own.
	order := make([]int, 0, len(pairs))
	for i, p := range pairs {
		var err error
		if keys[i], records[i], err = readEvidence(p.key, p.value); err == nil {
			order = append(order, int(e.shardNumber(keys[i]))*readTogether+i)
		}
		first = cmp.Or(first, err)
	}
	slices.Sort(order)
	for _, o := range order {
		s, i := &e.shards[o/readTogether], o%readTogether
		s.Lock()
		s.put(keys[i], records[i])
		s.Unlock()
	}
	e.count.Add(int64(len(order)))
	return first
}

// readEvidence checks a stored key and its value.
func readEvidence(stored, value []byte) (k key, v record, err error) {
	if err := k.UnmarshalBinary(stored); err != nil || k.asn == 0 && !k.network.IsValid() {
		return k, v, fmt.Errorf("key %x: not a network or an autonomous system", stored)
	}
	if len(value) != len(v)+4 {
		return k, v, fmt.Errorf("record of %s: %d bytes", k, len(value))
	}
	if checksum(stored, value[:len(v)]) != binary.BigEndian.Uint32(value[len(v):]) {
		return k, v, fmt.Errorf("record of %s: wrong checksum", k)
	}
	copy(v[:], value)
	if err := new(reputation.Evidence).UnmarshalBinary(v[:]); err != nil {
		return k, v, fmt.Errorf("record of %s: %w", k, err)
	}
	return k, v, nil
}

// putEvidence writes a record, or removes it when it is zero.
func putEvidence(tx *bolt.Tx, n key, v reputation.Evidence) error {
	stored, err := n.AppendBinary(nil)
	if err != nil {
		return err
	}
	b := tx.Bucket(bucketEvidence)
	if v == (reputation.Evidence{}) {
		return b.Delete(stored)
	}
	record, err := v.AppendBinary(make([]byte, 0, reputation.RecordSize+4))
	if err != nil {
		return err
	}
	return b.Put(stored, binary.BigEndian.AppendUint32(record, checksum(stored, record)))
}

func checksum(key, record []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, record)
}
