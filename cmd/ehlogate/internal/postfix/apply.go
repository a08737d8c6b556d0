package postfix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// ErrApplied means that a plan is in force already.
var ErrApplied = errors.New("postfix: set up already; to set it up anew, for other addresses or by a newer version: ehlogate setup postfix --undo, then --apply")

// Applied reports whether a plan is in force.
func (p *Postfix) Applied() bool { return exists(p.file(undoFile)) }

// Apply carries a plan out and notes what it replaced, so that Undo can take it back. What it
// writes is tried, and all of it is taken back where that does not work. Files of other people are
// never overwritten.
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
	// The note is written first: whatever happens after it, Undo knows what to take back. Of two
	// that apply at once, one writes it.
	if err := create(p.file(undoFile), append(note, '\n')); err != nil {
		return err
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
			if _, undoErr := p.takeBack(u, discardFile, func() error { return nil }); undoErr != nil {
				return fmt.Errorf("%w; and it could not be taken back: %w; ehlogate setup postfix --undo tries again", err, undoErr)
			}
			return fmt.Errorf("%w; all of it was taken back, nothing has changed", err)
		}
	}
	return nil
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
	dir, err := copies(main, master)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	said := map[string]bool{}
	for _, args := range [][]string{{"postconf", "-c", dir, "-x"}, {"postconf", "-c", dir, "-Mf"}, {"postconf", "-c", dir, "-Px"}, {"postfix", "-c", dir, "check"}} {
		// It says what it finds by its exit status, too.
		_, warnings, err := p.run(ctx, args[0], args[1:]...)
		if err != nil && !errors.As(err, new(*exec.ExitError)) {
			return nil, err
		}
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
