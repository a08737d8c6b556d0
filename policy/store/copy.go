package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
	bolt "go.etcd.io/bbolt"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/regular"
	"github.com/ehlogate/ehlogate/policy/reputation"
	"github.com/ehlogate/ehlogate/policy/store/bolted"
)

// CopyName is the name of the file that has a copy of the overrides. Where the store's file is
// damaged, they are read from there: they are the operator's own, and cannot be learnt again.
const CopyName = "overrides.json"

// mostCopy is how much of it is read, in bytes.
const mostCopy = 1 << 30

// overridesCopy is what is in that file, with a checksum over the overrides.
type overridesCopy struct {
	Sum       uint32          `json:"crc32c"`
	Overrides json.RawMessage `json:"overrides"`
}

func (e *Embedded) copyPath() string { return filepath.Join(filepath.Dir(e.path), CopyName) }

// writeCopy writes the copy of the overrides, unless it is up to date. That it cannot is no reason
// to refuse an override; but a copy that is out of date is removed, and written later.
func (e *Embedded) writeCopy() {
	began := time.Now()
	defer func() { e.copiedAt, e.copyTook = time.Now(), time.Since(began) }()
	all := append([]policy.Override{}, e.Overrides()...)
	list, err := json.Marshal(all)
	var text []byte
	if err == nil {
		text, err = json.Marshal(overridesCopy{crc32.Checksum(list, castagnoli), list})
	}
	text = append(text, '\n')
	if old, oldErr := regular.ReadFile(e.copyPath(), mostCopy); err == nil && oldErr == nil && bytes.Equal(old, text) {
		e.copied = true
		return
	}
	if err == nil {
		err = renameio.WriteFile(e.copyPath(), text, fileMode)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(e.copyPath()))
		if e.copied {
			e.log.Error("the copy of the overrides cannot be written", "file", e.copyPath(), "error", err)
		}
	}
	e.copied = err == nil
}

// dropCopy removes a copy that is out of date, until the next look after it.
func (e *Embedded) dropCopy() {
	if err := os.Remove(e.copyPath()); err == nil || errors.Is(err, os.ErrNotExist) {
		e.copied = false
	}
}

// readCopy takes the overrides from their copy, if that is sound.
func (e *Embedded) readCopy() {
	text, err := regular.ReadFile(e.copyPath(), mostCopy)
	var c overridesCopy
	var all []policy.Override
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err == nil && crc32.Checksum(c.Overrides, castagnoli) != c.Sum {
		err = errors.New("wrong checksum")
	}
	if err == nil {
		err = json.Unmarshal(c.Overrides, &all)
	}
	if err != nil {
		e.found.note(e.log, fmt.Sprintf("overrides may be lost: %d could be read, and there is no sound copy of them; look at \"ehlogate overrides\", and set again what is missing, or load a dump", len(e.Overrides())), "file", e.copyPath(), "error", err)
		return
	}
	table := policy.NewNetworks[policy.Override]()
	for _, o := range all {
		if o.Network.IsValid() {
			table.Insert(o.Network, &o)
		}
	}
	e.overrides.Store(table)
}

// crcMark is what the checksum begins with, at the end of an override or an exception. It cannot be
// part of a string in JSON.
const crcMark = `,"crc32c":`

// putJSON writes an override or an exception, with a checksum over its key and itself.
func putJSON(b *bolt.Bucket, key []byte, v any) error {
	value, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Put(key, fmt.Appendf(value[:len(value)-1:len(value)-1], "%s%d}", crcMark, checksum(key, value)))
}

// loadInto reads an override or an exception into its table. Those of earlier versions have no
// checksum, those of later ones may have keys that this one does not know.
func loadInto[V ending](t *table[V], stored, value []byte, networkOf func(*V) netip.Prefix) error {
	v := new(V)
	sum := struct {
		CRC *uint32 `json:"crc32c"`
	}{}
	if err := errors.Join(json.Unmarshal(value, v), json.Unmarshal(value, &sum)); err != nil {
		return err
	}
	n := networkOf(v)
	summed := value
	if i := bytes.LastIndex(value, []byte(crcMark)); i >= 0 {
		summed = append(value[:i:i], '}')
	}
	switch {
	case !n.IsValid() || string(stored[:min(len(stored), len(overrideKey(n)))]) != string(overrideKey(n)):
		return errors.New("of another network than its key")
	case sum.CRC != nil && checksum(stored, summed) != *sum.CRC:
		return errors.New("wrong checksum")
	}
	t.Store(t.Load().With(n, v))
	return nil
}

// scrub compares the file with what is in memory. committing is held, and nothing is dirty.
func (e *Embedded) scrub() error {
	if err := bolted.Check(e.path); err != nil {
		return damaged(e.path, err)
	}
	kept, stored := 0, 0
	e.Memory.Each(func(r policy.Record) error {
		if r.Evidence != (reputation.Evidence{}) {
			kept++
		}
		return nil
	})
	err := guard(e.path, func() error {
		return e.db.View(func(tx *bolt.Tx) error {
			if n := tx.Bucket(bucketOverrides).Stats().KeyN; n != e.overrides.Load().Size()+e.exceptions.Load().Size() {
				return fmt.Errorf("%d overrides and exceptions", n)
			}
			return tx.Bucket(bucketEvidence).ForEach(func(k, v []byte) error {
				key, record, err := readEvidence(k, v)
				if err == nil && record != recordOf(e.get(key)) {
					err = fmt.Errorf("record of %s: not what was written", key)
				}
				stored++
				return err
			})
		})
	})
	if err == nil && stored < kept {
		err = fmt.Errorf("%d records of %d", stored, kept)
	}
	if err != nil {
		return damaged(e.path, err)
	}
	return nil
}
