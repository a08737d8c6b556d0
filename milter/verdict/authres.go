package verdict

import (
	"strings"
)

// authResult is one result of an Authentication-Results header, RFC 8601 section 2.2: a method and
// its result in lower case, and the properties by "ptype.property".
type authResult struct {
	method, result string
	properties     map[string]string
	// odd says that a property is there twice.
	odd bool
}

// authResults are what one header says.
type authResults struct {
	// id is the authserv-id.
	id string
	// results are those that could be read.
	results []authResult
	// odd says that not all of it could be read, or that it has marks of a sender's address or HELO
	// name that some filter quotes in a comment, where a bracket of the sender's own ends the comment:
	// one with an odd number of quotation marks, or one that touches words on both sides.
	odd bool
}

// mostAuthResults bounds the results of a header.
const mostAuthResults = 512

// parseAuthResults reads the value of an Authentication-Results header. A result that cannot be read
// does not lose the others.
func parseAuthResults(value string) (a authResults) {
	segments, odd := splitAuthResults(value)
	a.odd = odd
	id := strings.Fields(segments[0].text)
	if len(id) == 0 || len(id) > 2 {
		a.odd = true
		return a
	}
	a.id = segments[0].unquoted()(id[0])
	if len(id) == 2 && id[1] != "1" {
		// Another version of the format.
		return a
	}
	if len(segments) > mostAuthResults {
		a.odd = true
	}
	for _, s := range segments[1:min(len(segments), mostAuthResults)] {
		text := strings.TrimSpace(s.text)
		if text == "" || strings.EqualFold(text, "none") && len(segments) == 2 {
			continue
		}
		r, ok := s.result()
		if ok {
			a.results = append(a.results, r)
		}
		a.odd = a.odd || !ok || r.odd
	}
	return a
}

// segment is what stands between two semicolons, without comments. Each quoted string is a byte of
// its own, quote, in text, and its contents are in quoted.
type segment struct {
	text   string
	quoted []string
}

// quote stands for a quoted string. Header values have no such byte.
const quote = "\x01"

// splitAuthResults parts a value at its semicolons: those in comments and in quoted strings are none
// (RFC 5322 section 3.2).
func splitAuthResults(value string) (segments []segment, odd bool) {
	var text strings.Builder
	var s segment
	depth, marks, opened := 0, 0, 0
	end := func() {
		s.text = text.String()
		segments = append(segments, s)
		s = segment{}
		text.Reset()
	}
	for i := 0; i < len(value); i++ {
		c := value[i]
		switch {
		case depth > 0:
			switch c {
			case '\\':
				i++
			case '"':
				marks++
			case '(':
				depth++
			case ')':
				depth--
				odd = odd || depth == 0 && (marks%2 == 1 || touching(value, opened, i))
			}
		case c == '(':
			depth, marks, opened = 1, 0, i
			text.WriteByte(' ')
		case c == ')':
			odd = true
		case c == '"':
			inner, length, ok := quotedString(value[i:])
			if !ok {
				odd = true
			}
			s.quoted = append(s.quoted, inner)
			text.WriteString(quote)
			i += length - 1
		case c == ';':
			end()
		case c == ' ', c == '\t', c == '\n', c == '\r' && i+1 < len(value) && value[i+1] == '\n':
			text.WriteByte(' ')
		case c < ' ':
			odd = true
			text.WriteByte(' ')
		default:
			text.WriteByte(c)
		}
	}
	end()
	return segments, odd || depth > 0
}

// touching reports whether a comment touches words on both sides. No filter writes one so.
func touching(value string, opened, closed int) bool {
	return opened > 0 && closed+1 < len(value) && !strings.ContainsAny(value[opened-1:opened]+value[closed+1:closed+2], " \t\r\n;(")
}

// quotedString reads a quoted string at the beginning of a text, and tells how long it is there.
func quotedString(s string) (inner string, length int, ok bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), i + 1, true
		case '\\':
			i++
		}
		if i < len(s) {
			b.WriteByte(s[i])
		}
	}
	return b.String(), len(s), false
}

// result reads "method/version = result reason=... ptype.property = value".
func (s *segment) result() (r authResult, ok bool) {
	fields := strings.Fields(tighten(s.text))
	if len(fields) == 0 {
		return r, false
	}
	take := s.unquoted()
	method, result, ok := strings.Cut(fields[0], "=")
	method, version, versioned := strings.Cut(method, "/")
	if result = take(result); !ok || versioned && version != "1" || !isKeyword(method) || !isKeyword(result) {
		return r, false
	}
	r = authResult{method: strings.ToLower(method), result: strings.ToLower(result), properties: map[string]string{}}
	for _, f := range fields[1:] {
		key, value, ok := strings.Cut(take(f), "=")
		key = strings.ToLower(key)
		if _, again := r.properties[key]; again {
			r.odd = true
		} else if ok {
			r.properties[key] = value
		}
	}
	return r, true
}

// unquoted returns what puts the quoted strings back into the words of the segment, which it is to be
// given in their order.
func (s *segment) unquoted() func(word string) string {
	next := 0
	return func(word string) string {
		var b strings.Builder
		for i, part := range strings.Split(word, quote) {
			if i > 0 {
				b.WriteString(s.quoted[next])
				next++
			}
			b.WriteString(part)
		}
		return b.String()
	}
}

// tighten takes out the blanks around the signs that join a name and its value.
func tighten(s string) string {
	for _, sign := range []string{"=", ".", "/"} {
		for strings.Contains(s, " "+sign) {
			s = strings.ReplaceAll(s, " "+sign, sign)
		}
		for strings.Contains(s, sign+" ") && sign != "." {
			s = strings.ReplaceAll(s, sign+" ", sign)
		}
	}
	return strings.ReplaceAll(s, ". ", ".")
}

// isKeyword reports a keyword of RFC 8601.
func isKeyword(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= 64
}
