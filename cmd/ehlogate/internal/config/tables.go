package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

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

// keywords are the EHLO keywords that Postfix can leave out: smtpd_discard_ehlo_keywords in
// postconf(5).
var keywords = []string{"8bitmime", "auth", "chunking", "dsn", "enhancedstatuscodes", "etrn", "pipelining", "requiretls", "silent-discard", "size", "smtputf8", "starttls", "verp", "vrfy", "xclient", "xforward"}

// setTier sets one key of a [[policy.tier]] table.
func (c *Config) setTier(t reputation.Tier, key string, v value) error {
	treatment := c.Policy.Treatments[t]
	var err error
	switch key {
	case "name":
		return nil
	case "enter", "leave":
		return c.setThreshold(t, key, v)
	case "discard":
		treatment.Discard, err = v.strs()
		for i, k := range treatment.Discard {
			treatment.Discard[i] = strings.ToLower(k)
			if !slices.Contains(keywords, treatment.Discard[i]) {
				return fmt.Errorf("%q is not an EHLO keyword that Postfix can leave out; want some of %s", k, list(keywords))
			}
		}
	case "action":
		var s string
		if s, err = v.str(); err == nil && !slices.Contains(policy.Actions, policy.Action(s)) {
			err = fmt.Errorf("%q is not allowed; want one of %s", s, list(policy.Actions))
		}
		treatment.Action = policy.Action(s)
	case "stage":
		var s string
		if s, err = v.str(); err == nil && !slices.Contains(policy.Stages, policy.Stage(s)) {
			err = fmt.Errorf("%q is not allowed; want one of %s", s, list(policy.Stages))
		}
		treatment.Stage = policy.Stage(s)
	default:
		return fmt.Errorf("unknown key; want name, enter, leave, discard, action or stage")
	}
	if c.Policy.Treatments == nil {
		c.Policy.Treatments = map[reputation.Tier]policy.Treatment{}
	}
	c.Policy.Treatments[t] = treatment
	return err
}

// setFilter sets one key of a [[verdict.filter]] table.
func setFilter(f *verdict.Filter, key string, v value) (err error) {
	switch key {
	case "header":
		if f.Header, err = v.str(); err == nil && !headerName.MatchString(f.Header) {
			err = fmt.Errorf("%q is not a header name; expected something like X-Spam-Verdict, without colon", f.Header)
		}
	case "read":
		f.Read, err = v.str()
	case "spam":
		f.Spam, err = v.strs()
	case "ham":
		f.Ham, err = v.strs()
	case "limit":
		f.Limit, err = v.number()
	case "star":
		f.Star, err = v.str()
	default:
		err = fmt.Errorf("unknown key; [[verdict.filter]] has header, read, spam, ham, limit, star")
	}
	return err
}

func (c *Config) setThreshold(t reputation.Tier, key string, v value) error {
	threshold := c.tierOf(t)
	if threshold == nil {
		return fmt.Errorf("tier unknown has no thresholds: it is what the others leave")
	}
	field := &threshold.Enter
	if key == "leave" {
		field = &threshold.Leave
	}
	return number(-20, 20, func(*Config) *float64 { return field })(c, v)
}
