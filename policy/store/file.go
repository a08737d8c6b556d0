package store

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

// The file's buckets. Meta has the format, the layout, the store's own name, and how far each dump
// was loaded. An evidence key is the network's address and one byte of prefix length, or "SA" and
// the number of an autonomous system; its value is the record of package reputation and a CRC-32C
// over key and record, because bbolt checks its own pages but not what is in them.
var (
	bucketMeta      = []byte("meta")
	bucketEvidence  = []byte("evidence")
	bucketOverrides = []byte("overrides")
	keyFormat       = []byte("format")
	keyLayout       = []byte("layout")
	keyID           = []byte("id")
	prefixLoaded    = []byte("loaded ")
	castagnoli      = crc32.MakeTable(crc32.Castagnoli)
)

// format names the file's schema. Another one is refused.
const format = "ehlogate evidence 2"

// openFile reads the file into the store with a lock that lets nobody write, and only if all of it
// is sound opens it for writing.
func openFile(path string, e *Embedded) (*bolt.DB, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist), err == nil && info.Size() == 0:
		if err := begin(path, e); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, fmt.Errorf("store: %w", err)
	default:
		if err := guard(path, func() error { return load(path, info.Size(), e) }); err != nil {
			return nil, err
		}
	}
	var db *bolt.DB
	err = guard(path, func() (err error) {
		if db, err = bolt.Open(path, 0o640, &bolt.Options{Timeout: time.Second}); err != nil {
			return explain(path, err)
		}
		if err := db.Update(e.create); err != nil {
			return errors.Join(explain(path, err), db.Close())
		}
		return nil
	})
	return db, err
}

// begin makes a new file under another name, and gives it its own only when it is whole: a first
// start can be interrupted at any moment. Of two that begin at once, one's is taken.
func begin(path string, e *Embedded) error {
	const unfinished = FileName + ".new-"
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), unfinished+"*"))
	for _, l := range left {
		if info, err := os.Stat(l); err == nil && time.Since(info.ModTime()) > time.Minute {
			os.Remove(l)
		}
	}
	f, err := os.CreateTemp(filepath.Dir(path), unfinished)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	part := f.Name()
	defer os.Remove(part)
	f.Close()
	db, err := bolt.Open(part, 0o640, nil)
	if err == nil {
		err = errors.Join(db.Update(e.create), db.Close(), os.Chmod(part, 0o640))
	}
	if err != nil {
		return fmt.Errorf("store: %s cannot be made: %w", path, err)
	}
	// An empty file of that name is nobody's.
	if info, err := os.Stat(path); err == nil && info.Size() == 0 {
		os.Remove(path)
	}
	if err := os.Link(part, path); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// create makes what a new file has, and gives a file of an earlier version its layout and name.
func (e *Embedded) create(tx *bolt.Tx) error {
	for _, name := range [][]byte{bucketMeta, bucketEvidence, bucketOverrides} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	meta := tx.Bucket(bucketMeta)
	if id := meta.Get(keyID); id != nil {
		e.id = string(id)
	} else {
		e.id = rand.Text()
		if err := meta.Put(keyID, []byte(e.id)); err != nil {
			return err
		}
	}
	if err := meta.Put(keyLayout, []byte(e.layout)); err != nil {
		return err
	}
	return meta.Put(keyFormat, []byte(format))
}

// load reads everything, so that damage anywhere is found before anything is written.
func load(path string, size int64, e *Embedded) error {
	db, err := bolt.Open(path, 0, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return explain(path, err)
	}
	defer db.Close()
	return db.View(func(tx *bolt.Tx) error {
		if tx.Size() > size {
			return damaged(path, fmt.Errorf("%d bytes long, should be %d", size, tx.Size()))
		}
		if first, _ := tx.Cursor().First(); first == nil {
			// An interrupted first start of an earlier version left it.
			return nil
		}
		meta, evidence, overrides := tx.Bucket(bucketMeta), tx.Bucket(bucketEvidence), tx.Bucket(bucketOverrides)
		if meta == nil || evidence == nil || overrides == nil {
			return fmt.Errorf("store: %s is a database of another program; choose another directory in store.url", path)
		}
		if got := string(meta.Get(keyFormat)); got != format {
			return fmt.Errorf("store: %s has format %q, this program reads %q; use the version that wrote it, or another directory in store.url", path, got, format)
		}
		if got := string(meta.Get(keyLayout)); got != "" && got != e.layout {
			return fmt.Errorf("store: %s holds evidence of another layout (%s) than this configuration's (%s); set reputation.ipv4_network, ipv6_host and ipv6_network as they were, or move the file away to start with nothing", path, got, e.layout)
		}
		cursor := meta.Cursor()
		for k, v := cursor.Seek(prefixLoaded); bytes.HasPrefix(k, prefixLoaded) && len(v) == 8; k, v = cursor.Next() {
			e.loaded[string(k[len(prefixLoaded):])] = binary.BigEndian.Uint64(v)
		}
		if err := evidence.ForEach(e.loadEvidence); err != nil {
			return damaged(path, err)
		}
		if err := overrides.ForEach(e.loadOverride); err != nil {
			return damaged(path, err)
		}
		return nil
	})
}

func (e *Embedded) loadEvidence(stored, value []byte) error {
	var n key
	if err := n.UnmarshalBinary(stored); err != nil {
		return fmt.Errorf("key %x: %w", stored, err)
	}
	if len(value) < 4 {
		return fmt.Errorf("record of %s: %d bytes", n, len(value))
	}
	record, sum := value[:len(value)-4], binary.BigEndian.Uint32(value[len(value)-4:])
	if checksum(stored, record) != sum {
		return fmt.Errorf("record of %s: wrong checksum", n)
	}
	var v reputation.Evidence
	if err := v.UnmarshalBinary(record); err != nil {
		return fmt.Errorf("record of %s: %w", n, err)
	}
	e.shard(n).evidence[n] = v
	return nil
}

func (e *Embedded) loadOverride(key, value []byte) (err error) {
	if isException(key) {
		x := new(policy.Exception)
		if err = json.Unmarshal(value, x); err == nil {
			e.exceptions.Load().Insert(x.Network, x)
		}
	} else {
		o := new(policy.Override)
		if err = json.Unmarshal(value, o); err == nil {
			e.overrides.Load().Insert(o.Network, o)
		}
	}
	if err != nil {
		return fmt.Errorf("override %x: %w", key, err)
	}
	return nil
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

// putLoaded writes how far dumps were loaded.
func putLoaded(tx *bolt.Tx, loaded map[string]uint64) error {
	for dump, chunk := range loaded {
		if err := tx.Bucket(bucketMeta).Put(append(bytes.Clone(prefixLoaded), dump...), binary.BigEndian.AppendUint64(nil, chunk)); err != nil {
			return err
		}
	}
	return nil
}

func checksum(key, record []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, record)
}

// guard turns a panic of bbolt on a damaged page, and a fault in its mapping of a file cut short,
// into an error.
func guard(path string, f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = damaged(path, fmt.Errorf("%v", p))
		}
	}()
	return f()
}

func explain(path string, err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("store: %s is in use by another process; stop the other ehlogate, or choose another directory in store.url", path)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("store: %w; run as the user that owns it", err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EIO), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("store: %s cannot be opened: %w", path, err)
	}
	return damaged(path, err)
}

func damaged(path string, err error) error {
	return fmt.Errorf("store: %s is damaged or no file of ehlogate (%w); it was not touched: move it away to start with nothing, or restore a copy", path, err)
}

// Verify reads the store in a directory and returns what Open would refuse it for, given the layout
// that is configured. A store that is not there yet is sound.
func Verify(dir string, layout policy.Layout) error {
	path := filepath.Join(dir, FileName)
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return guard(path, func() error { return load(path, info.Size(), newEmbedded(Options{Layout: layout, Now: time.Now})) })
}
