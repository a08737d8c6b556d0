package store

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/ehlogate/ehlogate/policy/store/bolted"
)

// ErrDamaged is what is wrong with a file that is, or was, ours, and would be moved aside.
var ErrDamaged = bolted.ErrDamaged

// guard does something with a file, and says which one is damaged.
func guard(path string, f func() error) error {
	var own error
	err := bolted.Guard(func() error { own = f(); return own })
	if err != nil && own == nil {
		return damaged(path, err)
	}
	return err
}

// ErrRemedied is in errors that say what to do, ErrInUse in those about a store that another
// process has open.
var (
	ErrRemedied = errors.New("run as the user that owns it")
	ErrInUse    = errors.New("is in use by another process")
)

func explain(path string, err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return inUse(path)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("store: %w; %w", err, ErrRemedied)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EIO), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENOMEM), errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("store: %s cannot be opened: %w", path, err)
	}
	return damaged(path, err)
}

func inUse(path string) error {
	return fmt.Errorf("store: %s %w; stop the other ehlogate, or choose another directory in store.url", path, ErrInUse)
}

func damaged(path string, err error) error {
	return fmt.Errorf("store: %s is %w, or is not a file of ehlogate: %w", path, ErrDamaged, err)
}
