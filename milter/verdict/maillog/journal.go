package maillog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Journal follows the journal with journalctl(1).
type Journal struct {
	// Directory is the journal's, empty for the host's own.
	Directory string
	// Malformed is called for an entry that cannot be read.
	Malformed func()
}

// Entry is what is read of an entry of the journal.
type Entry struct {
	At time.Time
	// Program is its name, such as postfix/smtpd, PID its process id.
	Program, PID string
	Text         []byte
	// Cursor is its place in the journal.
	Cursor string
}

// Follow calls f for each entry of the facility mail after a cursor, or from now on if that is
// empty, until the context ends or journalctl does.
func (j *Journal) Follow(ctx context.Context, cursor string, f func(Entry)) error {
	args := []string{"--follow", "--output=json", "--output-fields=SYSLOG_IDENTIFIER,SYSLOG_PID,MESSAGE", "--quiet", "--no-pager", "SYSLOG_FACILITY=2"}
	if cursor == "" {
		args = append(args, "--lines=0")
	} else {
		args = append(args, "--lines=all", "--after-cursor="+cursor)
	}
	if j.Directory != "" {
		args = append(args, "--directory="+j.Directory)
	}
	cmd := exec.CommandContext(ctx, "journalctl", args...)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("maillog: %w", err)
	}
	err = Lines(ctx, out, j.Malformed, func(line []byte) {
		e, err := ParseEntry(line)
		if err != nil {
			j.Malformed()
			return
		}
		f(e)
	})
	if ctx.Err() != nil {
		cmd.Wait()
		return ctx.Err()
	}
	err = errors.Join(err, cmd.Wait())
	return fmt.Errorf("maillog: journalctl ended: %w: %s", err, strings.TrimSpace(complaint.String()))
}

// End is the cursor of the last entry, empty where there is none.
func (j *Journal) End(ctx context.Context) string {
	args := []string{"--lines=1", "--output=json", "--output-fields=MESSAGE", "--quiet", "--no-pager"}
	if j.Directory != "" {
		args = append(args, "--directory="+j.Directory)
	}
	out, err := exec.CommandContext(ctx, "journalctl", args...).Output()
	if err != nil {
		return ""
	}
	e, _ := ParseEntry(bytes.TrimSpace(out))
	return e.Cursor
}

// ParseEntry reads an entry in the journal's JSON: see JOURNAL_EXPORT_FORMATS. A text that is not
// UTF-8 is a list of numbers there.
func ParseEntry(line []byte) (e Entry, err error) {
	var v struct {
		Cursor  string          `json:"__CURSOR"`
		At      string          `json:"__REALTIME_TIMESTAMP"`
		Program string          `json:"SYSLOG_IDENTIFIER"`
		PID     string          `json:"SYSLOG_PID"`
		Message json.RawMessage `json:"MESSAGE"`
	}
	if err := json.Unmarshal(line, &v); err != nil {
		return e, fmt.Errorf("maillog: entry: %w", err)
	}
	micros, err := strconv.ParseInt(v.At, 10, 64)
	if err != nil {
		return e, fmt.Errorf("maillog: entry: __REALTIME_TIMESTAMP: %w", err)
	}
	e = Entry{At: time.UnixMicro(micros), Program: v.Program, PID: v.PID, Cursor: v.Cursor}
	if len(v.Message) > 0 && v.Message[0] == '[' {
		var numbers []uint8
		var wide []uint16
		if err := json.Unmarshal(v.Message, &wide); err != nil {
			return e, fmt.Errorf("maillog: entry: MESSAGE: %w", err)
		}
		for _, n := range wide {
			numbers = append(numbers, byte(n))
		}
		e.Text = numbers
		return e, nil
	}
	var text string
	if err := json.Unmarshal(v.Message, &text); len(v.Message) > 0 && err != nil {
		return e, fmt.Errorf("maillog: entry: MESSAGE: %w", err)
	}
	e.Text = []byte(text)
	return e, nil
}
