package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
)

// TestDocumentsNameCommandsThatExist takes every command line of ours in the documents, and looks
// whether there are such a command and such flags.
func TestDocumentsNameCommandsThatExist(t *testing.T) {
	lines := 0
	err := filepath.WalkDir("../..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".md") {
			return err
		}
		text, err := os.ReadFile(path)
		for line := range strings.Lines(string(text)) {
			shown, ok := strings.CutPrefix(line, "    ")
			command, ours := strings.CutPrefix(strings.TrimPrefix(shown, "$ "), "ehlogate ")
			if ok && ours {
				lines++
				if wrong := unknownIn(command); wrong != "" {
					t.Errorf("%s: %q: %s", path, strings.TrimSpace(line), wrong)
				}
			}
		}
		return err
	})
	if err != nil || lines < 12 {
		t.Errorf("%d command lines, %v", lines, err)
	}
}

// unknownIn is what a command line has that the program does not know.
func unknownIn(line string) string {
	line, _, _ = strings.Cut(line, " # ")
	line, _, _ = strings.Cut(line, "   ")
	commands, flags := newApp(nil, nil).Commands, []cli.Flag(nil)
	for _, word := range strings.Fields(line) {
		name, isFlag := strings.CutPrefix(word, "--")
		switch {
		case isFlag:
			name, _, _ = strings.Cut(strings.TrimRight(name, ";,"), "=")
			key := slices.ContainsFunc(config.Settings, func(s config.Setting) bool { return s.Key == name })
			known := slices.ContainsFunc(flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), name) })
			if !key && !known {
				return "no flag " + word
			}
		case len(commands) > 0:
			c := commandOf(commands, word)
			if c == nil {
				return "no command " + word
			}
			flags, commands = slices.Concat(c.Flags, flags), c.Subcommands
		}
	}
	return ""
}
