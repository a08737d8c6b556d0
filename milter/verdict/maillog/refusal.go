package maillog

import (
	"bytes"
	"strings"

	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/policy"
)

// refusal is the end of a line that tells of a refusal, "550 5.1.1 <WHOM>: TEXT; from=<a@b> to=<c@d>
// proto=ESMTP helo=<e>": what smtpd_check.c and smtpd.c write behind the client.
type refusal struct {
	// reply is all of the MTA's reply, status its enhanced status code, else its reply code; both
	// may be missing. whom is the name or address that it is about, text what it says.
	reply, status, whom, text string
	envelope
}

// envelope is what the client had said before. It is recorded only, but for the null sender.
type envelope struct {
	sender, recipient, helo string
	hasSender               bool
	// user says that the client has logged in.
	user bool
}

// parseRefusal reads what follows a client.
func parseRefusal(rest []byte, client []byte) (r refusal) {
	s := strings.TrimPrefix(string(rest), ": ")
	head, tail := s, ""
	code, afterCode, ok := strings.Cut(s, " ")
	if ok && len(code) == 3 && digits([]byte(code)) {
		r.status, head = code, afterCode
	}
	if status, after, ok := strings.Cut(head, " "); ok && isStatus(status) {
		r.status, head = status, after
	}
	r.whom, r.text = parseWhom(head, string(client))
	r.text, tail = splitTail(r.text)
	r.reply = strings.TrimSuffix(s, tail)
	r.reply = strings.TrimSuffix(r.reply, ";")
	r.envelope = parseTail(strings.TrimPrefix(tail, " "))
	return r
}

// isStatus reports an enhanced status code, RFC 3463.
func isStatus(s string) bool {
	if len(s) < 5 || len(s) > 9 || s[1] != '.' || s[0] != '4' && s[0] != '5' && s[0] != '2' {
		return false
	}
	for i := range len(s) {
		if s[i] != '.' && (s[i] < '0' || s[i] > '9') {
			return false
		}
	}
	return true
}

// parseWhom parts "<WHOM>: TEXT". WHOM is the client's own: an address can have ">: " in quotes. It
// stands again in the envelope, or is the client itself; the longest that does is meant.
func parseWhom(s, client string) (whom, text string) {
	if !strings.HasPrefix(s, "<") {
		return "", s
	}
	const end = ">: "
	first := strings.Index(s, end)
	if first < 0 {
		return "", s
	}
	for i := strings.LastIndex(s, end); i > first; i = strings.LastIndex(s[:i], end) {
		whom, text := s[1:i], s[i+len(end):]
		if whom == client || strings.Contains(unquote(text), "=<"+unquote(whom)+">") {
			return whom, text
		}
	}
	return s[1:first], s[first+len(end):]
}

// unquote takes the quotes out of an address: Postfix writes it with them in the envelope and, as
// the version may be, without in the reply.
func unquote(s string) string {
	if !strings.ContainsAny(s, `"\`) {
		return s
	}
	return strings.NewReplacer(`"`, "", `\`, "").Replace(s)
}

// splitTail parts a reply from the envelope behind it.
func splitTail(s string) (text, tail string) {
	for i := strings.IndexByte(s, ';'); i >= 0; {
		after := s[i+1:]
		for _, key := range []string{" from=<", " to=<", " proto="} {
			if strings.HasPrefix(after, key) {
				return s[:i], after
			}
		}
		next := strings.IndexByte(after, ';')
		if next < 0 {
			break
		}
		i += 1 + next
	}
	return strings.TrimSuffix(s, ";"), ""
}

// parseTail reads an envelope. The HELO name at its end has neither blanks nor brackets, as smtpd.c
// replaces them, so what stands behind it is Postfix's.
func parseTail(tail string) (e envelope) {
	if rest, ok := strings.CutPrefix(tail, "from=<"); ok {
		if end := strings.Index(rest, ">"); end >= 0 {
			// A sender can look like an envelope: then there is another one behind it.
			e.hasSender = !strings.Contains(rest, "; from=<")
			e.sender = verdict.Clip(rest[:end])
		}
	}
	if _, rest, ok := strings.Cut(tail, " to=<"); ok {
		e.recipient, _, _ = strings.Cut(rest, ">")
	}
	i := strings.LastIndex(tail, "proto=")
	if i < 0 {
		return e
	}
	_, rest, ok := strings.Cut(tail[i:], " ")
	if name, after, isHELO := strings.Cut(strings.TrimPrefix(rest, "helo=<"), ">"); ok && isHELO && strings.HasPrefix(rest, "helo=<") {
		if strings.ContainsAny(name, " <") {
			return e
		}
		e.helo, rest = verdict.Clip(name), strings.TrimPrefix(after, " ")
	}
	e.user = strings.HasPrefix(rest, "sasl_username=") || strings.HasPrefix(rest, "sasl_method=")
	return e
}

// fromDomain is the domain of the sender.
func (e envelope) fromDomain() string {
	return policy.Domain(e.sender)
}

// rejection is the refusal as package verdict understands it.
func (r refusal) rejection() verdict.Rejection {
	return verdict.Rejection{Status: r.status, Text: r.text, NullSender: r.hasSender && r.sender == ""}
}

// cutQueueID takes a queue id, "780D29842A2: ", from the beginning of a text; it is empty for
// NOQUEUE.
func cutQueueID(text []byte) (queueID string, rest []byte, ok bool) {
	id, _, ok := bytes.Cut(text[:min(len(text), 40)], []byte(": "))
	if !ok || !isQueueID(id) {
		return "", text, false
	}
	rest = text[len(id)+len(": "):]
	if string(id) == "NOQUEUE" {
		return "", rest, true
	}
	return string(id), rest, true
}
