package postfix

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// checkTable looks whether a service asks our table, and what becomes of it while the daemon is
// away.
func (c *checker) checkTable(s *service) {
	list := split(s.value(discard))
	i, kind := c.ourTable(list)
	if !c.tablesWork(s, list) {
		return
	}
	own, hasOwn := s.own(discard)
	switch {
	case kind == "" && hasOwn && own == "":
		c.note(s, discard+" is set to nothing in master.cf: STARTTLS is never withheld there", "take that out of master.cf if it is the mail exchanger")
		return
	case kind == "" && c.misled(s, list):
		return
	case kind == "":
		c.fault(s, discard+" does not name our table: STARTTLS is never withheld", c.fix(s, discard, c.connected(list))+" ("+c.preparation()+")")
		return
	case kind == socketmapTable:
		c.fault(s, "the table is a socketmap: no mail comes in while the daemon is away (421 4.3.0)",
			c.fix(s, discard, c.connected(slices.Delete(slices.Clone(list), i, i+1)))+" ("+c.preparation()+")")
		return
	}
	for _, t := range list[:i] {
		if v4, v6, err := c.hides(c.ctx, t); err == nil && (v4 || v6) {
			joined := "unionmap:{" + t + ", " + list[i] + "}"
			c.fault(s, "the table "+t+" has an answer for every address, so ours is never asked",
				c.fix(s, discard, strings.Join(joinAt(list, t, list[i], joined), ", ")))
			return
		}
	}
	if c.joined(s, list, i) {
		c.checkKeywords(s, list, i)
	}
}

// joinAt is a list with another item in the place of one, and without a third.
func joinAt(list []string, at, out, in string) []string {
	var all []string
	for _, item := range list {
		switch item {
		case at:
			all = append(all, in)
		case out:
		default:
			all = append(all, item)
		}
	}
	return all
}

// connected is a list of tables with ours.
func (c *checker) connected(list []string) string {
	ours := "memcache:" + c.file(memcacheFile)
	// A table that cannot be asked has been said before.
	items, _, _ := c.withTable(c.ctx, list, list, ours)
	return strings.Join(items, ", ")
}

// misled finds our file with an address that is not the daemon's.
func (c *checker) misled(s *service, list []string) bool {
	for _, t := range list {
		for _, m := range parseLookup(t).members() {
			if m.kind == memcacheTable && m.name == c.file(memcacheFile) {
				addr, _ := c.reach("table.memcache", c.cfg.Table.Memcache, c.chrooted())
				c.fault(s, fmt.Sprintf("%s names %s, and the daemon answers at %s: STARTTLS is never withheld", m.name, readMemcache(m.name)["memcache"], c.cfg.Table.Memcache), "memcache = "+addr+" in "+m.name)
				return true
			}
		}
	}
	return false
}

// preparation is what a line that names the memcache table needs before it: without the file, every
// client gets 421.
func (c *checker) preparation() string {
	if exists(c.file(memcacheFile)) {
		return "its file is there"
	}
	return "first write the files that ehlogate setup postfix prints; or let it do all: --apply"
}

// tablesWork asks each table. One that fails stops all mail.
func (c *checker) tablesWork(s *service, list []string) bool {
	for _, t := range list {
		for _, m := range parseLookup(t).members() {
			if m.kind == memcacheTable && !c.memcacheWorks(s, m) {
				return false
			}
		}
		if _, err := c.ask(c.ctx, t, probes[0]); err != nil {
			c.fault(s, "the table "+t+" fails, and every client gets 421 4.3.0", err.Error())
			return false
		}
	}
	return true
}

// memcacheWorks looks at the file of a memcache table.
func (c *checker) memcacheWorks(s *service, m lookup) bool {
	if !filepath.IsAbs(m.name) {
		c.fault(s, "the table "+m.expression+" has a relative path, which smtpd does not find: every client gets 421 4.3.0",
			"name "+c.file(m.name)+" in "+discard)
		return false
	}
	if _, err := os.ReadFile(m.name); errors.Is(err, fs.ErrPermission) {
		// Postfix reads it as root.
		c.note(s, "the file of the table "+m.expression+" cannot be read by this user", "run this as root")
		return false
	} else if err != nil {
		c.fault(s, "the file of the table "+m.expression+" cannot be read: every client gets 421 4.3.0", err.Error())
		return false
	}
	set := readMemcache(m.name)
	if !c.same(set["memcache"], c.cfg.Table.Memcache) {
		return true
	}
	c.checkSocket(s, "table.memcache", c.cfg.Table.Memcache)
	for _, name := range []string{"timeout", "max_try"} {
		if set[name] != "1" {
			c.fault(s, fmt.Sprintf("%s: %s is %q: a daemon that hangs holds up a session for longer than a second", m.name, name, set[name]), fmt.Sprintf("%s = 1 in %s", name, m.name))
		}
	}
	if format := set["key_format"]; format != "" && format != "%s" && format != "starttls:%s" && format != "ehlogate:%s" {
		c.fault(s, fmt.Sprintf("%s: key_format is %q, which the daemon does not know: STARTTLS is never withheld", m.name, format), "key_format = starttls:%s in "+m.name)
	}
	return c.backupWorks(s, m, set["backup"])
}

// backupWorks looks at the backup of our memcache table.
func (c *checker) backupWorks(s *service, m lookup, backup string) bool {
	_, path, _ := strings.Cut(backup, ":")
	fix := "backup = texthash:" + c.file(backupFile) + " in " + m.name + ", and an empty file of that name"
	switch {
	case backup == "":
		c.fault(s, m.name+": no backup: lookups fail while the daemon is away", fix)
		return true
	case strings.HasPrefix(backup, "texthash:") && !exists(path):
		c.fault(s, fmt.Sprintf("the backup %s is not there: every client gets 421 4.3.0 while the daemon is away", path), "touch "+path)
		return false
	case strings.HasPrefix(backup, "texthash:") && !filepath.IsAbs(path):
		c.fault(s, fmt.Sprintf("the backup %s has a relative path, which smtpd does not find", path), fix)
		return false
	}
	if _, err := c.ask(c.ctx, backup, probes[0]); err != nil {
		c.fault(s, "the backup "+backup+" fails: every client gets 421 4.3.0 while the daemon is away", err.Error())
		return false
	}
	c.ok(s, "the table has a backup, so STARTTLS is offered while the daemon is away")
	return true
}

// joined reports whether our table is joined with others as it should be.
func (c *checker) joined(s *service, list []string, i int) bool {
	l := parseLookup(list[i])
	alone := slices.Concat(list[:i], []string{c.connected(nil)}, list[i+1:])
	switch l.kind {
	case "randmap":
		c.fault(s, "our table stands in a randmap: it is asked by chance only", c.fix(s, discard, strings.Join(alone, ", ")))
	case "pipemap":
		c.fault(s, "our table stands in a pipemap: what it answers is looked up in the next table", c.fix(s, discard, strings.Join(alone, ", ")))
	default:
		return true
	}
	return false
}

// checkKeywords looks whether clients whom we offer everything get back what the site takes from
// everybody: the answer of a table goes in place of smtpd_discard_ehlo_keywords.
func (c *checker) checkKeywords(s *service, list []string, i int) {
	var said []string
	for _, t := range c.beside(list[i]) {
		value, _ := c.ask(c.ctx, t, probes[0])
		if value != "" && parseLookup(t).kind != "static" {
			// It went in place of the keywords before ours was there.
			c.ok(s, "our table is asked, together with "+t)
			return
		}
		said = append(said, words(value)...)
	}
	var lost []string
	for _, w := range words(s.value(keywords)) {
		if !slices.Contains(said, w) {
			lost = append(lost, w)
		}
	}
	if len(lost) == 0 {
		c.ok(s, "our table is asked, and what "+keywords+" hides stays hidden")
		return
	}
	union := "unionmap:{" + strings.Join(append(c.beside(list[i]), siteKeywords, "memcache:"+c.file(memcacheFile)), ", ") + "}"
	fix := c.fix(s, discard, strings.Join(slices.Concat(list[:i], []string{union}, list[i+1:]), ", "))
	if len(said) > 0 {
		// So it was before ours was there.
		c.note(s, fmt.Sprintf("%s goes in place of %s, so %s is offered to everybody; if that is not meant:", strings.Join(c.beside(list[i]), ", "), keywords, strings.Join(lost, ", ")), fix)
		return
	}
	c.fault(s, fmt.Sprintf("our table's answer goes in place of %s, so %s is offered again to everybody", keywords, strings.Join(lost, ", ")), fix)
}

// certificateFault says why a service has no certificate, or "".
func certificateFault(s *service) string {
	set := func(name string) bool { v := s.value(name); return v != "" && v != "none" }
	if set("smtpd_tls_chain_files") {
		for _, f := range split(s.value("smtpd_tls_chain_files")) {
			if fault := pairFault(f, f); fault != "" {
				return fault
			}
		}
		return ""
	}
	found := false
	for _, kind := range []string{"", "ec", "d"} {
		cert := "smtpd_tls_" + kind + "cert_file"
		if !set(cert) {
			continue
		}
		found = true
		key := s.value("smtpd_tls_" + kind + "key_file")
		if key == "" {
			key = s.value(cert)
		}
		if fault := pairFault(s.value(cert), key); fault != "" {
			return fault
		}
	}
	if !found {
		return "there is no certificate"
	}
	return ""
}

// pairFault says what is wrong with a certificate and its key, or "". What this user may not read,
// Postfix may.
func pairFault(cert, key string) string {
	_, err := tls.LoadX509KeyPair(cert, key)
	if err == nil || errors.Is(err, fs.ErrPermission) {
		return ""
	}
	if errors.Is(err, fs.ErrNotExist) {
		return err.Error()
	}
	return cert + ": " + err.Error()
}

// authResults is the header of RFC 8601.
const authResults = "Authentication-Results"

// checkForged asks the header_checks of a service what they do with verdict headers that a client
// wrote.
func (c *checker) checkForged(s *service) {
	if c.service(s.value(cleanup), "unix") == nil {
		c.fault(s, "cleanup_service_name names "+s.value(cleanup)+", which is not in master.cf: no mail comes in", c.lostCleanup(s))
		return
	}
	if table, err := c.failingCheck(s); err != nil {
		c.fault(s, "the table "+table+" of header_checks fails: every message gets 451", err.Error())
		return
	}
	believed := c.believed(s)
	if len(believed) == 0 {
		c.ok(s, "a client's own verdict headers are removed before any filter runs")
		return
	}
	what := "a client can write " + strings.Join(believed, ", ") + " into its message, and is believed where the filter does not remove that"
	switch {
	case s.unchecked():
		c.note(s, what, "have the filter remove them: mail goes to it before Postfix can")
	case c.service(ourPrefix+s.value(cleanup), "unix") != nil:
		c.fault(s, what, c.fixService(s, cleanup, ourPrefix+s.value(cleanup)))
	case strings.HasPrefix(s.value(cleanup), ourPrefix) && c.asksChecks(s):
		c.fault(s, what, fmt.Sprintf("add to %s: %s", c.file(checksFile), strings.Join(patterns(believed), "; ")))
	case strings.HasPrefix(s.value(cleanup), ourPrefix):
		base := c.service(s.value(cleanup), "unix")
		c.fault(s, what, c.fixService(base, checks, strings.Join(append([]string{"regexp:" + c.file(checksFile)}, split(base.value(checks))...), ", ")))
	default:
		c.fault(s, what, "ehlogate setup postfix prints the table, and the cleanup service that removes them from clients' mail alone; --apply writes both")
	}
}

// asksChecks reports whether the cleanup(8) of a service asks our table of headers.
func (c *checker) asksChecks(s *service) bool {
	return slices.Contains(split(c.service(s.value(cleanup), "unix").value(checks)), "regexp:"+c.file(checksFile))
}

// patterns are the lines of header_checks(5) that remove headers.
func patterns(headers []string) (lines []string) {
	for _, h := range headers {
		lines = append(lines, pattern(h))
	}
	return lines
}

// lostCleanup is the line that gives a service a cleanup(8) that is there.
func (c *checker) lostCleanup(s *service) string {
	if base, ours := strings.CutPrefix(s.value(cleanup), ourPrefix); ours && c.service(base, "unix") != nil {
		return c.fixService(s, cleanup, base) + " (then postfix reload; ehlogate setup postfix --undo, then --apply, makes ours again)"
	}
	for _, base := range []string{ourPrefix + "cleanup", "cleanup"} {
		if c.service(base, "unix") != nil {
			return c.fixService(s, cleanup, base)
		}
	}
	return "add that service to master.cf, or name another one"
}

// failingCheck is a table of a service's header_checks that cannot be asked.
func (c *checker) failingCheck(s *service) (table string, err error) {
	for _, t := range split(c.service(s.value(cleanup), "unix").value(checks)) {
		if _, err := c.ask(c.ctx, t, "X-Spam-Flag: No"); err != nil {
			return t, err
		}
	}
	return "", nil
}

// believed are the verdict headers that a client can write.
func (c *checker) believed(s *service) (all []string) {
	from := c.service(s.value(cleanup), "unix")
	ask := func(header string) bool {
		return !s.unchecked() && slices.ContainsFunc(split(from.value(checks)), func(t string) bool {
			action, _ := c.ask(c.ctx, t, header)
			action = strings.ToUpper(action)
			return strings.HasPrefix(action, "IGNORE") || strings.HasPrefix(action, "STRIP")
		})
	}
	for _, h := range c.cfg.Verdict.Names() {
		if !ask(h + ": No") {
			all = append(all, h)
		}
	}
	if id := c.cfg.Verdict.AuthservID; id != "" && !ask(authResults+": "+id+"; dmarc=pass") {
		all = append(all, authResults+" of "+id)
	}
	return all
}

// checkKept looks whether our header_checks take headers that are not a client's: of what is
// attached, and of mail that filters and programs put back.
func (c *checker) checkKept() {
	ours := func(list string) bool { return strings.Contains(list, c.file(checksFile)) }
	without := func(list string) string {
		return strings.Join(slices.DeleteFunc(split(list), ours), ", ")
	}
	for _, s := range c.services {
		if s.command != "cleanup" {
			continue
		}
		for _, name := range []string{mimeChecks, nested} {
			if ours(s.value(name)) {
				c.fault(s, name+" has our table: attached mail loses the headers of its filters", c.fix(s, name, without(s.value(name))))
			}
		}
		if base := c.service(strings.TrimPrefix(s.name, ourPrefix), "unix"); base != nil && base != s && without(s.value(checks)) != without(base.value(checks)) {
			c.fault(s, "its header_checks are not those of "+base.name+" any more, which were changed since it was made",
				c.fixService(s, checks, strings.Join(append([]string{"regexp:" + c.file(checksFile)}, split(without(base.value(checks)))...), ", ")))
		}
	}
	taken := func(service string) bool {
		s := c.service(service, "unix")
		return s != nil && ours(s.value(checks))
	}
	for _, s := range c.of(inside) {
		if taken(s.value(cleanup)) && !s.overrides("no_header_body_checks") {
			c.fault(s, "mail that a filter puts back loses the headers that it wrote", c.fixService(s, receive, strings.Join(append(split(s.value(receive)), "no_header_body_checks"), ",")))
		}
	}
	if taken(c.values[cleanup]) {
		c.note(nil, "header_checks of the service "+c.values[cleanup]+" has our table: mail that programs submit with sendmail(1) loses the headers of filters, too",
			"ehlogate setup postfix --undo, then --apply, gives clients' mail a cleanup service of its own")
	}
}
