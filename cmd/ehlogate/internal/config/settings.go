package config

import (
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
	"github.com/ehlogate/ehlogate/policy/store/redis"
)

// Setting is a key of the configuration, "section.name".
type Setting struct {
	Key string
	// Usage says what it is for, in the words of the flag's help and the sample file.
	Usage string
	set   func(*Config, value) error
}

// Settings are all keys but the array of tables policy.tier.
var Settings = slices.Concat(settings, weights())

// weights are the keys verdict.weights.SOURCE.
func weights() (all []Setting) {
	for _, s := range policy.Sources() {
		all = append(all, Setting{weightKey + string(s.Source), "what counts, in messages: " + s.Usage, func(c *Config, v value) error {
			var n float64
			err := number(0, policy.MostWeight, func(*Config) *float64 { return &n })(c, v)
			c.Weights[s.Source] = policy.Messages(n)
			return err
		}})
	}
	return all
}

const weightKey = "verdict.weights."

// The two names of one setting.
const (
	ownNetworks     = "verdict.own_networks"
	trustedNetworks = "verdict.trusted_networks"
)

var settings = []Setting{
	{"milter.listen", "where the milter listens", address(func(c *Config) *Address { return &c.Milter.Listen })},
	{"milter.users", "services of this host's own users, by {daemon_name} or port: nothing is learnt there, and nothing withheld from where they log in", func(c *Config, v value) error { return c.setUsers(v) }},
	{"table.socketmap", "where the socketmap table listens", address(func(c *Config) *Address { return &c.Table.Socketmap })},
	{"table.memcache", "where the memcache table listens", address(func(c *Config) *Address { return &c.Table.Memcache })},
	{"http.listen", "where metrics, health and the API are served", address(func(c *Config) *Address { return &c.HTTP.Listen })},
	{"http.token_file", "file with the token that writing through the API needs; made if missing", path(func(c *Config) *string { return &c.HTTP.TokenFile })},
	{"store.url", "where evidence is kept: embedded:DIRECTORY, redis://, rediss://, redis+unix://, redis+sentinel:// or redis+cluster://", func(c *Config, v value) error { return c.setStore(v) }},
	{"store.spool", "directory in which observations wait while Redis is away", path(func(c *Config) *string { return &c.Store.Spool })},
	{"store.spool_limit", "most that waits there, in MiB", func(c *Config, v value) error { return c.setSpoolLimit(v) }},
	{"policy.mode", "observe, protect or earn", func(c *Config, v value) error { return c.setMode(v) }},
	{"policy.exempt", "networks that are always offered STARTTLS; 127.0.0.1 and ::1 are, in any case", networks(func(c *Config) *[]netip.Prefix { return &c.Policy.Exempt })},
	{"reputation.half_life", "time in which what a host's spam weighs fades to half, beside ham; without any ham it takes sixteen times as long", duration(time.Minute, 720*time.Hour, func(c *Config) *time.Duration { return &c.Policy.Params.HalfLife })},
	{"reputation.ham_half_life", "the same for its ham", duration(time.Minute, 8760*time.Hour, func(c *Config) *time.Duration { return &c.Policy.Params.HamHalfLife })},
	{"reputation.network_half_life", "age at which what its neighbours sent weighs half", duration(time.Minute, 8760*time.Hour, func(c *Config) *time.Duration { return &c.Policy.Params.NetworkHalfLife })},
	{"reputation.cap", "most that a host's own evidence weighs, and its neighbours' does, in log-odds: 3 is twenty to one", number(0.5, 10, func(c *Config) *float64 { return &c.Policy.Params.Cap })},
	{"reputation.prior", "share of spammers expected among clients of whom nothing is known", number(0.01, 0.99, func(c *Config) *float64 { return &c.Policy.Params.Prior })},
	{"reputation.ipv4_network", "prefix length of an IPv4 client's network", integer(8, 32, func(c *Config) *int { return &c.Policy.IPv4Network })},
	{"reputation.ipv6_host", "prefix length of an IPv6 client", integer(32, 128, func(c *Config) *int { return &c.Policy.IPv6Host })},
	{"reputation.ipv6_network", "prefix length of an IPv6 client's network", integer(16, 128, func(c *Config) *int { return &c.Policy.IPv6Network })},
	{"reputation.asn_database", "file in MaxMind's format with the autonomous systems of addresses, such as GeoLite2-ASN.mmdb", path(func(c *Config) *string { return &c.ASNDatabase })},
	{"verdict.headers", "headers in which the filters before us write their verdict", func(c *Config, v value) error { return c.setHeaders(v) }},
	{"verdict.add_header_score", "score from which on a filter that gives numbers alone calls a message spam, such as rspamd", number(0.1, 1000, func(c *Config) *float64 { return &c.Verdict.Thresholds.AddHeader })},
	{"verdict.reject_score", "score from which on that filter is certain", number(0.1, 10000, func(c *Config) *float64 { return &c.Verdict.Thresholds.Reject })},
	{"verdict.silence", "class of an accepted message without a verdict header: none or ham", oneOf([]policy.Class{policy.None, policy.Ham}, func(c *Config) *policy.Class { return &c.Verdict.Silence })},
	{"verdict.authserv_id", "whose Authentication-Results (RFC 8601) are recorded: the authserv-id of this host's own filters", func(c *Config, v value) error { return c.setAuthservID(v) }},
	{"verdict.traps", "recipients that are spam traps: addresses, domains, and files with one of these a line", func(c *Config, v value) error { return c.setTraps(v) }},
	{"verdict.log_file", "the MTA's log that is followed: a file, journal, journal:DIRECTORY, or - for standard input", func(c *Config, v value) error { return c.setLogFile(v) }},
	{"verdict.services", "names under which the mail exchanger's smtpd logs, such as postfix or postfix/mx, where its users' services have others", func(c *Config, v value) error { return c.setServices(v) }},
	{"verdict.rspamd_feed", "take verdicts at /feed/rspamd and /feed/verdict: from this host, or with the token", boolean(func(c *Config) *bool { return &c.Feed })},
	{ownNetworks, "relays inside, whose Received lines are believed: learn takes the first other host for the client; private addresses are never one", networks(func(c *Config) *[]netip.Prefix { return &c.OwnNetworks })},
	{trustedNetworks, "another name for " + ownNetworks + ", that of SpamAssassin", networks(func(c *Config) *[]netip.Prefix { return &c.OwnNetworks })},
	{"log.events", "file of the event log", path(func(c *Config) *string { return &c.Log.Events })},
	{"log.anonymize", "leave out of the event log the host part of addresses, names and ports", boolean(func(c *Config) *bool { return &c.Log.Anonymize })},
	{"log.retain", "rotate the event log daily and keep it so long; 0s leaves that to logrotate and SIGHUP", duration(0, 87600*time.Hour, func(c *Config) *time.Duration { return &c.Log.Retain })},
	{"log.node", "this host's name in the event log", func(c *Config, v value) error { return c.setNode(v) }},
}

// value is what a key was given: a value of TOML, or the text of a flag or a variable.
type value struct {
	toml   any
	text   string
	isText bool
}

func (v value) str() (string, error) {
	if v.isText {
		return v.text, nil
	}
	if s, ok := v.toml.(string); ok {
		return s, nil
	}
	return "", fmt.Errorf("%v is a %s; want a string in quotes", v.toml, kind(v.toml))
}

func (v value) strs() ([]string, error) {
	if v.isText {
		list := strings.FieldsFunc(v.text, func(r rune) bool { return r == ',' || r == ' ' })
		return list, nil
	}
	array, ok := v.toml.([]any)
	if !ok {
		return nil, fmt.Errorf("%v is a %s; want a list of strings in brackets", v.toml, kind(v.toml))
	}
	list := make([]string, len(array))
	for i, e := range array {
		if list[i], ok = e.(string); !ok {
			return nil, fmt.Errorf("item %d, %v, is a %s; want a string in quotes", i+1, e, kind(e))
		}
	}
	return list, nil
}

func (v value) number() (float64, error) {
	switch n := v.toml.(type) {
	case int64:
		return float64(n), nil
	case float64:
		return n, nil
	}
	if v.isText {
		if n, err := strconv.ParseFloat(v.text, 64); err == nil {
			return n, nil
		}
		return 0, fmt.Errorf("%q is not a number", v.text)
	}
	return 0, fmt.Errorf("%v is a %s; want a number", v.toml, kind(v.toml))
}

func kind(v any) string {
	switch v.(type) {
	case string:
		return "string"
	case int64, float64:
		return "number"
	case bool:
		return "boolean"
	case []any:
		return "list"
	case map[string]any:
		return "table"
	}
	return "date"
}

func address(field func(*Config) *Address) func(*Config, value) error {
	return func(c *Config, v value) error {
		s, err := v.str()
		if err != nil {
			return err
		}
		*field(c), err = ParseAddress(s)
		return err
	}
}

func path(field func(*Config) *string) func(*Config, value) error {
	return func(c *Config, v value) error {
		s, err := v.str()
		if err == nil && s == "" {
			err = fmt.Errorf("is empty; want the path of a file, or leave the key out")
		}
		*field(c) = s
		return err
	}
}

func oneOf[T ~string](allowed []T, field func(*Config) *T) func(*Config, value) error {
	return func(c *Config, v value) error {
		s, err := v.str()
		if err != nil {
			return err
		}
		if !slices.Contains(allowed, T(s)) {
			return fmt.Errorf("%q is not allowed; want one of %s", s, list(allowed))
		}
		*field(c) = T(s)
		return nil
	}
}

func list[T ~string](words []T) string {
	s := make([]string, len(words))
	for i, w := range words {
		s[i] = string(w)
	}
	return strings.Join(s, ", ")
}

func number(least, most float64, field func(*Config) *float64) func(*Config, value) error {
	return func(c *Config, v value) error {
		n, err := v.number()
		if err == nil && !(n >= least && n <= most) {
			err = fmt.Errorf("%v is out of range; want %g to %g", n, least, most)
		}
		*field(c) = n
		return err
	}
}

func integer(least, most int, field func(*Config) *int) func(*Config, value) error {
	return func(c *Config, v value) error {
		n, err := v.number()
		if err == nil && (n != math.Trunc(n) || n < float64(least) || n > float64(most)) {
			err = fmt.Errorf("%v is out of range; want a whole number, %d to %d", n, least, most)
		}
		*field(c) = int(n)
		return err
	}
}

func boolean(field func(*Config) *bool) func(*Config, value) error {
	return func(c *Config, v value) error {
		b, ok := v.toml.(bool)
		if v.isText {
			var err error
			if b, err = strconv.ParseBool(v.text); err != nil {
				return fmt.Errorf("%q is not allowed; want true or false", v.text)
			}
		} else if !ok {
			return fmt.Errorf("%v is a %s; want true or false", v.toml, kind(v.toml))
		}
		*field(c) = b
		return nil
	}
}

func duration(least, most time.Duration, field func(*Config) *time.Duration) func(*Config, value) error {
	return func(c *Config, v value) error {
		s, err := v.str()
		if err != nil {
			return fmt.Errorf(`%w, such as "6h" or "90m"`, err)
		}
		d, err := time.ParseDuration(s)
		if err != nil {
			return fmt.Errorf(`%q is not a duration; want such as "6h" or "90m"`, s)
		}
		if d < least || d > most {
			return fmt.Errorf("%s is out of range; want %s to %s", s, least, most)
		}
		*field(c) = d
		return nil
	}
}

func (c *Config) setUsers(v value) error {
	names, err := v.strs()
	for _, n := range names {
		if !serviceName.MatchString(n) {
			return fmt.Errorf("%q is neither a {daemon_name} nor a port; want such as ORIGINATING or 587", n)
		}
	}
	c.Milter.Users = names
	return err
}

func (c *Config) setMode(v value) error {
	c.ModeGiven = true
	return oneOf(policy.Modes, func(c *Config) *policy.Mode { return &c.Policy.Mode })(c, v)
}

func (c *Config) setStore(v value) error {
	s, err := v.str()
	if err != nil {
		return err
	}
	scheme, dir, _ := strings.Cut(s, ":")
	switch {
	case scheme == "embedded" && dir != "":
		c.Store.Dir, c.Store.Redis = filepath.Clean(dir), nil
		return nil
	case slices.Contains(redis.Schemes, scheme):
		c.Store.URL = s
		if c.Store.Redis, err = redis.ParseURL(s); err != nil {
			err = fmt.Errorf("%s: %w", scheme, err)
		}
		return err
	}
	return fmt.Errorf("%q is not a store; want embedded:DIRECTORY, or a URL of %s", s, strings.Join(redis.Schemes, ", "))
}

func (c *Config) setSpoolLimit(v value) error {
	var mebibytes int
	err := integer(1, 1<<20, func(*Config) *int { return &mebibytes })(c, v)
	c.Store.SpoolLimit = int64(mebibytes) << 20
	return err
}

func networks(field func(*Config) *[]netip.Prefix) func(*Config, value) error {
	return func(c *Config, v value) error {
		list, err := v.strs()
		if err != nil {
			return err
		}
		*field(c) = nil
		for _, s := range list {
			n, err := ParseNetwork(s)
			if err != nil {
				return err
			}
			*field(c) = append(*field(c), n)
		}
		return nil
	}
}

// ParseNetwork reads an address or a network; host bits must be zero.
func ParseNetwork(s string) (netip.Prefix, error) {
	if addr, err := policy.ParseAddr(s); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	n, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a network; want such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/48", s)
	case n.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q is a mapped IPv4 network; write it as IPv4", s)
	case n != n.Masked():
		return netip.Prefix{}, fmt.Errorf("%q has bits beyond its prefix; did you mean %s?", s, n.Masked())
	}
	return n, nil
}

// headerName is RFC 5322's field-name.
var headerName = regexp.MustCompile(`^[!-9;-~]+$`)

func (c *Config) setHeaders(v value) error {
	names, err := v.strs()
	for _, n := range names {
		if !headerName.MatchString(n) {
			return fmt.Errorf("%q is not a header name; want such as X-Spam-Flag, without colon", n)
		}
	}
	c.Verdict.Headers = names
	return err
}

// authservID is what RFC 8601 section 2.2 allows without quotes.
var authservID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,255}$`)

func (c *Config) setAuthservID(v value) error {
	s, err := v.str()
	if err == nil && !authservID.MatchString(s) {
		err = fmt.Errorf("%q is not an authserv-id; want the host name that this host's filters write into Authentication-Results", s)
	}
	c.Verdict.AuthservID = s
	return err
}

func (c *Config) setTraps(v value) error {
	list, err := v.strs()
	if err == nil {
		c.Verdict.Traps, err = verdict.ParseTraps(list)
	}
	return err
}

// The values of verdict.log_file that do not name a file.
const (
	Journal = "journal"
	Stdin   = "-"
)

func (c *Config) setLogFile(v value) error {
	s, err := v.str()
	dir, inDir := strings.CutPrefix(s, Journal+":")
	if err == nil && s != Journal && s != Stdin && !filepath.IsAbs(s) && !(inDir && filepath.IsAbs(dir)) {
		err = fmt.Errorf("%q is not a log; want the absolute path of a file, such as /var/log/mail.log, or journal, or - for standard input", s)
	}
	c.LogFile = s
	return err
}

// serviceName is a syslog_name of postconf(5).
var serviceName = regexp.MustCompile(`^[!-~]{1,100}$`)

func (c *Config) setServices(v value) error {
	names, err := v.strs()
	for i, n := range names {
		names[i] = strings.TrimSuffix(n, "/smtpd")
		if !serviceName.MatchString(names[i]) {
			return fmt.Errorf("%q is not a name under which smtpd logs; want what stands before /smtpd in the log, such as postfix or postfix/mx", n)
		}
	}
	c.Services = names
	return err
}

var nodeName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

func (c *Config) setNode(v value) error {
	s, err := v.str()
	if err == nil && !nodeName.MatchString(s) {
		err = fmt.Errorf("%q is not a node name; want up to 64 letters, digits, dots, hyphens", s)
	}
	c.Log.Node = s
	return err
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
	default:
		return fmt.Errorf("unknown key; want name, enter, leave, discard or action")
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
			err = fmt.Errorf("%q is not a header name; want such as X-Spam-Verdict, without colon", f.Header)
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
