package postfix

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/policy"
)

// setMode gives the daemon's configuration the mode to begin in, unless it has one.
func (pl *planner) setMode(asked policy.Mode) {
	pl.ConfigFile = pl.cfg.File
	if pl.ConfigFile == "" {
		pl.ConfigFile = config.DefaultFile
	}
	mode := asked
	if mode == "" {
		mode = policy.Observe
	}
	switch {
	case pl.cfg.ModeGiven && (asked == "" || pl.cfg.Policy.Mode == mode):
		return
	case pl.cfg.ModeGiven:
		pl.note("policy.mode is set to %s already; change it there", pl.cfg.Policy.Mode)
		return
	}
	line := fmt.Sprintf("mode = %q", mode)
	text, err := os.ReadFile(pl.ConfigFile)
	switch {
	case errors.Is(err, os.ErrNotExist):
		pl.Files = append(pl.Files, File{pl.ConfigFile, "# Every key is in contrib/ehlogate.toml, and in \"ehlogate help config\".\n[policy]\n" + line + "\n"})
	case err != nil:
		pl.err = errors.Join(pl.err, err)
		return
	default:
		d := newDocument(pl.ConfigFile, string(text))
		if i := slices.IndexFunc(d.lines, policySection.MatchString); i >= 0 {
			d.insertAfter(i, line)
		} else {
			d.add("[policy]", line)
		}
		if err := config.Parse(pl.ConfigFile, []byte(d.edited())); err != nil {
			pl.err = errors.Join(pl.err, fmt.Errorf("put policy.mode = %q into %s first, or say --mode protect: a line cannot be added to it (%w)", mode, pl.ConfigFile, err))
			return
		}
		pl.documents = append(pl.documents, d)
	}
	pl.Mode = mode
}

var policySection = regexp.MustCompile(`^\s*\[\s*policy\s*\]\s*(#.*)?\r?\n?$`)
