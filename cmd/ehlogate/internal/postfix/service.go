package postfix

import (
	"net"
	"net/netip"
	"slices"
	"strings"
)

// service is an entry of master.cf.
type service struct {
	name, kind, command string
	chroot              bool
	// options are its own settings, "-o name=value", the last of each; order has their names.
	options map[string]string
	order   []string
	at      logical
	// fields are the columns before the command, flags its arguments but for the options.
	fields, flags []string
	// values are its parameters in force, with what they refer to put in; main are those of
	// main.cf, for what values do not have.
	values, main map[string]string
	// filtered says that a content filter is used somewhere in this Postfix, screened that
	// postscreen(8) runs in it.
	filtered, screened bool
	// onlyOne says that no other service is taken for the mail exchanger: then this one, at which
	// users can log in and strangers can send, is.
	onlyOne bool
	// malformed are arguments that smtpd(8) dies of: an option without a value, or what is none.
	malformed []string
}

func (s *service) key() string { return s.name + "/" + s.kind }

// value is a parameter in force for the service.
func (s *service) value(name string) string {
	if v, ok := s.values[name]; ok {
		return v
	}
	return s.main[name]
}

func (s *service) yes(name string) bool { return strings.EqualFold(s.value(name), "yes") }

// own is what the service sets for a parameter with -o; ok is false where it sets nothing.
func (s *service) own(name string) (value string, ok bool) {
	value, ok = s.options[name]
	return value, ok
}

// overrides reports whether receive_override_options has an option.
func (s *service) overrides(option string) bool {
	return slices.Contains(split(s.value(receive)), option)
}

// keptOverrides are the receive_override_options but for one.
func (s *service) keptOverrides(but string) []string {
	return slices.DeleteFunc(split(s.value(receive)), func(o string) bool { return o == but })
}

// unchecked reports whether cleanup(8) does not check the headers that the service takes in.
func (s *service) unchecked() bool {
	return s.value(proxyFilter) != "" || s.overrides("no_header_body_checks")
}

// parseServices reads master.cf; master(5) has its format. Of two entries of the same name and type
// the later counts, as for master(8).
func parseServices(d *document, chrootByDefault bool) []*service {
	var all []*service
	for _, l := range d.logicals() {
		words := braced(l.text)
		if len(words) < 8 {
			continue
		}
		s := &service{name: words[0], kind: words[1], command: words[7], at: l, fields: words[:7], options: map[string]string{}}
		s.chroot = words[4] == "y" || words[4] == "-" && chrootByDefault
		s.arguments(words[8:])
		all = slices.DeleteFunc(all, func(o *service) bool { return o.key() == s.key() })
		all = append(all, s)
	}
	return all
}

// takeValue are the flags of Postfix's daemons that take a value (single_server.c).
const takeValue = "imnost"

// arguments reads the arguments of a service as getopt(3) does: "-vo NAME=VALUE" has an option,
// too.
func (s *service) arguments(words []string) {
	for i := 0; i < len(words); i++ {
		flags, isFlag := strings.CutPrefix(words[i], "-")
		if !isFlag || s.command == "pipe" || s.command == "spawn" {
			s.flags = append(s.flags, words[i])
			if !isFlag && s.command == "smtpd" {
				s.malformed = append(s.malformed, words[i])
			}
			continue
		}
		at := strings.IndexAny(flags, takeValue)
		if at < 0 {
			s.flags = append(s.flags, words[i])
			continue
		}
		word, value := words[i], flags[at+1:]
		if value == "" && i+1 < len(words) {
			i++
			value = words[i]
			word += " " + value
		}
		if flags[at] != 'o' {
			s.flags = append(s.flags, word)
			continue
		}
		if at > 0 {
			s.flags = append(s.flags, "-"+flags[:at])
		}
		s.option(unbraced(value))
	}
}

// option takes a setting of the service's own.
func (s *service) option(text string) {
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		if s.command == "smtpd" {
			s.malformed = append(s.malformed, "-o "+text)
		}
		return
	}
	name = strings.TrimSpace(name)
	s.order = append(slices.DeleteFunc(s.order, func(n string) bool { return n == name }), name)
	s.options[name] = strings.TrimSpace(value)
}

// braced splits a line of master.cf at white space outside braces.
func braced(line string) []string { return splitAt(line, " \t") }

func unbraced(s string) string {
	if strings.HasPrefix(s, "{") && strings.HasSuffix(s, "}") {
		return strings.TrimSpace(s[1 : len(s)-1])
	}
	return s
}

// split splits a list of milters, tables or restrictions at commas and white space outside braces.
func split(list string) []string { return splitAt(list, ", \t\r\n") }

func splitAt(list, separators string) []string {
	var items []string
	depth, start := 0, -1
	for i, r := range list + separators[len(separators)-1:] {
		outside := depth <= 0 && strings.ContainsRune(separators, r)
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
	if start >= 0 {
		// A brace that is not closed.
		items = append(items, list[start:])
	}
	return items
}

// option is a setting as a line of master.cf; one with white space stands in braces.
func option(name, value string) string {
	if strings.ContainsAny(value, " \t{}") {
		return "  -o { " + name + " = " + value + " }"
	}
	return "  -o " + name + "=" + value
}

// Roles of smtpd(8) services, found by what they are set to.
type role int

const (
	// exchanger takes mail from strangers: what this is all about.
	exchanger role = iota
	// strict takes mail from strangers too, but only over TLS.
	strict
	// users takes mail of the operator's own users.
	users
	// inside takes mail of known hosts only, such as of a content filter that puts it back.
	inside
)

// smtpd reports whether the service speaks SMTP with clients: with them directly, or behind
// postscreen(8), where that runs.
func (s *service) smtpd() bool {
	return s.command == "smtpd" && (s.kind == "inet" || s.kind == "pass" && s.screened)
}

// role is the role of an smtpd(8) service. Where it could be either, the operator's own users go
// before strangers: nothing may be withheld from them.
func (s *service) role() role {
	switch {
	case s.byNetworkOnly() || s.putsBack():
		return inside
	case s.authenticatedOnly():
		return users
	case s.exchangerByPort() && s.requiresTLS():
		return strict
	case s.exchangerByPort():
		return exchanger
	case s.requiresTLS(), s.submission(), s.yes("smtpd_sasl_auth_enable") && !s.onlyOne:
		return users
	}
	return exchanger
}

// submission reports whether the service listens where mail programs submit mail (RFC 6409, RFC
// 8314), on which no other server sends any.
func (s *service) submission() bool {
	port := s.number()
	return port == "587" || port == "465"
}

// mandatory are the levels at which smtpd(8) requires TLS: those of clients are taken for encrypt.
var mandatory = map[string]bool{"encrypt": true, "dane": true, "dane-only": true, "fingerprint": true, "half-dane": true, "verify": true, "secure": true}

// requiresTLS reports whether a client without TLS can send nothing.
func (s *service) requiresTLS() bool {
	return s.yes("smtpd_tls_wrappermode") || mandatory[s.tlsLevel()] || s.rejectsPlaintext()
}

// tlsLevel is smtpd_tls_security_level, or what stood for it before Postfix 2.3.
func (s *service) tlsLevel() string {
	switch level := strings.ToLower(s.value("smtpd_tls_security_level")); {
	case level != "":
		return level
	case s.yes("smtpd_enforce_tls"):
		return "encrypt"
	case s.yes("smtpd_use_tls"):
		return "may"
	}
	return "none"
}

// exchangerByPort reports whether clients know the service as the mail exchanger: it listens on
// port 25, or postscreen(8) hands it its clients.
func (s *service) exchangerByPort() bool {
	port := s.port()
	return s.kind == "pass" || port == "smtp" || port == "25"
}

// port is the service's port, or its name in services(5).
func (s *service) port() string { return s.name[strings.LastIndexByte(s.name, ':')+1:] }

// host is the address that the service listens on, empty for all of inet_interfaces.
func (s *service) host() string {
	i := strings.LastIndexByte(s.name, ':')
	if i < 0 {
		return ""
	}
	return strings.Trim(s.name[:i], "[]")
}

// proxied reports whether another program hands the service its clients, and tells it who they are.
func (s *service) proxied() bool {
	_, xclient := s.own("smtpd_authorized_xclient_hosts")
	return s.value("smtpd_upstream_proxy_protocol") != "" || xclient
}

// putsBack reports whether the service takes mail back from a content filter: it listens on an
// inside address, where a filter is used, and hands its mail to none.
func (s *service) putsBack() bool {
	own, isOwn := s.own(filter)
	_, xforward := s.own("smtpd_authorized_xforward_hosts")
	if xforward && isOwn && own == "" {
		return true
	}
	host, err := netip.ParseAddr(s.host())
	inner := strings.HasSuffix(s.host(), "localhost") || err == nil && (host.IsLoopback() || host.IsPrivate())
	if list, ok := s.own("smtpd_milters"); ok && list == "" && (inner || !s.exchangerByPort()) && !s.proxied() {
		// The filters have seen its mail, or must not.
		return true
	}
	if s.proxied() || !s.filtered || s.value(filter) != "" || s.value(proxyFilter) != "" {
		return false
	}
	return inner
}

// network is a network, or a single address, of mynetworks.
func network(item string) (netip.Prefix, bool) {
	item = strings.NewReplacer("[", "", "]", "").Replace(item)
	if p, err := netip.ParsePrefix(item); err == nil {
		return p.Masked(), true
	}
	if a, err := netip.ParseAddr(item); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	return netip.Prefix{}, false
}

// here reports whether an address is one of this host.
func here(p netip.Prefix) bool {
	addrs, _ := net.InterfaceAddrs()
	return p.IsSingleIP() && slices.ContainsFunc(addrs, func(a net.Addr) bool {
		own, err := netip.ParsePrefix(a.String())
		return err == nil && own.Addr() == p.Addr()
	})
}
