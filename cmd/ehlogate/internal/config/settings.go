package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/policy"
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
	{"milter.peers", "hosts and networks that may connect over TCP, besides this host", networks(func(c *Config) *[]netip.Prefix { return &c.Milter.Peers })},
	{"milter.group", "group that may connect to the unix socket; by default Postfix's", group(func(c *Config) *string { return &c.Milter.Group })},
	{"table.socketmap", "where the socketmap table listens", address(func(c *Config) *Address { return &c.Table.Socketmap })},
	{"table.memcache", "where the memcache table listens", address(func(c *Config) *Address { return &c.Table.Memcache })},
	{"table.peers", "hosts and networks that may connect over TCP, besides this host", networks(func(c *Config) *[]netip.Prefix { return &c.Table.Peers })},
	{"table.group", "group that may connect to the unix sockets; by default Postfix's", group(func(c *Config) *string { return &c.Table.Group })},
	{"table.export", "file to which what is withheld is written as a cidr_table(5), for postscreen; none if it is empty", path(func(c *Config) *string { return &c.Table.Export })},
	{"table.export_every", "how often that is", duration(time.Second, 24*time.Hour, func(c *Config) *time.Duration { return &c.Table.ExportEvery })},
	{"http.listen", "where metrics, health and the API are served", address(func(c *Config) *Address { return &c.HTTP.Listen })},
	{"http.peers", "hosts and networks that may connect over TCP, besides this host", networks(func(c *Config) *[]netip.Prefix { return &c.HTTP.Peers })},
	{"http.group", "group that may connect to the unix socket, and so do all that the API can; by default the daemon's own", group(func(c *Config) *string { return &c.HTTP.Group })},
	{"http.names", "names by which the API is called, besides localhost, this host's own and addresses", func(c *Config, v value) error { return c.setNames(v) }},
	{"http.token_file", "file with the token that writing, dump and export through the API need; made if missing", path(func(c *Config) *string { return &c.HTTP.TokenFile })},
	{"http.feed_token_file", "file with the token that lets a filter post verdicts, and nothing else; made if missing", path(func(c *Config) *string { return &c.HTTP.FeedTokenFile })},
	{storeURL, "where evidence is kept: embedded:DIRECTORY, redis://, rediss://, redis+unix://, redis+sentinel:// or redis+cluster://", func(c *Config, v value) error { return c.setStore(v) }},
	{"store.spool", "directory in which observations wait while Redis is away", path(func(c *Config) *string { return &c.Store.Spool })},
	{"store.spool_limit", "most that waits there, in MiB", func(c *Config, v value) error { return c.setSpoolLimit(v) }},
	{"store.sync", "when the embedded store brings what it learns to disk: second, once a second; or always, before a message is acknowledged", oneOf([]Sync{SyncSecond, SyncAlways}, func(c *Config) *Sync { return &c.Store.Sync })},
	{"store.max_records", "most hosts and networks that the embedded store keeps; those of spam alone, and silent longest, go first", integer(1000, 100_000_000, func(c *Config) *int { return &c.Store.MaxRecords })},
	{"policy.mode", "observe, protect or earn", func(c *Config, v value) error { return c.setMode(v) }},
	{"policy.exempt", "networks that are always offered STARTTLS; 127.0.0.1 and ::1 are, in any case", networks(func(c *Config) *[]netip.Prefix { return &c.Policy.Exempt })},
	{"reputation.half_life", "time in which the spam of a host that sends much ham, too, fades to half; the less ham, the longer: a week where there is none", duration(time.Minute, 720*time.Hour, func(c *Config) *time.Duration { return &c.Policy.Params.HalfLife })},
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
	{"verdict.believed", "sources that are believed even when they suddenly call mail of hosts with a long good record spam", func(c *Config, v value) error { return c.setBelieved(v) }},
	{"verdict.rspamd_feed", "take verdicts at /feed/rspamd and /feed/verdict, with the token of http.feed_token_file or over a unix socket", boolean(func(c *Config) *bool { return &c.Feed })},
	{"verdict.local_feed", "take them without a token from any program on this host", boolean(func(c *Config) *bool { return &c.LocalFeed })},
	{ownNetworks, "relays inside, whose Received lines are believed: learn takes the first other host for the client; private addresses are never one", networks(func(c *Config) *[]netip.Prefix { return &c.OwnNetworks })},
	{trustedNetworks, "another name for " + ownNetworks + ", that of SpamAssassin", networks(func(c *Config) *[]netip.Prefix { return &c.OwnNetworks })},
	{"log.events", "file of the event log", path(func(c *Config) *string { return &c.Log.Events })},
	{"log.anonymize", "leave out of the event log the host part of addresses, names and ports", boolean(func(c *Config) *bool { return &c.Log.Anonymize })},
	{"log.retain", "rotate the event log daily and keep it so long; 0s leaves that to logrotate and SIGHUP", duration(0, 87600*time.Hour, func(c *Config) *time.Duration { return &c.Log.Retain })},
	{"report.handshake", "processor time that a TLS handshake costs the MTA, from which reports say what was saved", duration(time.Microsecond, time.Second, func(c *Config) *time.Duration { return &c.Report.Handshake })},
	{"report.contacts", "file with answers of whois or RDAP servers, from which reports say whom to write to about abuse", path(func(c *Config) *string { return &c.Report.Contacts })},
	{"report.notify", "program, by its absolute path, or URL of a webhook, that is told in JSON when a wave of TLS spam begins or ends", func(c *Config, v value) error { return c.setNotify(v) }},
	{"log.node", "this host's name in the event log", func(c *Config, v value) error { return c.setNode(v) }},
}

func (c *Config) setNotify(v value) error {
	s, err := v.str()
	if err == nil && s != "" && !filepath.IsAbs(s) && !webhook.MatchString(s) {
		err = fmt.Errorf("%q is neither a program nor a webhook; want an absolute path, such as /usr/local/bin/notify, or http://HOST/PATH", s)
	}
	c.Report.Notify = s
	return err
}

// webhook is a URL that can be posted to.
var webhook = regexp.MustCompile(`^https?://[^\s/]+(/\S*)?$`)

func (c *Config) setUsers(v value) (err error) {
	c.Milter.Users, err = names(v, serviceName, "neither a {daemon_name} nor a port; expected something like ORIGINATING or 587")
	return err
}

// hostName is what a Host header can name (RFC 9110 section 7.2), without a port.
var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?$`)

func (c *Config) setNames(v value) (err error) {
	c.HTTP.Names, err = names(v, hostName, "not a host name; expected something like mx1.example, without a port")
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
			// It may quote a part of the URL.
			err = fmt.Errorf("%s: %s", scheme, strings.ReplaceAll(err.Error(), secretOf(s), "..."))
		}
		return err
	}
	return fmt.Errorf("%q is not a store; want embedded:DIRECTORY, or a URL of %s", redacted(s), strings.Join(redis.Schemes, ", "))
}

// secretOf is what could be the password in a URL, however it is misspelt: what stands before the
// last @, after a colon. It is never empty.
func secretOf(s string) string {
	before, _, ok := cutLast(s, "@")
	if _, secret, _ := cutLast(before, ":"); ok && secret != "" {
		return secret
	}
	return "@"
}

// redacted is a URL without what could be a password, and the user before it.
func redacted(s string) string {
	before, after, ok := cutLast(s, "@")
	if !ok {
		return s
	}
	scheme := ""
	if i := strings.Index(before, "//"); i >= 0 {
		scheme = before[:i+2]
	}
	return scheme + "...@" + after
}

// cutLast is strings.Cut at the last separator; without one, all of it is after.
func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+len(sep):], true
}

// password is a password in a URL, with the user before it.
var password = regexp.MustCompile(`//[^/@]*:.+@`)

// onCommandLine refuses what must not stand there: every user of a host sees it, in ps(1).
func onCommandLine(key, text string) error {
	if key == storeURL && password.MatchString(text) {
		return fmt.Errorf("a password on the command line can be seen by everybody on this host (ps); put it into a file, with password_file=PATH in the URL, or the URL into the variable %s", EnvName(key))
	}
	return nil
}

const storeURL = "store.url"

func (c *Config) setSpoolLimit(v value) error {
	var mebibytes int
	err := integer(1, 1<<20, func(*Config) *int { return &mebibytes })(c, v)
	c.Store.SpoolLimit = int64(mebibytes) << 20
	return err
}

// ParseNetwork reads an address or a network; host bits must be zero.
func ParseNetwork(s string) (netip.Prefix, error) {
	if strings.Contains(s, "%") {
		return netip.Prefix{}, fmt.Errorf("%q has a zone, which only this host knows", s)
	}
	if addr, err := policy.ParseAddr(s); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	n, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a network; expected something like 192.0.2.7, 192.0.2.0/24 or 2001:db8::/48", s)
	case n.Addr().Is4In6() && n.Bits() < 96:
		return netip.Prefix{}, fmt.Errorf("%q has more in it than the mapped addresses of IPv4; write 0.0.0.0/0 for those", s)
	case n.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q is a mapped IPv4 network; write it as IPv4", s)
	case n != n.Masked():
		return netip.Prefix{}, fmt.Errorf("%q has bits beyond its prefix; did you mean %s?", s, n.Masked())
	}
	return n, nil
}

// The shortest prefixes that are changed without asking: an IPv4 /8 is more than any one network
// has.
const widestIPv4, widestIPv6 = 9, 20

// Oversized reports whether a network is larger than anybody means.
func Oversized(n netip.Prefix) bool {
	widest := widestIPv4
	if n.Addr().Is6() {
		widest = widestIPv6
	}
	return n.Bits() < widest
}

// headerName is RFC 5322's field-name.
var headerName = regexp.MustCompile(`^[!-9;-~]+$`)

func (c *Config) setHeaders(v value) (err error) {
	c.Verdict.Headers, err = names(v, headerName, "not a header name; expected something like X-Spam-Flag, without colon")
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

func (c *Config) setServices(v value) (err error) {
	c.Services, err = names(v, serviceName, "not a name under which smtpd logs; want what stands before /smtpd in the log, such as postfix or postfix/mx")
	for i, n := range c.Services {
		c.Services[i] = strings.TrimSuffix(n, "/smtpd")
	}
	return err
}

func (c *Config) setBelieved(v value) error {
	list, err := v.strs()
	c.Believed = nil
	for _, s := range list {
		if _, known := policy.DefaultWeights()[policy.Source(s)]; !known {
			return fmt.Errorf("%q is not a source; want one of those of [verdict.weights], such as header", s)
		}
		c.Believed = append(c.Believed, policy.Source(s))
	}
	return err
}

// serviceName is a word of master(5), or a syslog_name or milter_macro_daemon_name of postconf(5).
var serviceName = regexp.MustCompile(`^[!-~]{1,100}$`)

// names reads names that have a pattern; wrong says what another string is not.
func names(v value, pattern *regexp.Regexp, wrong string) ([]string, error) {
	all, err := v.strs()
	for _, n := range all {
		if !pattern.MatchString(n) {
			return nil, fmt.Errorf("%q is %s", n, wrong)
		}
	}
	return all, err
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

// Sync is when the embedded store brings what it learns to disk.
type Sync string

// The values of store.sync.
const (
	SyncSecond Sync = "second"
	SyncAlways Sync = "always"
)
