package manual

import "strings"

// Settings is ehlogate.toml(5), made of the sample configuration: a section of the file is a
// section of the page, and the comment above a key says what the key is for.
func Settings(sample, release string) string {
	var p page
	p.title("ehlogate.toml", 5, release, "File formats")
	p.section("name")
	p.WriteString(text("ehlogate.toml") + ` \- ` + text("configuration of ehlogate(1)") + "\n")
	p.section("description")
	var comment []string
	begun := false
	for line := range strings.Lines(sample) {
		line = strings.TrimRight(line, "\n")
		said, isComment := strings.CutPrefix(line, "#")
		said = strings.TrimPrefix(said, " ")
		switch {
		case isComment && strings.HasPrefix(said, "[["):
			p.prose(comment)
			comment = nil
			p.table(said)
		case isComment && !isKey(said):
			comment = append(comment, said)
		case isComment || isKey(line):
			if !isComment {
				said = line
			}
			p.key(said, comment)
			comment = nil
		case strings.HasPrefix(line, "["):
			p.prose(comment)
			comment = nil
			p.table(line)
			begun = true
		case line == "" && (!begun || len(comment) > 0):
			p.prose(comment)
			comment = nil
		}
	}
	p.prose(comment)
	p.section("see also")
	p.paragraph("ehlogate(1)")
	return p.String()
}

// isKey reports whether a line sets a key: name = value.
func isKey(line string) bool {
	name, _, ok := strings.Cut(line, " = ")
	return ok && name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}

// table begins the section of a table of the file; its name is told as the file has it.
func (p *page) table(line string) { p.WriteString(".SH " + quoted(line) + "\n") }

// key is a key with its value in the sample, and the comment on it.
func (p *page) key(line string, comment []string) {
	p.WriteString(".TP\n.B " + text(line) + "\n")
	p.lines(comment)
}

// prose is a comment that is on no key.
func (p *page) prose(comment []string) {
	if len(comment) > 0 {
		p.WriteString(".PP\n")
		p.lines(comment)
	}
}

// lines are the lines of a comment. Those that are indented stay as they are.
func (p *page) lines(comment []string) {
	unfilled := false
	for _, line := range comment {
		if now := strings.HasPrefix(line, "  "); now || unfilled {
			p.WriteString(".br\n")
			unfilled = now
		}
		p.WriteString(text(line) + "\n")
	}
}
