package report

import (
	"bytes"
	"encoding/base64"
	"io"
	"mime/quotedprintable"
	"strconv"
	"strings"
)

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

// has reports whether it has one of some fields.
func (h header) has(names ...string) bool {
	for _, n := range names {
		if len(h.all(n)) > 0 {
			return true
		}
	}
	return false
}

// all are the values of a field.
func (h header) all(name string) (values []string) {
	for _, f := range h {
		if strings.EqualFold(f.name, name) {
			values = append(values, f.value)
		}
	}
	return values
}

// split reads the header of a message, however broken: a line that is not a field is skipped, as a
// leading "From " line of an mbox is, and blank lines before it.
func split(raw []byte) (h header, body []byte) {
	raw = bytes.TrimLeft(raw, "\r\n")
	within := len(raw[:min(len(raw), maxHeader)])
	rest := raw[:within]
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		line = bytes.TrimSuffix(line, []byte("\r"))
		switch {
		case len(line) == 0:
			return h, raw[within-len(rest):]
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

// isFolderData reports what UW-IMAP and Dovecot keep at the beginning of an mbox, and what
// Thunderbird's user has deleted: it writes above all that came with the message.
func isFolderData(h header) bool {
	if h.first("Received") == "" && (h.first("X-IMAP") != "" || h.first("X-IMAPBASE") != "") {
		return true
	}
	const expunged = 0x0008
	if len(h) == 0 || !strings.EqualFold(h[0].name, "X-Mozilla-Status") {
		return false
	}
	status, err := strconv.ParseUint(h[0].value, 16, 16)
	return err == nil && status&expunged != 0
}

// mediaType reads a Content-Type more leniently than RFC 2045 has it: programs that report write a
// parameter twice, and values with "=" and ":" without quotes. Of two the first counts.
func mediaType(value string) (kind string, params map[string]string) {
	kind, rest, _ := strings.Cut(value, ";")
	params = map[string]string{}
	for rest != "" {
		var name, text string
		name, rest, _ = strings.Cut(rest, "=")
		rest = strings.TrimLeft(rest, " \t")
		if quoted, ok := strings.CutPrefix(rest, `"`); ok {
			text, rest, _ = strings.Cut(quoted, `"`)
			_, rest, _ = strings.Cut(rest, ";")
		} else {
			text, rest, _ = strings.Cut(rest, ";")
		}
		if name = strings.ToLower(strings.Trim(name, " \t;")); params[name] == "" {
			params[name] = strings.TrimSpace(text)
		}
	}
	return strings.ToLower(strings.TrimSpace(kind)), params
}

// part is a part of a multipart message.
type part struct {
	kind   string
	header header
	body   []byte
	// original says that it is the message that SpamAssassin wrapped.
	original bool
}

// partsOf are the parts of a multipart body, RFC 2046 section 5.1.1. What stands before the first
// delimiter and behind the last is none.
func partsOf(body []byte, boundary string) (parts []part) {
	delimiter := []byte("--" + boundary)
	begin := -1
	for at := 0; at < len(body) && len(parts) < maxParts; {
		line, _, _ := bytes.Cut(body[at:], []byte("\n"))
		after, ok := bytes.CutPrefix(line, delimiter)
		after = bytes.TrimRight(after, " \t\r")
		if ok && (len(after) == 0 || string(after) == "--") {
			if begin >= 0 {
				parts = append(parts, newPart(body[begin:at]))
			}
			if begin = min(at+len(line)+1, len(body)); len(after) > 0 {
				return parts
			}
		}
		at += len(line) + 1
	}
	if begin >= 0 && len(parts) < maxParts {
		parts = append(parts, newPart(body[begin:]))
	}
	return parts
}

func newPart(raw []byte) (p part) {
	// A part may have no header at all: then it begins with the blank line.
	if blank := []byte("\n"); bytes.HasPrefix(raw, blank) || bytes.HasPrefix(raw, []byte("\r\n")) {
		_, p.body, _ = bytes.Cut(raw, blank)
		return p
	}
	p.header, p.body = split(raw)
	var params map[string]string
	p.kind, params = mediaType(p.header.first("Content-Type"))
	p.original = params["x-spam-type"] == "original"
	_, disposition := mediaType(p.header.first("Content-Disposition"))
	if name := strings.ToLower(params["name"] + disposition["filename"]); p.kind == "application/octet-stream" && strings.HasSuffix(name, ".eml") {
		p.kind = "message/rfc822"
	}
	p.body = decoded(p.body, p.header.first("Content-Transfer-Encoding"))
	return p
}

// decoded is a body without its transfer encoding, up to MaxMessage bytes of it.
func decoded(body []byte, encoding string) []byte {
	var r io.Reader
	switch strings.ToLower(encoding) {
	case "base64":
		r = base64.NewDecoder(base64.StdEncoding, bytes.NewReader(body))
	case "quoted-printable":
		r = quotedprintable.NewReader(bytes.NewReader(body))
	default:
		return body
	}
	plain, _ := io.ReadAll(io.LimitReader(r, MaxMessage))
	return plain
}
