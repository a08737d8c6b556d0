package eventlog

import (
	"encoding/json"
	"time"
)

const (
	// unwrittenFor is how much older than the last line a line may be and be missing: each is
	// written as soon as what goes with it is in the store's journal.
	unwrittenFor = 10 * time.Second
	// tailMost is how much of a log is looked through for a line, in bytes.
	tailMost = 16 << 20
)

// Complete appends those of the last lines of a process that are not in the log: it may have been
// killed before it wrote them. They are in the order in which they were to be written. The file and
// the newest archive are looked through; a log that cannot be read back is left as it is.
func (l *Log) Complete(lines [][]byte) (added int, err error) {
	lines = last(lines)
	if len(lines) == 0 || special(l.path) {
		return 0, nil
	}
	files := []string{l.path}
	if old, err := archives(l.path); err == nil && len(old) > 0 {
		files = append(files, old[len(old)-1])
	}
	written := map[string]bool{}
	for _, f := range files {
		if err := eachLine(f, tailMost, func(line []byte) { written[string(line)] = true }); err != nil {
			return 0, err
		}
	}
	for _, line := range lines {
		if written[string(line)] {
			continue
		}
		if err := <-l.AppendLine(line); err != nil {
			return added, err
		}
		added++
	}
	return added, nil
}

// last are the lines that may not have been written.
func last(lines [][]byte) [][]byte {
	timeOf := func(line []byte) (t time.Time) {
		var e struct{ Time Stamp }
		if json.Unmarshal(line, &e) == nil {
			t = e.Time.Time
		}
		return t
	}
	if len(lines) == 0 {
		return nil
	}
	since := timeOf(lines[len(lines)-1]).Add(-unwrittenFor)
	first := len(lines) - 1
	for first > 0 && timeOf(lines[first-1]).After(since) {
		first--
	}
	return lines[first:]
}
