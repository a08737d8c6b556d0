package eventlog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// Recent reads back messages from an event log as they were last corrected, in the order of their
// lines: from the last bytes of its newest file, those of events later than a time. Lines that are
// no events are passed over. A missing file has none.
func Recent(path string, after time.Time, bytes int64) ([]*policy.Message, error) {
	r := reader{known: map[messageKey]int{}}
	err := r.file(path, bytes, nil, func(e *Event) bool { return e.Time.After(after) })
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return r.found, err
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
	stem, ext := strings.TrimSuffix(path, filepath.Ext(path)), filepath.Ext(path)
	files, err := filepath.Glob(stem + "-*" + ext)
	if err != nil {
		return nil, fmt.Errorf("eventlog: %w", err)
	}
	more, _ := filepath.Glob(path + ".[0-9]*")
	changed := map[string]time.Time{}
	files = slices.DeleteFunc(append(files, more...), func(f string) bool {
		info, err := os.Stat(f)
		if err != nil || slices.Contains([]string{".gz", ".xz", ".zst"}, filepath.Ext(f)) {
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

var queueIDKey = []byte(`"queue_id":"`)

// file reads the last bytes of a file: the events with a queue id that is wanted, or all, that are
// kept.
func (r *reader) file(path string, last int64, want map[string]bool, keep func(*Event) bool) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("eventlog: %w", err)
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, maxEvent)
	if info, err := f.Stat(); err == nil && info.Size() > last {
		if _, err := f.Seek(info.Size()-last, io.SeekStart); err != nil {
			return fmt.Errorf("eventlog: %w", err)
		}
		in.ReadSlice('\n') // the rest of a line
	}
	for {
		line, err := in.ReadSlice('\n')
		if err == nil && wanted(line, want) {
			var e Event
			if json.Unmarshal(line, &e) == nil && keep(&e) {
				r.add(&e)
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("eventlog: %s: %w", path, err)
		}
	}
}

func wanted(line []byte, want map[string]bool) bool {
	if want == nil {
		return true
	}
	_, rest, ok := bytes.Cut(line, queueIDKey)
	if !ok {
		return false
	}
	id, _, _ := bytes.Cut(rest, []byte(`"`))
	return want[string(id)]
}

func (r *reader) add(e *Event) {
	m, ok := e.Message()
	if !ok {
		return
	}
	key := messageKey{m.Session, m.QueueID, e.Client.Addr, m.Time.UTC()}
	i, seen := r.known[key]
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
