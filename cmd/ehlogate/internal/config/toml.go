package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// at puts the place of a fault before it: file and line, flag or variable, then the key.
func at(place, key string, err error) error {
	switch {
	case err == nil:
		return nil
	case key == "":
		return fmt.Errorf("%s: %w", place, err)
	}
	return fmt.Errorf("%s: %s: %w", place, key, err)
}

// readTOML sets what a file says and returns all its faults.
func (c *Config) readTOML(file string, b []byte) (faults []error) {
	var doc map[string]any
	if err := toml.Unmarshal(b, &doc); err != nil {
		var syntax *toml.DecodeError
		if errors.As(err, &syntax) {
			line, column := syntax.Position()
			return []error{fmt.Errorf("%s:%d:%d: %s; see toml.io for the syntax", file, line, column, strings.TrimPrefix(syntax.Error(), "toml: "))}
		}
		return []error{fmt.Errorf("%s: %w", file, err)}
	}
	lines := linesOf(b)
	fault := func(key string, err error) {
		faults = append(faults, at(fmt.Sprintf("%s:%d", file, lines[key]), key, err))
	}
	for _, section := range slices.Sorted(maps.Keys(doc)) {
		table, ok := doc[section].(map[string]any)
		if !slices.Contains(sections(), section) {
			fault(section, fmt.Errorf("unknown section; want one of %s", strings.Join(sections(), ", ")))
			continue
		}
		if !ok {
			fault(section, fmt.Errorf("is a %s; want a section, [%s] on a line of its own", kind(doc[section]), section))
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(table)) {
			key := section + "." + name
			if key == "policy.tier" {
				c.readTiers(table[name], fault)
				continue
			}
			if key == filterKey {
				c.readFilters(table[name], func(key string) string { return fmt.Sprintf("%s:%d: %s:", file, lines[key], key) }, fault)
				continue
			}
			if inner, ok := table[name].(map[string]any); ok && isTable(key) {
				for _, n := range slices.Sorted(maps.Keys(inner)) {
					fault(key+"."+n, c.setKey(key+"."+n, value{toml: inner[n]}))
				}
				continue
			}
			if key == trustedNetworks && table["own_networks"] != nil {
				fault(key, errBothNames)
				continue
			}
			fault(key, c.setKey(key, value{toml: table[name]}))
		}
	}
	return faults
}

// isTable reports whether a key holds a table of keys.
func isTable(key string) bool {
	return slices.ContainsFunc(Settings, func(s Setting) bool { return strings.HasPrefix(s.Key, key+".") })
}

func (c *Config) setKey(key string, v value) error {
	section := parent(key)
	var known []string
	for _, s := range Settings {
		if s.Key == key {
			return s.set(c, v)
		}
		if name, ok := strings.CutPrefix(s.Key, section+"."); ok {
			if name, _, _ = strings.Cut(name, "."); !slices.Contains(known, name) {
				known = append(known, name)
			}
		}
	}
	if isTable(key) {
		return fmt.Errorf("is a %s; want a table, [%s] on a line of its own", kind(v.toml), key)
	}
	switch section {
	case "policy":
		known = append(known, "tier")
	case "verdict":
		known = append(known, "filter")
	}
	return fmt.Errorf("unknown key; [%s] has %s", section, strings.Join(known, ", "))
}

func sections() []string {
	var names []string
	for _, s := range Settings {
		section, _, _ := strings.Cut(s.Key, ".")
		if !slices.Contains(names, section) {
			names = append(names, section)
		}
	}
	return names
}

// linesOf finds the line on which each section and key stands. An array of tables is counted:
// "policy.tier[0].name".
func linesOf(b []byte) map[string]int {
	lines := map[string]int{}
	arrays := map[string]int{}
	prefix := ""
	p := unstable.Parser{}
	p.Reset(b)
	for p.NextExpression() {
		e := p.Expression()
		var words []string
		line := 0
		for it := e.Key(); it.Next(); {
			if line == 0 {
				line = p.Shape(p.Range(it.Node().Data)).Start.Line
			}
			words = append(words, string(it.Node().Data))
		}
		key := strings.Join(words, ".")
		switch e.Kind {
		case unstable.Table:
			prefix = key + "."
		case unstable.ArrayTable:
			if _, ok := lines[key]; !ok {
				lines[key] = line
			}
			n := arrays[key]
			arrays[key]++
			key += "[" + strconv.Itoa(n) + "]"
			prefix = key + "."
		default:
			key = prefix + key
		}
		for k := key; k != ""; k = parent(k) {
			if _, ok := lines[k]; !ok {
				lines[k] = line
			}
		}
	}
	return lines
}

// parent is the key that holds a key, "" at the top.
func parent(key string) string { return key[:max(0, strings.LastIndexByte(key, '.'))] }
