package maillog

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/ehlogate/ehlogate/policy/regular"
)

const (
	// pollEvery is how often a file is looked at when nothing more is in it.
	pollEvery = 100 * time.Millisecond
	// maxLine bounds a line in bytes: Postfix's own are at most 2 KiB. What is longer is skipped
	// and counted.
	maxLine = 64 << 10
	// tailSize is how many of the bytes read last are compared with the file, to notice that it is
	// another one.
	tailSize = 64
)

// Position is how far a file has been read: Offset bytes of the file with this device and inode;
// Tail are the last bytes before it.
type Position struct {
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
	Offset int64  `json:"offset"`
	Tail   []byte `json:"tail,omitempty"`
}

// File follows a log file by its name. The zero Position begins at the end of what is there; any
// other goes on where it was, be the file renamed meanwhile, or cut short.
type File struct {
	Path string
	Log  *slog.Logger
	// Malformed is called for a line that is too long.
	Malformed func()

	at   Position
	file *os.File
	in   *bufio.Reader
	// skipping says that the rest of a line that is too long comes next.
	skipping bool
}

// Follow calls f for each line, without its newline and valid until f returns, with the position
// after it, until the context ends. Where it begins it calls f with nil and that position. A
// missing file is waited for.
func (w *File) Follow(ctx context.Context, from Position, f func(line []byte, after Position)) error {
	defer w.close()
	throttled := rate.Sometimes{First: 1, Interval: time.Minute}
	w.at = from
	for started := false; ; {
		grew := false
		var err error
		if !started {
			if err = w.start(from); err == nil && w.file != nil {
				f(nil, w.at)
			}
			started = err == nil
		}
		if err == nil {
			grew, err = w.read(ctx, f)
		}
		if err == nil && !grew {
			err = w.turn()
		}
		if err != nil {
			throttled.Do(func() { w.Log.Error("the mail log cannot be read; it is tried again", "file", w.Path, "error", err) })
			w.close()
			// It goes on where it was, in the file that it was in.
			if w.at.Inode != 0 {
				from, started = w.at, false
				from.Tail = slices.Clone(from.Tail)
			}
		}
		if grew && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}

// settles is how often a directory is looked at again while its files are being renamed, and
// settleWait the pause between.
const settles, settleWait = 5, 20 * time.Millisecond

// start opens the file that was read last, wherever it is now. A missing file is not an error.
func (w *File) start(from Position) error {
	for attempt := range settles {
		found, err := w.resume(from)
		if found || err != nil {
			return err
		}
		if from.Inode == 0 {
			break
		}
		if attempt < settles-1 {
			// It may have been renamed while the names were looked at.
			time.Sleep(settleWait)
		}
	}
	err := w.open(w.Path, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case from.Inode == 0:
		return w.skipToEnd()
	}
	w.Log.Warn("the mail log was rotated away while nobody read it; it is read from its beginning, and what was behind it is not", "file", w.Path)
	return nil
}

// resume opens the file that was read last; found is false where none has its name.
func (w *File) resume(from Position) (found bool, err error) {
	candidates, _ := filepath.Glob(w.Path + "*")
	for _, path := range append([]string{w.Path}, candidates...) {
		info, err := os.Stat(path)
		if err != nil || !is(info, from) {
			continue
		}
		if err := w.open(path, from.Offset); err != nil {
			return false, err
		}
		if opened, err := w.file.Stat(); err != nil || !is(opened, from) {
			// It was renamed meanwhile.
			continue
		}
		if w.at.Tail = from.Tail; w.same() {
			return true, nil
		}
		if path == w.Path {
			w.restart("was cut short")
			return true, nil
		}
	}
	return false, nil
}

// Before calls f for each line among the last bytes before a position, wherever the file is now
// that it is in.
func (w *File) Before(p Position, last int64, f func(line []byte)) error {
	candidates, _ := filepath.Glob(w.Path + "*")
	i := slices.IndexFunc(candidates, func(path string) bool {
		info, err := os.Stat(path)
		return err == nil && is(info, p)
	})
	if i < 0 {
		return nil
	}
	file, err := regular.Open(candidates[i])
	if err != nil {
		return fmt.Errorf("maillog: %w", err)
	}
	defer file.Close()
	from := max(0, p.Offset-last)
	return Lines(context.Background(), io.NewSectionReader(file, from, p.Offset-from), func() {}, f)
}

// skipToEnd leaves what is there unread.
func (w *File) skipToEnd() error {
	info, err := w.file.Stat()
	if err == nil {
		w.seek(info.Size())
		w.at.Tail = w.tail(tailSize)
	}
	return err
}

func is(info fs.FileInfo, p Position) bool {
	device, inode := identity(info)
	return device == p.Device && inode == p.Inode
}

func identity(info fs.FileInfo) (device, inode uint64) {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(s.Dev), s.Ino
	}
	return 0, 0
}

func (w *File) open(path string, offset int64) error {
	w.close()
	file, err := regular.Open(path)
	if err != nil {
		return err
	}
	return w.use(file, offset)
}

// use reads on in a file that was opened.
func (w *File) use(file *os.File, offset int64) error {
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return err
	}
	w.file, w.in = file, bufio.NewReaderSize(file, maxLine)
	w.at.Device, w.at.Inode = identity(info)
	w.at.Tail = nil
	w.seek(offset)
	return nil
}

func (w *File) seek(offset int64) {
	w.file.Seek(offset, io.SeekStart)
	w.in.Reset(w.file)
	w.at.Offset, w.skipping = offset, false
}

func (w *File) close() {
	if w.file != nil {
		w.file.Close()
		w.file = nil
	}
}

// tail is what stands in the file before the position, n bytes at most.
func (w *File) tail(n int) []byte {
	b := make([]byte, min(w.at.Offset, int64(n)))
	n, _ = w.file.ReadAt(b, w.at.Offset-int64(len(b)))
	return b[:n]
}

// same reports whether what stands before the position is what was read there.
func (w *File) same() bool { return bytes.Equal(w.tail(len(w.at.Tail)), w.at.Tail) }

func (w *File) restart(why string) {
	w.Log.Info("the mail log "+why+"; it is read from its beginning", "file", w.Path)
	w.seek(0)
	w.at.Tail = nil
}

// read reads all whole lines that are there.
func (w *File) read(ctx context.Context, f func([]byte, Position)) (grew bool, err error) {
	if w.file == nil {
		err := w.open(w.Path, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		} else if err != nil {
			return false, err
		}
		f(nil, w.at)
	}
	info, err := w.file.Stat()
	if err != nil {
		return false, err
	}
	switch {
	case info.Size() < w.at.Offset || info.Size() > w.at.Offset && !w.same():
		w.restart("was cut short")
	case info.Size() == w.at.Offset:
		return false, nil
	}
	for ctx.Err() == nil {
		line, err := w.in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			if !w.skipping {
				w.Malformed()
			}
			w.skipping = true
		case err != nil && !w.skipping:
			// An incomplete line is read again when it has grown.
			w.seek(w.at.Offset)
			return grew, unlessEnd(err)
		}
		w.at.Offset += int64(len(line))
		w.at.Tail = append(w.at.Tail[:0], line[max(0, len(line)-tailSize):]...)
		if err == nil && !w.skipping {
			grew = true
			f(line[:len(line)-1], w.at)
			continue
		}
		if err == nil {
			w.skipping = false
		} else if !errors.Is(err, bufio.ErrBufferFull) {
			return grew, unlessEnd(err)
		}
	}
	return grew, nil
}

func unlessEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// turn goes on to the next file when the name stands for another one. That is when something is in
// it: whoever writes the log is done with the old one then, which is read to its end once more
// before.
func (w *File) turn() error {
	if w.file == nil {
		return nil
	}
	info, err := os.Stat(w.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if is(info, w.at) || info.Size() == 0 {
		return nil
	}
	if old, err := w.file.Stat(); err == nil && old.Size() > w.at.Offset && w.whole() {
		return nil
	}
	return w.openNext()
}

// openNext opens the next file. Its name can change before it is opened, and those of others while
// they are looked at: what cannot be told now is left to the next look.
func (w *File) openNext() error {
	path, next := w.next()
	if again, same := w.next(); next == nil || same == nil || again != path || !os.SameFile(next, same) {
		return nil
	}
	file, err := regular.Open(path)
	if err != nil {
		return unlessMissing(err)
	}
	if info, err := file.Stat(); err != nil || !os.SameFile(info, next) {
		file.Close()
		return err
	}
	w.close()
	return w.use(file, 0)
}

func unlessMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// whole reports whether a whole line is left to read.
func (w *File) whole() bool {
	b := make([]byte, maxLine)
	n, _ := w.file.ReadAt(b, w.at.Offset)
	return bytes.IndexByte(b[:n], '\n') >= 0
}

// next is the file that was written after the one that is open: the oldest of those that were
// changed since, else the one that has the name; nil where that is not there.
func (w *File) next() (path string, info fs.FileInfo) {
	current, _ := os.Stat(w.Path)
	old, err := w.file.Stat()
	if err != nil {
		return w.Path, current
	}
	type rotated struct {
		path string
		info fs.FileInfo
	}
	var later []rotated
	candidates, _ := filepath.Glob(w.Path + "[.\\-]*")
	for _, path := range candidates {
		info, err := os.Stat(path)
		if err == nil && info.Mode().IsRegular() && !is(info, w.at) && info.ModTime().After(old.ModTime()) && plain(path) {
			later = append(later, rotated{path, info})
		}
	}
	if len(later) == 0 {
		return w.Path, current
	}
	first := slices.MinFunc(later, func(a, b rotated) int {
		return cmp.Or(a.info.ModTime().Compare(b.info.ModTime()), cmp.Compare(a.path, b.path))
	})
	return first.path, first.info
}

// plain reports whether a rotated file is a log that was not packed.
func plain(path string) bool {
	switch filepath.Ext(path) {
	case ".gz", ".xz", ".bz2", ".zst", ".lz4":
		return false
	}
	return true
}

// Lines calls f for each line of a stream, such as standard input, until its end.
func Lines(ctx context.Context, r io.Reader, malformed func(), f func(line []byte)) error {
	in := bufio.NewReaderSize(r, maxLine)
	for ctx.Err() == nil {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			malformed()
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = in.ReadSlice('\n')
			}
			continue
		}
		if len(line) > 0 {
			f(bytes.TrimSuffix(line, []byte("\n")))
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("maillog: %w", err)
		}
	}
	return ctx.Err()
}
