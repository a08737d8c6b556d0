package postfix

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
)

// settled is how old a file has to look. Postfix reads one that was just written again and again
// for two seconds, in case it is not whole yet (dict_load_file_xt), and complains each time of a
// parameter that is set twice. Where it logs to a file of its own, postlogd(8) can stop for good
// over that, and all mail with it.
const settled = 3 * time.Second

// write writes a file so that it is whole at any time. It keeps its owner and mode.
func write(path, text string) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// The MTA and the daemon have to read it, whatever the umask.
		err = errors.Join(os.WriteFile(path, []byte(text), 0o644), os.Chmod(path, 0o644))
	case err == nil:
		if irreplaceable(path, info) {
			err = overwrite(path, text)
		} else if err = replaceFile(path, text, info); cannotReplace(err) {
			err = overwrite(path, text)
		}
	}
	if err == nil {
		err = settle(path)
	}
	if err != nil {
		return fmt.Errorf("postfix: %w", err)
	}
	return nil
}

// create writes a file that must not be there yet, and is whole or not there.
func create(path string, text []byte) error {
	part := fmt.Sprintf("%s.%d", path, os.Getpid())
	defer os.Remove(part)
	err := os.WriteFile(part, text, 0o600)
	if err == nil {
		err = os.Link(part, path)
	}
	if errors.Is(err, fs.ErrExist) {
		return ErrApplied
	}
	if err != nil {
		return fmt.Errorf("postfix: %w", err)
	}
	return nil
}

func settle(path string) error {
	at := time.Now().Add(-settled)
	return os.Chtimes(path, at, at)
}

func replaceFile(path, text string, info fs.FileInfo) error {
	f, err := renameio.NewPendingFile(path, renameio.WithExistingPermissions(), renameio.WithTempDir(filepath.Dir(path)))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := f.Chown(int(stat.Uid), int(stat.Gid)); err != nil {
			return err
		}
	}
	if err := settle(f.Name()); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

// irreplaceable reports whether a file has what a new one in its place would lose: another name, an
// access control list, or other extended attributes, but for the label of SELinux, which its
// directory gives.
func irreplaceable(path string, info fs.FileInfo) bool {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Nlink > 1 {
		return true
	}
	names := make([]byte, 64<<10)
	n, err := syscall.Listxattr(path, names)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(strings.FieldsFunc(string(names[:n]), func(r rune) bool { return r == 0 }), func(name string) bool { return name != "security.selinux" })
}

// cannotReplace reports whether a file could not be replaced because of where it is: it is mounted
// by itself, or its directory cannot be written.
func cannotReplace(err error) bool {
	for _, e := range []error{syscall.EBUSY, syscall.EXDEV, syscall.EROFS, fs.ErrPermission} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// overwrite writes a file in its place. There is room for all of it before anything is written.
func overwrite(path, text string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, int64(len(text))); err != nil && !errors.Is(err, syscall.EOPNOTSUPP) {
		return fmt.Errorf("%s: %w", path, err)
	}
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	return errors.Join(f.Truncate(int64(len(text))), f.Sync())
}
