package report

import (
	"fmt"
	"net/mail"
	"net/netip"
	"regexp"
	"strings"

	"github.com/ehlogate/ehlogate/policy"
)

// readFeedback reads a feedback report, given its part message/feedback-report, all parts, and the
// client that brought it. What it contains is read no deeper than its own parts.
func readFeedback(report part, parts []part, own []netip.Prefix, reporter netip.Addr) (m Message, err error) {
	fields, _ := split(report.body)
	if types := fields.all("Feedback-Type"); len(types) > 1 && !strings.EqualFold(types[0], types[1]) {
		return m, fmt.Errorf("%w: it is of two types, %q and %q", ErrReport, clip(types[0]), clip(types[1]))
	}
	m.Feedback = clip(strings.ToLower(strings.Trim(fields.first("Feedback-Type"), " \t;\"")))
	if len(m.Feedback) > 32 {
		m.Feedback = m.Feedback[:32]
	}
	if m.Feedback == "" {
		return m, ErrReport
	}
	if m.Class() == policy.None {
		return m, fmt.Errorf("%w: its type is %q", ErrNoVerdict, m.Feedback)
	}
	for _, name := range []string{"Arrival-Date", "Received-Date"} {
		if at, err := mail.ParseDate(fields.first(name)); err == nil && m.Time.IsZero() {
			m.Time = at
		}
	}
	m.FromDomain = domain(fields.first("Original-Mail-From"))
	var original header
	for _, p := range parts {
		switch p.kind {
		case "message/rfc822", "text/rfc822-headers", "text/rfc822-header", "message/rfc822-headers", "message/global", "message/global-headers":
			if original == nil {
				original, _ = split(p.body)
			}
		}
	}
	source := sourceOf(fields.first("Source-IP"))
	if source.IsValid() && source == reporter {
		// That is who reports.
		return m, ErrNoSource
	}
	if source.IsValid() && !owned(source, own) && !isInside(source) {
		m.Addr = source
		m.fill(original, own)
		return m, nil
	}
	return m.from(original, source, own)
}

var inBrackets = regexp.MustCompile(`\[` + anAddress + `\]`)

// sourceOf reads a Source-IP: an address, maybe in brackets, and what some write behind it.
func sourceOf(value string) netip.Addr {
	if m := inBrackets.FindStringSubmatch(value); m != nil {
		return parseAddr(m[1])
	}
	word, _, _ := strings.Cut(strings.TrimSpace(value), " ")
	return parseAddr(strings.TrimRight(word, ",;"))
}

// fill takes the queue id and the time of the message that it is about. They are the provider's that
// reports, unless a host of the operator's wrote them.
func (m *Message) fill(original header, own []netip.Prefix) {
	ours := false
	for _, value := range original.all("Received") {
		h := parseReceived(value)
		if h.addr == m.Addr {
			if !h.time.IsZero() {
				m.Time = h.time
			}
			m.QueueID, m.Foreign = h.id, !ours
			return
		}
		if ours = h.addr.IsValid() && owned(h.addr, own); !ours {
			return
		}
	}
}

// from finds the client in the message that a report is about. Lines are believed as long as they
// are known to be the provider's that reports, or the operator's: where the operator's own host gave
// the message to the provider, the line below that is its own.
func (m Message) from(original header, source netip.Addr, own []netip.Prefix) (Message, error) {
	lines := original.all("Received")
	if len(lines) == 0 {
		return m, ErrNoSource
	}
	writer := organization(parseReceived(lines[0]).by)
	ours, found := false, !source.IsValid()
	for i, value := range lines {
		h := parseReceived(value)
		switch {
		case i == maxReceived, h.user, h.local:
			return m, ErrNoSource
		case h.transit && !ours:
			continue
		case !h.addr.IsValid(), !ours && organization(h.by) != writer:
			return m, ErrNoSource
		case owned(h.addr, own) || h.addr.IsLoopback():
			// From here on the operator's own hosts write.
			found = found || h.addr == source
			ours = ours || found && owned(h.addr, own)
			continue
		case !found:
			// The provider's relays, before the one that Source-IP names.
			continue
		case !ours && isInside(h.addr):
			// Within the provider.
			continue
		case !ours && h.name != "" && organization(h.name) == writer:
			// A relay of the provider's, or a customer: what is below cannot be told from his word.
			return m, ErrNoSource
		case isInside(h.addr):
			return m, ErrNoSource
		}
		m.Addr = h.addr
		if !h.time.IsZero() {
			m.Time = h.time
		}
		m.QueueID, m.Foreign = h.id, !ours
		return m, nil
	}
	return m, ErrNoSource
}

// organization is the domain that a host's name belongs to, as far as its last two labels tell; one
// of an address is empty.
func organization(host string) string {
	host = strings.Trim(strings.ToLower(host), ".[]")
	if parseAddr(host).IsValid() {
		return ""
	}
	labels := strings.Split(host, ".")
	return strings.Join(labels[max(0, len(labels)-2):], ".")
}
