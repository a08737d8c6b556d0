// Package regular opens and replaces regular files. A named pipe in a file's place would hold up
// whoever opens it for as long as nobody is at its other end, and a device may have no end.
package regular

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/renameio/v2"
)

// ErrIrregular is what is wrong with a named pipe, a socket or a device.
var ErrIrregular = errors.New("is a named pipe or a device; it has to be a file")

// Open opens a file for reading. It never waits. A directory is an error (EISDIR).
func Open(path string) (*os.File, error) { return open(path, os.O_RDONLY, 0, true) }

// Append opens a file for appending, or makes it. It never waits. Devices are allowed: what is
// written to /dev/null is meant to be.
func Append(path string, mode fs.FileMode) (*os.File, error) {
	return open(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, mode, false)
}

// ReadFile reads a file of up to so many bytes, and no more of a longer one.
func ReadFile(path string, most int64) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

// Replace puts a file in the place of one, as a whole: who reads it has the old one or the new one.
// Where the path is a symbolic link, the file that it leads to is replaced.
func Replace(path string, content []byte, mode fs.FileMode) error {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		return &fs.PathError{Op: "replace", Path: path, Err: ErrIrregular}
	}
	return renameio.WriteFile(path, content, mode)
}

func open(path string, flag int, mode fs.FileMode, strict bool) (*os.File, error) {
	wrong := func(err error) error { return &fs.PathError{Op: "open", Path: path, Err: err} }
	f, err := os.OpenFile(path, flag|syscall.O_NONBLOCK, mode)
	if errors.Is(err, syscall.ENXIO) {
		// A pipe that nobody reads, or a socket.
		return nil, wrong(ErrIrregular)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case info.IsDir():
		err = wrong(syscall.EISDIR)
	case info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket|fs.ModeIrregular) != 0, strict && !info.Mode().IsRegular():
		err = wrong(ErrIrregular)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
