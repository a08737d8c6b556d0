package postfix

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/ehlogate/ehlogate/policy"
)

// The kinds of our table.
const (
	memcacheTable  = "memcache"
	socketmapTable = "socketmap"
)

// lookup is a lookup table as main.cf names it, TYPE:NAME; see DATABASE_README.
type lookup struct{ expression, kind, name string }

func parseLookup(expression string) lookup {
	kind, name, _ := strings.Cut(expression, ":")
	if kind == "proxy" {
		// proxymap(8) asks the table for others.
		return parseLookup(name)
	}
	return lookup{expression, kind, name}
}

// members are the tables that a table is made of: those of unionmap, pipemap and randmap, else
// itself.
func (l lookup) members() (all []lookup) {
	switch l.kind {
	case "unionmap", "pipemap", "randmap":
		for _, m := range split(unbraced(l.name)) {
			all = append(all, parseLookup(m).members()...)
		}
		return all
	}
	return []lookup{l}
}

// largestTable bounds what is read of a table's file.
const largestTable = 1 << 20

// mentions reports whether a table, as it is named or in its file, has a word: that of a database
// may have it in its query, those of others in an entry.
func mentions(expression, word string) bool {
	return slices.ContainsFunc(parseLookup(expression).members(), func(m lookup) bool {
		text := m.expression
		if filepath.IsAbs(m.name) {
			if f, err := os.Open(m.name); err == nil {
				defer f.Close()
				b, _ := io.ReadAll(io.LimitReader(f, largestTable))
				text += string(b)
			}
		}
		return strings.Contains(strings.ToLower(text), word)
	})
}

// ourKind is the kind of our table that this is, or "".
func (p *Postfix) ourKind(l lookup) string {
	switch l.kind {
	case socketmapTable:
		i := strings.LastIndexByte(l.name, ':')
		if i > 0 && p.same(l.name[:i], p.cfg.Table.Socketmap) {
			return socketmapTable
		}
	case memcacheTable:
		// A relative path is found from here, and not by smtpd(8).
		path := l.name
		if !filepath.IsAbs(path) {
			path = p.file(path)
		}
		if p.same(readMemcache(path)["memcache"], p.cfg.Table.Memcache) {
			return memcacheTable
		}
	}
	return ""
}

// ourTable is where our table stands in a list of tables: the item, and the kind of ours in it; the
// kind is "" where it does not.
func (p *Postfix) ourTable(list []string) (at int, kind string) {
	for i, item := range list {
		for _, m := range parseLookup(item).members() {
			if kind = p.ourKind(m); kind != "" {
				return i, kind
			}
		}
	}
	return -1, ""
}

// readMemcache reads the file of a memcache table; memcache_table(5) has its format, which is that
// of main.cf.
func readMemcache(path string) map[string]string {
	set := map[string]string{}
	b, _ := os.ReadFile(path)
	for _, l := range newDocument(path, string(b)).logicals() {
		if name, value, ok := strings.Cut(l.text, "="); ok {
			set[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return set
}

// probes are addresses that no table should have by chance, of both families and all over them.
var probes = []string{
	"192.0.2.77", "198.51.100.203", "11.201.33.5", "75.12.240.9", "140.88.1.77", "220.45.6.7",
	"2001:db8::77", "2400:1234::1", "2600:9:8::7", "2a01:77:2::9",
}

// hides reports whether a table has an answer for most addresses of a family, so that those behind
// it in a list are not asked. An error says that it cannot be asked now.
func (p *Postfix) hides(ctx context.Context, table string) (v4, v6 bool, err error) {
	hits, count := map[bool]int{}, map[bool]int{}
	for _, addr := range probes {
		isV6 := strings.Contains(addr, ":")
		count[isV6]++
		value, err := p.ask(ctx, table, addr)
		if err != nil {
			return false, false, err
		}
		if value != "" {
			hits[isV6]++
		}
	}
	return hits[false]*2 > count[false], hits[true]*2 > count[true], nil
}

// proxied is a table that is asked through proxymap(8), also as a member of another one.
var proxied = regexp.MustCompile(`(^|[{,\s])proxy:`)

// ask asks a table of Postfix as smtpd(8) would, but for its user, and without proxymap(8) where
// Postfix does not run. postmap(1) ends with status 1 where there is no answer, too; where a table
// fails, it dies.
func (p *Postfix) ask(ctx context.Context, table, key string) (string, error) {
	question := [2]string{table, key}
	if a, ok := p.asked[question]; ok {
		return a.value, a.err
	}
	if !p.Running() {
		table = proxied.ReplaceAllString(table, "$1")
	}
	out, warnings, err := p.run(ctx, "postmap", "-c", p.Dir, "-q", key, table)
	if status := new(exec.ExitError); errors.As(err, &status) && status.ExitCode() == 1 && !strings.Contains(warnings, "fatal: ") {
		err = nil
	}
	p.asked[question] = answer{strings.TrimSpace(out), err}
	return strings.TrimSpace(out), err
}

// answer is what a table said when it was asked.
type answer struct {
	value string
	err   error
}

// faults are the lines of what a program of Postfix complains of that are about more than a setting
// that nothing uses.
func faults(warnings string) string {
	var b strings.Builder
	for line := range strings.Lines(warnings) {
		if strings.TrimSpace(line) != "" && !strings.Contains(line, "unused parameter") && !strings.Contains(line, "overriding earlier entry") {
			b.WriteString(line)
		}
	}
	return strings.TrimSpace(b.String())
}

// beside are the tables that an item joins with ours.
func (p *Postfix) beside(item string) (others []string) {
	for _, m := range parseLookup(item).members() {
		if p.ourKind(m) == "" {
			others = append(others, m.expression)
		}
	}
	return others
}

// words are the EHLO keywords in a list, without silent-discard.
func words(list string) []string {
	all := split(strings.ToLower(unbraced(list)))
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(w string) bool { return w == policy.SilentDiscard })
}

// literal is a value in force as main.cf has to say it: $$ stands for $ there. Our table names a
// parameter on purpose.
func literal(value string) string {
	value = strings.ReplaceAll(value, "$", "$$")
	return strings.ReplaceAll(value, strings.ReplaceAll(siteKeywords, "$", "$$"), siteKeywords)
}
