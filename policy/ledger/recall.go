package ledger

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// recalled is what is read of an event to know its observation again.
type recalled struct {
	Time          time.Time        `json:"time"`
	Event         string           `json:"event"`
	Session       string           `json:"session"`
	QueueID       string           `json:"queue_id"`
	Client        client           `json:"client"`
	Authenticated bool             `json:"authenticated"`
	Of            time.Time        `json:"of"`
	Verdict       policy.Verdict   `json:"verdict"`
	Said          []policy.Verdict `json:"said"`
	Seconds       float64          `json:"seconds"`
}

// observation is what the event knows of its observation.
func (r *recalled) observation() (o *policy.Observation, ok bool) {
	addr, err := netip.ParseAddr(r.Client.Addr)
	if r.Client.Addr != "" && err != nil {
		return nil, false
	}
	if r.Event == eventCorrection {
		r.Time = r.Of
	}
	if r.Said == nil && r.Verdict.Source != "" {
		r.Said = []policy.Verdict{r.Verdict}
	}
	return &policy.Observation{
		Time: r.Time, Began: r.Time.Add(-time.Duration(r.Seconds * float64(time.Second))), Session: r.Session, QueueID: r.QueueID,
		Client: policy.Client{Addr: addr, Port: r.Client.Port}, Authenticated: r.Authenticated, Mail: r.Event != eventSession, Verdict: r.Verdict, Said: r.Said,
	}, true
}

// Recall reads back observations from an event log as they were last corrected, in the order of their lines: of the last bytes of its newest file, those that ended after a
// time. Lines that are none of ours are passed over.
func Recall(path string, after time.Time, most int64) ([]*policy.Observation, error) {
	r := reading{known: map[string]int{}}
	err := r.file(path, most, nil, func(e *recalled) bool { return e.Time.After(after) })
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return r.found, err
}

// Find reads back the observations of messages with these queue ids, as they were last corrected, from an event log and the files that it was
// rotated to, as far as they are not packed. Of a queue id that was used again the last message is found.
func Find(path string, queueIDs []string) (map[string]*policy.Observation, error) {
	want := map[string]bool{}
	for _, id := range queueIDs {
		want[id] = true
	}
	found := map[string]*policy.Observation{}
	files, err := rotated(path)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		r := reading{known: map[string]int{}}
		if err := r.file(file, 1<<62, want, func(*recalled) bool { return true }); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for _, o := range r.found {
			found[o.QueueID] = o
		}
	}
	return found, nil
}

// rotated are the files of an event log, the oldest first.
func rotated(path string) ([]string, error) {
	stem, ext := strings.TrimSuffix(path, filepath.Ext(path)), filepath.Ext(path)
	files, err := filepath.Glob(stem + "-*" + ext)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	more, _ := filepath.Glob(path + ".[0-9]*")
	changed := map[string]time.Time{}
	files = slices.DeleteFunc(append(files, more...), func(f string) bool {
		info, err := os.Stat(f)
		if err != nil || strings.HasSuffix(f, ".gz") || strings.HasSuffix(f, ".xz") || strings.HasSuffix(f, ".zst") {
			return true
		}
		changed[f] = info.ModTime()
		return false
	})
	slices.SortFunc(files, func(a, b string) int { return changed[a].Compare(changed[b]) })
	return append(files, path), nil
}

// reading collects observations; known is where a session's message stands among them.
type reading struct {
	found []*policy.Observation
	known map[string]int
}

var queueIDKey = []byte(`"queue_id":"`)

// file reads the last bytes of a file: the events with a queue id that is wanted, or all, that are kept.
func (r *reading) file(path string, most int64, want map[string]bool, keep func(*recalled) bool) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, maxLine)
	if info, err := f.Stat(); err == nil && info.Size() > most {
		if _, err := f.Seek(info.Size()-most, io.SeekStart); err != nil {
			return fmt.Errorf("ledger: %w", err)
		}
		in.ReadSlice('\n') // the rest of a line
	}
	for {
		line, err := in.ReadSlice('\n')
		if err == nil && wanted(line, want) {
			var e recalled
			if json.Unmarshal(line, &e) == nil && keep(&e) {
				r.add(&e)
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("ledger: %s: %w", path, err)
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

func (r *reading) add(e *recalled) {
	correction := e.Event == eventCorrection
	o, ok := e.observation()
	if !ok {
		return
	}
	key := o.Session + " " + o.QueueID + " " + o.Client.Addr.String() + " " + o.Time.String()
	if i, seen := r.known[key]; seen {
		// A correction that comes at once may stand before its observation.
		if correction {
			o.Began, o.Mail = r.found[i].Began, r.found[i].Mail
			r.found[i] = o
		} else {
			r.found[i].Began, r.found[i].Mail = o.Began, o.Mail
		}
		return
	}
	r.known[key] = len(r.found)
	r.found = append(r.found, o)
}
