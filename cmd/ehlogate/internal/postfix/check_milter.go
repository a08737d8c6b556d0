package postfix

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
)

// longestTimeout is how long our milter may hold up a session at one stage.
const longestTimeout = 5 * time.Second

// checkMilter looks whether our milter hears a service, and how.
func (c *checker) checkMilter(s *service) {
	list := split(s.value(milters))
	ours, err := c.ourMilter()
	if err != nil {
		c.fault(nil, "Postfix cannot reach our milter", err.Error())
		return
	}
	fix := c.fix(s, milters, c.withOurs(list, ours))
	if s.overrides("no_milters") {
		c.fault(s, "receive_override_options has no_milters: nothing is heard", c.fix(s, receive, strings.Join(s.keptOverrides("no_milters"), ", ")))
		return
	}
	i := slices.IndexFunc(list, c.ours)
	if i < 0 {
		c.fault(s, fmt.Sprintf("%s does not name our milter at %s", milters, c.cfg.Milter.Listen), fix)
		return
	}
	faults := c.milterFaults(list, i, s.value)
	for _, f := range faults {
		c.fault(s, f, fix)
	}
	if len(faults) == 0 {
		c.ok(s, "our milter is the last, after the filters whose verdicts it reads, and mail goes on without it")
	}
	c.checkSocket(s, "milter.listen", c.cfg.Milter.Listen)
	c.checkMilterMaps(s)
}

// milterFaults are what is wrong with our milter in a list, at a place, with the parameters in
// force.
func (p *Postfix) milterFaults(list []string, i int, value func(string) string) (faults []string) {
	if i != len(list)-1 {
		faults = append(faults, "our milter is not the last in "+milters+": it does not see what later filters add")
	}
	return append(faults, p.milterDangers(list[i], value)...)
}

// milterDangers are what our milter can do to mail when the daemon is away or hangs.
func (p *Postfix) milterDangers(item string, value func(string) string) (faults []string) {
	setting := func(name string) string {
		if own, ok := itemSetting(item, name); ok {
			return own
		}
		return value("milter_" + name)
	}
	if action := setting("default_action"); action != "accept" {
		faults = append(faults, fmt.Sprintf("default_action is %s: mail is refused or held while our milter is away", action))
	}
	var slow []string
	for _, name := range []string{"connect_timeout", "command_timeout", "content_timeout"} {
		if t := setting(name); seconds(t) > longestTimeout {
			slow = append(slow, name+" "+t)
		}
	}
	if len(slow) > 0 {
		faults = append(faults, "a daemon that hangs holds up each session for "+strings.Join(slow, ", "))
	}
	return faults
}

// checkOtherMilters looks at the services that need not be heard, and at mail that no client sends:
// our milter must not hold it up either.
func (c *checker) checkOtherMilters() {
	ours, err := c.ourMilter()
	if err != nil {
		return
	}
	for _, s := range c.of(users, strict, inside) {
		list := split(s.value(milters))
		if i := slices.IndexFunc(list, c.ours); i >= 0 && !s.overrides("no_milters") {
			for _, f := range c.milterDangers(list[i], s.value) {
				c.fault(s, f, c.fix(s, milters, c.withOurs(list, ours)))
			}
			c.checkSocket(s, "milter.listen", c.cfg.Milter.Listen)
		}
	}
	value := func(name string) string { return c.values[name] }
	// It has nothing to say of mail that no client sends, but comes there by $smtpd_milters.
	list := split(value(nonSMTPD))
	if i := slices.IndexFunc(list, c.ours); i >= 0 {
		for _, f := range c.milterDangers(list[i], value) {
			c.fault(nil, nonSMTPD+" names our milter: "+f, c.fix(nil, nonSMTPD, strings.Join(slices.Delete(slices.Clone(list), i, i+1), ", ")))
		}
	}
}

// seconds is a time as Postfix writes it: a number and a unit, seconds without one.
func seconds(s string) time.Duration {
	s = strings.TrimSpace(s)
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
	unit := time.Second
	if len(s) > 0 {
		if u, ok := units[s[len(s)-1]]; ok {
			unit, s = u, s[:len(s)-1]
		}
	}
	n, _ := strconv.Atoi(s)
	return time.Duration(n) * unit
}

// checkMilterMaps asks smtpd_milter_maps, which goes before smtpd_milters.
func (c *checker) checkMilterMaps(s *service) {
	for _, t := range split(s.value("smtpd_milter_maps")) {
		deaf := 0
		for _, addr := range probes {
			value, err := c.ask(c.ctx, t, addr)
			if err != nil {
				c.fault(s, "the table "+t+" of smtpd_milter_maps fails, and so does mail", err.Error())
				return
			}
			if value != "" && !slices.ContainsFunc(split(value), c.ours) {
				deaf++
			}
		}
		if deaf > 0 {
			c.fault(s, fmt.Sprintf("smtpd_milter_maps gives other milters than ours to %d of %d sample addresses: nothing is heard of such clients", deaf, len(probes)),
				"add our milter to what the table "+t+" says")
		}
	}
}

// checkSocket looks whether Postfix can reach a unix socket of ours.
func (c *checker) checkSocket(s *service, key string, a config.Address) {
	if a.Network != "unix" {
		return
	}
	if _, below := c.belowQueue(a.Address); s.chroot && !below {
		queue := c.values["queue_directory"]
		c.fault(s, fmt.Sprintf("it runs in a chroot, where the socket of %s is not found: %s", key, a.Address),
			fmt.Sprintf(`%s = "unix:%s", named unix:%s in main.cf; or an inet address`, key, filepath.Join(queue, "ehlogate", filepath.Base(a.Address)), filepath.Join("ehlogate", filepath.Base(a.Address))))
		return
	}
	owner, err := user.Lookup(c.values["mail_owner"])
	if err != nil {
		return
	}
	if dir := closed(filepath.Dir(a.Address), owner); dir != "" {
		c.fault(s, fmt.Sprintf("Postfix's user %s cannot enter %s, where the socket of %s is", owner.Username, dir, key),
			fmt.Sprintf("chmod o+x %s, or a directory of group %s", dir, owner.Username))
		return
	}
	if info, err := os.Stat(a.Address); err == nil && !allows(info, owner, 0o002) {
		section, _, _ := strings.Cut(key, ".")
		c.fault(s, fmt.Sprintf("Postfix's user %s may not connect to the socket of %s, %s", owner.Username, key, a.Address),
			fmt.Sprintf("%s.group = %q, with the daemon's user in that group: usermod -aG %[2]s USER, or SupplementaryGroups=%[2]s in its unit", section, owner.Username))
	}
}

// allows reports whether a file has a permission, given as that of others, for a user.
func allows(info os.FileInfo, u *user.User, others os.FileMode) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return true
	}
	groups, _ := u.GroupIds()
	bit := others
	switch {
	case strconv.Itoa(int(stat.Uid)) == u.Uid:
		bit = others << 6
	case slices.Contains(groups, strconv.Itoa(int(stat.Gid))):
		bit = others << 3
	}
	return info.Mode()&bit != 0
}

// closed is the first directory on the way to a path that a user may not enter, or "".
func closed(dir string, u *user.User) string {
	var way []string
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		way = append(way, d)
		if d == "/" || d == "." {
			break
		}
	}
	for _, d := range slices.Backward(way) {
		info, err := os.Stat(d)
		if err != nil {
			return ""
		}
		if !allows(info, u, 0o001) {
			return d
		}
	}
	return ""
}

// deafness is a filter whose verdicts do not reach us.
type deafness struct{ what, fix string }

// deaf finds filters that put mail back where ehlogate does not hear it, or would not when main.cf
// names our milter.
func (p *Postfix) deaf(connected bool) (all []deafness) {
	seen := map[string]bool{}
	for _, s := range p.of(exchanger, strict) {
		for _, name := range []string{filter, proxyFilter} {
			value := s.value(name)
			if value == "" || seen[name+value] {
				continue
			}
			seen[name+value] = true
			all = append(all, p.deafTo(name, value, connected)...)
		}
	}
	return all
}

func (p *Postfix) deafTo(name, value string, connected bool) (all []deafness) {
	what := fmt.Sprintf("mail goes through the filter of %s (%s)", name, value)
	back := slices.DeleteFunc(p.of(inside), func(s *service) bool { return !s.putsBack() })
	if len(back) == 0 {
		transport, _, _ := strings.Cut(value, ":")
		if s := p.service(transport, "unix"); s != nil && s.command == "pipe" {
			return []deafness{{what + " and is put back with sendmail(1), where nothing tells whose it was", "let the filter give mail back by SMTP, with XFORWARD, to a service of its own; see contrib/postfix"}}
		}
		return []deafness{{what + ", and no service of master.cf takes it back that could be recognized", "see contrib/postfix for the lines of such a service"}}
	}
	heard := slices.ContainsFunc(back, func(s *service) bool {
		_, own := s.own(milters)
		return (slices.ContainsFunc(split(s.value(milters)), p.ours) || connected && !own) && !s.overrides("no_milters")
	})
	if !heard {
		s := back[0]
		ours, err := p.ourMilter()
		if err != nil {
			return nil
		}
		fix := p.fixService(s, milters, p.withOurs(split(s.value(milters)), ours))
		if s.overrides("no_milters") {
			// None of the others has run there, and none has to.
			fix = p.fixService(s, milters, ours) + "; and " + strings.TrimSpace(option(receive, strings.Join(s.keptOverrides("no_milters"), ",")))
		}
		all = append(all, deafness{what + ", and what it finds is not heard where it puts the mail back, at " + s.key(), fix})
	}
	if p.cfg.LogFile == "" {
		all = append(all, deafness{what + ", and without the mail log nothing joins what it finds to the client", "verdict.log_file, such as " + p.logFile()})
	}
	return all
}

// logFile is where Postfix logs to, as far as it says so.
func (p *Postfix) logFile() string {
	if f := p.values["maillog_file"]; f != "" && f != "/dev/stdout" {
		return f
	}
	return "/var/log/mail.log, or journal"
}
