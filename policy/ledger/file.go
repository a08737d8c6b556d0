package ledger

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	bolt "go.etcd.io/bbolt"

	"github.com/ehlogate/ehlogate/policy/regular"
	"github.com/ehlogate/ehlogate/policy/store/bolted"
)

// leafKey names what is written at once: the counts, the clients or the tally of a slot.
type leafKey struct {
	what  leafKind
	width Width
	kind  Kind
	at    int64
}

type leafKind string

const (
	leafCounts  leafKind = "counts"
	leafClients leafKind = "clients"
	leafTally   leafKind = "tally"
)

var leafKinds = []leafKind{leafCounts, leafClients, leafTally}

// names of widths, as keys have them.
var widthNames = map[Width]string{Fine: "5m", Coarse: "1h", Daily: "1d"}

// prefix is what the keys of all slots have in common, so that they lie in the order of their time.
func (k leafKey) prefix() string { return widthNames[k.width] + "/" + string(k.kind) + "/" }

func (k leafKey) key() []byte { return []byte(k.prefix() + timeKey(k.at)) }

func timeKey(at int64) string { return fmt.Sprintf("%012d", at) }

// keep is for how long a leaf is kept after its time.
func (k leafKey) keep() time.Duration {
	if k.width == Fine || k.what != leafCounts && k.width == Coarse {
		return keepFine
	}
	return keepCoarse
}

// What is in the file beside leaves.
var (
	metaBucket  = []byte("meta")
	positionKey = []byte("position")
	// announcedKey has what was announced, by what is watched.
	announcedKey = []byte("announced")
)

const (
	// lockWait is how long another process may hold the file: the MTA waits for the start.
	lockWait = time.Second / 2
	// pruneEvery is how often what is too old is removed.
	pruneEvery = time.Hour
)

// openID reads the node's name among nodes, or makes one. It has a file of its own: when the counts
// are lost, and counted again, they replace those that were published.
func (l *Ledger) openID() error {
	path := l.opt.Path + ".id"
	b, err := regular.ReadFile(path, 64)
	if err == nil && nodeID.Match(b) {
		l.id = string(b)
		return nil
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l.id = newID()
	return renameio.WriteFile(path, []byte(l.id), 0o640)
}

var nodeID = regexp.MustCompile(`^[0-9a-f]{12}$`)

func (l *Ledger) openFile() error {
	path := l.opt.Path
	if err := l.openID(); err != nil {
		return err
	}
	err := l.tryFile(path)
	if errors.Is(err, bolted.ErrDamaged) {
		aside := path + ".damaged-" + l.opt.Now().UTC().Format("20060102T150405")
		if err := os.Rename(path, aside); err != nil {
			return err
		}
		l.opt.Log.Error("the counts for reports are damaged and were moved aside; they are counted again from the event log, as far as that goes back", "file", aside, "error", err)
		err = l.tryFile(path)
	}
	return err
}

func (l *Ledger) tryFile(path string) error {
	if err := free(path); err != nil {
		return err
	}
	if err := check(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: %w", path, err)
	}
	db, err := bolted.Open(path, lockWait)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, k := range leafKinds {
			if _, err := tx.CreateBucketIfNotExists([]byte(k)); err != nil {
				return err
			}
		}
		meta, err := tx.CreateBucketIfNotExists(metaBucket)
		if err != nil {
			return err
		}
		if b := meta.Get(positionKey); b != nil {
			if b, err = unsealed(metaBucket, positionKey, b); err != nil {
				return err
			}
			l.position = append([]byte(nil), b...)
		}
		return meta.Put(formatKey, sealed(metaBucket, formatKey, []byte(format)))
	})
	if err != nil {
		db.Close()
		return err
	}
	l.db = db
	return nil
}

// free waits until no other process holds a file, but not for long. Whoever writes to it holds it
// (flock(2)), and it cannot be checked meanwhile.
func free(path string) error {
	f, err := regular.Open(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.EISDIR) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	for late := time.Now().Add(lockWait); ; time.Sleep(lockWait / 10) {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err == nil {
			return nil
		} else if time.Now().After(late) {
			return fmt.Errorf("%s is held by another process: %w", path, err)
		}
	}
}

// Announced is what was announced when it was last kept; nil at first.
func (l *Ledger) Announced() (b []byte) {
	if l.db == nil {
		return nil
	}
	l.db.View(func(tx *bolt.Tx) error {
		v := tx.Bucket(metaBucket).Get(announcedKey)
		if v == nil {
			return nil
		}
		v, err := unsealed(metaBucket, announcedKey, v)
		b = append(b, v...)
		return err
	})
	return b
}

// KeepAnnounced keeps what was announced, so that a restart announces nothing again.
func (l *Ledger) KeepAnnounced(b []byte) error {
	if l.db == nil {
		return nil
	}
	return recounted(l.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(metaBucket).Put(announcedKey, sealed(metaBucket, announcedKey, b))
	}))
}

// recounted says of a damaged file what becomes of it.
func recounted(err error) error {
	if errors.Is(err, bolted.ErrDamaged) {
		return fmt.Errorf("the counts for reports are damaged, and are counted again from the event log at the next start: %w", err)
	}
	return err
}

// load reads a leaf that was written. One that cannot be read counts from nothing.
func (l *Ledger) load(k leafKey, decode func([]byte) error) {
	if l.db == nil {
		return
	}
	err := recounted(l.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(k.what)).Get(k.key())
		if b == nil {
			return nil
		}
		b, err := unsealed([]byte(k.what), k.key(), b)
		if err != nil {
			return err
		}
		return decode(b)
	}))
	if err != nil {
		l.cannotRead(string(k.key()), err)
	}
}

func (l *Ledger) cannotRead(counts string, err error) {
	l.unread.Do(func() { l.opt.Log.Error("counts cannot be read", "counts", counts, "error", err) })
}

// write writes what was changed, and the position, in one transaction. The lock is held.
func (l *Ledger) write(position []byte) ([]leafKey, error) {
	if l.db == nil || len(l.dirty) == 0 && string(position) == string(l.position) {
		return nil, nil
	}
	err := recounted(l.db.Update(l.put(position)))
	if err != nil {
		return nil, err
	}
	var written []leafKey
	for k := range l.dirty {
		written = append(written, k)
	}
	l.position = position
	clear(l.dirty)
	l.shed()
	return written, nil
}

// put puts what was changed, and the position, into a transaction.
func (l *Ledger) put(position []byte) func(*bolt.Tx) error {
	return func(tx *bolt.Tx) error {
		for k := range l.dirty {
			b, err := l.encode(k)
			if err != nil {
				return err
			}
			if err := tx.Bucket([]byte(k.what)).Put(k.key(), sealed([]byte(k.what), k.key(), b)); err != nil {
				return err
			}
		}
		if now := l.opt.Now(); now.Sub(l.pruned).Abs() > pruneEvery {
			l.pruned = now
			if err := prune(tx, trusted(tx, now)); err != nil {
				return err
			}
		}
		return tx.Bucket(metaBucket).Put(positionKey, sealed(metaBucket, positionKey, position))
	}
}

func (l *Ledger) encode(k leafKey) ([]byte, error) {
	switch k.what {
	case leafCounts:
		return l.slots[slotKey{k.width, k.at}].encode(), nil
	case leafClients:
		return l.clients[slotKey{k.width, k.at}].encode()
	}
	return l.tallies[tallyKey{k.kind, slotKey{k.width, k.at}}].encode(), nil
}

// shed forgets what is written and is not counted in any more, but for a late verdict, which reads
// it back.
func (l *Ledger) shed() {
	now := l.opt.Now()
	old := func(w Width, at int64) bool { return now.Sub(time.Unix(at, 0)) > time.Duration(w)+time.Hour }
	for k := range l.slots {
		if old(k.width, k.at) {
			delete(l.slots, k)
		}
	}
	for k := range l.clients {
		if old(k.width, k.at) {
			delete(l.clients, k)
		}
	}
	for k := range l.tallies {
		if old(k.width, k.at) {
			delete(l.tallies, k)
		}
	}
}

// distrust is how far the clock may be ahead of what was counted last until nothing is removed any
// more: it may be wrong.
const distrust = 48 * time.Hour

// trusted is the time by which something is too old: now, but not long after what was counted last.
func trusted(tx *bolt.Tx, now time.Time) time.Time {
	k := leafKey{what: leafCounts, width: Coarse}
	var last time.Time
	cursor := tx.Bucket([]byte(k.what)).Cursor()
	for key, _ := cursor.Seek([]byte(k.prefix())); key != nil && strings.HasPrefix(string(key), k.prefix()); key, _ = cursor.Next() {
		at, err := strconv.ParseInt(string(key[len(k.prefix()):]), 10, 64)
		if t := time.Unix(at, 0); err == nil && !t.After(now) {
			last = t
		}
	}
	if limit := last.Add(distrust); limit.Before(now) {
		return limit
	}
	return now
}

// prune removes what is too old.
func prune(tx *bolt.Tx, now time.Time) error {
	for _, what := range leafKinds {
		for _, k := range leavesOf(what) {
			before, prefix := now.Add(-k.keep()).Unix(), k.prefix()
			cursor := tx.Bucket([]byte(what)).Cursor()
			for key, _ := cursor.Seek([]byte(prefix)); key != nil && strings.HasPrefix(string(key), prefix); key, _ = cursor.Next() {
				at, err := strconv.ParseInt(string(key[len(prefix):]), 10, 64)
				if err == nil && at >= before {
					break
				}
				if err := cursor.Delete(); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// leavesOf are the kinds of leaves in a bucket.
func leavesOf(what leafKind) (all []leafKey) {
	switch what {
	case leafCounts:
		return []leafKey{{what: what, width: Fine}, {what: what, width: Coarse}}
	case leafClients:
		return []leafKey{{what: what, width: Coarse}, {what: what, width: Daily}}
	}
	for _, kind := range Kinds {
		all = append(all, leafKey{what: what, width: Coarse, kind: kind}, leafKey{what: what, width: Daily, kind: kind})
	}
	return all
}

// eachWritten shows the leaves of a kind that lie in a time, as they were written.
func (l *Ledger) eachWritten(k leafKey, since, until time.Time, show func(at int64, b []byte) error) error {
	if l.db == nil {
		return nil
	}
	prefix := k.prefix()
	return recounted(l.db.View(func(tx *bolt.Tx) error {
		cursor := tx.Bucket([]byte(k.what)).Cursor()
		for key, b := cursor.Seek([]byte(prefix + timeKey(since.Unix()))); key != nil && strings.HasPrefix(string(key), prefix); key, b = cursor.Next() {
			at, err := strconv.ParseInt(string(key[len(prefix):]), 10, 64)
			if err != nil {
				continue
			}
			if at >= until.Unix() {
				break
			}
			if b, err = unsealed([]byte(k.what), key, b); err == nil {
				err = show(at, b)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
		}
		return nil
	}))
}
