package postfix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
)

// undo is what Apply did, kept beside main.cf: the files with their text before and after.
type undo struct {
	Format string       `json:"format"`
	Files  []undoneFile `json:"files"`
	// Dirs are the directories that were made for them.
	Dirs []string `json:"dirs,omitempty"`
}

const undoFormat = "ehlogate undo 3"

// undoneFile is a file before and after; Before is nil where it was not there.
type undoneFile struct {
	Path   string  `json:"path"`
	Before *string `json:"before"`
	After  string  `json:"after"`
	// Edits are the lines that were changed, from the end of the file to its beginning, Settings
	// what they mean.
	Edits    []edit    `json:"edits,omitempty"`
	Settings []setting `json:"settings,omitempty"`
	// Daemon says that it is the daemon's configuration.
	Daemon bool `json:"daemon,omitempty"`
}

// undoOf notes what a plan will change.
func (p *Postfix) undoOf(plan *Plan) (*undo, error) {
	u := &undo{Format: undoFormat}
	for _, f := range plan.Files {
		if exists(f.Path) {
			return nil, fmt.Errorf("postfix: %s exists and was not written by this command; move it away", f.Path)
		}
		u.Files = append(u.Files, undoneFile{Path: f.Path, After: f.Text, Daemon: f.Path == plan.ConfigFile})
		if dir := filepath.Dir(f.Path); !exists(dir) && !slices.Contains(u.Dirs, dir) {
			u.Dirs = append(u.Dirs, dir)
		}
	}
	for _, d := range plan.documents {
		u.Files = append(u.Files, undoneFile{Path: d.path, Before: &d.text, After: d.edited(), Edits: d.ordered(), Settings: d.settings, Daemon: d.path == plan.ConfigFile})
	}
	return u, nil
}

func (u *undo) makeDirs() error {
	for _, d := range u.Dirs {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("postfix: %w", err)
		}
	}
	return nil
}

// write writes the files that were there before, or those that were not.
func (u *undo) write(there bool) error {
	for _, f := range u.Files {
		if (f.Before != nil) != there {
			continue
		}
		if err := write(f.Path, f.After); err != nil {
			return err
		}
	}
	return nil
}

// Undo takes back what Apply did. A file that is as it was left gets its bytes back; in one that
// was changed since, what we set is found by its meaning and taken out, and nothing else. What
// cannot be taken back is returned, with the files and services that are still named: Postfix takes
// no mail when one of them is missing. Then the note stays, for another try.
func (p *Postfix) Undo(ctx context.Context, reload bool) (left []string, err error) {
	u, err := p.readUndo()
	if err != nil {
		return nil, err
	}
	return p.takeBack(u, p.remove, func() error {
		if !reload || !p.Running() {
			return nil
		}
		return p.Reload(ctx)
	})
}

// UndoDiff is what Undo would do to the files, as a unified diff, and what it could not take back.
func (p *Postfix) UndoDiff() (text string, left []string, err error) {
	u, err := p.readUndo()
	if err != nil {
		return "", nil, err
	}
	var b strings.Builder
	for _, f := range slices.Backward(u.Files) {
		if f.Before == nil {
			continue
		}
		now, restored, more, err := p.restored(f)
		if err != nil {
			return "", left, err
		}
		left = append(left, more...)
		if now != restored {
			b.Write(diff.Diff(f.Path, []byte(now), f.Path, []byte(restored)))
		}
		if f.Path == p.main.path {
			p.main = newDocument(f.Path, restored)
		}
	}
	for _, f := range u.Files {
		if now, err := os.ReadFile(f.Path); f.Before == nil && err == nil {
			b.Write(diff.Diff(f.Path, now, "/dev/null", nil))
		}
	}
	return b.String(), left, nil
}

// readUndo reads what Apply did, but for the daemon's mode. That stays: another Postfix may be
// connected to the same daemon, and would begin to withhold.
func (p *Postfix) readUndo() (*undo, error) {
	b, err := os.ReadFile(p.file(undoFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("postfix: %s is not there: nothing to take back%s", p.file(undoFile), p.byHand())
	} else if err != nil {
		return nil, fmt.Errorf("postfix: %w; run this as root", err)
	}
	u := &undo{}
	if err := json.Unmarshal(b, u); err != nil || u.Format != undoFormat {
		return nil, fmt.Errorf("postfix: %s is not what this version of ehlogate wrote (%v); use the one that did", p.file(undoFile), err)
	}
	u.Files = slices.DeleteFunc(u.Files, func(f undoneFile) bool { return f.Daemon })
	return u, nil
}

// takeBack gives the files back that were there before; then Postfix is reloaded, and the files go
// that were not, by remove: it puts mail off when a table is missing that it still knows of.
func (p *Postfix) takeBack(u *undo, remove func(undoneFile) error, reload func() error) (left []string, err error) {
	var now []string
	for _, f := range slices.Backward(u.Files) {
		if f.Before == nil {
			continue
		}
		text, more, err := p.restore(f)
		if err != nil {
			return left, err
		}
		left, now = append(left, more...), append(now, text)
		if f.Path == p.main.path {
			p.main = newDocument(f.Path, text)
		}
	}
	if err := reload(); err != nil {
		return left, err
	}
	for _, f := range u.Files {
		if f.Before != nil {
			continue
		}
		if slices.ContainsFunc(now, func(text string) bool { return names(text, f.Path) }) {
			left = append(left, f.Path+" is still named")
			continue
		}
		if err := remove(f); err != nil {
			return left, err
		}
	}
	for _, d := range slices.Backward(u.Dirs) {
		// It stays if there is something else in it by now.
		os.Remove(d)
	}
	if len(left) > 0 {
		return left, nil
	}
	if err := os.Remove(p.file(undoFile)); err != nil {
		return left, fmt.Errorf("postfix: %w", err)
	}
	return nil, nil
}

// discardFile removes a file that we have just written, whole or not.
func discardFile(f undoneFile) error {
	if err := os.Remove(f.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("postfix: %w", err)
	}
	return nil
}

// remove removes a file that we made. One that somebody has changed since is moved aside, and the
// daemon's configuration stays.
func (p *Postfix) remove(f undoneFile) error {
	text, err := os.ReadFile(f.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil && string(text) == f.After:
		err = os.Remove(f.Path)
	case err == nil && filepath.Dir(f.Path) == p.Dir:
		if err = os.Rename(f.Path, f.Path+movedAside); err == nil {
			p.MovedAside = append(p.MovedAside, f.Path+movedAside)
		}
	}
	if err != nil {
		return fmt.Errorf("postfix: %w", err)
	}
	return nil
}

// byHand names the lines that connect this Postfix, where the note of setup is lost.
func (p *Postfix) byHand() string {
	var lines []string
	for _, d := range []*document{p.main, p.master} {
		for _, l := range d.logicals() {
			if slices.ContainsFunc(split(l.text), p.ours) || strings.Contains(l.text, p.file(memcacheFile)) || strings.Contains(l.text, ourPrefix+"cleanup") {
				name, _, _ := strings.Cut(l.text, " ")
				lines = append(lines, fmt.Sprintf("%s:%d (%s)", d.path, l.first+1, name))
			}
		}
	}
	if len(lines) == 0 {
		return ""
	}
	return "; what connects this Postfix is to be taken out by hand: " + strings.Join(lines, ", ")
}

// movedAside ends the name of a file of ours that somebody has changed, after it was taken back.
const movedAside = ".old"

// names reports whether the text of a configuration file names another file, outside comments.
func names(text, path string) bool {
	return slices.ContainsFunc(newDocument("", text).logicals(), func(l logical) bool { return strings.Contains(l.text, path) })
}

// restore gives a file its text back, and returns that text and what is left of ours in it.
func (p *Postfix) restore(f undoneFile) (text string, left []string, err error) {
	now, restored, left, err := p.restored(f)
	if err != nil || now == restored {
		return now, left, err
	}
	return restored, left, write(f.Path, restored)
}

// restored is a file's text now and as it will be, and what is left of ours in that.
func (p *Postfix) restored(f undoneFile) (text, restored string, left []string, err error) {
	b, err := os.ReadFile(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", []string{f.Path + " is not there any more"}, nil
	}
	if err != nil {
		return "", "", nil, fmt.Errorf("postfix: %w", err)
	}
	text = string(b)
	restored = text
	switch {
	case text == f.After && !p.main.usesAny(f.Settings):
		restored = *f.Before
	case text == *f.Before:
	case f.Daemon:
		// What the operator has set there since is his.
		if back, ok := undone(text, f.Edits); ok {
			restored = back
		}
	default:
		d := newDocument(f.Path, text)
		left = p.unset(d, f.Settings)
		restored = d.edited()
	}
	return text, restored, left, nil
}
