package eventlog

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/regular"
)

// Recent reads back messages from an event log as they were last corrected, in the order of their
// lines: from the last bytes of each of its files that was written to later than a time, those of
// events later than that. Lines that are not events are passed over. A missing file has none.
func Recent(path string, after time.Time, bytes int64) ([]*policy.Message, error) {
	r := reader{known: map[messageKey]int{}}
	files, err := archives(path)
	if err != nil {
		return nil, err
	}
	files = slices.DeleteFunc(files, func(f string) bool {
		info, err := os.Stat(f)
		return err != nil || info.ModTime().Before(after)
	})
	for _, file := range append(files, path) {
		err := r.file(file, bytes, nil, func(e *Event) bool { return e.Time.After(after) })
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return r.found, nil
}

// Find reads back the messages with these queue ids, as they were last corrected, from an event log
// and its archives, as far as they are not compressed. Of a queue id that was used again, the last
// message is found.
func Find(path string, queueIDs []string) (map[string]*policy.Message, error) {
	want := map[string]bool{}
	for _, id := range queueIDs {
		want[id] = true
	}
	found := map[string]*policy.Message{}
	files, err := archives(path)
	if err != nil {
		return nil, err
	}
	r := reader{known: map[messageKey]int{}}
	for _, file := range append(files, path) {
		err := r.file(file, math.MaxInt64, want, func(*Event) bool { return true })
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	for _, m := range r.found {
		found[m.QueueID] = m
	}
	return found, nil
}

// archives are the files that an event log was rotated to, by us or by logrotate(8), the oldest
// first.
func archives(path string) ([]string, error) {
	stem, ext := stem(path)
	files, err := filepath.Glob(stem + "-*" + ext)
	if err != nil {
		return nil, fmt.Errorf("eventlog: %w", err)
	}
	more, _ := filepath.Glob(path + `[.\-][0-9]*`) // logrotate's names, with dateext or without
	changed := map[string]time.Time{}
	files = slices.DeleteFunc(append(files, more...), func(f string) bool {
		info, err := os.Stat(f)
		if err != nil || !info.Mode().IsRegular() || slices.Contains([]string{".gz", ".xz", ".zst"}, filepath.Ext(f)) {
			return true
		}
		changed[f] = info.ModTime()
		return false
	})
	slices.SortFunc(files, func(a, b string) int { return changed[a].Compare(changed[b]) })
	return files, nil
}

// maxEvent bounds a line that is read back, in bytes: none of ours is longer.
const maxEvent = 64 << 10

// messageKey tells messages apart.
type messageKey struct {
	session, queueID, addr string
	at                     time.Time
}

// reader collects messages; known is where a message stands among them.
type reader struct {
	found []*policy.Message
	known map[messageKey]int
}

var queueIDKey, forgetEvent = []byte(`"queue_id":"`), []byte(`"event":"forget"`)

// file reads the last bytes of a file: the events with a queue id that is wanted, or all, that are
// kept.
func (r *reader) file(path string, last int64, want map[string]bool, keep func(*Event) bool) error {
	return eachLine(path, last, func(line []byte) {
		var e Event
		if wanted(line, want) && json.Unmarshal(line, &e, Lenient) == nil && keep(&e) {
			r.add(&e)
		}
	})
}

// eachLine shows the whole lines among the last bytes of a file, without their ends. It passes over
// those that are longer than any of ours.
func eachLine(path string, last int64, show func(line []byte)) error {
	if special(path) {
		return nil
	}
	f, err := regular.Open(path)
	if err != nil {
		return fmt.Errorf("eventlog: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = errors.New("is a directory")
	}
	if err != nil {
		return fmt.Errorf("eventlog: %s: %w", path, err)
	}
	in := bufio.NewReaderSize(f, maxEvent)
	if info.Size() > last {
		if _, err := f.Seek(info.Size()-last, io.SeekStart); err != nil {
			return fmt.Errorf("eventlog: %w", err)
		}
		in.ReadSlice('\n') // the rest of a line
	}
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case err == nil:
			show(line[:len(line)-1])
		case errors.Is(err, io.EOF):
			return nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("eventlog: %s: %w", path, err)
		}
	}
}

// special reports whether a path is a pipe or a device: the log is written to it, and cannot be
// read back.
func special(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.Mode().IsRegular() && !info.IsDir()
}

func wanted(line []byte, want map[string]bool) bool {
	if want == nil {
		return true
	}
	_, rest, ok := bytes.Cut(line, queueIDKey)
	if !ok {
		return bytes.Contains(line, forgetEvent)
	}
	id, _, _ := bytes.Cut(rest, []byte(`"`))
	return want[string(id)]
}

func (r *reader) add(e *Event) {
	if n, ok := e.Dropped(); ok {
		r.forget(n)
		return
	}
	m, ok := e.Message()
	if !ok {
		return
	}
	key := messageKey{m.Session, m.QueueID, e.Client.Addr, m.Time.UTC()}
	i, seen := r.known[key]
	if !seen && e.Kind == KindCorrection {
		// The message may have got its queue id with it.
		key.queueID = ""
		i, seen = r.known[key]
		key.queueID = m.QueueID
	}
	if !seen {
		r.known[key] = len(r.found)
		r.found = append(r.found, &m)
		return
	}
	// A correction that comes at once may stand before its event.
	old := r.found[i]
	if e.Kind == KindCorrection {
		m.Began, m.Mail, m.Unfinished = old.Began, old.Mail, old.Unfinished
		*old = m
	} else {
		old.Began, old.Mail, old.Unfinished = m.Began, m.Mail, m.Unfinished
	}
}

// forget takes back what was learnt of messages whose clients' evidence was dropped after them.
func (r *reader) forget(n netip.Prefix) {
	for _, m := range r.found {
		if n.Contains(m.Client.Addr) {
			m.Forget()
		}
	}
}
