// Package report reads the messages that people report: which client brought one in, and under
// which queue id.
//
// A message says so in its Received lines (RFC 5321 section 4.4): the newest is on top, so those
// that the operator's own hosts wrote come before anything that the client wrote. From the top, the
// first line about a client outside of the operator's own networks is the one of the mail
// exchanger; what is below it is the client's word and is not looked at. A feedback report (RFC
// 5965) names the client in its Source-IP.
package report

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"net/netip"
	"net/textproto"
	"regexp"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

const (
	// MaxMessage bounds what is looked at of a message, in bytes.
	MaxMessage = 16 << 20
	// maxHeader bounds a header, maxField a field of it beyond which the rest is left out, maxParts
	// the parts of a report, maxReceived the Received lines that are looked at.
	maxHeader   = 256 << 10
	maxField    = 8 << 10
	maxParts    = 16
	maxReceived = 64
)

// The reasons for which a message names no client.
var (
	ErrNoReceived = errors.New("no Received line about a client outside of verdict.own_networks; is it the message as it was delivered, with its header?")
	ErrNoSource   = errors.New("a feedback report without a Source-IP outside of verdict.own_networks, and without the message that it is about")
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
}

// Class is what the message stands for by itself: a feedback report says what it is, a message does
// not.
func (m Message) Class() policy.Class {
	switch m.Feedback {
	case "":
		return policy.None
	case "not-spam":
		return policy.Ham
	}
	return policy.Spam
}

// Read reads a message or a feedback report, given the operator's own networks.
func Read(raw []byte, own []netip.Prefix) (Message, error) {
	header, body := split(raw)
	kind, params, err := mime.ParseMediaType(header.first("Content-Type"))
	if err == nil && kind == "multipart/report" && strings.EqualFold(params["report-type"], "feedback-report") && params["boundary"] != "" {
		return readFeedback(body, params["boundary"], own)
	}
	return readHeader(header, own)
}

// header is a message's header: its fields unfolded, in their order.
type header []field

type field struct{ name, value string }

func (h header) first(name string) string {
	for _, f := range h {
		if strings.EqualFold(f.name, name) {
			return f.value
		}
	}
	return ""
}

// split reads the header of a message, however broken: a line that is not a field is skipped. A
// leading "From " line of an mbox is, too.
func split(raw []byte) (h header, body []byte) {
	rest := raw[:min(len(raw), maxHeader)]
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		line = bytes.TrimSuffix(line, []byte("\r"))
		switch {
		case len(line) == 0:
			return h, raw[len(raw[:min(len(raw), maxHeader)])-len(rest):]
		case (line[0] == ' ' || line[0] == '\t') && len(h) > 0:
			if last := &h[len(h)-1]; len(last.value) < maxField {
				last.value += " " + string(bytes.TrimSpace(line[:min(len(line), maxField)]))
			}
			continue
		}
		if name, value, ok := bytes.Cut(line, []byte(":")); ok && !bytes.ContainsAny(bytes.TrimRight(name, " \t"), " \t") {
			h = append(h, field{string(bytes.TrimSpace(name)), string(bytes.TrimSpace(value[:min(len(value), maxField)]))})
		}
	}
	return h, nil
}

func readHeader(h header, own []netip.Prefix) (m Message, err error) {
	n := 0
	for _, f := range h {
		if !strings.EqualFold(f.name, "Received") {
			continue
		}
		if n++; n > maxReceived {
			break
		}
		r := parseReceived(f.value)
		if !r.Addr.IsValid() || owned(r.Addr, own) {
			continue
		}
		r.FromDomain = domain(h.first("Return-Path"))
		return r, nil
	}
	return m, ErrNoReceived
}

func owned(addr netip.Addr, own []netip.Prefix) bool {
	for _, n := range own {
		if n.Contains(addr) {
			return true
		}
	}
	return false
}

var (
	quoted = regexp.MustCompile(`"[^"]*"`)
	// postfixFrom is "from HELO (NAME [ADDR])", of Postfix and Sendmail; the HELO name is the
	// client's, and has neither space nor parenthesis there.
	postfixFrom = regexp.MustCompile(`^from \S+ \((?:[^\s()]+ )?\[(?:IPv6:)?([0-9A-Fa-f:.]+)\]`)
	// eximFrom is "from NAME ([ADDR] ...)" and "from [ADDR] (helo=...)", of Exim.
	eximFrom = regexp.MustCompile(`^from \[(?:IPv6:)?([0-9A-Fa-f:.]+)\](?::[0-9]+)? `)
	queueID  = regexp.MustCompile(`\sid\s+([0-9A-Za-z-]{1,64})(?:\s|;|$)`)
)

// parseReceived reads the value of a Received line. Addr is invalid where it names no client.
func parseReceived(value string) (m Message) {
	value = strings.Join(strings.Fields(quoted.ReplaceAllString(value, `""`)), " ")
	found := postfixFrom.FindStringSubmatchIndex(value)
	if found == nil {
		found = eximFrom.FindStringSubmatchIndex(value)
	}
	if found == nil {
		return m
	}
	addr, err := policy.ParseAddr(value[found[2]:found[3]])
	if err != nil {
		return m
	}
	m.Addr = addr
	rest := value[found[1]:]
	if id := queueID.FindStringSubmatch(rest); id != nil {
		m.QueueID = id[1]
	}
	if i := strings.LastIndexByte(rest, ';'); i >= 0 {
		m.Time, _ = mail.ParseDate(strings.TrimSpace(rest[i+1:]))
	}
	return m
}

func domain(address string) string {
	address = strings.Trim(address, "<> ")
	i := strings.LastIndexByte(address, '@')
	if i < 0 || len(address)-i > 256 {
		return ""
	}
	return strings.ToLower(address[i+1:])
}

// readFeedback reads the parts of a feedback report. What it contains is read no deeper than its
// own parts.
func readFeedback(body []byte, boundary string, own []netip.Prefix) (m Message, err error) {
	parts := multipart.NewReader(bytes.NewReader(body), boundary)
	var about Message
	aboutErr := ErrNoSource
	for range maxParts {
		part, err := parts.NextPart()
		if err != nil {
			break
		}
		kind, _, _ := mime.ParseMediaType(part.Header.Get("Content-Type"))
		switch kind {
		case "message/feedback-report":
			m = readReport(decoded(part), own)
		case "message/rfc822", "text/rfc822-headers", "message/rfc822-headers":
			raw, _ := io.ReadAll(decoded(part))
			h, _ := split(raw)
			about, aboutErr = readHeader(h, own)
		}
	}
	switch {
	case m.Feedback == "":
		return m, errors.New("a feedback report without its part message/feedback-report, or without a Feedback-Type in it")
	case !m.Addr.IsValid() && aboutErr != nil:
		return m, ErrNoSource
	case aboutErr == nil && (!m.Addr.IsValid() || m.Addr == about.Addr):
		// The message that it is about knows its queue id and its time better.
		about.Feedback = m.Feedback
		return about, nil
	}
	return m, nil
}

// decoded is the body of a part, up to MaxMessage bytes of it; quoted-printable is undone by the
// reader of parts.
func decoded(part *multipart.Part) io.Reader {
	var r io.Reader = part
	if strings.EqualFold(part.Header.Get("Content-Transfer-Encoding"), "base64") {
		r = base64.NewDecoder(base64.StdEncoding, r)
	}
	return io.LimitReader(r, MaxMessage)
}

// readReport reads the fields of message/feedback-report, RFC 5965 section 3.
func readReport(r io.Reader, own []netip.Prefix) (m Message) {
	fields, _ := textproto.NewReader(bufio.NewReader(io.LimitReader(r, maxHeader))).ReadMIMEHeader()
	m.Feedback = strings.ToLower(strings.TrimSpace(fields.Get("Feedback-Type")))
	if len(m.Feedback) > 32 {
		m.Feedback = m.Feedback[:32]
	}
	if addr, err := policy.ParseAddr(fields.Get("Source-Ip")); err == nil && !owned(addr, own) {
		m.Addr = addr
	}
	for _, name := range []string{"Arrival-Date", "Received-Date"} {
		if at, err := mail.ParseDate(fields.Get(name)); err == nil && m.Time.IsZero() {
			m.Time = at
		}
	}
	m.FromDomain = domain(fields.Get("Original-Mail-From"))
	return m
}

// envelope is the line before a message in an mbox: the sender and the date as asctime(3) writes
// it.
var envelope = regexp.MustCompile(`^From \S+\s+(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) `)

// Each calls f for each message of a stream: an mbox (RFC 4155) if it begins with "From ", else one
// message. What is beyond MaxMessage of a message is not looked at. It ends with the stream, or
// with the first error of f.
func Each(r io.Reader, f func(raw []byte) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	start, _ := in.Peek(len("From "))
	mbox := string(start) == "From "
	var message []byte
	blank, begun := true, false
	yield := func() error {
		if !begun {
			return nil
		}
		return f(message)
	}
	for {
		line, err := in.ReadSlice('\n')
		whole := err == nil
		if mbox && blank && envelope.Match(line) {
			if err := yield(); err != nil {
				return err
			}
			message = message[:0]
		}
		begun = begun || len(line) > 0
		message = append(message, line[:min(len(line), MaxMessage-len(message))]...)
		blank = whole && len(bytes.TrimRight(line, "\r\n")) == 0
		switch {
		case errors.Is(err, io.EOF):
			return yield()
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("report: %w", err)
		}
	}
}
