package main

import (
	"embed"
	"strings"

	"github.com/urfave/cli/v2"
)

// examples are the scripts of which --help quotes the lines below "# Example: ..."; each is named
// after its command, and a test runs it.
//
//go:embed examples/*.txt
var examples embed.FS

// examplesOf are the examples of a command, as one types them, each below a comment that says what
// it is for. A line of the script that keeps what the command printed is a redirection.
func examplesOf(command string) (all []string) {
	script, err := examples.ReadFile("examples/" + command + ".txt")
	if err != nil {
		return nil
	}
	lines := strings.Split(string(script), "\n")
	for i, line := range lines {
		purpose, ok := strings.CutPrefix(line, "# Example: ")
		if !ok || i+2 >= len(lines) {
			continue
		}
		typed, _, _ := strings.Cut(strings.TrimPrefix(lines[i+1], "exec "), " &")
		typed = strings.ReplaceAll(strings.TrimPrefix(typed, "! exec "), "'", `"`)
		if file, ok := strings.CutPrefix(lines[i+2], "cp stdout "); ok {
			typed += " > " + file
		}
		all = append(all, "# "+purpose, typed)
	}
	return all
}

// described is a command's description with its examples; path is its name and those above it.
func described(c *cli.Command, path ...string) string {
	all := examplesOf(strings.Join(append(path, c.Name), "-"))
	if len(all) == 0 {
		return c.Description
	}
	text := "Examples:\n  " + strings.Join(all, "\n  ")
	if c.Description == "" {
		return text
	}
	return c.Description + "\n\n" + text
}
