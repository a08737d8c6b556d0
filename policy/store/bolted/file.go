package bolted

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// File is an open file. Once it turns out to be damaged it is not touched any more: after a panic
// bbolt holds a lock of its own, for which whoever comes next would wait for ever.
type File struct {
	db      *bolt.DB
	damaged atomic.Pointer[error]
}

// Open opens a file for writing, or makes it, and waits so long for another process that has it
// open. The error is ErrDamaged where the file is none of bbolt's.
func Open(path string, wait time.Duration) (f *File, err error) {
	opt := Options()
	opt.Timeout = wait
	f = new(File)
	err = Guard(func() (err error) {
		f.db, err = bolt.Open(path, 0o640, opt)
		return err
	})
	if errors.Is(err, bolterrors.ErrInvalid) || errors.Is(err, bolterrors.ErrChecksum) || errors.Is(err, bolterrors.ErrVersionMismatch) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// View reads in a transaction.
func (f *File) View(read func(*bolt.Tx) error) error {
	return f.do(func() error { return f.db.View(read) })
}

// Update changes the file in a transaction.
func (f *File) Update(change func(*bolt.Tx) error) error {
	return f.do(func() error { return Update(f.db, change) })
}

func (f *File) do(work func() error) error {
	if err := f.Damaged(); err != nil {
		return err
	}
	err := Guard(work)
	if errors.Is(err, ErrDamaged) {
		f.damaged.CompareAndSwap(nil, &err)
	}
	return err
}

// Damaged is why the file is not touched any more, nil as long as it is.
func (f *File) Damaged() error {
	if err := f.damaged.Load(); err != nil {
		return *err
	}
	return nil
}

// Close closes the file. One that is damaged is let go of, which may never come back.
func (f *File) Close() error {
	if f.Damaged() != nil {
		go Guard(f.db.Close)
		return nil
	}
	return Guard(f.db.Close)
}
