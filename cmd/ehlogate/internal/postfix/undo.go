package postfix

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// undo is what Apply did, kept beside main.cf: the files with their text before and after.
type undo struct {
	Format string       `json:"format"`
	Files  []undoneFile `json:"files"`
	// Dirs are the directories that were made for them.
	Dirs []string `json:"dirs,omitempty"`
}

const undoFormat = "ehlogate undo 2"

// undoneFile is a file before and after; Before is nil where it was not there.
type undoneFile struct {
	Path   string  `json:"path"`
	Before *string `json:"before"`
	After  string  `json:"after"`
	// Edits are the lines that were changed, from the end of the file to its beginning.
	Edits []edit `json:"edits,omitempty"`
}

// undoOf notes what a plan will change.
func (p *Postfix) undoOf(plan *Plan) (*undo, error) {
	u := &undo{Format: undoFormat}
	for _, f := range plan.Files {
		if exists(f.Path) {
			return nil, fmt.Errorf("postfix: %s exists and was not written by this command; move it away", f.Path)
		}
		u.Files = append(u.Files, undoneFile{Path: f.Path, After: f.Text})
		if dir := filepath.Dir(f.Path); !exists(dir) && !slices.Contains(u.Dirs, dir) {
			u.Dirs = append(u.Dirs, dir)
		}
	}
	for _, d := range plan.documents {
		u.Files = append(u.Files, undoneFile{Path: d.path, Before: &d.text, After: d.edited(), Edits: d.ordered()})
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

// Undo takes back what Apply did. A file that is as it was left gets its bytes back; of one that
// was changed since, the lines are taken out that are still there. What cannot be taken back is
// returned, and the files while they are still named: Postfix takes no mail when a table in main.cf
// is missing.
func (p *Postfix) Undo() (left []string, err error) {
	b, err := os.ReadFile(p.file(undoFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("postfix: %s is not there: nothing to take back", p.file(undoFile))
	} else if err != nil {
		return nil, fmt.Errorf("postfix: %w", err)
	}
	u := &undo{}
	decoder := json.NewDecoder(bytes.NewReader(b))
	if err := decoder.Decode(u); err != nil || u.Format != undoFormat {
		return nil, fmt.Errorf("postfix: %s is not what this version of ehlogate wrote (%v); use the one that did", p.file(undoFile), err)
	}
	return p.takeBack(u)
}

func (p *Postfix) takeBack(u *undo) (left []string, err error) {
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
	}
	for _, f := range u.Files {
		if f.Before != nil {
			continue
		}
		if slices.ContainsFunc(now, func(text string) bool { return names(text, f.Path) }) {
			left = append(left, f.Path)
			continue
		}
		if text, err := os.ReadFile(f.Path); err == nil && string(text) != f.After && filepath.Dir(f.Path) != p.Dir {
			// The daemon's configuration is the operator's by now.
			left = append(left, f.Path)
			continue
		}
		if err := os.Remove(f.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return left, fmt.Errorf("postfix: %w", err)
		}
	}
	for _, d := range slices.Backward(u.Dirs) {
		// It stays if there is something else in it by now.
		os.Remove(d)
	}
	if err := os.Remove(p.file(undoFile)); err != nil {
		return left, fmt.Errorf("postfix: %w", err)
	}
	return left, nil
}

// names reports whether the text of a configuration file names another file, outside comments.
func names(text, path string) bool {
	for _, l := range newDocument("", text).logicals() {
		if strings.Contains(l.text, path) {
			return true
		}
	}
	return false
}

// restore gives a file its text back, and returns that text and what is left of ours in it.
func (p *Postfix) restore(f undoneFile) (text string, left []string, err error) {
	b, err := os.ReadFile(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", []string{f.Path + ", which is not there any more"}, nil
	}
	if err != nil {
		return "", nil, fmt.Errorf("postfix: %w", err)
	}
	text = string(b)
	if text == f.After {
		return *f.Before, nil, write(f.Path, *f.Before)
	}
	restored, conflicts := undone(text, f.Edits)
	for _, e := range conflicts {
		// Another setting of the same parameter may have ours in it.
		var ok bool
		if restored, ok = without(restored, e); !ok {
			left = append(left, fmt.Sprintf("%s: %s", f.Path, strings.TrimSpace(strings.Join(e.Add, " "))))
		}
	}
	if restored == text {
		return text, left, nil
	}
	return restored, left, write(f.Path, restored)
}

// without takes the items that an edit added out of the lists that have them by now. ok is false
// where none does, and so the lines of the edit are not known any more.
func without(text string, e edit) (_ string, ok bool) {
	added := strings.Join(e.Add, "")
	removed := strings.Join(e.Remove, "")
	for _, item := range ourItems(added) {
		if strings.Contains(removed, item) {
			continue
		}
		for _, form := range []string{", " + item, item + ", ", item} {
			if before, after, found := strings.Cut(text, form); found {
				text, ok = before+after, true
				break
			}
		}
	}
	// What is gone already needs nothing.
	return text, ok || !strings.Contains(text, ourMark(added))
}

// ourItems are the items of lists in a line that are ours: a milter in braces, or a table.
func ourItems(line string) (items []string) {
	_, value, ok := strings.Cut(line, "=")
	if !ok {
		value = line
	}
	for _, text := range []string{line, value} {
		for _, item := range split(strings.TrimSpace(text)) {
			if strings.HasPrefix(item, "{") && strings.Contains(item, "default_action=accept") || strings.Contains(item, memcacheFile) || strings.Contains(item, checksFile) || strings.HasPrefix(item, "socketmap:") {
				items = append(items, item)
			}
		}
	}
	return items
}

// ourMark is what shows that a line is ours.
func ourMark(line string) string {
	if items := ourItems(line); len(items) > 0 {
		return items[0]
	}
	return strings.TrimSpace(line)
}
