// Package manual writes what is read and completed outside of the program: its manual pages, in the
// language of man(7), and the completions of shells. All of it is made from the texts of --help and
// of the sample configuration, so that it says what they say.
package manual

import (
	"fmt"
	"strings"
)

// page is a manual page as it is written.
type page struct{ strings.Builder }

// title begins a page of a section; release stands in its footer.
func (p *page) title(name string, section int, release, volume string) {
	fmt.Fprintf(p, ".TH %s %d \"\" %s %s\n.nh\n.ad l\n", strings.ToUpper(name), section, quoted(release), quoted(volume))
}

func (p *page) section(name string)    { fmt.Fprintf(p, ".SH %s\n", quoted(strings.ToUpper(name))) }
func (p *page) subsection(name string) { fmt.Fprintf(p, ".SS %s\n", quoted(name)) }
func (p *page) paragraph(s string)     { fmt.Fprintf(p, ".PP\n%s\n", text(s)) }

// term is a word with what it means.
func (p *page) term(word, meaning string) {
	fmt.Fprintf(p, ".TP\n.B %s\n%s\n", text(word), text(meaning))
}

// verbatim are lines that are not filled.
func (p *page) verbatim(lines string) {
	p.WriteString(".RS 4\n.nf\n")
	for line := range strings.Lines(lines) {
		p.WriteString(text(strings.TrimRight(line, "\n")))
		p.WriteByte('\n')
	}
	p.WriteString(".fi\n.RE\n")
}

// special are the characters that man(7) takes for something else: a minus would become a hyphen
// that nobody can copy into a shell.
var special = strings.NewReplacer(`\`, `\e`, `-`, `\-`, `'`, `\(aq`, `"`, `\(dq`, `^`, `\(ha`, `~`, `\(ti`, "`", `\(ga`)

// text is a text whose lines are not taken for requests.
func text(s string) string {
	s = special.Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}

// quoted is an argument of a request.
func quoted(s string) string { return `"` + text(s) + `"` }
