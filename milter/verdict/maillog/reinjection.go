package maillog

import (
	"bytes"
	"regexp"
	"strings"

	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/policy"
)

// An after-queue filter (content_filter in postconf(5)) takes a message from the queue and puts it
// back as another one, whose client is this host. Two lines of the log join the two: that of the
// smtpd(8) that takes it back, if the filter passes on what Postfix told it with XFORWARD, and that
// of the smtp(8) that gave it away, which quotes the reply to the filter, "queued as QUEUEID". A
// before-queue filter (smtpd_proxy_filter) answers within the session of the client.

// reinjected reads ", orig_queue_id=ID, orig_client=name[addr]" behind a client: only hosts in
// smtpd_authorized_xforward_hosts can say so.
func (r *Reader) reinjected(queueID string, from origin, rest []byte) origin {
	original := ""
	if id, ok := bytes.CutPrefix(rest, []byte(", orig_queue_id=")); ok {
		id, rest, _ = bytes.Cut(id, []byte(", orig_client="))
		if isQueueID(id) {
			original = string(id)
		}
	} else if who, ok := bytes.CutPrefix(rest, []byte(", orig_client=")); ok {
		rest = who
	} else {
		return from
	}
	o, known := r.originOf(original)
	if c, _, ok := parsePeer(rest); ok && (!known || o.client.IsValid() && !policy.IsHere(c.addr) && o.client != c.addr) {
		// The queue id may be another host's.
		o, known = origin{client: c.addr, port: c.port}, true
	}
	if !known {
		return from
	}
	if o.queueID == "" {
		o.queueID = original
	}
	r.joined(queueID, o)
	return o
}

// joined tells which message has been put back as which.
func (r *Reader) joined(queueID string, o origin) {
	if r.Reinjected != nil && o.client.IsValid() && !policy.IsHere(o.client) {
		r.Reinjected(policy.Reinjection{QueueID: queueID, Original: o.queueID, Addr: o.client, Port: o.port})
	}
}

// attribute gives a signal about a message that was put back to the client that sent it.
func (r *Reader) attribute(s *policy.Signal) {
	o, ok := r.originOf(s.QueueID)
	if !ok || !o.client.IsValid() || !policy.IsHere(s.Addr) && o.queueID == "" {
		return
	}
	s.Addr, s.Port = o.client, o.port
	if o.queueID != "" {
		s.QueueID = o.queueID
	}
}

// delivered reads a line of smtp(8) or lmtp(8) about a message that was given to a filter on this
// host: "QUEUEID: to=<a@b>, relay=127.0.0.1[127.0.0.1]:10024, ..., status=sent (REPLY)". Amavis
// says in its reply what became of a message that it does not put back.
func (r *Reader) delivered(text []byte) (s policy.Signal, ok bool) {
	queueID, rest, ok := cutQueueID(text)
	if !ok || queueID == "" || !bytes.HasPrefix(rest, []byte("to=<")) {
		return s, false
	}
	rest = afterAddress(rest[len("to=<"):])
	if other, ok := bytes.CutPrefix(rest, []byte(", orig_to=<")); ok {
		rest = afterAddress(other)
	}
	rest, ok = bytes.CutPrefix(rest, []byte(", relay="))
	if !ok {
		return s, false
	}
	rest, ok = cutRelay(rest)
	if !ok {
		return s, false
	}
	_, status, ok := bytes.Cut(rest, []byte(", status="))
	o, known := r.originOf(queueID)
	if !ok || !known || !o.client.IsValid() {
		return s, false
	}
	if _, id, ok := bytes.Cut(status, []byte(" queued as ")); ok && bytes.HasPrefix(status, []byte("sent (")) {
		id = bytes.TrimRight(id, ")")
		if _, again := r.originOf(string(id)); isQueueID(id) && (!again || r.isHereOnly(string(id))) {
			o.queueID = queueID
			r.messages.Set(string(id), o)
			r.joined(string(id), o)
		}
		return s, false
	}
	return r.filtered(queueID, o, string(status))
}

// isHereOnly reports whether nothing better is known of a message than that it came from this host.
func (r *Reader) isHereOnly(queueID string) bool {
	o, ok := r.originOf(queueID)
	return ok && policy.IsHere(o.client)
}

// filtered reads a filter's reply: "sent (250 2.7.0 Ok, discarded, id=31157-01 - spam)", "bounced
// (host 127.0.0.1[127.0.0.1] said: 554 5.7.0 Reject, id=31157-01 - INFECTED (in reply to ...))".
func (r *Reader) filtered(queueID string, o origin, status string) (s policy.Signal, ok bool) {
	source, reply := policy.FromMilterDiscard, ""
	if text, ok := strings.CutPrefix(status, "sent ("); ok {
		reply = text
	} else if _, text, ok := strings.Cut(status, " said: "); ok && strings.HasPrefix(status, "bounced (host ") {
		source, reply = policy.FromMilterReject, text
	}
	why, ok := amavisFound(reply)
	if !ok || !isAbuse(why) {
		return s, false
	}
	s = about(peer{addr: o.client, port: o.port}, policy.Spam, source, "after-queue filter: "+why)
	s.QueueID, s.Mail, s.Outcome = queueID, true, policy.Rejected
	if o.queueID != "" {
		s.QueueID = o.queueID
	}
	return s, true
}

// amavisReply is what amavisd-new says of mail that it does not pass on.
var amavisReply = regexp.MustCompile(`^(?:250 2\.7\.[0-9] Ok, discarded|554 5\.[67]\.[0-9] Reject), (?:[^,]*, )?id=[0-9A-Za-z_-]+ - ([^()]*)`)

// amavisFound is what amavisd-new found, such as "spam", "INFECTED: Eicar" or "BANNED".
func amavisFound(reply string) (what string, ok bool) {
	m := amavisReply.FindStringSubmatch(reply)
	if m == nil {
		return "", false
	}
	return strings.TrimSpace(m[1]), true
}

// isAbuse reports what says something of the client: a banned file name or a bad header does not.
func isAbuse(found string) bool {
	found = strings.ToLower(found)
	return strings.HasPrefix(found, "spam") || strings.HasPrefix(found, "infected") || strings.HasPrefix(found, "virus")
}

// cutRelay takes a relay of this host or inside from the beginning of a text: a host and its port,
// or a path. Others are where mail goes on to.
func cutRelay(s []byte) (rest []byte, ok bool) {
	if len(s) > 0 && s[0] == '/' {
		_, rest, ok = bytes.Cut(s, []byte(", "))
		return append([]byte(", "), rest...), ok
	}
	relay, rest, ok := parsePeer(s)
	return rest, ok && (relay.addr.IsLoopback() || relay.addr.IsPrivate())
}

// afterAddress is what follows an address and its bracket; in quotes it can have brackets itself.
func afterAddress(s []byte) []byte {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			quoted = !quoted
		case '>':
			if !quoted {
				return s[i+1:]
			}
		}
	}
	return nil
}

// proxied reads the reply of a before-queue filter, "proxy-reject: END-OF-MESSAGE: 554 5.7.0
// Reject, id=11912-03 - spam; from=<> to=<>": its client is that of the process.
func (r *Reader) proxied(process []byte, action string, rest []byte) (s policy.Signal, ok bool) {
	stage, rest, ok := bytes.Cut(rest, []byte(": "))
	in := r.sessions[string(process)]
	if !ok || len(stage) > 20 || in == nil || !in.client.addr.IsValid() || in.user {
		return s, false
	}
	of := parseRefusal(rest, nil)
	if of.user {
		in.user = true
		return s, false
	}
	found, isAmavis := amavisFound(of.reply)
	if action == "proxy-accept" && !isAmavis {
		if _, id, ok := strings.Cut(of.reply, " queued as "); ok && isQueueID([]byte(id)) {
			o := origin{client: in.client.addr, port: in.client.port}
			r.messages.Set(id, o)
			r.joined(id, o)
		}
		return s, false
	}
	if of.status == "" {
		return s, false
	}
	s = r.refusal(in, "milter-reject", string(stage), in.client, "", of)
	switch {
	case action == "proxy-accept":
		s.Assessment.Class, s.Assessment.Source = policy.Spam, policy.FromMilterDiscard
	case strings.Contains(of.reply, "queue file write error"), strings.Contains(of.reply, "Rejected by next-hop MTA"):
		isAmavis, found = true, "trouble"
	}
	if isAmavis && !isAbuse(found) {
		s.Assessment.Class = policy.None
	}
	s.Assessment.Reason = verdict.Clip("before-queue filter: " + string(stage) + ": " + of.reply)
	return s, true
}
