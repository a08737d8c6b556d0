package postfix

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// setting is something that was set in main.cf or master.cf.
type setting struct {
	// Service is a service of master.cf, NAME/TYPE, empty for main.cf. With Entry the service
	// itself is what was added.
	Service string `json:"service,omitempty"`
	Entry   bool   `json:"entry,omitempty"`
	// Name is a parameter, Value what a service was given for it, or what was added to its list in
	// main.cf, "" where all of it is ours.
	Name  string `json:"name,omitempty"`
	Value string `json:"value,omitempty"`
	// Set is all that the parameter was set to in main.cf, and Was are the lines that it had
	// before.
	Set string   `json:"set,omitempty"`
	Was []string `json:"was,omitempty"`
}

// unset takes settings out of a document that was changed since they were made, wherever they stand
// by now and however they are written. It returns what has to stay.
func (p *Postfix) unset(d *document, settings []setting) (left []string) {
	for _, s := range settings {
		switch {
		case s.Entry:
		case s.Service != "":
			d.unsetOption(s)
		case d.putBack(s):
		default:
			for range d.lines {
				if !p.unsetItem(d, s) {
					break
				}
				d.commit()
			}
		}
		d.commit()
	}
	left = p.stillThere(d, settings)
	for _, s := range settings {
		if !s.Entry {
			continue
		}
		name, _, _ := strings.Cut(s.Service, "/")
		if by := cmp.Or(d.usedBy(name), p.main.usedInMain(name)); by != "" {
			left = append(left, fmt.Sprintf("%s: the service %s is still named by %s", d.path, name, by))
			continue
		}
		for _, l := range d.entries(s.Service) {
			d.drop(l)
		}
		d.commit()
	}
	return left
}

// putBack gives a parameter of main.cf its lines of before, if it is still as it was set.
func (d *document) putBack(s setting) bool {
	value, l, ok := d.parameter(s.Name)
	if !ok || !alike(value, s.Set) || len(s.Was) > 0 && d.commented(l, s.Was) {
		return false
	}
	if len(s.Was) == 0 {
		d.drop(l)
		return true
	}
	was := slices.Clone(s.Was)
	if last := len(was) - 1; !strings.HasSuffix(was[last], "\n") && l.last < len(d.lines)-1 {
		was[last] += "\n"
	}
	d.edits = append(d.edits, edit{at: l.first, Remove: d.lines[l.first : l.last+1], Add: was})
	return true
}

// commented reports whether there is a comment within a logical line that is not in other lines.
func (d *document) commented(l logical, other []string) bool {
	return slices.ContainsFunc(d.lines[l.first:l.last+1], func(line string) bool {
		return strings.HasPrefix(strings.TrimSpace(line), "#") && !slices.Contains(other, line)
	})
}

// stillThere are the lines of main.cf that name our milter after all that could be found is gone: a
// parameter of the operator's own has it by now.
func (p *Postfix) stillThere(d *document, settings []setting) (left []string) {
	i := slices.IndexFunc(settings, func(s setting) bool { return s.Service == "" && s.Name == milters })
	if i < 0 || slices.ContainsFunc(split(strings.Join(settings[i].Was, " ")), p.ours) {
		// It was there before.
		return nil
	}
	for _, l := range d.logicals() {
		name, value, ok := strings.Cut(l.text, "=")
		if ok && slices.ContainsFunc(split(value), p.ours) {
			left = append(left, fmt.Sprintf("%s: our milter is still named by %s", d.path, strings.TrimSpace(name)))
		}
	}
	return left
}

// usesAny reports whether main.cf names a service that was added to master.cf.
func (d *document) usesAny(added []setting) bool {
	return slices.ContainsFunc(added, func(s setting) bool {
		name, _, _ := strings.Cut(s.Service, "/")
		return s.Entry && d.usedInMain(name) != ""
	})
}

// usedInMain is the parameter of main.cf that names a service, or "".
func (d *document) usedInMain(service string) string {
	if d == nil {
		return ""
	}
	for _, l := range d.logicals() {
		if name, value, ok := strings.Cut(l.text, "="); ok && strings.TrimSpace(value) == service {
			return strings.TrimSpace(name) + " in " + d.path
		}
	}
	return ""
}

// alike reports whether two values are the same but for white space, commas and braces around them.
func alike(a, b string) bool { return slices.Equal(split(unbraced(a)), split(unbraced(b))) }

// commit makes the edits so far.
func (d *document) commit() { *d = *newDocument(d.path, d.edited()) }

// drop takes out a logical line, but for the comments in it.
func (d *document) drop(l logical) {
	var kept []string
	for _, line := range d.lines[l.first : l.last+1] {
		if c := strings.TrimSpace(line); c == "" || c[0] == '#' {
			kept = append(kept, line)
		}
	}
	d.edits = append(d.edits, edit{at: l.first, Remove: d.lines[l.first : l.last+1], Add: kept})
}

// usedBy is the service that hands mail to one of the name, or "".
func (d *document) usedBy(name string) string {
	for _, s := range parseServices(d, false) {
		if slices.ContainsFunc(s.order, func(o string) bool { return s.options[o] == name }) {
			return s.key()
		}
	}
	return ""
}

// entries are the lines of a service of master.cf.
func (d *document) entries(service string) []logical {
	return slices.DeleteFunc(d.logicals(), func(l logical) bool {
		words := braced(l.text)
		return len(words) < 2 || words[0]+"/"+words[1] != service
	})
}

// unsetOption takes an option out of a service.
func (d *document) unsetOption(set setting) {
	for _, l := range d.entries(set.Service) {
		for i := l.first; i <= l.last; i++ {
			if line := d.lines[i]; !strings.HasPrefix(strings.TrimSpace(line), "#") {
				d.editLine(i, withoutOption(line, set))
			}
		}
	}
}

// editLine gives a line another text; one that is left with white space goes.
func (d *document) editLine(i int, text string) {
	if text == d.lines[i] {
		return
	}
	e := edit{at: i, Remove: d.lines[i : i+1]}
	if strings.TrimSpace(text) != "" {
		e.Add = []string{text}
	}
	d.edits = append(d.edits, e)
}

// withoutOption is a line of master.cf without an option.
func withoutOption(line string, set setting) string {
	words := braced(strings.TrimRight(line, "\r\n"))
	for i, at := 0, 0; i < len(words); i++ {
		start := at + strings.Index(line[at:], words[i])
		at = start + len(words[i])
		text, isOption := strings.CutPrefix(words[i], "-o")
		if isOption && text == "" && i+1 < len(words) {
			i++
			text = words[i]
			at += strings.Index(line[at:], text) + len(text)
		}
		name, value, ok := strings.Cut(unbraced(text), "=")
		if !isOption || !ok || strings.TrimSpace(name) != set.Name || !alike(value, set.Value) {
			continue
		}
		before, after := strings.TrimRight(line[:start], " \t"), line[at:]
		if before == "" {
			// What follows continues the service as this did.
			before, after = line[:start], strings.TrimLeft(after, " \t")
		}
		return before + after
	}
	return line
}

// unsetItem takes our milter, or our table, out of a list of a parameter, however it is written by
// now, and reports whether it found one. A list that is left empty goes.
func (p *Postfix) unsetItem(d *document, set setting) bool {
	for _, l := range d.logicals() {
		name, value, ok := strings.Cut(l.text, "=")
		if ok && strings.TrimSpace(name) == set.Name && p.unsetIn(d, l, strings.TrimSpace(value), set) {
			return true
		}
	}
	return false
}

func (p *Postfix) unsetIn(d *document, l logical, value string, set setting) bool {
	for _, item := range split(value) {
		mine := set.Value != "" && alike(item, set.Value)
		replacement := ""
		switch set.Name {
		case milters:
			mine = mine || p.ours(item)
		case discard:
			if _, kind := p.ourTable([]string{item}); kind != "" || set.Value != "" && strings.Contains(item, set.Value) {
				mine = true
				replacement = strings.Join(p.others(item, set.Value), ", ")
			}
		}
		if !mine {
			continue
		}
		if alike(value, item) && replacement == "" {
			d.drop(l)
			return true
		}
		d.replaceItem(l, item, replacement)
		return true
	}
	return false
}

// others are the site's own tables in an item that joins them with ours.
func (p *Postfix) others(item, ours string) []string {
	return slices.DeleteFunc(p.beside(item), func(t string) bool { return t == ours || t == siteKeywords })
}

// replaceItem puts another text in the place of an item of a list, or takes it out with its comma.
// An item that does not stand on one line is left to the list being written anew.
func (d *document) replaceItem(l logical, item, text string) {
	for i := l.first; i <= l.last; i++ {
		line := d.lines[i]
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		before, after, ok := strings.Cut(line, item)
		if !ok {
			continue
		}
		if text == "" {
			if rest := strings.TrimLeft(after, ", \t"); strings.TrimSpace(rest) != "" {
				after = rest
			} else {
				before = strings.TrimRight(before, ", \t")
			}
		}
		d.editLine(i, before+text+after)
		return
	}
	name, value, _ := strings.Cut(l.text, "=")
	items := split(value)
	if i := slices.Index(items, item); i >= 0 {
		items = slices.Delete(items, i, i+1)
		if text != "" {
			items = slices.Insert(items, i, text)
		}
		d.replace(l, strings.TrimSpace(name)+" = "+strings.Join(items, ", "))
	}
}
