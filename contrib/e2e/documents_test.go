package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// link is a link of Markdown, or a picture.
var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// documents are all Markdown files of the project.
func documents(t *testing.T) (all []string) {
	t.Helper()
	must(t, filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".md") {
			all = append(all, path)
		}
		return err
	}))
	return all
}

// anchor is what a heading is linked by.
func anchor(heading string) string {
	heading = strings.ToLower(strings.TrimSpace(strings.TrimLeft(heading, "#")))
	heading = strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z':
			return r
		}
		return -1
	}, heading)
	return heading
}

// TestLinksLeadSomewhere follows every link within the project.
func TestLinksLeadSomewhere(t *testing.T) {
	for _, doc := range documents(t) {
		text, err := os.ReadFile(doc)
		must(t, err)
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			target, fragment, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			path := doc
			if target != "" {
				path = filepath.Join(filepath.Dir(doc), target)
			}
			content, err := os.ReadFile(path)
			if info, statErr := os.Stat(path); statErr != nil || err != nil && !info.IsDir() {
				t.Errorf("%s: %s: %v", doc, m[1], err)
				continue
			}
			found := fragment == ""
			for line := range strings.Lines(string(content)) {
				found = found || strings.HasPrefix(line, "#") && anchor(line) == fragment
			}
			if !found {
				t.Errorf("%s: %s: no such heading", doc, m[1])
			}
		}
	}
}
