package postfix

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// stripForged has a client's own copies of verdict headers removed. header_checks(5) belongs to
// cleanup(8), which also takes the mail that content filters and sendmail(1) put back, with the
// filters' own headers. So the services that face strangers get a cleanup(8) of their own.
func (pl *planner) stripForged() {
	if len(pl.cfg.Verdict.Names()) == 0 && pl.cfg.Verdict.AuthservID == "" {
		return
	}
	for _, s := range pl.of(exchanger, strict) {
		base := s.value(cleanup)
		switch from := pl.service(base, "unix"); {
		case strings.HasPrefix(base, ourPrefix):
		case s.value(proxyFilter) != "":
			pl.note("%s hands its mail to the filter of %s before any header can be removed: have the filter remove the clients' own %s", s.key(), proxyFilter, sample(pl.cfg.Verdict.Names()))
		case s.overrides("no_header_body_checks"):
			pl.note("%s has no_header_body_checks in receive_override_options: have the filter remove the clients' own %s", s.key(), sample(pl.cfg.Verdict.Names()))
		case from == nil:
			pl.note("%s uses the service %s, which is not in master.cf as a unix service: the clients' own %s are not removed", s.key(), base, sample(pl.cfg.Verdict.Names()))
		default:
			pl.set(s, cleanup, pl.cleanupLike(from))
			if pl.cfg.Verdict.AuthservID != "" && s.asksPolicy() {
				pl.note("%s asks a policy service: what that prepends, such as an Authentication-Results of %s, is removed with what clients write; let it write another header", s.key(), pl.cfg.Verdict.AuthservID)
			}
		}
	}
}

// sample is the first of some names.
func sample(names []string) string {
	if len(names) == 0 {
		return "verdict headers"
	}
	return names[0] + " and the like"
}

// cleanupLike adds a cleanup(8) like another one that removes forged headers, once for each, and
// returns its name. What is attached keeps its headers: nested_header_checks and mime_header_checks
// are pinned to what they were, where they follow header_checks.
func (pl *planner) cleanupLike(from *service) string {
	name := ourPrefix + from.name
	if pl.cleanups[from.name] || pl.service(name, "unix") != nil {
		return name
	}
	if len(pl.cleanups) == 0 {
		pl.Files = append(pl.Files, File{pl.file(checksFile), pl.headerChecks()})
	}
	pl.cleanups[from.name] = true
	before, ok := from.own(checks)
	if !ok {
		before, _, _ = pl.main.parameter(checks)
	}
	lines := []string{strings.Join(slices.Concat([]string{name}, from.fields[1:], []string{from.command}, from.flags), " ")}
	for _, o := range from.order {
		if o != checks {
			lines = append(lines, option(o, from.options[o]))
		}
	}
	lines = append(lines, option(checks, strings.Join(append([]string{"regexp:" + pl.file(checksFile)}, split(before)...), ", ")))
	for _, follows := range []string{mimeChecks, nested} {
		value, set := from.own(follows)
		if !set {
			value, _, set = pl.main.parameter(follows)
		}
		if !set || strings.Contains(value, "$"+checks) || strings.Contains(value, "${"+checks) {
			lines = append(lines, option(follows, before))
		}
	}
	pl.master.add(lines...)
	pl.master.settings = append(pl.master.settings, setting{Service: name + "/unix", Entry: true})
	pl.masterLines = append(pl.masterLines, addition{lines: lines})
	return name
}

// pattern is the line of header_checks(5) that removes a header.
func pattern(header string) string {
	return fmt.Sprintf("/^%s[ \t]*:/\tIGNORE", regexp.QuoteMeta(header))
}

// headerChecks is a regexp_table(5) that removes the client's copies of verdict headers.
// header_checks(5) sees what the client sent, never what a milter adds.
func (p *Postfix) headerChecks() string {
	var b strings.Builder
	b.WriteString("# What a client writes here is no verdict. Headers that milters add are not touched by this.\n")
	for _, h := range p.cfg.Verdict.Names() {
		b.WriteString(pattern(h) + "\n")
	}
	if id := p.cfg.Verdict.AuthservID; id != "" {
		// RFC 8601 section 5: whatever claims to be ours. A comment may stand before the id.
		fmt.Fprintf(&b, "/^Authentication-Results[ \t]*:[^;]*%s/\tIGNORE\n", regexp.QuoteMeta(id))
	}
	return b.String()
}
