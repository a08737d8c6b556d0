package postfix

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// Finding is one thing that a check looked at.
type Finding struct {
	// OK says that it is as it should be.
	OK bool `json:"ok"`
	// What was found, and the line that fixes it.
	What string `json:"what"`
	Fix  string `json:"mend,omitempty"`
}

// checker collects findings until something cannot be read.
type checker struct {
	*Postfix
	ctx   context.Context
	found []Finding
	err   error
}

// Check looks at everything beside ehlogate that can be missing, wrong or dangerous.
func (p *Postfix) Check(ctx context.Context) ([]Finding, error) {
	c := &checker{Postfix: p, ctx: ctx}
	c.checkTLS()
	c.checkMilter()
	table := c.checkTable()
	services, err := p.services(ctx)
	if err != nil {
		return c.found, err
	}
	c.checkPostscreen(services, table)
	c.checkSubmission(services)
	c.checkHeaders()
	return c.found, c.err
}

func (c *checker) want(ok bool, good, bad, fix string) {
	f := Finding{OK: ok, What: good}
	if !ok {
		f.What, f.Fix = bad, fix
	}
	c.found = append(c.found, f)
}

func (c *checker) get(name string) string {
	v, err := c.value(c.ctx, name)
	if err != nil && c.err == nil {
		c.err = err
	}
	return v
}

func (c *checker) edit(name, value string) string {
	return fmt.Sprintf("postconf -c %s -e '%s = %s'", c.Dir, name, value)
}

func (c *checker) checkTLS() {
	level := c.get(tlsLevel)
	switch level {
	case "may":
		c.want(true, "STARTTLS is offered", "", "")
	case "encrypt":
		c.want(false, "", "TLS is mandatory: a client from whom STARTTLS is withheld could send no mail at all", c.edit(tlsLevel, "may"))
	default:
		c.want(false, "", fmt.Sprintf("%s is %q: STARTTLS is offered to nobody", tlsLevel, level), c.edit(tlsLevel, "may")+", with smtpd_tls_chain_files")
	}
}

func (c *checker) checkMilter() {
	list := split(c.get(milters))
	i := slices.IndexFunc(list, c.ours)
	if i < 0 {
		c.want(false, "", fmt.Sprintf("%s does not name our milter at %s", milters, c.cfg.Milter.Listen), c.edit(milters, c.miltersWithOurs(list)))
		return
	}
	c.want(i == len(list)-1, "our milter is the last, after the filters whose verdicts it reads",
		"our milter is not the last in "+milters+": it does not see what later filters add", c.edit(milters, c.miltersWithOurs(list)))
	action := c.get("milter_default_action")
	if own, ok := itemSetting(list[i], "default_action"); ok {
		action = own
	}
	c.want(action == "accept", "mail goes on when our milter is away",
		fmt.Sprintf("default action %s: mail is refused or held while our milter is away", action), c.edit(milters, c.miltersWithOurs(list)))
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

// checkTable returns the kind of our table: memcache, socketmap or "".
func (c *checker) checkTable() string {
	value := c.get(discard)
	for _, item := range split(value) {
		kind, rest, _ := strings.Cut(item, ":")
		switch {
		case kind == "socketmap" && strings.HasPrefix(rest, c.cfg.Table.Socketmap.String()+":"):
			c.want(false, "", "the table is a socketmap: no mail comes in while the daemon is away (421 4.3.0)", "ehlogate setup postfix --apply, which uses memcache with a backup")
			return kind
		case kind == "memcache":
			if b, err := os.ReadFile(rest); err == nil && strings.Contains(string(b), c.cfg.Table.Memcache.String()) {
				c.checkMemcache(rest, string(b))
				return kind
			}
		}
	}
	c.want(false, "", discard+" does not name our table: STARTTLS is never withheld", c.edit(discard, "memcache:"+c.file(memcacheFile))+" (ehlogate setup postfix prints that file)")
	return ""
}

func (c *checker) checkMemcache(file, text string) {
	set := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			set[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	for _, name := range []string{"timeout", "max_try"} {
		c.want(set[name] == "1", "memcache "+name+" is 1",
			fmt.Sprintf("%s: %s is %q: a daemon that hangs holds a session longer than a second", file, name, set[name]), fmt.Sprintf("%s = 1 in %s", name, file))
	}
	c.want(set["backup"] != "", "the table has a backup, so it fails open", file+": no backup: lookups fail while the daemon is away", "backup = texthash:"+c.file(backupFile)+" in "+file)
}

func (c *checker) checkPostscreen(services []service, table string) {
	runs := slices.ContainsFunc(services, func(s service) bool { return s.command == "postscreen" || strings.HasPrefix(s.command, "postscreen ") })
	value := c.get(postscreen)
	if !runs && table != "socketmap" {
		return
	}
	usesOurs := strings.Contains(value, c.cfg.Table.Socketmap.String()) || strings.Contains(value, memcacheFile)
	c.want(!runs || !usesOurs, "postscreen does not use our table", "postscreen uses our table at every EHLO in its one process, and dies when a socketmap fails", c.edit(postscreen, ""))
}

func (c *checker) checkSubmission(services []service) {
	for _, s := range services {
		if !s.submission() {
			continue
		}
		value, ok := c.ownValue(c.ctx, s, discard)
		c.want(ok && value == "", s.key()+" does not use our table", s.key()+" uses our table: the operator's own users could be refused TLS",
			fmt.Sprintf("postconf -c %s -P '%s/%s='", c.Dir, s.key(), discard))
	}
}

// checkHeaders asks the header_checks tables what they do with a verdict header that a client
// wrote.
func (c *checker) checkHeaders() {
	tables := split(c.get(checks))
	forged := map[string]string{}
	for _, h := range c.cfg.Verdict.Names() {
		forged[h] = h + ": No"
	}
	if id := c.cfg.Verdict.AuthservID; id != "" {
		forged["Authentication-Results of "+id] = "Authentication-Results: " + id + "; dmarc=pass"
	}
	for _, h := range slices.Sorted(maps.Keys(forged)) {
		stripped := slices.ContainsFunc(tables, func(t string) bool {
			out, err := c.run(c.ctx, "postmap", "-c", c.Dir, "-q", forged[h], t)
			return err == nil && (strings.HasPrefix(strings.ToUpper(out), "IGNORE") || strings.HasPrefix(strings.ToUpper(out), "STRIP"))
		})
		c.want(stripped, "a client's own "+h+" is removed before any filter runs",
			"a client can write "+h+" into its message and be believed where the filter does not remove it",
			c.edit(checks, c.checksWithOurs(tables))+" (ehlogate setup postfix prints that table)")
	}
}
