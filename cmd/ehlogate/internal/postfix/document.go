package postfix

import (
	"slices"
	"strings"
)

// document is the text of main.cf or master.cf, line by line, so that what is not changed keeps its
// comments, order and layout.
type document struct {
	path string
	text string
	// lines have their ends; the last one may lack it.
	lines []string
	edits []edit
	// settings are what the edits mean, to find it again in a file that was changed since.
	settings []setting
}

// edit replaces the lines from at on, as many as Remove has, by those of Add.
type edit struct {
	at          int
	Remove, Add []string
	// Prev is the line before.
	Prev string
	// end says that it is an entry of its own, behind what continues the last one.
	end bool
}

// logical is a line of main.cf or master.cf with those that continue it, as postconf(5) reads them:
// a line that begins with white space, a carriage return too, continues the one before, and
// comments and empty lines in between are skipped.
type logical struct {
	text string
	// first and last are its lines in the document.
	first, last int
}

func newDocument(path, text string) *document {
	return &document{path: path, text: text, lines: slices.Collect(strings.Lines(text))}
}

// logicals are the logical lines of the document.
func (d *document) logicals() (all []logical) {
	for i, line := range d.lines {
		content := strings.TrimSpace(line)
		switch {
		case content == "" || content[0] == '#':
		case strings.IndexByte(" \t\r\v\f", line[0]) >= 0:
			if len(all) > 0 {
				l := &all[len(all)-1]
				l.text, l.last = l.text+" "+content, i
			}
		default:
			all = append(all, logical{content, i, i})
		}
	}
	return all
}

// parameter is the last setting of a parameter in main.cf, which is the one that counts.
func (d *document) parameter(name string) (value string, at logical, ok bool) {
	for _, l := range d.logicals() {
		n, v, isSetting := strings.Cut(l.text, "=")
		if isSetting && strings.TrimSpace(n) == name {
			value, at, ok = strings.TrimSpace(v), l, true
		}
	}
	return value, at, ok
}

// insertAfter adds lines after a line; after -1 they come first.
func (d *document) insertAfter(line int, add ...string) {
	e := edit{at: line + 1, Add: ended(add)}
	if line >= 0 && line == len(d.lines)-1 && !strings.HasSuffix(d.lines[line], "\n") {
		// The last line gets the end that it lacks.
		e.at, e.Remove = line, []string{d.lines[line]}
		e.Add = append([]string{d.lines[line] + "\n"}, e.Add...)
	}
	d.edits = append(d.edits, e)
}

// add adds lines at the end.
func (d *document) add(lines ...string) {
	d.insertAfter(len(d.lines)-1, lines...)
	d.edits[len(d.edits)-1].end = true
}

// replace puts lines in the place of a logical line.
func (d *document) replace(l logical, lines ...string) {
	d.edits = append(d.edits, edit{at: l.first, Remove: d.lines[l.first : l.last+1], Add: ended(lines)})
}

func ended(lines []string) []string {
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = l + "\n"
	}
	return out
}

// edited is the text with all edits made.
func (d *document) edited() string {
	lines := slices.Clone(d.lines)
	// From the end, so that what is before keeps its place; of two at one place the later comes
	// later.
	for _, e := range d.ordered() {
		lines = slices.Concat(lines[:e.at], e.Add, lines[e.at+len(e.Remove):])
	}
	return strings.Join(lines, "")
}

// ordered are the edits from the end of the document to its beginning. Edits at the same place are
// one, in the order in which they were made.
func (d *document) ordered() []edit {
	var all []edit
	inPlace := slices.Clone(d.edits)
	slices.SortStableFunc(inPlace, func(a, b edit) int {
		switch {
		case a.end == b.end:
			return 0
		case b.end:
			return -1
		}
		return 1
	})
	for _, e := range inPlace {
		i := slices.IndexFunc(all, func(other edit) bool { return other.at == e.at })
		if i < 0 {
			all = append(all, e)
			continue
		}
		if len(e.Remove) > 0 && len(all[i].Remove) > 0 {
			// Both gave the last line its end.
			e.Add = e.Add[1:]
		}
		if len(all[i].Remove) == 0 {
			all[i].Remove = e.Remove
		}
		all[i].Add = slices.Concat(all[i].Add, e.Add)
	}
	slices.SortFunc(all, func(a, b edit) int { return b.at - a.at })
	for i := range all {
		if before := all[i].at - 1; before >= 0 {
			all[i].Prev = d.lines[before]
		}
	}
	return all
}

// undone is a text with edits taken back; ok is false where the lines of one are not there any
// more.
func undone(text string, edits []edit) (_ string, ok bool) {
	lines := slices.Collect(strings.Lines(text))
	for _, e := range edits {
		at := e.find(lines)
		if at < 0 {
			return text, false
		}
		lines = slices.Concat(lines[:at], e.Remove, lines[at+len(e.Add):])
	}
	return strings.Join(lines, ""), true
}

// find is where the lines of an edit begin in a text: behind the line that they were put behind,
// the last time that this is so, or where they are found only once; -1 where they are not.
func (e edit) find(lines []string) int {
	at, count := -1, 0
	for i := len(lines) - len(e.Add); i >= 0; i-- {
		if !slices.Equal(lines[i:i+len(e.Add)], e.Add) {
			continue
		}
		if e.Prev != "" && i > 0 && lines[i-1] == e.Prev {
			return i
		}
		at, count = i, count+1
	}
	if count != 1 {
		return -1
	}
	return at
}
