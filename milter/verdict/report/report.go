// Package report reads the messages that people report: which client brought one in, and under
// which queue id.
//
// A message says so in its Received lines (RFC 5321 section 4.4): the newest is on top, so those
// that the operator's own hosts wrote come before anything that the client wrote. From the top, the
// first line about a client that is not a relay of the operator's is the one of the mail exchanger;
// what is below it is the client's word and is not looked at. A feedback report (RFC 5965) names
// the client in its Source-IP. SpamAssassin's report_safe and messages forwarded as attachments are
// unwrapped.
//
// Where anything is in doubt, nobody is accused: what cannot be read is refused with the reason.
package report

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

const (
	// MaxMessage bounds what is looked at of a message, in bytes.
	MaxMessage = 16 << 20
	// maxHeader bounds a header, maxField a field of it beyond which the rest is left out, maxParts
	// the parts of a report, maxReceived the Received lines that are looked at, maxNested how deep
	// messages are unwrapped.
	maxHeader   = 256 << 10
	maxField    = 8 << 10
	maxParts    = 16
	maxReceived = 64
	maxNested   = 3
)

// The reasons for which a message names no client.
var (
	ErrNoReceived = errors.New("no Received line about a client; is it the message as it was delivered, with its header?")
	ErrInside     = errors.New("the message came from a host inside, which is no client")
	ErrLocal      = errors.New("the message was submitted on a host of yours, not by a client")
	ErrUser       = errors.New("the client had logged in: the message is its user's, and says nothing of the address")
	ErrUnreadable = errors.New("the Received line of the mail exchanger does not say which client it was")
	ErrNoSource   = errors.New("the feedback report names no client: its Source-IP is missing, or one of yours, or the reporter's, and no Received line in it can be believed")
	ErrNoVerdict  = errors.New("a feedback report that is not about spam")
	ErrReport     = errors.New("a report about another message, which cannot be read; its sender is not taken for the client")
	ErrElsewhere  = errors.New("it is forwarded mail that did not come from a user of yours who had logged in: who forwarded it is not accused")
	// ErrFolder is for what a mail program keeps in a mailbox for itself.
	ErrFolder = errors.New("the mail program's own data, not a message")
)

// Message is what a message says of where it came from.
type Message struct {
	// Addr is the client, QueueID what the mail exchanger that took it wrote into its Received
	// line, Time when.
	Addr    netip.Addr
	QueueID string
	Time    time.Time
	// FromDomain is that of the envelope sender, as the delivery agent noted it.
	FromDomain string
	// Feedback is a feedback report's type, such as abuse or not-spam; empty for a message.
	Feedback string
	// Claimed says that the line stands below that of a host inside, which can have made it up: it is
	// to be believed only if such a message is known. Foreign says that the queue id may be that of
	// the provider that reports: without a known message it says nothing, the address does.
	Claimed, Foreign bool
	// Fingerprint stands for the queue id of a message that has none of ours, so that it counts once,
	// however often it is reported.
	Fingerprint string
}

// Class is what the message stands for by itself: a feedback report says what it is, a message does
// not.
func (m Message) Class() policy.Class {
	switch m.Feedback {
	case "abuse", "fraud", "virus", "phishing", "complaint":
		return policy.Spam
	case "not-spam":
		return policy.Ham
	}
	return policy.None
}

// Read reads a message or a report about one, given the networks of the operator's relays.
func Read(raw []byte, own []netip.Prefix) (Message, error) {
	m, err := read(raw, own, 0)
	if err == nil && (m.QueueID == "" || m.Foreign) {
		m.Fingerprint = fingerprint(raw, m.Addr)
	}
	return m, err
}

// fingerprint is one of a message and its client. Of its header only what its author wrote is in it:
// the rest is written anew when it is delivered or stored again.
func fingerprint(raw []byte, client netip.Addr) string {
	header, body := split(raw)
	hash := sha256.New()
	fmt.Fprintln(hash, client, header.first("Message-ID"), header.first("Date"), header.first("Subject"))
	hash.Write(bytes.TrimSpace(bytes.ReplaceAll(body, []byte("\r\n"), []byte("\n"))))
	return fmt.Sprintf("report-%x", hash.Sum(nil)[:12])
}

func read(raw []byte, own []netip.Prefix, depth int) (m Message, err error) {
	header, body := split(raw)
	switch {
	case isFolderData(header):
		return m, ErrFolder
	case header.has("X-XARF", "X-ARF", "X-SpamCop-SourceIP"):
		return m, ErrReport
	case header.has("Resent-From"):
		return m, ErrElsewhere
	}
	kind, params := mediaType(header.first("Content-Type"))
	if kind == "message/rfc822" {
		return readWrapped(header, []part{{kind: kind, header: header, body: body}}, own, depth)
	}
	if !strings.HasPrefix(kind, "multipart/") || params["boundary"] == "" {
		if kind == "multipart/report" && strings.EqualFold(params["report-type"], "feedback-report") {
			return m, ErrReport
		}
		return readHeader(header, own)
	}
	parts := partsOf(body, params["boundary"])
	for _, p := range parts {
		if p.kind == "message/feedback-report" {
			reporter, _ := readHeader(header, own)
			return readFeedback(p, parts, own, reporter.Addr)
		}
	}
	if kind == "multipart/digest" {
		// Its parts are messages by default, RFC 2046 section 5.1.5.
		for i := range parts {
			if parts[i].kind == "" {
				parts[i].kind = "message/rfc822"
			}
		}
	}
	switch reportType := strings.ToLower(params["report-type"]); {
	case kind == "multipart/report" && reportType != "" && reportType != "feedback-report":
		// A notification, RFC 3464 or 8098, is a message of its own.
		return readHeader(header, own)
	case kind == "multipart/report":
		return m, ErrReport
	}
	return readWrapped(header, parts, own, depth)
}

// readWrapped reads a message that holds another one: a wrapper of SpamAssassin's or of a colleague
// who forwards it, else a message like any other. What is in a message that came from outside is
// that sender's word.
func readWrapped(outer header, parts []part, own []netip.Prefix, depth int) (m Message, err error) {
	i := 0
	for i < len(parts) && parts[i].kind != "message/rfc822" && !parts[i].original {
		i++
	}
	m, err = readHeader(outer, own)
	switch {
	case i == len(parts), depth > 0 && !wrappedBySpamAssassin(outer):
		return m, err
	case depth == maxNested:
		return Message{}, ErrReport
	case wrappedBySpamAssassin(outer), errors.Is(err, ErrUser):
		return read(parts[i].body, own, depth+1)
	case errors.Is(err, ErrLocal), errors.Is(err, ErrInside):
		// A colleague without a login, or a script.
		m, err = read(parts[i].body, own, depth+1)
		m.Claimed = true
		return m, err
	}
	if inner, _ := split(parts[i].body); inner.first("Received") == "" {
		return m, err
	}
	return Message{}, ErrElsewhere
}

// wrappedBySpamAssassin reports a message whose newest line is SpamAssassin's own.
func wrappedBySpamAssassin(h header) bool {
	line := h.first("Received")
	return strings.HasPrefix(line, "from localhost ") && strings.Contains(line, "with SpamAssassin (")
}

// readHeader finds the client in the Received lines.
func readHeader(h header, own []netip.Prefix) (m Message, err error) {
	// claimed is why the next line may have been made up; foreign says that another's mail server
	// wrote it, from which the message was fetched.
	var claimed error
	foreign := false
	for i, value := range h.all("Received") {
		if i == maxReceived {
			break
		}
		hop := parseReceived(value)
		switch {
		case hop.transit:
			foreign = foreign || hop.fetched
			continue
		case hop.user:
			return m, ErrUser
		case hop.local, hop.nameless && hop.by != "":
			// By a program of the host, a filter among them, or by its local(8) for an alias.
			claimed = ErrLocal
			continue
		case !hop.addr.IsValid() || hop.by == "":
			return m, fmt.Errorf("%w: %q", ErrUnreadable, clip(value))
		case owned(hop.addr, own):
			continue
		case isInside(hop.addr):
			claimed = fmt.Errorf("%w (%s)", ErrInside, hop.addr)
			continue
		}
		return Message{Addr: hop.addr, QueueID: hop.id, Time: hop.time, FromDomain: domain(h.first("Return-Path")), Claimed: claimed != nil, Foreign: foreign}, nil
	}
	return m, cmp.Or(claimed, ErrNoReceived)
}

func owned(addr netip.Addr, own []netip.Prefix) bool {
	for _, n := range own {
		if n.Contains(addr) {
			return true
		}
	}
	return false
}

// shared is the address space of carrier-grade NAT, RFC 6598.
var shared = netip.MustParsePrefix("100.64.0.0/10")

// isInside reports an address that no client on the Internet has.
func isInside(addr netip.Addr) bool {
	return addr.IsPrivate() || addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsUnspecified() || shared.Contains(addr)
}

// domain is the domain of an address in a header, if it is no longer than one can be.
func domain(address string) string {
	d := policy.Domain(strings.Trim(address, "<> "))
	if len(d) > 255 {
		return ""
	}
	return d
}

// clip shortens what is quoted in an error.
func clip(s string) string {
	const most = 120
	if len(s) > most {
		s = s[:most] + "..."
	}
	return s
}
