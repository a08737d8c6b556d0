// Package bolted opens and writes bbolt files so that a damaged one is an error, and not the end of
// the process. bbolt maps its file into memory and panics on a page that is not what it should be;
// one that is cut short while it is open is a fault of the mapping.
package bolted

import (
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
)

// ErrDamaged is what is wrong with a file that bbolt cannot make sense of.
var ErrDamaged = errors.New("damaged")

// Options are those of a file that is written. The list of free pages is not kept in it: it has no
// checksum, and one that is wrong is found only by what it destroys.
func Options() *bolt.Options {
	return &bolt.Options{Timeout: time.Second, NoFreelistSync: true, FreelistType: bolt.FreelistMapType}
}

// Guard does something with a file, and makes a panic on what is damaged, or cut short, an error.
func Guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, p)
		}
	}()
	return f()
}

// Update is guarded db.Update. After ErrDamaged the file must not be used any more, nor waited for:
// the transaction is left alone, because the rollback of a damaged file panics in a goroutine of
// bbolt's, where nobody can recover.
func Update(db *bolt.DB, change func(*bolt.Tx) error) error {
	return Guard(func() error {
		tx, err := db.Begin(true)
		if err != nil {
			return err
		}
		if err := change(tx); err != nil {
			return errors.Join(err, tx.Rollback())
		}
		return tx.Commit()
	})
}
