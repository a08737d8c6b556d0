package report

import (
	"fmt"
	"net/mail"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// hop is what a Received line says: who gave a message to whom.
type hop struct {
	// addr is the client's, name its verified name, by the host that wrote the line.
	addr     netip.Addr
	name, by string
	id       string
	time     time.Time
	// transit says that the message was only handed on within a host or to a mailbox, fetched that it
	// was taken from another's mail server; local that it was submitted on the host; user that the
	// client had logged in; nameless that no client is named.
	transit, fetched, local, user, nameless bool
}

const anAddress = `(?:IPv6:)?([0-9A-Fa-f:.]+)(?:%[0-9A-Za-z]+)?`

var (
	quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	// bracketed is what Postfix, Sendmail, Exim and most others put into parentheses behind the HELO
	// name, which is the client's: "NAME [ADDR]", "IDENT@NAME [ADDR]:PORT helo=...".
	bracketed = regexp.MustCompile(`^(?:([^\s()\[\]]+) )?\[` + anAddress + `\](?::[0-9]+)?(?: |$)`)
	// bare is Exchange's and Courier's, and the second parentheses of qmail and Yahoo.
	bare = regexp.MustCompile(`^(?:[^\s()\[\]]*@)?\[?` + anAddress + `\]?$`)
	// literal is Exim's "from [ADDR] (helo=...)", without a name.
	literal   = regexp.MustCompile(`^\[` + anAddress + `\](?::[0-9]+)?$`)
	number    = regexp.MustCompile(`^(?:[0-9a-f]*:[0-9a-f:]*:[0-9a-f]*|[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+)$`)
	greeting  = regexp.MustCompile(`(?i)^(?:HELO|EHLO) `)
	eximGroup = regexp.MustCompile(`^(?:helo=|port=|ident=)`)
	byHost    = regexp.MustCompile(`(?i)(?:^| )by (\S+)`)
	withProto = regexp.MustCompile(`(?i)(?:^| )with (?:local )?([A-Za-z0-9-]+)`)
	queueID   = regexp.MustCompile(`(?i)(?:^| )id ([0-9A-Za-z.-]{1,64})(?: |$)`)
	loggedIn  = regexp.MustCompile(`(?i)^(?:utf8)?(?:e?smtps?a|asmtp|esmtpsa)$`)
	fetchedBy = regexp.MustCompile(`(?i)^(?:pop3|imap)`)
	handedOn  = regexp.MustCompile(`(?i)^(?:utf8)?(?:lmtps?a?|pop3.*|imap.*|bsmtp|spamassassin)$`)
)

// parseReceived reads the value of a Received line. The HELO name is the client's; what a mail
// exchanger knows stands in the parentheses behind it.
func parseReceived(value string) (h hop) {
	if i := strings.LastIndexByte(value, ';'); i >= 0 {
		h.time, _ = mail.ParseDate(strings.TrimSpace(value[i+1:]))
		value = value[:i]
	}
	value = strings.Join(strings.Fields(quoted.ReplaceAllString(value, `""`)), " ")
	words, groups, ok := parenthesize(value)
	if !ok {
		return h
	}
	after := words
	isFrom := len(words) > 5 && strings.EqualFold(words[:5], "from ")
	if isFrom {
		var from string
		from, after = cutClient(words[5:], groups)
		h.readClient(from, groups)
	}
	plain := group.ReplaceAllString(after, "")
	plain = strings.Join(strings.Fields(plain), " ")
	proto := ""
	if m := withProto.FindStringSubmatch(plain); m != nil {
		proto = m[1]
	}
	if m := byHost.FindStringSubmatch(plain); m != nil {
		h.by = strings.ToLower(strings.TrimSuffix(m[1], ","))
	}
	if m := queueID.FindStringSubmatch(plain); m != nil {
		h.id = m[1]
	}
	h.classify(words, proto, groups)
	h.nameless = !isFrom && len(words) > 3 && strings.EqualFold(words[:3], "by ")
	h.fetched = fetchedBy.MatchString(proto)
	if !isFrom && !h.local && number.MatchString(h.by) {
		// "by 2002:a05:6402:1234:b0:4ab:cdef with SMTP id ...", within Google.
		h.transit = true
	}
	return h
}

// classify tells what kind of hop it was.
func (h *hop) classify(words, proto string, groups []string) {
	h.user = loggedIn.MatchString(proto)
	for i, g := range groups {
		lower := strings.ToLower(g)
		beforeBy := strings.Contains(words, mark(i)) && strings.Index(words, mark(i)) < max(0, strings.LastIndex(words, " by "))
		switch {
		case strings.HasPrefix(lower, "authenticated sender"), beforeBy && strings.HasPrefix(lower, "authenticated"), beforeBy && strings.HasPrefix(lower, "auth: "),
			beforeBy && strings.HasPrefix(lower, "account "), strings.HasPrefix(lower, "authenticated user"), strings.HasPrefix(lower, "authenticated as "):
			h.user = true
		case strings.Contains(lower, ", from userid "), strings.Contains(lower, "invoked by uid"), strings.HasPrefix(lower, "from "),
			strings.HasSuffix(lower, "[local]"):
			h.local = true
		case strings.HasPrefix(lower, "qmail ") && strings.Contains(lower, "invoked "), strings.HasSuffix(lower, "[unix socket]"):
			h.transit = true
		}
	}
	switch {
	case strings.EqualFold(proto, "local"), strings.EqualFold(proto, "http"), strings.EqualFold(proto, "https"):
		h.local = true
	case handedOn.MatchString(proto):
		h.transit = true
	}
}

// readClient finds the client's address, given what stands between "from" and what follows it.
func (h *hop) readClient(from string, groups []string) {
	of := groupsIn(from, groups)
	named := 0
	for _, g := range of {
		if bracketed.MatchString(g) {
			named++
		}
	}
	if named > 1 {
		// One of them is in a HELO name.
		return
	}
	helo := strings.TrimSpace(group.ReplaceAllString(from, ""))
	switch {
	case len(of) > 0 && bracketed.MatchString(of[0]):
		m := bracketed.FindStringSubmatch(of[0])
		h.name, h.addr = strings.ToLower(strings.TrimSuffix(m[1], ".")), parseAddr(m[2])
	case len(of) > 0 && eximGroup.MatchString(of[0]), len(of) == 0:
		// Exim's client without a name; fetchmail's server is no client, whatever it is called.
		if m := literal.FindStringSubmatch(helo); m != nil {
			h.addr = parseAddr(m[1])
		}
	case len(of) == 1 && greeting.MatchString(of[0]) && literal.MatchString(helo):
		// CommuniGate's "[ADDR] (HELO NAME)".
		h.addr = parseAddr(literal.FindStringSubmatch(helo)[1])
	case len(of) == 1 && bare.MatchString(of[0]):
		h.addr = parseAddr(bare.FindStringSubmatch(of[0])[1])
	case len(of) > 2 && greeting.MatchString(of[0]) && bare.MatchString(of[2]):
		// One of them is in the HELO name.
	case len(of) > 1 && greeting.MatchString(of[0]) && bare.MatchString(of[1]):
		h.addr = parseAddr(bare.FindStringSubmatch(of[1])[1])
	}
}

func parseAddr(s string) netip.Addr {
	addr, err := policy.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return addr
}

// group is what parenthesize leaves of parentheses.
var group = regexp.MustCompile("\x01[0-9]+\x01")

func mark(i int) string { return fmt.Sprintf("\x01%02d\x01", i) }

// maxGroups bounds the parentheses of a line.
const maxGroups = 30

// parenthesize takes the outermost parentheses out of a text and leaves a mark for each; ok is false
// where they do not match.
func parenthesize(s string) (words string, groups []string, ok bool) {
	var b strings.Builder
	depth, start := 0, 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == 1:
			return "", nil, false
		case c == '(':
			if depth == 0 {
				start = i + 1
			}
			depth++
		case c == ')' && depth == 0:
			return "", nil, false
		case c == ')':
			if depth--; depth == 0 {
				if len(groups) == maxGroups {
					return "", nil, false
				}
				b.WriteString(mark(len(groups)))
				groups = append(groups, strings.TrimSpace(s[start:i]))
			}
		case depth == 0:
			b.WriteByte(c)
		}
	}
	return b.String(), groups, depth == 0
}

// groupsIn are the parentheses of a part of a line.
func groupsIn(words string, groups []string) (in []string) {
	for i, g := range groups {
		if strings.Contains(words, mark(i)) {
			in = append(in, g)
		}
	}
	return in
}

// cutClient parts "from HELO (NAME [ADDR]) by HOST ...": the first " by " behind the first
// parentheses, since the HELO name can have one, else the first one.
func cutClient(words string, groups []string) (from, after string) {
	begin := 0
	if i := strings.Index(words, "\x01"); i >= 0 && len(groups) > 0 && describes(groups[0]) {
		begin = i
	}
	i := strings.Index(strings.ToLower(words[begin:]), " by ")
	if i < 0 {
		return words, ""
	}
	return words[:begin+i], words[begin+i:]
}

// describes reports whether parentheses are those of a client, which stand before "by".
func describes(g string) bool {
	return bracketed.MatchString(g) || bare.MatchString(g) || greeting.MatchString(g) || eximGroup.MatchString(g) || strings.HasSuffix(g, "]")
}
