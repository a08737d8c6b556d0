package redis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Target is a Redis, a Redis Cluster or a Redis behind Sentinel, read from a URL:
//
//	redis://[USER:PASSWORD@]HOST[:PORT][/DB]
//	redis+unix:///PATH/TO/SOCKET?db=DB
//	redis+sentinel://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT].../MASTER[/DB]
//	redis+cluster://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT]...
//
// rediss, rediss+sentinel and rediss+cluster use TLS. After a question mark may follow, joined by
// &: user, password_file (a file with the password, read anew for each connection), ca_file
// (certificates to trust instead of the host's), cert_file and key_file (our own), server_name, and
// for Sentinel sentinel_user and sentinel_password_file. Passwords are best kept in files: the URL
// is seen in process lists.
type Target struct {
	form     string
	addrs    []string
	master   string
	db       int
	user     string
	password string
	files    struct{ password, ca, cert, key, sentinelPassword string }
	sentinel string
	name     string
	secure   bool
}

// Schemes are the URL schemes of a Target.
var Schemes = []string{"redis", "rediss", "redis+unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"}

const (
	redisPort    = "6379"
	sentinelPort = "26379"
)

// ParseURL reads a Target.
func ParseURL(s string) (*Target, error) {
	hosts, single := splitHosts(s)
	u, err := url.Parse(single)
	if err != nil {
		// The error of net/url shows the whole URL, and with it a password.
		return nil, fmt.Errorf("no URL: %w", errors.Unwrap(err))
	}
	if !slices.Contains(Schemes, u.Scheme) {
		return nil, fmt.Errorf("%q is no scheme; want one of %s", u.Scheme, strings.Join(Schemes, ", "))
	}
	t := &Target{secure: strings.HasPrefix(u.Scheme, "rediss"), user: u.User.Username()}
	_, t.form, _ = strings.Cut(u.Scheme, "+")
	t.password, _ = u.User.Password()
	if err := t.options(u.Query()); err != nil {
		return nil, err
	}
	if t.password != "" && t.files.password != "" {
		return nil, errors.New("has a password and a password_file; want one of them")
	}
	path := strings.Trim(u.Path, "/")
	port := redisPort
	switch t.form {
	case "unix":
		if hosts != "" || path == "" {
			return nil, errors.New("want redis+unix:///PATH/TO/SOCKET, with three slashes")
		}
		t.addrs = []string{u.Path}
		return t, nil
	case "sentinel":
		port = sentinelPort
		t.master, path, _ = strings.Cut(path, "/")
		if t.master == "" {
			return nil, errors.New("want the name of the master after the addresses of the sentinels, such as redis+sentinel://mx1,mx2,mx3/mymaster")
		}
	case "cluster":
		if path != "" {
			return nil, errors.New("a cluster has no database numbers; leave out what follows the addresses")
		}
	}
	if path != "" {
		if err := t.setDB(path); err != nil {
			return nil, err
		}
	}
	for _, host := range strings.Split(hosts, ",") {
		h, p, err := net.SplitHostPort(host)
		if err != nil {
			h, p = strings.Trim(host, "[]"), port
		}
		if h == "" {
			return nil, errors.New("want a host after //")
		}
		addr := net.JoinHostPort(h, p)
		if _, err := url.Parse("redis://" + addr); err != nil {
			return nil, fmt.Errorf("%q is no host; expected something like redis1:6379 or [2001:db8::1]:6379", host)
		}
		t.addrs = append(t.addrs, addr)
	}
	if t.form == "" && len(t.addrs) > 1 {
		return nil, errors.New("names several hosts; want one, or redis+sentinel or redis+cluster")
	}
	return t, nil
}

// splitHosts takes the list of hosts out of a URL, which net/url takes for a single one.
func splitHosts(s string) (hosts, single string) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return "", s
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	at := strings.LastIndex(rest[:end], "@") + 1
	return rest[at:end], scheme + "://" + rest[:at] + "host" + rest[end:]
}

func (t *Target) setDB(s string) (err error) {
	if t.db, err = strconv.Atoi(s); err != nil || t.db < 0 {
		err = fmt.Errorf("%q is no database number; expected something like 0", s)
	}
	return err
}

func (t *Target) options(q url.Values) error {
	known := map[string]*string{
		"user": &t.user, "password_file": &t.files.password, "ca_file": &t.files.ca, "cert_file": &t.files.cert, "key_file": &t.files.key,
		"server_name": &t.name, "sentinel_user": &t.sentinel, "sentinel_password_file": &t.files.sentinelPassword,
	}
	for name, values := range q {
		field, ok := known[name]
		switch {
		case name == "db" && t.form != "cluster" && len(values) == 1:
			if err := t.setDB(values[0]); err != nil {
				return err
			}
		case !ok:
			return fmt.Errorf("%q is no option; want user, password_file, db, ca_file, cert_file, key_file, server_name, sentinel_user or sentinel_password_file", name)
		case len(values) > 1 || values[0] == "":
			return fmt.Errorf("option %s: want one value", name)
		default:
			*field = values[0]
		}
	}
	if (t.files.cert == "") != (t.files.key == "") {
		return errors.New("option cert_file and key_file: want both or none")
	}
	return nil
}

// Secrets are the files of passwords and keys that the target names, and whether its URL has a
// password itself.
func (t *Target) Secrets() (files []string, inURL bool) {
	for _, f := range []string{t.files.password, t.files.sentinelPassword, t.files.key} {
		if f != "" {
			files = append(files, f)
		}
	}
	return files, t.password != ""
}

// String is the target without its password.
func (t *Target) String() string {
	scheme := "redis"
	if t.secure {
		scheme = "rediss"
	}
	if t.form != "" {
		scheme += "+" + t.form
	}
	s := scheme + "://" + strings.Join(t.addrs, ",")
	if t.master != "" {
		s += "/" + t.master
	}
	return s
}

const (
	// dialTimeout and callTimeout bound a new connection and a call. Nobody waits for them: who
	// looks up waits 20 ms, who learns 50.
	dialTimeout = time.Second
	callTimeout = time.Second
	// minIdle is how many connections to each server are open before they are needed.
	minIdle = 4
)

// LogLibrary leads what the Redis library logs, which is a package's variable there, to a log, as
// debugging: what matters of it is logged here.
func LogLibrary(log *slog.Logger) { redis.SetLogger(libraryLog{log}) }

type libraryLog struct{ log *slog.Logger }

func (l libraryLog) Printf(ctx context.Context, format string, v ...any) {
	l.log.DebugContext(ctx, fmt.Sprintf(format, v...))
}

// hasPassword reports whether the connection has a password, or a user.
func (t *Target) hasPassword() bool {
	return t.user != "" || t.password != "" || t.files.password != ""
}

// connect returns a client; nothing is dialled yet. Files are read now to find faults, and again
// when needed.
func (t *Target) connect() (redis.UniversalClient, error) {
	secret := func(file, literal string) func() (string, error) {
		return func() (string, error) {
			if file == "" {
				return literal, nil
			}
			b, err := os.ReadFile(file)
			if err != nil {
				err = fmt.Errorf("password file: %w", err)
			}
			return strings.TrimRight(string(b), "\r\n"), err
		}
	}
	password, sentinelPassword := secret(t.files.password, t.password), secret(t.files.sentinelPassword, "")
	for _, read := range []func() (string, error){password, sentinelPassword} {
		if _, err := read(); err != nil {
			return nil, err
		}
	}
	tlsConfig, err := t.tls()
	if err != nil {
		return nil, err
	}
	sentinel, _ := sentinelPassword()
	return redis.NewUniversalClient(&redis.UniversalOptions{
		Addrs: t.addrs, MasterName: t.master, IsClusterMode: t.form == "cluster", DB: t.db, TLSConfig: tlsConfig,
		CredentialsProvider: func() (string, string) { p, _ := password(); return t.user, p },
		SentinelUsername:    t.sentinel, SentinelPassword: sentinel,
		DialTimeout: dialTimeout, DialerRetries: 1, ReadTimeout: callTimeout, WriteTimeout: callTimeout, ContextTimeoutEnabled: true,
		// A TLS handshake takes longer than a lookup waits.
		MinIdleConns: minIdle, PipelinePoolSize: -1,
		// What fails is tried again here, where it is known what waits for it.
		MaxRetries: -1, MaxRedirects: 3, MinRetryBackoff: 5 * time.Millisecond, MaxRetryBackoff: 50 * time.Millisecond,
		DisableIdentity: true, MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}), nil
}

func (t *Target) tls() (*tls.Config, error) {
	if !t.secure {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.name}
	if t.files.ca != "" {
		pem, err := os.ReadFile(t.files.ca)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificate in it; want PEM", t.files.ca)
		}
	}
	if t.files.cert != "" {
		own, err := tls.LoadX509KeyPair(t.files.cert, t.files.key)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{own}
	}
	return c, nil
}
