// Package postfix reads and writes the settings of a Postfix: what is missing, wrong or dangerous
// beside ehlogate, and the lines that fix it.
//
// postconf(1) says what is in force, for main.cf and for each service of master.cf with its own
// settings. The files themselves are edited line by line, so that comments, order and layout stay,
// and can be given back as they were.
package postfix

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
)

// The parameters concerned, as postconf(5) names them.
const (
	milters      = "smtpd_milters"
	nonSMTPD     = "non_smtpd_milters"
	discard      = "smtpd_discard_ehlo_keyword_address_maps"
	keywords     = "smtpd_discard_ehlo_keywords"
	postscreen   = "postscreen_discard_ehlo_keyword_address_maps"
	checks       = "header_checks"
	mimeChecks   = "mime_header_checks"
	nested       = "nested_header_checks"
	cleanup      = "cleanup_service_name"
	tlsLevel     = "smtpd_tls_security_level"
	tlsProtocols = "smtpd_tls_protocols"
	receive      = "receive_override_options"
	daemonName   = "milter_macro_daemon_name"
	proxyFilter  = "smtpd_proxy_filter"
	filter       = "content_filter"
)

// The files of ours beside main.cf.
const (
	memcacheFile = "ehlogate-memcache.cf"
	backupFile   = "ehlogate-backup"
	checksFile   = "ehlogate-header-checks"
	undoFile     = "ehlogate-undo.json"
)

// ourPrefix begins the names of our services in master.cf, before that of the one that each is
// like.
const ourPrefix = "ehlogate-"

// Postfix is an installed Postfix as it is configured now.
type Postfix struct {
	// Dir is its config_directory, absolute.
	Dir string
	cfg *config.Config
	// MovedAside are the files of ours that Undo kept under another name, since somebody had
	// changed them.
	MovedAside []string

	main, master *document
	// values are all parameters in force in main.cf, with what they refer to put in.
	values   map[string]string
	services []*service
	// asked are the tables' answers so far: services share tables.
	asked map[[2]string]answer
}

// ErrMissing means that there is no Postfix on this host.
var ErrMissing = errors.New("postfix: postconf(1) is not installed")

// Find reads the Postfix with a configuration directory, or the host's own where dir is empty.
func Find(ctx context.Context, dir string, cfg *config.Config) (*Postfix, error) {
	p, err := locate(ctx, dir, cfg)
	if err != nil {
		return nil, err
	}
	return p, p.read(ctx)
}

// FindApplied is Find for what was set up: it does without what Postfix has in force where that
// cannot be read, since somebody has broken the files.
func FindApplied(ctx context.Context, dir string, cfg *config.Config) (*Postfix, error) {
	p, err := locate(ctx, dir, cfg)
	if err != nil {
		return nil, err
	}
	if err := p.read(ctx); err != nil && (p.main == nil || p.master == nil) {
		return nil, err
	}
	return p, nil
}

func locate(ctx context.Context, dir string, cfg *config.Config) (*Postfix, error) {
	if _, err := exec.LookPath("postconf"); err != nil {
		return nil, ErrMissing
	}
	sweep()
	p := &Postfix{cfg: cfg, asked: map[[2]string]answer{}}
	if dir == "" {
		out, _, err := p.run(ctx, "postconf", "-d", "-h", "config_directory")
		if err != nil {
			return nil, err
		}
		dir = strings.TrimSpace(out)
	}
	// smtpd(8) works in the queue directory: a relative path would not be found there.
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("postfix: %w", err)
	}
	p.Dir = abs
	return p, nil
}

// read reads the files and what is in force.
func (p *Postfix) read(ctx context.Context) (err error) {
	for name, into := range map[string]**document{"main.cf": &p.main, "master.cf": &p.master} {
		b, err := os.ReadFile(p.file(name))
		if err != nil {
			return fmt.Errorf("postfix: %w; name the directory of main.cf and master.cf with --postfix-config", err)
		}
		*into = newDocument(p.file(name), string(b))
	}
	if p.values, err = p.inForce(ctx, ""); err != nil {
		return err
	}
	level, _ := strconv.ParseFloat(p.values["compatibility_level"], 64)
	p.services = parseServices(p.master, level < 1)
	p.noteScreened()
	for _, s := range p.services {
		s.main = p.values
		if len(s.options) > 0 && (s.smtpd() || s.command == "postscreen" || s.command == "cleanup") {
			if s.values, err = p.inForce(ctx, s.settings()); err != nil {
				return err
			}
		}
	}
	p.noteFiltered()
	if len(p.of(exchanger, strict)) == 0 {
		for _, s := range p.services {
			s.onlyOne = true
		}
	}
	return nil
}

// noteScreened tells all services whether postscreen(8) runs.
func (p *Postfix) noteScreened() {
	screened := slices.ContainsFunc(p.services, func(s *service) bool { return s.command == "postscreen" })
	for _, s := range p.services {
		s.screened = screened
	}
}

// noteFiltered tells all services whether a content filter is used by any.
func (p *Postfix) noteFiltered() {
	filtered := false
	for _, s := range p.services {
		filtered = filtered || s.smtpd() && (s.value(filter) != "" || s.value(proxyFilter) != "")
	}
	for _, s := range p.services {
		s.filtered = filtered
	}
}

// copiesPrefix begins the names of directories of copies.
const copiesPrefix = "ehlogate-postfix-"

// sweep removes the copies of commands that were killed.
func sweep() {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), copiesPrefix+"*"))
	for _, dir := range left {
		if info, err := os.Lstat(dir); err == nil && info.IsDir() && time.Since(info.ModTime()) > time.Hour {
			os.RemoveAll(dir)
		}
	}
}

// copies writes main.cf and master.cf into a directory of their own, for Postfix's programs to
// read. They would wait for a second or two with files that have just been written
// (dict_load_file_xt).
func copies(main, master string) (dir string, err error) {
	if dir, err = os.MkdirTemp("", copiesPrefix); err != nil {
		return "", fmt.Errorf("postfix: %w", err)
	}
	for name, text := range map[string]string{"main.cf": main, "master.cf": master} {
		path := filepath.Join(dir, name)
		err = errors.Join(err, os.WriteFile(path, []byte(text), 0o600), settle(path))
	}
	if err != nil {
		os.RemoveAll(dir)
		return "", fmt.Errorf("postfix: %w", err)
	}
	return dir, nil
}

// inForce are all parameters in force with further lines at the end of main.cf, such as a service's
// own settings, so that what refers to them is right, too.
func (p *Postfix) inForce(ctx context.Context, further string) (map[string]string, error) {
	dir, err := copies(p.main.text+"\n"+further, p.master.text)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out, _, err := p.run(ctx, "postconf", "-c", dir, "-x")
	if err != nil {
		return nil, errors.New(strings.ReplaceAll(err.Error(), dir, p.Dir))
	}
	values := map[string]string{}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(line, "=")
		values[strings.TrimSpace(name)] = strings.ReplaceAll(strings.TrimSpace(value), dir, p.Dir)
	}
	return values, nil
}

// settings are the service's own as lines of main.cf.
func (s *service) settings() string {
	var b strings.Builder
	for _, name := range s.order {
		fmt.Fprintf(&b, "%s = %s\n", name, s.options[name])
	}
	return b.String()
}

func (p *Postfix) file(name string) string { return filepath.Join(p.Dir, name) }

// runWait is how long a program of Postfix may take: one that logs waits for a postlogd(8) that
// hangs.
const runWait = 20 * time.Second

// run runs a program of Postfix and returns what it printed and, apart from that, its warnings.
func (p *Postfix) run(ctx context.Context, name string, args ...string) (out, warnings string, err error) {
	var stdout, stderr strings.Builder
	limited, cancel := context.WithTimeout(ctx, runWait)
	defer cancel()
	cmd := exec.CommandContext(limited, name, args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &stdout, &stderr, time.Second
	if err := cmd.Run(); err != nil {
		switch {
		case ctx.Err() != nil:
			return "", "", fmt.Errorf("postfix: %s: interrupted: %w", name, ctx.Err())
		case limited.Err() != nil:
			return "", "", fmt.Errorf("postfix: %s %s does not end within %s; if Postfix runs, does its postlogd(8) hang? (postfix stop, postfix start)", name, strings.Join(args, " "), runWait)
		}
		if said := strings.TrimSpace(stderr.String()); said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
		return stdout.String(), stderr.String(), fmt.Errorf("postfix: %s %s: %w", name, strings.Join(args, " "), err)
	}
	return stdout.String(), stderr.String(), nil
}

// of are the smtpd(8) services with a role.
func (p *Postfix) of(roles ...role) (all []*service) {
	for _, s := range p.services {
		for _, r := range roles {
			if s.smtpd() && s.role() == r {
				all = append(all, s)
			}
		}
	}
	return all
}

// service is an entry of master.cf by its name and type.
func (p *Postfix) service(name, kind string) *service {
	for _, s := range p.services {
		if s.name == name && s.kind == kind {
			return s
		}
	}
	return nil
}

// Users is how services of the operator's own users are recognized from outside.
type Users struct {
	// SyslogNames are the names under which they log, where those are their own.
	SyslogNames []string
	// Daemons are their names in the milter protocol, where those are their own, and their ports.
	Daemons map[string]bool
}

// syslogName is the name under which the service logs, where it has one of its own.
func (s *service) syslogName() string {
	own, _ := s.own("syslog_name")
	return strings.NewReplacer("$service_name", s.name, "${service_name}", s.name).Replace(own)
}

// Users tells how the services of the operator's own users are recognized.
func (p *Postfix) Users() Users {
	u := Users{Daemons: map[string]bool{}}
	others := map[string]bool{}
	for _, s := range p.of(exchanger, strict, inside) {
		others["log "+s.syslogName()] = true
		others[s.value(daemonName)] = true
		others[s.number()] = true
	}
	for _, s := range p.of(users) {
		if name := s.syslogName(); name != "" && !others["log "+name] {
			u.SyslogNames = append(u.SyslogNames, name)
		}
		for _, name := range []string{s.value(daemonName), s.number()} {
			if name != "" && !others[name] {
				u.Daemons[name] = true
			}
		}
	}
	return u
}
