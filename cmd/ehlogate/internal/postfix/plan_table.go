package postfix

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/ehlogate/ehlogate/policy"
)

// siteKeywords is a table that has the site's own smtpd_discard_ehlo_keywords for everybody. What a
// table of addresses answers goes in place of them, and ours has an answer for everybody. The
// parameter is named, so that it holds whatever it is set to later, and for each service; a static
// table must not be empty.
const siteKeywords = "static:{${" + keywords + "?{$" + keywords + "}:{" + policy.SilentDiscard + "}}}"

// table is our table for main.cf, with the files that it needs.
func (pl *planner) table(socketmap bool) (name string, err error) {
	if socketmap {
		addr, err := pl.reach("table.socketmap", pl.cfg.Table.Socketmap, pl.chrooted())
		pl.note("with a socketmap no mail comes in while the daemon is away: keep it running, best by socket activation")
		return "socketmap:" + addr + ":starttls", err
	}
	addr, err := pl.reach("table.memcache", pl.cfg.Table.Memcache, pl.chrooted())
	if err != nil {
		return "", err
	}
	out, _, err := pl.run(pl.ctx, "postconf", "-c", pl.Dir, "-m")
	if err != nil {
		return "", err
	}
	known := strings.Fields(out)
	for _, kind := range []string{"memcache", "texthash", "unionmap", "static"} {
		if !slices.Contains(known, kind) {
			return "", fmt.Errorf("this Postfix has no %s tables (postconf -m); it takes 3.0 or later", kind)
		}
	}
	if i, kind := pl.ourTable(split(pl.values[discard])); i >= 0 && kind == memcacheTable {
		return "memcache:" + pl.file(memcacheFile), nil
	}
	pl.Files = append(pl.Files,
		File{pl.file(memcacheFile), fmt.Sprintf("# ehlogate's table, memcache_table(5). The backup answers while the daemon is away.\nmemcache = %s\nkey_format = starttls:%%s\ntimeout = 1\nmax_try = 1\nbackup = texthash:%s\n", addr, pl.file(backupFile))},
		File{pl.file(backupFile), "# Empty: while ehlogate is away, STARTTLS is offered to everyone.\n"})
	return "memcache:" + pl.file(memcacheFile), nil
}

// connectTable puts our table into main.cf, behind those that are there, and keeps it out of the
// services that must not ask it.
func (pl *planner) connectTable(served []*service, socketmap bool) {
	name, err := pl.table(socketmap)
	if err != nil {
		pl.err = errors.Join(pl.err, err)
		return
	}
	raw, _, _ := pl.main.parameter(discard)
	if i, _ := pl.ourTable(split(pl.values[discard])); i < 0 {
		items, changed := pl.addTable(split(raw), split(pl.values[discard]), name)
		how := longer
		if changed {
			how = anew
		}
		pl.put(discard, strings.Join(items, ", "), name, how)
	}
	for _, s := range served {
		own, ok := s.own(discard)
		i, _ := pl.ourTable(split(s.value(discard)))
		switch {
		case !ok || i >= 0:
		case own == "":
			pl.note("%s sets %s to nothing, so STARTTLS is never withheld there; take that out of master.cf if it is the mail exchanger", s.key(), discard)
		default:
			items, _ := pl.addTable(split(own), split(s.value(discard)), name)
			pl.set(s, discard, strings.Join(items, ", "))
		}
	}
	for _, s := range pl.of(users, strict, inside) {
		if _, ok := s.own(discard); !ok {
			pl.set(s, discard, raw)
		}
	}
	pl.keepFromPostscreen(raw)
}

// reference is what puts the exchanger's tables into another parameter.
var reference = regexp.MustCompile(`\$(` + discard + `\b|\{` + discard + `\}|\(` + discard + `\))`)

// keepFromPostscreen lets postscreen(8) go on with the tables that it had: it would ask ours at
// every EHLO in its one process.
func (pl *planner) keepFromPostscreen(raw string) {
	own, _, set := pl.main.parameter(postscreen)
	switch {
	case !set:
		pl.put(postscreen, raw, "", anew)
	case reference.MatchString(own):
		pl.put(postscreen, strings.Join(split(reference.ReplaceAllLiteralString(own, raw)), ", "), "", anew)
	default:
		return
	}
	for _, s := range pl.services {
		_, set := s.own(postscreen)
		if own, ok := s.own(discard); ok && !set && s.command == "postscreen" {
			pl.set(s, postscreen, own)
		}
	}
}

// addTable is withTable, with what there is to say of it.
func (pl *planner) addTable(raw, inForce []string, ours string) (items []string, changed bool) {
	items, joined, err := pl.withTable(pl.ctx, raw, inForce, ours)
	pl.err = errors.Join(pl.err, err)
	if joined != "" {
		pl.note("%s has an answer for every address, and hid our table; the two are joined with unionmap", joined)
	}
	return items, joined != ""
}

// withTable is a list of tables with ours behind the others, given as it is written and as it is in
// force. A table that has an answer for everybody would hide ours: it is the one that ours is
// joined with.
func (p *Postfix) withTable(ctx context.Context, raw, inForce []string, ours string) (items []string, joined string, err error) {
	behind := append(slices.Clone(raw), "unionmap:{"+siteKeywords+", "+ours+"}")
	for i, t := range inForce {
		v4, v6, err := p.hides(ctx, t)
		if err != nil {
			return behind, "", fmt.Errorf("the table %s in %s cannot be asked: %w", t, discard, err)
		}
		if !v4 && !v6 {
			continue
		}
		both := "unionmap:{" + t + ", " + siteKeywords + ", " + ours + "}"
		if v4 && v6 {
			both = "unionmap:{" + t + ", " + ours + "}"
		}
		all := slices.Concat(inForce[:i], []string{both}, inForce[i+1:])
		for i := range all {
			all[i] = literal(all[i])
		}
		return all, t, nil
	}
	return behind, "", nil
}
