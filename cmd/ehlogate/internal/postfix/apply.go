package postfix

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
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

// ErrApplied means that a plan is in force already.
var ErrApplied = errors.New("postfix: set up already; ehlogate setup postfix --undo takes it back")

// Applied reports whether a plan is in force.
func (p *Postfix) Applied() bool { return exists(p.file(undoFile)) }

// Apply carries a plan out and notes what it replaced, so that Undo can take it back. What it writes
// is tried, and all of it is taken back where that does not work. Files of other people are never
// overwritten.
func (p *Postfix) Apply(ctx context.Context, plan *Plan) error {
	if p.Applied() {
		return ErrApplied
	}
	u, err := p.undoOf(plan)
	if err != nil {
		return err
	}
	note, err := json.MarshalIndent(u, "", "  ")
	if err != nil {
		return err
	}
	// The note is written first: whatever happens after it, Undo knows what to take back.
	if err := os.WriteFile(p.file(undoFile), append(note, '\n'), 0o600); err != nil {
		return fmt.Errorf("postfix: %w", err)
	}
	for _, step := range []func() error{
		u.makeDirs,
		// The files that nobody had come before those that name them.
		func() error { return u.write(false) },
		func() error { return p.complains(ctx, plan) },
		func() error { return u.write(true) },
		func() error { return p.try(ctx) },
	} {
		if err := step(); err != nil {
			if _, undoErr := p.takeBack(u); undoErr != nil {
				return fmt.Errorf("%w; and it could not be taken back: %w; ehlogate setup postfix --undo tries again", err, undoErr)
			}
			return fmt.Errorf("%w; all of it was taken back, nothing has changed", err)
		}
	}
	return nil
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

// settled is how old a file has to look. Postfix reads one that was just written again and again for
// two seconds, in case it is not whole yet (dict_load_file_xt), and complains each time of a parameter
// that is set twice. Where it logs to a file of its own, postlogd(8) can stop for good over that, and
// all mail with it.
const settled = 3 * time.Second

// write writes a file so that it is whole at any time, or where that cannot be (a file that is
// mounted by itself), in its place. It keeps its owner and mode.
func write(path, text string) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.WriteFile(path, []byte(text), 0o644)
	} else if err == nil {
		if err = replaceFile(path, text, info); err != nil {
			err = os.WriteFile(path, []byte(text), info.Mode().Perm())
		}
	}
	if err == nil {
		err = settle(path)
	}
	if err != nil {
		return fmt.Errorf("postfix: %w", err)
	}
	return nil
}

func settle(path string) error {
	at := time.Now().Add(-settled)
	return os.Chtimes(path, at, at)
}

func replaceFile(path, text string, info fs.FileInfo) error {
	f, err := renameio.NewPendingFile(path, renameio.WithExistingPermissions(), renameio.WithTempDir(filepath.Dir(path)))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := f.Chown(int(stat.Uid), int(stat.Gid)); err != nil {
			return err
		}
	}
	if err := settle(f.Name()); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

// complains has Postfix's own checks look at the files as they would be, and if they find something
// as they are, and says what is new. It shows them copies: postfix check itself writes to main.cf
// (post-install).
func (p *Postfix) complains(ctx context.Context, plan *Plan) error {
	mainAfter, masterAfter := p.main.text, p.master.text
	for _, d := range plan.documents {
		switch d.path {
		case p.main.path:
			mainAfter = d.edited()
		case p.master.path:
			masterAfter = d.edited()
		}
	}
	after, err := p.complaints(ctx, mainAfter, masterAfter)
	if err != nil || len(after) == 0 {
		return err
	}
	before, err := p.complaints(ctx, p.main.text, p.master.text)
	if err != nil {
		return err
	}
	for line := range after {
		if !before[line] {
			return fmt.Errorf("postfix: with the new settings Postfix says %q", line)
		}
	}
	return nil
}

// complaints are what Postfix's own checks say of the text of main.cf and master.cf, by line.
func (p *Postfix) complaints(ctx context.Context, main, master string) (map[string]bool, error) {
	dir, err := os.MkdirTemp("", "ehlogate-postfix-")
	if err != nil {
		return nil, fmt.Errorf("postfix: %w", err)
	}
	defer os.RemoveAll(dir)
	err = os.Chmod(dir, 0o755)
	for name, text := range map[string]string{"main.cf": main, "master.cf": master} {
		path := filepath.Join(dir, name)
		err = errors.Join(err, os.WriteFile(path, []byte(text), 0o644), settle(path))
	}
	if err != nil {
		return nil, fmt.Errorf("postfix: %w", err)
	}
	said := map[string]bool{}
	for _, args := range [][]string{{"postconf", "-c", dir, "-x"}, {"postconf", "-c", dir, "-Mf"}, {"postconf", "-c", dir, "-Px"}, {"postfix", "-c", dir, "check"}} {
		_, warnings, _ := p.run(ctx, args[0], args[1:]...)
		for line := range strings.Lines(faults(warnings)) {
			said[strings.ReplaceAll(unnumbered(line), dir, p.Dir)] = true
		}
	}
	return said, nil
}

// unnumbered is a complaint without the number of its line, which changes.
func unnumbered(line string) string {
	before, after, ok := strings.Cut(strings.TrimSpace(line), ", line ")
	if !ok {
		return before
	}
	return before + strings.TrimLeft(after, "0123456789")
}

// try asks each table that the exchanger asks: it has an answer, or has none, but does not fail.
func (p *Postfix) try(ctx context.Context) error {
	now, err := Find(ctx, p.Dir, p.cfg)
	if err != nil {
		return err
	}
	for _, s := range now.of(exchanger) {
		for _, t := range split(s.value(discard)) {
			if _, kind := now.ourTable([]string{t}); kind == socketmapTable {
				// It fails while the daemon is away, as whoever asked for it has been told.
				continue
			}
			if _, err := now.ask(ctx, t, probes[0]); err != nil {
				return fmt.Errorf("postfix: the table %s of %s does not work: %w", t, s.key(), err)
			}
		}
		c := now.service(s.value(cleanup), "unix")
		if c == nil {
			continue
		}
		for _, t := range split(c.value(checks)) {
			if _, err := now.ask(ctx, t, "X-Spam-Flag: NO"); err != nil {
				return fmt.Errorf("postfix: the table %s of %s does not work: %w", t, c.key(), err)
			}
		}
	}
	return nil
}

// Undo takes back what Apply did. A file that is as it was left gets its bytes back; of one that was
// changed since, the lines are taken out that are still there. What cannot be taken back is
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
