package maillog

import (
	"bytes"
	"strings"

	"github.com/ehlogate/ehlogate/policy"
)

// cleanup reads a line of cleanup(8): what milters say of a message at its end, and what
// header_checks and body_checks find.
func (r *Reader) cleanup(text []byte) (s policy.Signal, ok bool) {
	queueID, rest, ok := cutQueueID(text)
	if !ok || queueID == "" || r.isUsers(queueID) {
		return s, false
	}
	action, rest, ok := bytes.Cut(rest[:min(len(rest), 4096)], []byte(": "))
	if !ok {
		return s, false
	}
	switch string(action) {
	case "milter-reject", "milter-discard", "milter-hold":
		stage, c, rest, ok := parseStage(rest)
		if !ok {
			return s, false
		}
		return r.refusal(&session{}, string(action), stage, c, queueID, parseRefusal(rest, c.text)), true
	case "reject", "discard":
		return r.content(queueID, string(action), policy.FromContent, rest)
	case "milter-header-reject", "milter-body-reject":
		return r.content(queueID, string(action), policy.FromMilterReject, rest)
	case "milter-header-discard", "milter-body-discard":
		return r.content(queueID, string(action), policy.FromMilterDiscard, rest)
	case "milter-header-hold", "milter-body-hold":
		return r.content(queueID, string(action), policy.FromMilterHold, rest)
	}
	return s, false
}

// checkOf are Postfix's names for what looks at a part of a message.
var checkOf = map[string]string{"header": "header_checks", "body": "body_checks", "content": "content checks", "mime-error": "strict MIME checks"}

// content reads "header Subject: TEXT from name[addr]; from=<> ...: WHY". The text is the client's,
// and may look like anything.
func (r *Reader) content(queueID, action string, source policy.Source, rest []byte) (s policy.Signal, ok bool) {
	place, _, _ := bytes.Cut(rest, []byte(" "))
	switch string(place) {
	case "header", "body", "content", "mime-error":
	default:
		return s, false
	}
	c := r.contentClient(queueID, string(rest))
	s = about(c, policy.Spam, source, action+" by "+checkOf[string(place)])
	s.QueueID, s.Mail, s.Outcome = queueID, true, policy.Rejected
	if strings.HasSuffix(action, "hold") {
		s.Outcome = policy.Accepted
	}
	r.attribute(&s)
	return s, true
}

// contentClient is the client of a message with a queue id, else the one that the line names, if it
// names only one.
func (r *Reader) contentClient(queueID, rest string) (c peer) {
	if o, ok := r.originOf(queueID); ok {
		return peer{addr: o.client, port: o.port}
	}
	n := 0
	for after := rest; ; {
		var ok bool
		if _, after, ok = strings.Cut(after, " from "); !ok {
			break
		}
		who, _, isOrigin := strings.Cut(after, "; from=<")
		if !isOrigin {
			break
		}
		if found, tail, isPeer := parsePeer([]byte(who)); isPeer && len(tail) == 0 {
			c = found
			n++
		} else if who == "local" || who == "unknown" || strings.HasSuffix(who, "]") && !strings.Contains(who, " ") {
			n += 2
		}
	}
	if n != 1 {
		return peer{}
	}
	return c
}
