package postfix

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
)

// reach is how Postfix reaches a listener of the daemon, as main.cf wants it. A unix socket below
// the queue directory is named from there, so that it is found with chroot and without; another one
// is not found with it.
func (p *Postfix) reach(key string, a config.Address, chrooted []*service) (string, error) {
	if err := a.Wanted(key, "Postfix"); err != nil {
		return "", err
	}
	if a.Network == "unix" {
		if rest, ok := p.belowQueue(a.Address); ok {
			return "unix:" + rest, nil
		}
		if len(chrooted) > 0 {
			return "", fmt.Errorf("%s is %s, and %s runs in a chroot (the fifth column of master.cf), where that is not found; listen on inet:127.0.0.1:PORT or on unix:%s",
				key, a, chrooted[0].key(), filepath.Join(p.values["queue_directory"], "ehlogate", filepath.Base(a.Address)))
		}
		return a.String(), nil
	}
	host, port, err := a.Reach(key, p.values["inet_protocols"] == "ipv6")
	if err != nil {
		return "", err
	}
	return "inet:" + net.JoinHostPort(host, port), nil
}

// belowQueue is a path below the queue directory, from there: smtpd(8) works in it, and in a chroot
// sees nothing else.
func (p *Postfix) belowQueue(path string) (rest string, ok bool) {
	return strings.CutPrefix(path, strings.TrimSuffix(p.values["queue_directory"], "/")+"/")
}

// same reports whether an address as main.cf has it is that of a listener.
func (p *Postfix) same(item string, a config.Address) bool {
	kind, rest, _ := strings.Cut(item, ":")
	if a.Network == "" {
		return false
	}
	if kind == "unix" || kind == "local" {
		if !filepath.IsAbs(rest) {
			rest = filepath.Join(p.values["queue_directory"], rest)
		}
		return a.Network == "unix" && rest == a.Address
	}
	host, port, err := net.SplitHostPort(rest)
	own, ownPort, ownErr := net.SplitHostPort(a.Address)
	if kind != "inet" || a.Network != "tcp" || err != nil || ownErr != nil || number(port) != number(ownPort) {
		return false
	}
	if host == own || host == "localhost" && config.Loopback(own) || own == "localhost" && config.Loopback(host) {
		return true
	}
	// A listener on all addresses has any name of this host.
	ip, err := netip.ParseAddr(own)
	return err == nil && ip.IsUnspecified()
}

// number is a port's number, or the port as it is written where there is none.
func number(port string) string {
	if n, err := net.LookupPort("tcp", port); err == nil {
		return fmt.Sprint(n)
	}
	return port
}

// number is the number of the service's port, empty where it has none.
func (s *service) number() string {
	if s.kind != "inet" {
		return ""
	}
	return number(s.port())
}

// ours reports whether an item of smtpd_milters is our milter.
func (p *Postfix) ours(item string) bool {
	fields := strings.FieldsFunc(item, func(r rune) bool { return strings.ContainsRune("{}, \t", r) })
	return len(fields) > 0 && p.same(fields[0], p.cfg.Milter.Listen)
}

// itemSetting is a setting of one item of smtpd_milters, such as { inet:HOST:PORT,
// default_action=accept }.
func itemSetting(item, name string) (value string, ok bool) {
	for _, s := range split(strings.ReplaceAll(strings.Trim(item, "{} "), " = ", "=")) {
		if n, v, _ := strings.Cut(s, "="); n == name {
			return v, true
		}
	}
	return "", false
}

// exists reports whether a file is there.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
