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

	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/policy/reputation"
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

// readTiers reads the array of tables policy.tier.
func (c *Config) readTiers(v any, fault func(string, error)) {
	tiers, ok := v.([]any)
	if !ok {
		fault("policy.tier", fmt.Errorf("is a %s; want tables, each under [[policy.tier]]", kind(v)))
		return
	}
	seen := map[reputation.Tier]bool{}
	for i, t := range tiers {
		key := "policy.tier[" + strconv.Itoa(i) + "]"
		table, ok := t.(map[string]any)
		if !ok {
			fault("policy.tier", fmt.Errorf("item %d is a %s; want tables, each under [[policy.tier]]", i+1, kind(t)))
			continue
		}
		if table["name"] == nil {
			fault(key, fmt.Errorf("has no name; want name = good, unknown, suspect or bad"))
			continue
		}
		name, err := value{toml: table["name"]}.str()
		if err != nil {
			fault(key+".name", err)
			continue
		}
		tier, err := reputation.ParseTier(name)
		if err != nil {
			fault(key+".name", err)
			continue
		}
		if seen[tier] {
			fault(key+".name", fmt.Errorf("tier %s is there twice", tier))
		}
		seen[tier] = true
		for _, k := range slices.Sorted(maps.Keys(table)) {
			fault(key+"."+k, c.setTier(tier, k, value{toml: table[k]}))
		}
	}
}

// filterKey is the array of tables with the headers of further filters.
const filterKey = "verdict.filter"

// readFilters reads it. What is missing in one is found when all is read, since it depends on
// verdict.silence; place is where it stands.
func (c *Config) readFilters(v any, place func(key string) string, fault func(string, error)) {
	filters, ok := v.([]any)
	if !ok {
		fault(filterKey, fmt.Errorf("is a %s; want tables, each under [[verdict.filter]]", kind(v)))
		return
	}
	for i, item := range filters {
		table, ok := item.(map[string]any)
		if !ok {
			fault(filterKey, fmt.Errorf("item %d is a %s; want tables, each under [[verdict.filter]]", i+1, kind(item)))
			continue
		}
		var f verdict.Filter
		key := filterKey + "[" + strconv.Itoa(i) + "]"
		for _, k := range slices.Sorted(maps.Keys(table)) {
			fault(key+"."+k, setFilter(&f, k, value{toml: table[k]}))
		}
		c.Verdict.Filters, c.filterPlaces = append(c.Verdict.Filters, f), append(c.filterPlaces, place(key))
	}
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
