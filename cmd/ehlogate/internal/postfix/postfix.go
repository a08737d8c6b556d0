// Package postfix reads and writes the settings of a Postfix through postconf(1): what is missing,
// wrong or dangerous beside ehlogate, and the lines that fix it.
package postfix

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
)

// The parameters concerned, as postconf(5) names them.
const (
	milters    = "smtpd_milters"
	discard    = "smtpd_discard_ehlo_keyword_address_maps"
	postscreen = "postscreen_discard_ehlo_keyword_address_maps"
	checks     = "header_checks"
	tlsLevel   = "smtpd_tls_security_level"
)

// The files of ours beside main.cf.
const (
	memcacheFile = "ehlogate-memcache.cf"
	backupFile   = "ehlogate-backup"
	checksFile   = "ehlogate-header-checks"
	undoFile     = "ehlogate-undo.json"
)

// Postfix is an installed Postfix.
type Postfix struct {
	// Dir is its config_directory.
	Dir string
	cfg *config.Config
}

// ErrMissing means that there is no Postfix on this host.
var ErrMissing = errors.New("postfix: postconf(1) is not installed")

// Find returns the Postfix with a configuration directory, or the host's own where dir is empty.
func Find(ctx context.Context, dir string, cfg *config.Config) (*Postfix, error) {
	if _, err := exec.LookPath("postconf"); err != nil {
		return nil, ErrMissing
	}
	p := &Postfix{Dir: dir, cfg: cfg}
	if dir == "" {
		out, err := p.run(ctx, "postconf", "-d", "-h", "config_directory")
		if err != nil {
			return nil, err
		}
		p.Dir = out
	}
	if _, err := os.Stat(p.file("main.cf")); err != nil {
		return nil, fmt.Errorf("postfix: %w; name its directory with --postfix-config", err)
	}
	return p, nil
}

func (p *Postfix) file(name string) string { return filepath.Join(p.Dir, name) }

func (p *Postfix) run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return "", fmt.Errorf("postfix: %s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// value is a parameter's value, with what it refers to put in.
func (p *Postfix) value(ctx context.Context, name string) (string, error) {
	return p.run(ctx, "postconf", "-c", p.Dir, "-x", "-h", name)
}

// explicit is a parameter's value as main.cf has it; ok is false where main.cf does not set it.
func (p *Postfix) explicit(ctx context.Context, name string) (text string, ok bool, err error) {
	out, err := p.run(ctx, "postconf", "-c", p.Dir, "-n", name)
	if err != nil || out == "" {
		return "", false, err
	}
	_, text, _ = strings.Cut(out, "=")
	return strings.TrimSpace(text), true, nil
}

// service is a line of master.cf.
type service struct{ name, kind, command string }

func (s service) key() string { return s.name + "/" + s.kind }

// submission reports whether a service takes mail of the operator's own users: it must not use the
// table.
func (s service) submission() bool {
	switch s.name[strings.LastIndexByte(s.name, ':')+1:] {
	case "submission", "submissions", "smtps", "587", "465":
		return s.kind == "inet" && strings.HasPrefix(s.command, "smtpd")
	}
	return false
}

func (p *Postfix) services(ctx context.Context) ([]service, error) {
	out, err := p.run(ctx, "postconf", "-c", p.Dir, "-M")
	var list []service
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) >= 8 {
			list = append(list, service{f[0], f[1], strings.Join(f[7:], " ")})
		}
	}
	return list, err
}

// UserServices are the names under which smtpd(8) logs where it serves the operator's own users:
// the syslog_name of each such service, if it has one of its own.
func (p *Postfix) UserServices(ctx context.Context) (names []string, err error) {
	services, err := p.services(ctx)
	if err != nil {
		return nil, err
	}
	out, err := p.run(ctx, "postconf", "-c", p.Dir, "-P")
	if err != nil {
		return nil, err
	}
	set := map[string]map[string]string{}
	for line := range strings.Lines(out) {
		// submission/inet/syslog_name = postfix/submission
		name, value, _ := strings.Cut(line, "=")
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			continue
		}
		if set[name[:i]] == nil {
			set[name[:i]] = map[string]string{}
		}
		set[name[:i]][strings.TrimSpace(name[i+1:])] = strings.TrimSpace(value)
	}
	for _, s := range services {
		own := set[s.key()]
		if s.kind != "inet" || !strings.HasPrefix(s.command, "smtpd") || own["syslog_name"] == "" {
			continue
		}
		if s.submission() || own["smtpd_sasl_auth_enable"] == "yes" || own["smtpd_tls_wrappermode"] == "yes" || own["smtpd_tls_security_level"] == "encrypt" {
			names = append(names, strings.NewReplacer("$service_name", s.name, "${service_name}", s.name).Replace(own["syslog_name"]))
		}
	}
	return names, nil
}

// ownValue is what a service sets for a parameter with -o; ok is false where it sets nothing.
func (p *Postfix) ownValue(ctx context.Context, s service, name string) (value string, ok bool) {
	out, err := p.run(ctx, "postconf", "-c", p.Dir, "-P", s.key()+"/"+name)
	if err != nil || !strings.Contains(out, "=") {
		return "", false
	}
	_, value, _ = strings.Cut(out, "=")
	return strings.TrimSpace(value), true
}

// split splits a list of milters or tables at commas and spaces outside braces.
func split(list string) []string {
	var items []string
	depth, start := 0, -1
	for i, r := range list + " " {
		outside := depth == 0 && (r == ',' || r == ' ' || r == '\t' || r == '\n')
		switch {
		case outside && start >= 0:
			items, start = append(items, list[start:i]), -1
		case !outside && start < 0:
			start = i
		}
		switch r {
		case '{':
			depth++
		case '}':
			depth--
		}
	}
	return items
}

// ours reports whether an item of smtpd_milters is our milter.
func (p *Postfix) ours(item string) bool {
	fields := strings.FieldsFunc(item, func(r rune) bool { return strings.ContainsRune("{}, \t", r) })
	return len(fields) > 0 && strings.ReplaceAll(fields[0], "localhost", "127.0.0.1") == p.cfg.Milter.Listen.String()
}
