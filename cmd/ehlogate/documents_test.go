package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
)

// elsewhere are command lines of the documents that need a Postfix, Sendmail or Exim that runs, and
// the test with a real one that runs each.
var elsewhere = map[string]string{
	"check --live": "contrib/e2e/systems/systems_test.go",
}

// TestCommandsOfDocumentsAreRun takes every command line of ours in the documents, and looks
// whether there are such a command and such flags, and whether a script of the examples runs it:
// but for its addresses, directories and times, as it stands there.
func TestCommandsOfDocumentsAreRun(t *testing.T) {
	var run []string
	files, err := examples.ReadDir("examples")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		for _, typed := range examplesOf(strings.TrimSuffix(f.Name(), ".txt")) {
			run = append(run, general(typed))
		}
	}
	lines := 0
	err = filepath.WalkDir("../..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".md") && filepath.Base(path) != "README.Debian" {
			return err
		}
		text, err := os.ReadFile(path)
		for line := range strings.Lines(string(text)) {
			_, command, ours := strings.Cut(line, "ehlogate ")
			if !ours || !typedLine.MatchString(line) {
				continue
			}
			lines++
			command = strings.TrimSpace(afterCommand.ReplaceAllString(command, ""))
			if wrong := unknownIn(command); wrong != "" {
				t.Errorf("%s: %q: %s", path, strings.TrimSpace(line), wrong)
			} else if elsewhere[command] == "" && !slices.Contains(run, general("ehlogate "+command)) {
				t.Errorf("%s: %q: no example runs it", path, strings.TrimSpace(line))
			}
		}
		return err
	})
	if err != nil || lines < 20 {
		t.Errorf("%d command lines, %v", lines, err)
	}
	for command, file := range elsewhere {
		text, err := os.ReadFile("../../" + file)
		if words := `"` + strings.ReplaceAll(command, " ", `", "`) + `"`; err != nil || !strings.Contains(string(text), words) {
			t.Errorf("%s does not run %s: %v", file, command, err)
		}
	}
}

var (
	// typedLine is a line of a document that is a command line, or one of a crontab(5).
	typedLine = regexp.MustCompile(`^    (\$ |(\S+ +){5}root +)?ehlogate [a-z]`)
	// afterCommand is what stands behind a command: a comment, another command.
	afterCommand = regexp.MustCompile(`( # | {3}| && ).*`)

	anAddress  = regexp.MustCompile(`\d+\.\d+\.\d+\.\d+`)
	aDirectory = regexp.MustCompile(`/[\w./-]*/`)
	aTime      = regexp.MustCompile(`--since \w+`)
)

// general is a command line without what may be another one in a document.
func general(line string) string {
	line = aTime.ReplaceAllString(anAddress.ReplaceAllString(line, "ADDR"), "--since TIME")
	return aDirectory.ReplaceAllString(line, "")
}

// unknownIn is what a command line has that the program does not know.
func unknownIn(line string) string {
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
