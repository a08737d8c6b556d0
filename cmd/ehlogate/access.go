package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/postfix"
)

// accessFindings says who can connect to the listeners, which is who is believed.
func accessFindings(cfg *config.Config) (found []postfix.Finding) {
	note := func(what, fix string) {
		found = append(found, postfix.Finding{OK: true, Note: true, What: what, Fix: fix})
	}
	found = append(found, withoutEffect(cfg)...)
	var local []string
	for _, l := range []struct {
		key  string
		addr config.Address
		config.Access
	}{
		{"milter.listen", cfg.Milter.Listen, cfg.Milter.Access}, {"table.socketmap", cfg.Table.Socketmap, cfg.Table.Access},
		{"table.memcache", cfg.Table.Memcache, cfg.Table.Access}, {"http.listen", cfg.HTTP.Listen, cfg.HTTP.Access},
	} {
		section, _, _ := strings.Cut(l.key, ".")
		host, _, err := net.SplitHostPort(l.addr.Address)
		switch {
		case l.addr.Network == "unix":
			if who := whoConnects(l.addr.Address); who != "" {
				note(fmt.Sprintf("%s can connect to %s", who, l.key), "")
			}
		case l.addr.Network != "tcp" || err != nil:
		case config.Loopback(host):
			local = append(local, l.key)
		case slices.ContainsFunc(l.Peers, func(n netip.Prefix) bool { return n.Bits() == 0 }):
			found = append(found, postfix.Finding{What: fmt.Sprintf("anybody who reaches %s can connect to %s, and is believed", l.addr, l.key), Fix: fmt.Sprintf("%s.peers, with the hosts that have to connect and no others", section)})
		case len(l.Peers) == 0:
			note(fmt.Sprintf("%s is %s, and only this host can connect", l.key, l.addr), fmt.Sprintf("%s.peers, for the hosts that may", section))
		case l.key == "http.listen":
			note(fmt.Sprintf("http.listen is %s: this host and %s can read reputation, overrides and metrics without the token", l.addr, networks(l.Peers)), "")
		default:
			note(fmt.Sprintf("this host and %s can connect to %s, and are believed", networks(l.Peers), l.key), "")
		}
	}
	if cfg.Feed && cfg.LocalFeed && cfg.HTTP.Listen.Network == "tcp" {
		note("every program on this host can post verdicts, and so accuse anybody (verdict.local_feed)", "where the filter can send the token of http.feed_token_file: verdict.local_feed = false")
	}
	if len(local) > 0 {
		note("every user of this host can connect to "+strings.Join(local, ", "), "where there are users that are not trusted, set each to a unix: address, and group to the MTA's group")
	}
	return found
}

// withoutEffect finds settings of access that the listeners of their section have no use for, and
// groups that are not there.
func withoutEffect(cfg *config.Config) (found []postfix.Finding) {
	for _, s := range []struct {
		section string
		addrs   []config.Address
		config.Access
	}{
		{"milter", []config.Address{cfg.Milter.Listen}, cfg.Milter.Access},
		{"table", []config.Address{cfg.Table.Socketmap, cfg.Table.Memcache}, cfg.Table.Access},
		{"http", []config.Address{cfg.HTTP.Listen}, cfg.HTTP.Access},
	} {
		has := func(network string) bool {
			return slices.ContainsFunc(s.addrs, func(a config.Address) bool { return a.Network == network })
		}
		if len(s.Peers) > 0 && !has("tcp") {
			found = append(found, postfix.Finding{What: s.section + ".peers has no effect: other hosts do not reach a unix socket", Fix: "remove " + s.section + ".peers, or listen on inet:HOST:PORT"})
		}
		if s.Group == "" {
			continue
		}
		if !has("unix") {
			found = append(found, postfix.Finding{What: s.section + ".group has no effect: only unix sockets have a group", Fix: "remove " + s.section + ".group, or listen on unix:/PATH"})
		}
		if _, err := user.LookupGroup(s.Group); err != nil {
			found = append(found, postfix.Finding{What: fmt.Sprintf("%s.group is %s, and there is no such group on this host: the daemon will not start", s.section, s.Group), Fix: "name a group of this host, or make it: groupadd --system " + s.Group})
		}
	}
	return found
}

func networks(all []netip.Prefix) string {
	words := make([]string, len(all))
	for i, n := range all {
		words[i] = n.String()
	}
	return strings.Join(words, ", ")
}

// whoConnects says who can connect to a unix socket, or "" where it is not there.
func whoConnects(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	owner, group := strconv.Itoa(int(stat.Uid)), strconv.Itoa(int(stat.Gid))
	if u, err := user.LookupId(owner); err == nil {
		owner = u.Username
	}
	if g, err := user.LookupGroupId(group); err == nil {
		group = g.Name
	}
	switch mode := info.Mode(); {
	case mode&0o002 != 0:
		return "every user of this host"
	case mode&0o020 != 0:
		return fmt.Sprintf("user %s and group %s", owner, group)
	}
	return "user " + owner
}
