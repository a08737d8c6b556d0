// Package config reads the configuration: one TOML file, strict, under EHLOGATE_* variables and
// flags that override single keys.
//
// All of it is checked before anything starts, and all that is wrong is reported together, each
// fault with its file, line and key, and what is allowed.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
	"github.com/ehlogate/ehlogate/policy/store"
	"github.com/ehlogate/ehlogate/policy/store/redis"
)

// EnvPrefix begins the names of the variables, fileVariable is the one that names the configuration
// file.
const (
	EnvPrefix    = "EHLOGATE_"
	fileVariable = EnvPrefix + "CONFIG"
)

// DefaultFile is read when no file is named and it exists.
const DefaultFile = "/etc/ehlogate/ehlogate.toml"

// Config is a complete, valid configuration.
type Config struct {
	// File is the configuration file that was read, empty for none.
	File string
	// Ignored are the EHLOGATE_ variables that are no keys.
	Ignored []string
	Milter  struct {
		Listen Address
		Access
		// Users are the services of the operator's own users, by their names in the milter protocol
		// and their ports; nil for those that the MTA's own configuration has.
		Users []string
	}
	Table struct {
		Socketmap, Memcache Address
		Access
		// Export is the file to which what is withheld is written every ExportEvery; empty for
		// none.
		Export      string
		ExportEvery time.Duration
	}
	HTTP struct {
		Listen Address
		Access
		// Names are names by which the listener is called, besides this host's own.
		Names []string
		// TokenFile has the token that lets do all, FeedTokenFile the one that lets post verdicts.
		TokenFile, FeedTokenFile string
	}
	Store struct {
		// Dir is the directory of the embedded store, and in any case of whatever else is kept on
		// this host.
		Dir string
		// Redis is where evidence is kept instead, if not nil; URL is as it was written.
		Redis *redis.Target
		URL   string
		// Spool is the directory in which observations wait while Redis is away, SpoolLimit how
		// many bytes of them.
		Spool      string
		SpoolLimit int64
		// Sync is when what is learnt is brought to disk.
		Sync Sync
		// MaxRecords is how many records the embedded store keeps at most.
		MaxRecords int
	}
	Policy policy.Policy
	// ModeGiven says that policy.mode was given.
	ModeGiven bool
	// FeedTokenGiven says that http.feed_token_file was given.
	FeedTokenGiven bool
	// ASNDatabase is the file of autonomous systems, empty for none.
	ASNDatabase string
	Verdict     verdict.Rules
	// Weights are what the sources' verdicts count.
	Weights policy.Weights
	// LogFile is the MTA's log: a path, Journal, Journal:DIRECTORY or Stdin; empty for none.
	LogFile string
	// Believed are the sources that are believed even when they call mail of hosts of long standing
	// spam.
	Believed []policy.Source
	// Services are the names under which the mail exchanger's smtpd(8) logs; empty for all that are
	// not known for those of the operator's own users.
	Services []string
	// filterPlaces are where Verdict.Filters stand.
	filterPlaces []string
	// Feed says that other programs may post verdicts, LocalFeed that programs on this host need no
	// token for it.
	Feed, LocalFeed bool
	// OwnNetworks are the relays inside, whose Received lines are believed.
	OwnNetworks []netip.Prefix
	Report      struct {
		// Handshake is the processor time that a TLS handshake costs the MTA.
		Handshake time.Duration
		// Contacts is a file of answers of whois or RDAP servers, empty for none.
		Contacts string
		// Notify is the program, or the URL of a webhook, that is told of waves; empty for none.
		Notify string
	}
	Log struct {
		// Events is the event log's path.
		Events    string
		Anonymize bool
		// Retain above zero rotates the event log daily and keeps it so long.
		Retain time.Duration
		// Node is this host's name in the event log.
		Node string
	}
}

// Access says who may connect to a listener: over TCP this host and peers, over a unix socket its
// group.
type Access struct {
	Peers []netip.Prefix
	// Group is the group of a unix socket; empty is Postfix's for what Postfix connects to, and the
	// daemon's own for the rest.
	Group string
}

// Address is a listener's address in Postfix's spelling: inet:HOST:PORT or unix:PATH. The zero
// value listens nowhere.
type Address struct{ Network, Address string }

func (a Address) String() string {
	switch a.Network {
	case "":
		return "none"
	case "tcp":
		return "inet:" + a.Address
	}
	return a.Network + ":" + a.Address
}

// Reach is the host and port at which a TCP listener of a key is reached from this host. One on all
// addresses is reached on loopback, of IPv6 where an MTA that speaks nothing else asks.
func (a Address) Reach(key string, only6 bool) (host, port string, err error) {
	if host, port, err = net.SplitHostPort(a.Address); err != nil {
		return "", "", fmt.Errorf("%s: %w", key, err)
	}
	if port == "0" {
		return "", "", fmt.Errorf("%s is %s, a port that is another one at each start; give it a number", key, a)
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip.Is6() && only6 {
			host = "::1"
		}
	}
	return host, port, nil
}

// Wanted is why an MTA cannot do without the listener of a key, nil where it has one.
func (a Address) Wanted(key, mta string) error {
	if a.Network == "" {
		return fmt.Errorf("%s is none, and %s needs it; set it, for example to %s", key, mta, DefaultAddress(key))
	}
	return nil
}

// ParseAddress reads an address.
func ParseAddress(s string) (Address, error) {
	kind, rest, _ := strings.Cut(s, ":")
	switch {
	case s == "none":
		return Address{}, nil
	case kind == "unix" && filepath.IsAbs(rest):
		return Address{"unix", rest}, nil
	case kind == "inet":
		host, port, err := net.SplitHostPort(rest)
		_, portErr := net.LookupPort("tcp", port)
		if err == nil && portErr == nil && host != "" {
			return Address{"tcp", rest}, nil
		}
		if err == nil && host != "" {
			return Address{}, fmt.Errorf("%q: there is no port %s; want a number from 1 to 65535, or a name in /etc/services", s, port)
		}
	}
	return Address{}, fmt.Errorf("%q is not an address; want inet:HOST:PORT, such as inet:127.0.0.1:8897 or inet:[::1]:8897, unix:/ABSOLUTE/PATH, or none", s)
}

// Loopback reports whether a listener's host is this one's loopback.
func Loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// Source is where the values of a configuration come from.
type Source struct {
	// File is the configuration file; empty means DefaultFile if it exists.
	File string
	// Env looks up a variable, as os.LookupEnv does; Environ lists all, as os.Environ does.
	Env     func(string) (string, bool)
	Environ func() []string
	// Flag returns the value of a flag named like a key, if it is set.
	Flag func(string) (string, bool)
}

// Load reads a configuration. The error joins all faults.
func Load(src Source) (*Config, error) {
	c := defaults(src.Env)
	var faults []error
	if c.File = fileOf(src); c.File != "" {
		b, err := os.ReadFile(c.File)
		if err != nil {
			return nil, fmt.Errorf("config: %w; name another file with --config", err)
		}
		faults = append(faults, c.readTOML(c.File, b)...)
	}
	for _, s := range Settings {
		if text, ok := src.Env(EnvName(s.Key)); ok {
			faults = append(faults, at(EnvName(s.Key), "", s.set(c, value{text: text, isText: true})))
		}
		if text, ok := src.Flag(s.Key); ok {
			faults = append(faults, at("--"+s.Key, "", cmp.Or(onCommandLine(s.Key, text), s.set(c, value{text: text, isText: true}))))
		}
	}
	env := func(key string) (string, bool) { return src.Env(EnvName(key)) }
	faults = append(faults, bothNames(EnvName(trustedNetworks), env), bothNames("--"+trustedNetworks, src.Flag))
	faults = slices.DeleteFunc(faults, func(err error) bool { return err == nil })
	if len(faults) == 0 {
		faults = c.checkTogether()
	}
	c.derive()
	c.Ignored = ignored(src)
	return c, errors.Join(faults...)
}

// setByContainers are the variables that Kubernetes and Docker set for a service that is named
// ehlogate.
var setByContainers = regexp.MustCompile(`_SERVICE_(HOST|PORT)|_PORT(_[0-9]+_(TCP|UDP).*)?$|_NAME$`)

// ignored are the variables that look like keys and are none.
func ignored(src Source) (names []string) {
	if src.Environ == nil {
		return nil
	}
	var known []string
	for _, s := range Settings {
		known = append(known, EnvName(s.Key))
	}
	for _, variable := range src.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, EnvPrefix) && name != fileVariable && !slices.Contains(known, name) && !setByContainers.MatchString(name) {
			names = append(names, name)
		}
	}
	return names
}

// Parse reads the text of a configuration file and returns what is wrong with it by itself.
func Parse(file string, text []byte) error {
	c := defaults(func(string) (string, bool) { return "", false })
	return errors.Join(c.readTOML(file, text)...)
}

// bothNames finds a setting that is given by both of its names.
func bothNames(where string, given func(key string) (string, bool)) error {
	_, own := given(ownNetworks)
	if _, trusted := given(trustedNetworks); own && trusted {
		return at(where, "", errBothNames)
	}
	return nil
}

var errBothNames = fmt.Errorf("is another name for %s, which is there, too; leave one of them out", ownNetworks)

func fileOf(src Source) string {
	if src.File != "" {
		return src.File
	}
	if file, ok := src.Env(fileVariable); ok {
		return file
	}
	if _, err := os.Stat(DefaultFile); err == nil {
		return DefaultFile
	}
	return ""
}

// EnvName is the variable that overrides a key: EHLOGATE_STORE_URL for store.url.
func EnvName(key string) string {
	return EnvPrefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(key))
}

// DefaultAddress is the default of a key that names a listener.
func DefaultAddress(key string) Address {
	port := map[string]string{"http.listen": "8896", "milter.listen": "8897", "table.socketmap": "8898", "table.memcache": "8899"}[key]
	return Address{"tcp", "127.0.0.1:" + port}
}

// DefaultExportEvery is how often a static table is written.
const DefaultExportEvery = 5 * time.Minute

// DefaultHandshake is what a full handshake with TLS 1.3 and an RSA key of 2,048 bits costs
// Postfix's smtpd(8) on one processor of some 3 GHz.
const DefaultHandshake = 800 * time.Microsecond

// DefaultDir is where the store is without STATE_DIRECTORY.
const DefaultDir = "ehlogate-data"

func defaults(env func(string) (string, bool)) *Config {
	c := &Config{Policy: policy.Default()}
	c.Milter.Listen = DefaultAddress("milter.listen")
	c.Table.Socketmap = DefaultAddress("table.socketmap")
	c.Table.Memcache = DefaultAddress("table.memcache")
	c.HTTP.Listen = DefaultAddress("http.listen")
	c.Store.Dir = DefaultDir
	c.Store.SpoolLimit = 256 << 20
	c.Store.MaxRecords = store.DefaultMostRecords
	c.Store.Sync = SyncSecond
	c.Report.Handshake = DefaultHandshake
	c.Table.ExportEvery = DefaultExportEvery
	// systemd.exec(5): several directories are separated by a colon.
	if dirs, ok := env("STATE_DIRECTORY"); ok && dirs != "" {
		c.Store.Dir, _, _ = strings.Cut(dirs, ":")
	}
	c.Verdict = verdict.Rules{Headers: verdict.DefaultHeaders, Thresholds: verdict.DefaultThresholds, Silence: policy.None}
	c.Weights = policy.DefaultWeights()
	c.Feed = true
	c.Log.Node, _ = os.Hostname()
	c.Log.Node, _, _ = strings.Cut(cmp.Or(c.Log.Node, "localhost"), ".")
	return c
}

// derive fills in what depends on other values. Paths are absolute from here on: a command is
// rarely run where the daemon is.
func (c *Config) derive() {
	absolute(&c.Store.Dir)
	c.HTTP.TokenFile = cmp.Or(c.HTTP.TokenFile, filepath.Join(c.Store.Dir, "api-token"))
	c.Store.Spool = cmp.Or(c.Store.Spool, c.Store.Dir)
	c.Log.Events = cmp.Or(c.Log.Events, filepath.Join(c.Store.Dir, "events.ndjson"))
	c.FeedTokenGiven = c.HTTP.FeedTokenFile != ""
	c.HTTP.FeedTokenFile = cmp.Or(c.HTTP.FeedTokenFile, filepath.Join(c.Store.Dir, "feed-token"))
	for _, path := range []*string{&c.HTTP.TokenFile, &c.HTTP.FeedTokenFile, &c.Store.Spool, &c.Log.Events, &c.File} {
		absolute(path)
	}
}

// absolute makes a path absolute, where there is one and the working directory is known.
func absolute(path *string) {
	if *path == "" {
		return
	}
	if abs, err := filepath.Abs(*path); err == nil {
		*path = abs
	}
}

// StoreName says where evidence is kept, without a password.
func (c *Config) StoreName() string {
	if c.Store.Redis != nil {
		return c.Store.Redis.String()
	}
	return "embedded:" + c.Store.Dir
}

// checkTogether finds values that are allowed alone but not together.
func (c *Config) checkTogether() (faults []error) {
	p, th := &c.Policy, c.Policy.Thresholds
	wrong := func(bad bool, key, format string, args ...any) {
		if bad {
			faults = append(faults, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
		}
	}
	wrong(p.IPv6Network > p.IPv6Host, "reputation.ipv6_network", "/%d is longer than ipv6_host /%d; a network holds hosts", p.IPv6Network, p.IPv6Host)
	wrong(th.Bad.Leave >= th.Bad.Enter, "policy.tier bad", "leave %g is not below enter %g; a client would flap", th.Bad.Leave, th.Bad.Enter)
	wrong(th.Suspect.Leave >= th.Suspect.Enter, "policy.tier suspect", "leave %g is not below enter %g; a client would flap", th.Suspect.Leave, th.Suspect.Enter)
	wrong(th.Good.Leave <= th.Good.Enter, "policy.tier good", "leave %g is not above enter %g; a client would flap", th.Good.Leave, th.Good.Enter)
	wrong(th.Suspect.Enter >= th.Bad.Enter, "policy.tier suspect", "enter %g is not below bad's enter %g", th.Suspect.Enter, th.Bad.Enter)
	wrong(th.Good.Leave >= th.Suspect.Leave, "policy.tier good", "leave %g is not below suspect's leave %g", th.Good.Leave, th.Suspect.Leave)
	wrong(c.Verdict.Thresholds.Reject <= c.Verdict.Thresholds.AddHeader, "verdict.reject_score", "%g is not above add_header_score %g", c.Verdict.Thresholds.Reject, c.Verdict.Thresholds.AddHeader)
	for i := range c.Verdict.Filters {
		if err := c.Verdict.Filters[i].Check(c.Verdict.Silence); err != nil {
			faults = append(faults, fmt.Errorf("%s %w", c.filterPlaces[i], err))
		}
	}
	listeners := map[string]string{}
	for _, l := range []struct {
		key  string
		addr Address
	}{{"milter.listen", c.Milter.Listen}, {"table.socketmap", c.Table.Socketmap}, {"table.memcache", c.Table.Memcache}, {"http.listen", c.HTTP.Listen}} {
		if l.addr == (Address{}) || strings.HasSuffix(l.addr.Address, ":0") {
			continue
		}
		other := listeners[l.addr.String()]
		wrong(other != "", l.key, "%s is the address of %s, too; give each listener its own", l.addr, other)
		listeners[l.addr.String()] = l.key
	}
	return faults
}

// tierOf is where a tier's thresholds are kept; nil for unknown, which has none.
func (c *Config) tierOf(t reputation.Tier) *reputation.Threshold {
	switch t {
	case reputation.Good:
		return &c.Policy.Thresholds.Good
	case reputation.Suspect:
		return &c.Policy.Thresholds.Suspect
	case reputation.Bad:
		return &c.Policy.Thresholds.Bad
	}
	return nil
}
