package redis

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/ehlogate/ehlogate/policy/store/bolted"
)

// SpoolName is the name of the spool's file in its directory.
const SpoolName = "spool.db"

// errFull is what an observation gets that the spool has no room for.
var errFull = errors.New("the spool is full")

var (
	spoolBucket = []byte("batches")
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

// spool keeps batches on disk while Redis does not take them: a bbolt file, whose every transaction
// is on disk when it returns. A value is a batch in JSON and a CRC-32C. Whoever writes is alone.
type spool struct {
	db    *bolted.File
	path  string
	file  os.FileInfo
	limit int64
	now   func() time.Time
	// size is the sum of the values in bytes, batches their number.
	size, batches int64
	damaged       int
	// last is the greatest key so far. A file that is begun anew goes on from there: those who hold
	// keys of the old one are not to find other batches by them.
	last uint64
	// renewed is told where a file was moved aside that was open, or "" where it was gone.
	renewed func(aside string)
}

// lockWait is how long another process may still have the file.
const lockWait = time.Second

// openSpool opens the spool in a directory, which it makes if it is missing, and shows each batch
// that is in it. A file that cannot be read is moved aside, its new name returned, and another
// begun: what is in it is old observations, and new ones are not to be lost for them.
func openSpool(dir string, limit int64, now func() time.Time, each func(*batch)) (s *spool, aside string, err error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, "", fmt.Errorf("spool: %w", err)
	}
	path := filepath.Join(dir, SpoolName)
	s = &spool{path: path, limit: limit, now: now}
	err = s.open(each)
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		err = fmt.Errorf("spool: %s is in use by another process; stop the other ehlogate, or choose another directory in store.spool", path)
	case errors.Is(err, bolted.ErrDamaged):
		aside, err = s.renew()
	}
	if err != nil {
		return nil, aside, fmt.Errorf("spool: %w", err)
	}
	return s, aside, nil
}

// renew moves whatever is in the file's place aside, if there is anything, and begins a new one.
func (s *spool) renew() (aside string, err error) {
	if db := s.db; db != nil {
		// What is not damaged may be gone, or cut short, and its end may take for ever.
		go db.Close()
	}
	s.db, s.size, s.batches = nil, 0, 0
	if err := os.MkdirAll(filepath.Dir(s.path), 0o750); err != nil {
		return "", err
	}
	aside = s.path + s.now().Format(".damaged-20060102T150405.000")
	if err := os.Rename(s.path, aside); errors.Is(err, os.ErrNotExist) {
		aside = ""
	} else if err != nil {
		return "", err
	}
	return aside, s.open(func(*batch) {})
}

// lookAfter begins the file anew if it is not there any more, or not whole: what is in it is lost,
// and what comes is not to be.
func (s *spool) lookAfter() error {
	info, err := os.Stat(s.path)
	whole := err == nil && s.db != nil && s.db.Damaged() == nil && os.SameFile(info, s.file)
	if whole {
		var size int64
		err = s.view(func(tx *bolt.Tx) error { size = tx.Size(); return nil })
		whole = err == nil && info.Size() >= size
	}
	if whole {
		return nil
	}
	return s.renewOpen()
}

// renewOpen is renew for a file that was open, and says so.
func (s *spool) renewOpen() error {
	aside, err := s.renew()
	if s.renewed != nil {
		s.renewed(aside)
	}
	return err
}

// open reads the whole file.
func (s *spool) open(each func(*batch)) error {
	if info, err := os.Stat(s.path); err == nil && info.Size() > 0 {
		if err := bolted.Check(s.path); err != nil {
			return err
		}
	}
	db, err := bolted.Open(s.path, lockWait)
	if err != nil {
		return err
	}
	s.db = db
	if s.file, err = os.Stat(s.path); err != nil {
		return err
	}
	return db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(spoolBucket)
		if err != nil {
			return err
		}
		if b.Sequence() < s.last {
			if err := b.SetSequence(s.last); err != nil {
				return err
			}
		}
		return b.ForEach(func(k, v []byte) error {
			batch, err := decodeStored(v)
			if err != nil || len(k) != 8 {
				s.damaged++
				return nil
			}
			batch.stored = binary.BigEndian.Uint64(k)
			s.size += int64(len(v))
			s.batches++
			each(batch)
			return nil
		})
	})
}

// view reads in the file, if there is one.
func (s *spool) view(read func(*bolt.Tx) error) error {
	if s.db == nil {
		return bolted.ErrDamaged
	}
	return s.db.View(read)
}

// update changes the file. One that turns out to be damaged is begun anew, and the change fails.
func (s *spool) update(change func(*bolt.Tx) error) error {
	if err := s.lookAfter(); err != nil {
		return err
	}
	err := s.db.Update(change)
	if errors.Is(err, bolted.ErrDamaged) {
		err = errors.Join(err, s.renewOpen())
	}
	return err
}

// put writes batches and returns the key of each. A batch for which there is no room has key 0; err
// is errFull then.
func (s *spool) put(batches []*batch) ([]uint64, error) {
	full := false
	var size, n int64
	keys := make([]uint64, len(batches))
	err := s.update(func(tx *bolt.Tx) error {
		bucket := tx.Bucket(spoolBucket)
		for i, b := range batches {
			v, err := json.Marshal(b)
			if err != nil {
				return err
			}
			if s.size+size+int64(len(v)) > s.limit {
				full = true
				break
			}
			if keys[i], err = bucket.NextSequence(); err != nil {
				return err
			}
			v = binary.BigEndian.AppendUint32(v, crc32.Checksum(v, castagnoli))
			if err := bucket.Put(binary.BigEndian.AppendUint64(nil, keys[i]), v); err != nil {
				return err
			}
			size += int64(len(v))
			n++
		}
		return nil
	})
	if err != nil {
		return make([]uint64, len(batches)), fmt.Errorf("spool: write %d batches: %w", len(batches), err)
	}
	s.size += size
	s.batches += n
	for _, k := range keys {
		s.last = max(s.last, k)
	}
	if full {
		return keys, errFull
	}
	return keys, nil
}

// get reads a batch by its key.
func (s *spool) get(key uint64) (b *batch, err error) {
	err = s.view(func(tx *bolt.Tx) (err error) {
		b, err = decodeStored(tx.Bucket(spoolBucket).Get(binary.BigEndian.AppendUint64(nil, key)))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("spool: batch %d: %w", key, err)
	}
	b.stored = key
	return b, nil
}

// remove deletes batches.
func (s *spool) remove(keys []uint64) error {
	var size, n int64
	err := s.update(func(tx *bolt.Tx) error {
		bucket := tx.Bucket(spoolBucket)
		for _, k := range keys {
			key := binary.BigEndian.AppendUint64(nil, k)
			if v := bucket.Get(key); v != nil {
				size += int64(len(v))
				n++
			}
			if err := bucket.Delete(key); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("spool: remove %d batches: %w", len(keys), err)
	}
	s.size -= size
	s.batches -= n
	return nil
}

func decodeStored(v []byte) (*batch, error) {
	if len(v) < 4 {
		return nil, fmt.Errorf("%d bytes", len(v))
	}
	body, sum := v[:len(v)-4], binary.BigEndian.Uint32(v[len(v)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, errors.New("wrong checksum")
	}
	return decodeBatch(body)
}

// close closes the file.
func (s *spool) close() error {
	if s.db == nil {
		return nil
	}
	return s.db.Close()
}
