package postfix

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/ehlogate/ehlogate/policy"
)

// Finding is one thing that a check looked at.
type Finding struct {
	// OK says that it is as it should be.
	OK bool `json:"ok"`
	// Note says that it can be as it is, but that there is something to know.
	Note bool `json:"note,omitempty"`
	// What was found, and the line that fixes it.
	What string `json:"what"`
	Fix  string `json:"mend,omitempty"`
}

// checker collects findings. One that several services share is one.
type checker struct {
	*Postfix
	ctx   context.Context
	found []*shared
	// protocols is the default of smtpd_tls_protocols, when it was asked for.
	protocols string
}

// shared is a finding about services.
type shared struct {
	Finding
	services []string
}

// Check looks at everything beside ehlogate that can be missing, wrong or dangerous.
func (p *Postfix) Check(ctx context.Context) []Finding {
	c := &checker{Postfix: p, ctx: ctx}
	c.checkRoles()
	c.checkOptions()
	for _, s := range c.of(exchanger) {
		c.checkTLS(s)
		c.checkMilter(s)
		c.checkTable(s)
		c.checkAUTH(s)
		c.checkDemanding(s)
		c.checkForged(s)
	}
	c.checkOtherMilters()
	c.checkUsers()
	c.checkPostscreen()
	c.checkKept()
	for _, f := range c.deaf(false) {
		c.add(nil, Finding{What: f.what, Fix: f.fix})
	}
	c.checkRelays()
	if twice := c.setTwice(); len(twice) > 0 {
		c.fault(nil, twiceText(c.main.path, twice)+": postlogd(8) can stop over the warnings of that at the next reload, and all mail with it", "take all but the last of these lines out, which is the one in force")
	}
	c.checkLog()
	var all []Finding
	for _, f := range c.found {
		if len(f.services) > 0 {
			f.What += " (" + strings.Join(f.services, ", ") + ")"
		}
		all = append(all, f.Finding)
	}
	return all
}

// add adds a finding about a service, nil for all.
func (c *checker) add(s *service, f Finding) {
	i := slices.IndexFunc(c.found, func(o *shared) bool { return o.Finding == f })
	if i < 0 {
		i = len(c.found)
		c.found = append(c.found, &shared{Finding: f})
	}
	if s != nil {
		c.found[i].services = append(c.found[i].services, s.key())
	}
}

func (c *checker) ok(s *service, what string) { c.add(s, Finding{OK: true, What: what}) }

func (c *checker) note(s *service, what, fix string) {
	c.add(s, Finding{OK: true, Note: true, What: what, Fix: fix})
}

func (c *checker) fault(s *service, what, fix string) { c.add(s, Finding{What: what, Fix: fix}) }

// fix is the line that gives a parameter a value for a service: in master.cf where the service's
// value is not that of main.cf.
func (p *Postfix) fix(s *service, name, value string) string {
	if s != nil {
		if _, ok := s.own(name); ok || s.value(name) != p.values[name] {
			return p.fixService(s, name, value)
		}
	}
	return fmt.Sprintf("postconf -c %s -e %s", quoted(p.Dir), quoted(strings.TrimSpace(name+" = "+literal(value))))
}

// plainWord is what a shell takes as it is.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:@%+=-]+$`)

// quoted is a word for a shell.
func quoted(word string) string {
	if plainWord.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// fixService is the same for the service alone. postconf -P takes no value with white space.
func (p *Postfix) fixService(s *service, name, value string) string {
	line := strings.TrimSpace(option(name, literal(value)))
	if _, ok := s.own(name); ok {
		return fmt.Sprintf("in %s, in the service %s, in the place of its option %s: %s", p.file("master.cf"), s.key(), name, line)
	}
	return fmt.Sprintf("in %s, below %s: %s", p.file("master.cf"), s.key(), line)
}

// checkRoles says what the services are taken for.
func (c *checker) checkRoles() {
	if len(c.of(exchanger)) == 0 {
		c.fault(nil, "no service takes mail from strangers and lets them do without TLS: STARTTLS is never withheld",
			"nothing, where that is meant: "+c.roles())
	}
	for _, s := range c.of(strict) {
		if _, kind := c.ourTable(split(s.value(discard))); kind == "" {
			c.note(s, "TLS is mandatory, so STARTTLS is never withheld there", "")
		}
	}
}

// checkOptions looks for what a service dies of.
func (c *checker) checkOptions() {
	for _, s := range c.services {
		if len(s.malformed) > 0 {
			c.fault(s, fmt.Sprintf("smtpd dies of %q in master.cf: options are NAME=VALUE without white space, and there are no comments at the end of a line", strings.Join(s.malformed, " ")),
				"write -o NAME=VALUE, or -o { NAME = VALUE }, and comments on lines of their own")
		}
	}
}

// checkTLS looks whether STARTTLS is offered at all.
func (c *checker) checkTLS(s *service) {
	switch level := s.tlsLevel(); {
	case level == "may" || mandatory[level]:
	case level != "none":
		c.fault(s, fmt.Sprintf("%s is %q, which is not a level: smtpd dies of it", tlsLevel, level), c.fix(s, tlsLevel, "may"))
		return
	default:
		c.fault(s, "STARTTLS is offered to nobody", c.fix(s, tlsLevel, "may")+", with a certificate in smtpd_tls_chain_files")
		return
	}
	if fault := certificateFault(s); fault != "" {
		c.fault(s, "STARTTLS is offered to nobody: "+fault, "name a certificate and its key, such as with: postfix tls new-server-cert, or smtpd_tls_chain_files")
		return
	}
	if usual, fault := c.protocolsFault(s); fault != "" {
		c.fault(s, "STARTTLS is offered, and fails: "+fault, c.fix(s, tlsProtocols, usual))
		return
	}
	if slices.Contains(words(s.value(keywords)), policy.STARTTLS) {
		rest := slices.DeleteFunc(split(s.value(keywords)), func(w string) bool { return strings.EqualFold(w, policy.STARTTLS) })
		c.fault(s, "STARTTLS is offered to nobody: "+keywords+" hides it", c.fix(s, keywords, strings.Join(rest, ", ")))
		return
	}
	if table := c.hidesSTARTTLS(s); table != "" {
		c.note(s, "the table "+table+" hides STARTTLS from most clients, whatever ehlogate answers", "")
		return
	}
	c.ok(s, "STARTTLS is offered")
}

// hidesSTARTTLS is a table of the site's own that hides STARTTLS from most clients, or "".
func (c *checker) hidesSTARTTLS(s *service) string {
	for _, item := range split(s.value(discard)) {
		for _, t := range c.beside(item) {
			hidden := 0
			for _, addr := range probes {
				if value, err := c.ask(c.ctx, t, addr); err == nil && slices.Contains(words(value), policy.STARTTLS) {
					hidden++
				}
			}
			if hidden*2 > len(probes) {
				return t
			}
		}
	}
	return ""
}

// protocol is an item of smtpd_tls_protocols, postconf(5).
var protocol = regexp.MustCompile(`(?i)^(!?|>=|<=)(SSLv2|SSLv3|TLSv1|TLSv1\.[0-3]|0x[0-9a-f]+|[0-9]+)$`)

// protocolsFault says why no TLS protocol is left, or "": Postfix then offers STARTTLS and refuses
// it. It also returns the default of this Postfix; ranges are known from 3.6 on.
func (c *checker) protocolsFault(s *service) (usual, fault string) {
	if c.protocols == "" {
		out, _, err := c.run(c.ctx, "postconf", "-d", "-h", tlsProtocols)
		if err != nil {
			return "", ""
		}
		c.protocols = strings.TrimSpace(out)
	}
	usual = c.protocols
	ranges := strings.Contains(usual, ">=")
	for _, item := range strings.FieldsFunc(s.value(tlsProtocols), func(r rune) bool { return strings.ContainsRune(" ,:\t", r) }) {
		if !protocol.MatchString(item) || !ranges && strings.ContainsAny(item, "<>") {
			return usual, fmt.Sprintf("%s has %q, which is not a protocol that this Postfix knows", tlsProtocols, item)
		}
	}
	return usual, ""
}

// checkAUTH notes an exchanger at which users log in.
func (c *checker) checkAUTH(s *service) {
	if s.yes("smtpd_sasl_auth_enable") {
		c.note(s, "users can log in at the mail exchanger, too, and one of low reputation would not be offered STARTTLS there",
			"let them use submission (587 or 465), or list their networks in policy.exempt")
	}
}

// checkDemanding notes tables with which the exchanger demands TLS of some.
func (c *checker) checkDemanding(s *service) {
	if tables := s.demanding(); len(tables) > 0 {
		c.note(s, demandingNote(tables), "")
	}
}

func demandingNote(tables []string) string {
	return strings.Join(tables, ", ") + " can demand TLS of single clients, senders or recipients: a client from which STARTTLS is withheld is deferred once there, and offered it from then on"
}

// checkUsers looks whether services of the operator's own users, and those that require TLS, ask
// our table.
func (c *checker) checkUsers() {
	for _, s := range c.of(users, strict) {
		list := split(s.value(discard))
		i, kind := c.ourTable(list)
		if kind == "" {
			c.ok(s, "our table is not asked where users send, or TLS is mandatory")
			continue
		}
		c.fault(s, "our table is asked where users send or TLS is mandatory: one of low reputation could send nothing",
			c.fixService(s, discard, strings.Join(append(slices.Delete(slices.Clone(list), i, i+1), c.beside(list[i])...), ", ")))
	}
}

// checkPostscreen looks whether postscreen(8) asks our table.
func (c *checker) checkPostscreen() {
	for _, s := range c.services {
		if s.command != "postscreen" {
			continue
		}
		list := split(s.value(postscreen))
		i, kind := c.ourTable(list)
		if kind == "" {
			c.ok(s, "postscreen does not ask our table")
			continue
		}
		what := "postscreen asks our table at every EHLO in its one process, and a daemon that hangs holds up every client"
		if kind == socketmapTable {
			what = "postscreen asks our table, and dies when a socketmap fails"
		}
		rest := slices.Delete(slices.Clone(list), i, i+1)
		for _, other := range c.beside(list[i]) {
			if parseLookup(other).kind != "static" {
				rest = append(rest, other)
			}
		}
		c.fault(s, what, c.fix(s, postscreen, strings.Join(rest, ", ")))
	}
}

// checkRelays looks for hosts that may relay and are not exempt.
func (c *checker) checkRelays() {
	var missing []string
	for _, item := range split(c.values["mynetworks"]) {
		n, ok := network(item)
		if !ok || n.Bits() == 0 || n.Addr().IsLoopback() || n.Addr().IsLinkLocalUnicast() || here(n) || covered(n, c.cfg.Policy.Exempt) {
			continue
		}
		missing = append(missing, n.String())
	}
	if len(missing) == 0 {
		return
	}
	all := []string{}
	for _, n := range c.cfg.Policy.Exempt {
		all = append(all, fmt.Sprintf("%q", n))
	}
	for _, n := range missing {
		all = append(all, fmt.Sprintf("%q", n))
	}
	c.fault(nil, "mynetworks has hosts that are not exempt, and could be taken for spammers because of what they relay: "+strings.Join(missing, ", "),
		fmt.Sprintf("in the section [policy] of ehlogate.toml: exempt = [%s]", strings.Join(all, ", ")))
}

// checkLog notes that the mail log is not followed.
func (c *checker) checkLog() {
	if c.cfg.LogFile == "" && len(c.of(exchanger)) > 0 {
		c.note(nil, "the mail log is not followed: what filters, block lists and postscreen refuse is not heard", "verdict.log_file = \"PATH\", such as "+c.logFile())
	}
}

// covered reports whether a network lies inside one of others.
func covered(n netip.Prefix, others []netip.Prefix) bool {
	return slices.ContainsFunc(others, func(o netip.Prefix) bool { return o.Bits() <= n.Bits() && o.Contains(n.Addr()) })
}
