package maillog

import (
	"bytes"
	"strings"

	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/policy"
)

// smtpd reads a line of smtpd(8).
func (r *Reader) smtpd(process, text []byte) (s policy.Signal, ok bool) {
	if rest, ok := bytes.CutPrefix(text, []byte("connect from ")); ok {
		if c, _, ok := parsePeer(rest); ok {
			r.connected(process, c)
		}
		return s, false
	}
	if bytes.HasPrefix(text, []byte("disconnect from ")) {
		r.disconnected(process)
		return s, false
	}
	if rest, ok := bytes.CutPrefix(text, []byte("warning: ")); ok {
		return r.warning(process, rest)
	}
	queueID, rest, queued := cutQueueID(text)
	for _, e := range events {
		if rest, ok := bytes.CutPrefix(rest, []byte(e.prefix)); ok {
			c, s, ok := e.read(rest)
			return r.unlessUsers(process, c, queueID, s, ok)
		}
	}
	for _, action := range []string{"proxy-accept", "proxy-reject"} {
		// Without a queue id, and without the client.
		if rest, ok := bytes.CutPrefix(rest, []byte(action+": ")); ok {
			return r.proxied(process, action, rest)
		}
	}
	if !queued {
		return s, false
	}
	if rest, ok := bytes.CutPrefix(rest, []byte("client=")); ok {
		r.received(process, queueID, rest)
		return s, false
	}
	return r.refused(process, queueID, rest)
}

// unlessUsers is a signal of a client that has not logged in.
func (r *Reader) unlessUsers(process []byte, c peer, queueID string, s policy.Signal, ok bool) (policy.Signal, bool) {
	if !ok {
		return s, false
	}
	if of := r.sessions[string(process)]; of != nil && of.user && of.client.addr == c.addr || r.isUsers(queueID) {
		return policy.Signal{}, false
	}
	return s, true
}

// events are what a client does in a session, by the words before it.
var events = []struct {
	prefix string
	read   func(rest []byte) (peer, policy.Signal, bool)
}{
	{"SSL_accept error from ", failedHandshake},
	{"lost connection after STARTTLS from ", failedHandshake},
	{"timeout after STARTTLS from ", failedHandshake},
	{"too many errors after ", after(policy.FromLimit, "too many errors")},
	{"improper command pipelining after ", after(policy.FromPipelining, "improper command pipelining")},
	{"bare <LF> received after ", after(policy.FromPipelining, "bare newline")},
}

// failedHandshake reads the rest of "SSL_accept error from name[addr]: -1" and of "lost connection
// after STARTTLS from name[addr]".
func failedHandshake(rest []byte) (peer, policy.Signal, bool) {
	c, rest, ok := parsePeer(rest)
	return c, handshakeFailed(c, string(rest)), ok
}

// after reads the rest of "improper command pipelining after EHLO from name[addr]: TEXT" and the
// like.
func after(source policy.Source, what string) func([]byte) (peer, policy.Signal, bool) {
	return func(rest []byte) (c peer, s policy.Signal, ok bool) {
		stage, rest, ok := bytes.Cut(rest, []byte(" from "))
		if !ok || len(stage) > 40 || bytes.IndexByte(stage, '[') >= 0 {
			return c, s, false
		}
		if c, _, ok = parsePeer(rest); !ok {
			return c, s, false
		}
		s = about(c, policy.Spam, source, what+" after "+string(stage))
		command, _, _ := strings.Cut(string(stage), " ")
		switch command {
		case "MAIL", "RCPT", "DATA", "BDAT":
			s.Mail, s.Outcome = true, policy.Aborted
		}
		return c, s, true
	}
}

// limits are the warnings of a client over one of smtpd's limits, up to its name.
var limits = []string{
	"Connection concurrency limit exceeded: ", "Connection rate limit exceeded: ", "Message delivery request rate limit exceeded: ",
	"Recipient address rate limit exceeded: ", "New TLS session rate limit exceeded: ", "AUTH command rate limit exceeded: ",
}

// warning reads the rest of a warning.
func (r *Reader) warning(process, rest []byte) (s policy.Signal, ok bool) {
	if rest, ok := bytes.CutPrefix(rest, []byte("non-SMTP command from ")); ok {
		c, _, ok := parsePeer(rest)
		return r.unlessUsers(process, c, "", about(c, policy.Spam, policy.FromPipelining, "non-SMTP command"), ok)
	}
	for _, words := range limits {
		if number, ok := bytes.CutPrefix(rest, []byte(words)); ok {
			_, who, _ := bytes.Cut(number, []byte(" from "))
			c, _, ok := parsePeer(who)
			return r.unlessUsers(process, c, "", about(c, policy.Spam, policy.FromLimit, strings.TrimSuffix(words, ": ")), ok)
		}
	}
	c, rest, ok := parsePeer(rest)
	if !ok {
		return s, false
	}
	if rest, ok := bytes.CutPrefix(rest, []byte(": SASL ")); ok {
		return r.login(process, c, rest)
	}
	if bytes.HasPrefix(rest, []byte(" sent message header instead of SMTP command: ")) {
		return r.unlessUsers(process, c, "", about(c, policy.Spam, policy.FromPipelining, "message header instead of an SMTP command"), true)
	}
	return s, false
}

// serverFaults are reasons of a failed login that are not the client's.
var serverFaults = []string{
	"Connection lost to authentication server", "Can't connect to authentication server", "Authentication backend error", "Temporary authentication failure",
	"generic failure", "no mechanism available", "remote authentication server unavailable",
}

// login reads the rest of "name[addr]: SASL LOGIN authentication failed: REASON,
// sasl_username=NAME".
func (r *Reader) login(process []byte, c peer, rest []byte) (s policy.Signal, ok bool) {
	_, rest, ok = bytes.Cut(rest, []byte(" "))
	reason, failed := bytes.CutPrefix(rest, []byte("authentication failed"))
	if !ok || !failed {
		return s, false
	}
	for _, fault := range serverFaults {
		if bytes.HasPrefix(reason, []byte(": "+fault)) {
			return s, false
		}
	}
	return r.loginFailed(process, c, "SASL authentication failed")
}

// loginFailed is the signal of a login that failed. Users who have logged in may mistype.
func (r *Reader) loginFailed(process []byte, c peer, reason string) (s policy.Signal, ok bool) {
	session := r.of(process, c)
	if session.user {
		return s, false
	}
	s = about(c, policy.Spam, policy.FromLogin, reason)
	s.Assessment.Confidence, s.Group = session.loginFailed(), r.group(&session.logins)
	return s, true
}

// received reads the rest of "QUEUEID: client=name[addr], sasl_username=NAME, orig_queue_id=ID,
// orig_client=name[addr]". A before-queue filter's session has no queue id yet.
func (r *Reader) received(process []byte, queueID string, rest []byte) {
	c, rest, ok := parsePeer(rest)
	if !ok {
		// "unknown[unknown]".
		if queueID != "" {
			r.messages.Set(queueID, origin{})
		}
		return
	}
	session := r.of(process, c)
	session.queued(queueID)
	if bytes.HasPrefix(rest, []byte(", sasl_")) {
		session.user = true
	}
	if queueID == "" {
		return
	}
	o := origin{client: c.addr, port: c.port}
	if session.user {
		o = origin{}
	} else {
		o = r.reinjected(queueID, o, rest)
	}
	r.messages.Set(queueID, o)
}

// refused reads "ACTION: STAGE from name[addr]: REPLY; from=<> to=<> proto= helo=<>".
func (r *Reader) refused(process []byte, queueID string, rest []byte) (s policy.Signal, ok bool) {
	action, rest, ok := bytes.Cut(rest, []byte(": "))
	if !ok {
		return s, false
	}
	switch string(action) {
	case "reject", "discard", "milter-reject", "milter-discard", "milter-hold":
	default:
		return s, false
	}
	stage, c, rest, ok := parseStage(rest)
	if !ok || stage == "ETRN" {
		return s, false
	}
	session, refusal := r.of(process, c), parseRefusal(rest, c.text)
	if refusal.user || session.user || r.isUsers(queueID) {
		session.user = true
		return s, false
	}
	return r.refusal(session, string(action), stage, c, queueID, refusal), true
}

// parseStage parts "RCPT from name[addr]: REPLY".
func parseStage(s []byte) (stage string, c peer, rest []byte, ok bool) {
	word, rest, ok := bytes.Cut(s, []byte(" from "))
	if !ok || len(word) > 20 || bytes.ContainsAny(word, "[:<") {
		return "", c, nil, false
	}
	c, rest, ok = parsePeer(rest)
	return string(word), c, rest, ok
}

// refusal is the signal of a refusal.
func (r *Reader) refusal(in *session, action, stage string, c peer, queueID string, of refusal) policy.Signal {
	s := policy.Signal{Addr: c.addr, Port: c.port}
	rejection := of.rejection()
	switch action {
	case "reject":
		s.Assessment = rejection.Assessment()
	case "discard":
		s.Assessment = rejection.Discarded()
	case "milter-reject":
		s.Assessment = rejection.ByFilter(policy.FromMilterReject)
	case "milter-hold":
		s.Assessment = rejection.ByFilter(policy.FromMilterHold)
	case "milter-discard":
		s.Assessment = about(c, policy.Spam, policy.FromMilterDiscard, of.text).Assessment
	}
	if action != "reject" {
		s.Assessment.Reason = verdict.Clip(action + ": " + stage + ": " + of.reply)
	}
	if s.Assessment.Source == policy.FromUnknownUser && !rejection.NullSender {
		r.harvest(in, c, of, &s)
	}
	s.QueueID, s.Outcome, s.FromDomain, s.HELO = queueID, policy.Rejected, of.fromDomain(), of.helo
	if action == "milter-hold" {
		s.Outcome = policy.Accepted
	}
	switch stage {
	case "CONNECT", "HELO", "EHLO", "AUTH", "STARTTLS", "VRFY":
	default:
		s.Mail = true
	}
	r.attribute(&s)
	return s
}

// harvest counts an unknown user, of which a signal is.
func (r *Reader) harvest(in *session, c peer, of refusal, s *policy.Signal) {
	recipient := of.whom
	if recipient == "" {
		recipient = of.recipient
	}
	if at, ok := r.time(); ok && r.UnknownUser != nil {
		s.Assessment = verdict.UnknownUsers(s.Assessment, 1, in.askedFor(of.sender, r.UnknownUser(c.addr, recipient, at)))
	}
	// Only now: it may be another message's than the last one.
	s.Group = r.group(&in.users)
}
