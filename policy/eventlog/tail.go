package eventlog

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"syscall"

	"github.com/go-json-experiment/json"

	"github.com/ehlogate/ehlogate/policy/regular"
)

// Position is how far an event log has been read: so many bytes of a file, which goes by another
// name after it was rotated.
type Position struct {
	Inode  uint64 `json:"inode"`
	Offset int64  `json:"offset"`
	// Head is the CRC-32C of the file's first bytes, as many of them as Checked: another file may
	// get the inode of one that was removed.
	Head    uint32 `json:"head"`
	Checked int    `json:"checked"`
}

// mostChecked is how many of a file's first bytes tell it from others.
const mostChecked = 256

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ReadOn shows the whole lines of an event log that come after a position, through the files that
// it was rotated to meanwhile, and returns the position after them. It begins with the oldest file
// that is not compressed where the position is nil, or its file is gone. Show returns false to
// stop.
func ReadOn(ctx context.Context, path string, from *Position, show func(line []byte, after Position) bool) (Position, error) {
	if from == nil {
		from = &Position{}
	}
	if special(path) {
		return *from, nil
	}
	if from.in(path) {
		// As nearly always: nothing was rotated, and no archive is looked at.
		at, _, err := readOn(ctx, path, *from, show)
		return at, err
	}
	files, err := archives(path)
	if err != nil {
		return *from, err
	}
	files = append(files, path)
	if i := slices.IndexFunc(files, from.in); i >= 0 {
		files = files[i:]
	} else if i := slices.IndexFunc(files, from.copied); i >= 0 {
		at, more, err := readFrom(ctx, files[i], *from, show)
		if err != nil || !more {
			return at, err
		}
		from, files = &at, files[i+1:]
	} else if from.Inode != 0 {
		// It was compressed, or removed. What came after it is in the file that is written to now,
		// and may be in older ones, which would count twice.
		files = files[len(files)-1:]
	}
	at := *from
	for _, file := range files {
		more := true
		at, more, err = readOn(ctx, file, at, show)
		if err != nil && !errors.Is(err, os.ErrNotExist) || !more {
			return at, err
		}
	}
	return at, nil
}

// After is about how many bytes of the file that is written to come after a position, all of it
// where the position is nil or in another one. It opens nothing: it is asked each second.
func After(path string, from *Position) int64 {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	if from == nil || from.Inode != inodeOf(info) {
		return info.Size()
	}
	return max(0, info.Size()-from.Offset)
}

// in reports whether a position is in a file.
func (p *Position) in(path string) bool {
	f, err := regular.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	inode, head, err := identify(f, p.Checked)
	return err == nil && inode == p.Inode && head == p.Head
}

// copied reports whether a file is a copy of the one that a position is in: logrotate(8) makes one
// with copytruncate.
func (p *Position) copied(path string) bool {
	f, err := regular.Open(path)
	if err != nil || p.Checked == 0 {
		return false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() < p.Offset {
		return false
	}
	_, head, err := identify(f, p.Checked)
	return err == nil && head == p.Head
}

// identify is what tells a file from others.
func identify(f *os.File, checked int) (inode uint64, head uint32, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	inode = inodeOf(info)
	b := make([]byte, checked)
	if _, err := f.ReadAt(b, 0); err != nil {
		return 0, 0, err
	}
	return inode, crc32.Checksum(b, castagnoli), nil
}

func inodeOf(info os.FileInfo) uint64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Ino
	}
	return 0
}

// readOn reads on in a file, from its start where the position is in another one. A file that is
// shorter than the position was cut, and is read from its start.
func readOn(ctx context.Context, path string, from Position, show func(line []byte, after Position) bool) (at Position, more bool, err error) {
	f, err := regular.Open(path)
	if err != nil {
		return from, true, fmt.Errorf("eventlog: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return from, true, fmt.Errorf("eventlog: %w", err)
	}
	at = from
	if !from.in(path) || info.Size() < from.Offset {
		at = Position{}
	}
	if info.Size() == at.Offset {
		// An empty file is not a place yet that would be known again.
		return from, true, nil
	}
	if at.Checked < mostChecked {
		checked := int(min(info.Size(), mostChecked))
		if at.Inode, at.Head, err = identify(f, checked); err != nil {
			return from, true, fmt.Errorf("eventlog: %s: %w", path, err)
		}
		at.Checked = checked
	}
	return readFrom(ctx, path, at, show)
}

// readFrom reads on in a file from a position.
func readFrom(ctx context.Context, path string, at Position, show func(line []byte, after Position) bool) (Position, bool, error) {
	f, err := regular.Open(path)
	if err != nil {
		return at, true, fmt.Errorf("eventlog: %w", err)
	}
	defer f.Close()
	if _, err := f.Seek(at.Offset, io.SeekStart); err != nil {
		return at, true, fmt.Errorf("eventlog: %w", err)
	}
	in := bufio.NewReaderSize(f, maxEvent)
	long := false
	for ctx.Err() == nil {
		line, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			// It is none of ours.
			at.Offset += int64(len(line))
			long = true
			continue
		case errors.Is(err, io.EOF):
			// A line that is being written is read when it is whole.
			return at, true, nil
		case err != nil:
			return at, true, fmt.Errorf("eventlog: %s: %w", path, err)
		}
		at.Offset += int64(len(line))
		if long {
			long = false
			continue
		}
		if !show(line[:len(line)-1], at) {
			return at, false, nil
		}
	}
	return at, false, ctx.Err()
}

// End is the position at the end of an event log.
func End(path string) (at Position, err error) {
	f, err := regular.Open(path)
	if errors.Is(err, os.ErrNotExist) || special(path) {
		return at, nil
	} else if err != nil {
		return at, fmt.Errorf("eventlog: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return at, fmt.Errorf("eventlog: %w", err)
	}
	at.Checked = int(min(info.Size(), mostChecked))
	at.Inode, at.Head, err = identify(f, at.Checked)
	at.Offset = info.Size()
	return at, err
}

// LastOf are the last events of a client among the last bytes of an event log, the newest first.
func LastOf(path, addr string, last int64, most int) ([]Event, error) {
	var found []Event
	quoted := []byte(`"addr":"` + addr + `"`)
	err := eachLine(path, last, func(line []byte) {
		var e Event
		if !bytes.Contains(line, quoted) || json.Unmarshal(line, &e, Lenient) != nil || e.Client.Addr != addr {
			return
		}
		if found = append(found, e); len(found) >= 2*most {
			found = append(found[:0], found[most:]...)
		}
	})
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	slices.Reverse(found)
	return found[:min(most, len(found))], err
}
