package store

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/store/bolted"
)

// The file's buckets. Meta has the format, the layout, the store's own name, how far each dump was
// loaded, the number of the first part of the journal that is not in the file, and a checksum of
// all these. An evidence key
// is the network's address and one byte of prefix length, or "SA" and the number of an autonomous
// system; its value is the record of package reputation and a CRC-32C over key and record, because
// bbolt checks its own pages but not what is in them.
var (
	bucketMeta      = []byte("meta")
	bucketEvidence  = []byte("evidence")
	bucketOverrides = []byte("overrides")
	keyFormat       = []byte("format")
	keyLayout       = []byte("layout")
	keyID           = []byte("id")
	keyFrom         = []byte("journal")
	keySum          = []byte("checksum")
	prefixLoaded    = []byte("loaded ")
	castagnoli      = crc32.MakeTable(crc32.Castagnoli)
)

// format names the file's schema. Another one is refused.
const format = "ehlogate evidence 2"

// knownFormat and knownLayout are what these look like in any version: what does not is damaged.
var (
	knownFormat = regexp.MustCompile(`^ehlogate evidence [0-9]+$`)
	knownLayout = regexp.MustCompile(`^IPv4 /[0-9]+ in /[0-9]+; IPv6 /[0-9]+ in /[0-9]+$`)
)

// fileMode is that of the store's files.
const fileMode = 0o640

// lock makes a process the only one that has the store in a directory open, for as long as the file
// that it returns is. before says that another one had before.
func lock(dir string) (f *os.File, before bool, err error) {
	path := filepath.Join(dir, LockName)
	_, err = os.Lstat(path)
	before = err == nil
	f, err = lockFile(path)
	return f, before, err
}

func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, fileMode)
	if err != nil {
		return nil, explain(path, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, inUse(filepath.Join(filepath.Dir(path), FileName))
	}
	return f, nil
}

// source is a file whose evidence is still to be read.
type source struct {
	db *bolt.DB
	// synced says that it has a list of free pages, head that all but evidence was read; damage is
	// what is wrong with it.
	synced, head bool
	damage       error
}

// begin opens the file for reading, or makes it, and reads all but evidence. A damaged one is not
// an error.
func (e *Embedded) begin() (*source, error) {
	info, err := os.Stat(e.path)
	if errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
		_, copyErr := os.Lstat(e.copyPath())
		if err == nil || e.before || copyErr == nil {
			e.readCopy()
			e.found.note(e.log, "the store's file is empty or gone: nothing is known of any client but what the copy of the overrides says", "file", e.path, "overrides", len(e.Overrides()))
		}
		if err = e.create(); err == nil {
			info, err = os.Stat(e.path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	src := &source{}
	err = guard(e.path, func() error { return e.open(src, info.Size()) })
	if errors.Is(err, ErrDamaged) {
		src.damage, err = err, nil
	}
	return src, err
}

// open opens a file of a size for reading, and reads its head.
func (e *Embedded) open(src *source, size int64) (err error) {
	f, err := os.Open(e.path)
	if err != nil {
		return explain(e.path, err)
	}
	heads := bolted.ReadHeads(f)
	f.Close()
	if heads.Sound == 0 {
		return damaged(e.path, errors.New("it does not begin as one of ours"))
	}
	if heads.Sound == 1 {
		e.found.note(e.log, "half of the head of the store's file was damaged: the last change before may be lost", "file", e.path)
	}
	// bbolt reads these pages as they are.
	if err := bolted.CheckBut(e.path, bucketEvidence); err != nil {
		return damaged(e.path, err)
	}
	src.synced = heads.Synced
	if src.db, err = bolt.Open(e.path, 0, &bolt.Options{ReadOnly: true, Timeout: time.Second}); err != nil {
		return explain(e.path, err)
	}
	err = src.db.View(func(tx *bolt.Tx) error {
		if tx.Size() > size {
			return damaged(e.path, fmt.Errorf("%d bytes long, should be %d", size, tx.Size()))
		}
		return e.readHead(tx)
	})
	src.head = err == nil
	if err != nil && !errors.Is(err, ErrDamaged) {
		return errors.Join(err, src.db.Close())
	}
	return err
}

// readHead reads what a file is, and all in it but evidence.
func (e *Embedded) readHead(tx *bolt.Tx) error {
	if first, _ := tx.Cursor().First(); first == nil {
		// An interrupted first start of an earlier version left it.
		return nil
	}
	meta, evidence, overrides := tx.Bucket(bucketMeta), tx.Bucket(bucketEvidence), tx.Bucket(bucketOverrides)
	if (meta == nil || evidence == nil || overrides == nil) && (meta != nil || evidence != nil || overrides != nil) {
		return damaged(e.path, errors.New("a part of it is missing"))
	}
	if meta == nil {
		return fmt.Errorf("store: %s is a database of another program; choose another directory in store.url", e.path)
	}
	if !knownFormat.Match(meta.Get(keyFormat)) || meta.Get(keyLayout) != nil && !knownLayout.Match(meta.Get(keyLayout)) {
		return damaged(e.path, errors.New("its format or layout is none of any version's"))
	}
	if got := string(meta.Get(keyFormat)); got != format {
		return fmt.Errorf("store: %s has format %q, this program reads %q; use the version that wrote it, or another directory in store.url", e.path, got, format)
	}
	if sum := meta.Get(keySum); sum != nil && !bytes.Equal(sum, sumOf(meta)) {
		return damaged(e.path, errors.New("what it says of itself has a wrong checksum"))
	}
	if got := string(meta.Get(keyLayout)); got != "" && got != e.layout {
		return fmt.Errorf("store: %s holds evidence of another layout (%s) than this configuration's (%s); set reputation.ipv4_network, ipv6_host and ipv6_network as they were, or move the file away to start with nothing", e.path, got, e.layout)
	}
	e.id = string(meta.Get(keyID))
	if from := meta.Get(keyFrom); len(from) == 8 {
		e.from = binary.BigEndian.Uint64(from)
	}
	cursor := meta.Cursor()
	for k, v := cursor.Seek(prefixLoaded); bytes.HasPrefix(k, prefixLoaded) && len(v) == 8; k, v = cursor.Next() {
		e.loaded[string(k[len(prefixLoaded):])] = binary.BigEndian.Uint64(v)
	}
	if err := overrides.ForEach(e.loadOverride); err != nil {
		return damaged(e.path, err)
	}
	return nil
}

// read reads the evidence of a file and opens it for writing. What is damaged is repaired.
func (e *Embedded) read(src *source) {
	e.committing.Lock()
	defer e.committing.Unlock()
	// bbolt itself never reads a tree that may be damaged: it would follow a circle for ever.
	if err := cmp.Or(src.damage, e.readEvidence()); err != nil {
		e.repair(src, err)
		return
	}
	if len(e.early.journalled) == 0 {
		// Nothing more is to come of what was known; what follows is for those who learn.
		e.early.known.Store(true)
	}
	err := guard(e.path, src.db.Close)
	if err == nil && src.synced {
		err = e.compact()
	}
	if err == nil {
		err = e.openForWriting()
	}
	switch {
	case errors.Is(err, ErrDamaged):
		e.repair(&source{head: true}, err)
	case err != nil:
		// It is tried again with the first commit.
		e.found.commit(e.log, e.path, err)
		e.log.Error("the store cannot be written", "file", e.path, "error", err)
	}
}

// openForWriting opens a sound file.
func (e *Embedded) openForWriting() error {
	return guard(e.path, func() error {
		db, err := bolt.Open(e.path, fileMode, bolted.Options())
		if err != nil {
			return explain(e.path, err)
		}
		if err := bolted.Update(db, e.fill); err != nil {
			e.closeAside(db)
			return explain(e.path, err)
		}
		return e.use(db)
	})
}

// use makes an open file the store's.
func (e *Embedded) use(db *bolt.DB) error {
	info, err := os.Stat(e.path)
	if err != nil {
		return errors.Join(fmt.Errorf("store: %w", err), db.Close())
	}
	e.db, e.found.file = db, info
	return nil
}

// create makes a new file under another name, and gives it its own only when it is whole: a first
// start can be interrupted at any moment.
func (e *Embedded) create() error {
	part, err := newPart(e.path)
	if err != nil {
		return err
	}
	defer os.Remove(part)
	db, err := bolt.Open(part, fileMode, bolted.Options())
	if err == nil {
		err = errors.Join(db.Update(e.fill), db.Close())
	}
	if err != nil {
		return fmt.Errorf("%s cannot be made: %w", e.path, err)
	}
	return os.Rename(part, e.path)
}

// newPart makes the name of a new file, and removes those of others that were interrupted.
func newPart(path string) (string, error) {
	const unfinished = FileName + ".new-"
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), unfinished+"*"))
	for _, l := range left {
		os.Remove(l)
	}
	f, err := os.CreateTemp(filepath.Dir(path), unfinished)
	if err != nil {
		return "", err
	}
	return f.Name(), errors.Join(f.Chmod(fileMode), f.Close())
}

// compact copies a sound file without its list of free pages, which an earlier version kept.
func (e *Embedded) compact() error {
	part, err := newPart(e.path)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer os.Remove(part)
	err = guard(e.path, func() error {
		from, err := bolt.Open(e.path, 0, &bolt.Options{ReadOnly: true, Timeout: time.Second})
		if err != nil {
			return explain(e.path, err)
		}
		to, err := bolt.Open(part, fileMode, bolted.Options())
		if err == nil {
			err = errors.Join(bolt.Compact(to, from, 1<<20), to.Close())
		}
		return errors.Join(err, from.Close())
	})
	if err != nil {
		return err
	}
	return os.Rename(part, e.path)
}

// fill makes what a new file has, and gives a file of an earlier version its layout and name.
func (e *Embedded) fill(tx *bolt.Tx) error {
	for _, name := range [][]byte{bucketMeta, bucketEvidence, bucketOverrides} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	meta := tx.Bucket(bucketMeta)
	if e.id == "" {
		e.id = rand.Text()
	}
	for _, pair := range [][2][]byte{{keyID, []byte(e.id)}, {keyLayout, []byte(e.layout)}, {keyFormat, []byte(format)}} {
		if !bytes.Equal(meta.Get(pair[0]), pair[1]) {
			if err := meta.Put(pair[0], pair[1]); err != nil {
				return err
			}
		}
	}
	return seal(tx)
}

func (e *Embedded) loadOverride(key, value []byte) (err error) {
	if isException(key) {
		err = loadInto(&e.exceptions, key, value, func(x *policy.Exception) netip.Prefix { return x.Network })
	} else {
		err = loadInto(&e.overrides, key, value, func(o *policy.Override) netip.Prefix { return o.Network })
	}
	if err != nil {
		return fmt.Errorf("override %x: %w", key, err)
	}
	return nil
}

// putLoaded writes how far dumps were loaded.
func putLoaded(tx *bolt.Tx, loaded map[string]uint64) error {
	for dump, chunk := range loaded {
		if err := putNumber(tx, append(bytes.Clone(prefixLoaded), dump...), chunk); err != nil {
			return err
		}
	}
	return nil
}

// putFrom writes which part of the journal is the first that is not in the file.
func putFrom(tx *bolt.Tx, from uint64) error {
	return putNumber(tx, keyFrom, from)
}

// putNumber writes a number into the meta bucket.
func putNumber(tx *bolt.Tx, key []byte, n uint64) error {
	if err := tx.Bucket(bucketMeta).Put(key, binary.BigEndian.AppendUint64(nil, n)); err != nil {
		return err
	}
	return seal(tx)
}

// seal writes the checksum of all else in the meta bucket.
func seal(tx *bolt.Tx) error {
	meta := tx.Bucket(bucketMeta)
	return meta.Put(keySum, sumOf(meta))
}

func sumOf(meta *bolt.Bucket) []byte {
	sum := uint32(0)
	meta.ForEach(func(k, v []byte) error {
		if !bytes.Equal(k, keySum) {
			sum = crc32.Update(crc32.Update(sum, castagnoli, k), castagnoli, v)
		}
		return nil
	})
	return binary.BigEndian.AppendUint32(nil, sum)
}

// Verify reads the store in a directory and returns what Open would refuse it for, or would repair,
// given the layout that is configured. A store that is not there yet is sound.
func Verify(dir string, layout policy.Layout) error {
	path := filepath.Join(dir, FileName)
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if info.Size() == 0 {
		return damaged(path, errors.New("it is empty"))
	}
	e := newEmbedded(path, Options{Layout: layout, Now: time.Now})
	return guard(path, func() error {
		src := &source{}
		if err := e.open(src, info.Size()); err != nil {
			return err
		}
		return errors.Join(e.readEvidence(), src.db.Close())
	})
}
