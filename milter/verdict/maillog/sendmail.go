package maillog

import (
	"bytes"
	"strings"

	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/policy"
)

// Sendmail is one program, of which each process serves one client. What it refuses is "QUEUEID:
// ruleset=check_rcpt, arg1=<TO>, relay=NAME [ADDR], reject=550 5.7.1 <TO>... Relaying denied"
// (conf.c, srvrsmtp.c), what a filter does "QUEUEID: Milter: data, reject=550 5.7.1 TEXT"
// (milter.c). Clients choose what stands after arg1= and from=, so a line that names its client in
// two ways is not believed.

// sendmail reads a line of Sendmail.
func (r *Reader) sendmail(process, text []byte) (s policy.Signal, ok bool) {
	if rest, ok := bytes.CutPrefix(text, []byte("STARTTLS=server, error: accept failed")); ok {
		if c, ok := sendmailRelay(rest); ok {
			return handshakeFailed(c, ""), true
		}
		return s, false
	}
	if rest, ok := bytes.CutPrefix(text, []byte("AUTH=server")); ok {
		if c, ok := sendmailRelay(rest); ok {
			r.of(process, c).user = true
		}
		return s, false
	}
	queueID, rest, ok := cutQueueID(text)
	if !ok {
		rest = text
	}
	switch {
	case bytes.HasPrefix(rest, []byte("from=")):
		r.sendmailFrom(process, queueID, rest)
		return s, false
	case bytes.HasPrefix(rest, []byte("ruleset=")):
		return r.ruleset(process, queueID, rest)
	case bytes.HasPrefix(rest, []byte("rejecting commands from ")):
		c, _, ok := sendmailPeer(bytes.TrimPrefix(rest, []byte("rejecting commands from ")))
		return about(c, policy.Spam, policy.FromPregreet, "commands before the greeting"), ok && bytes.Contains(rest, []byte("pre-greeting traffic"))
	case bytes.HasPrefix(rest, []byte("AUTH failure (")):
		return r.sendmailLogin(process, rest)
	case bytes.HasPrefix(rest, []byte("Milter: ")), bytes.HasPrefix(rest, []byte("milter=")):
		return r.sendmailMilter(queueID, rest)
	}
	return s, false
}

// sendmailPeer reads a client, "NAME [ADDR]" or "[ADDR]", with "IPv6:" before an address of that
// kind, and what follows.
func sendmailPeer(s []byte) (c peer, rest []byte, ok bool) {
	name, rest, ok := bytes.Cut(s, []byte("["))
	if name = bytes.TrimSuffix(name, []byte(" ")); !ok || len(name) > 300 || bytes.ContainsAny(name, " ,;<>=\"") {
		return c, nil, false
	}
	if c.addr, rest, ok = cutAddr(rest); !ok {
		return c, nil, false
	}
	rest = bytes.TrimPrefix(rest, []byte(" (may be forged)"))
	c.text = s[:len(s)-len(rest)]
	return c, rest, true
}

var relayKey = []byte(", relay=")

// sendmailRelay finds the client of a line. ok is false where several are named.
func sendmailRelay(line []byte) (c peer, ok bool) {
	_, who, ok := bytes.Cut(line, relayKey)
	if !ok || bytes.Contains(who, relayKey) {
		return c, false
	}
	c, _, ok = sendmailPeer(who)
	return c, ok
}

// sendmailFrom remembers the client of a message: "from=<A>, size=1, ..., daemon=MTA, relay=NAME
// [ADDR]".
func (r *Reader) sendmailFrom(process []byte, queueID string, rest []byte) {
	c, ok := sendmailRelay(rest)
	if !ok || queueID == "" {
		return
	}
	_, daemon, _ := bytes.Cut(rest, []byte(", daemon="))
	daemon, _, _ = bytes.Cut(daemon, []byte(","))
	o := origin{client: c.addr}
	if policy.IsHere(c.addr) || r.of(process, c).user || r.ofUsers(string(daemon)) {
		o = origin{}
	}
	r.messages.Set(queueID, o)
}

// ruleset reads what Sendmail's own rules refuse.
func (r *Reader) ruleset(process []byte, queueID string, rest []byte) (s policy.Signal, ok bool) {
	name, after, _ := bytes.Cut(bytes.TrimPrefix(rest, []byte("ruleset=")), []byte(","))
	c, ok := sendmailRelay(rest)
	if !ok || !bytes.HasPrefix(after, []byte(" arg1=")) {
		return s, false
	}
	_, reply, ok := bytes.Cut(rest, []byte(", reject="))
	if !ok {
		return s, false
	}
	session := r.of(process, c)
	if session.user || r.isUsers(queueID) {
		return s, false
	}
	subject := map[string]string{"check_relay": "Client host", "check_mail": "Sender address", "check_rcpt": "Recipient address"}[string(name)]
	if subject == "" {
		// check_eoh, check_data and those of the operator's own: the message, not its client.
		return s, false
	}
	status, said := sendmailReply(string(reply))
	s = policy.Signal{Addr: c.addr, QueueID: queueID, Outcome: policy.Rejected, Mail: string(name) != "check_relay"}
	s.Assessment = listedBySendmail(status, said)
	if s.Assessment.Class == "" {
		s.Assessment = verdict.Rejection{Status: status, Text: subject + " rejected: " + said}.Assessment()
	}
	if s.Assessment.Source == policy.FromUnknownUser {
		r.harvest(session, c, refusal{envelope: envelope{recipient: string(after)}}, &s)
	}
	return s, true
}

// sendmailReply parts "550 5.7.1 <WHOM>... TEXT".
func sendmailReply(reply string) (status, text string) {
	code, text, _ := strings.Cut(reply, " ")
	status = code
	if enhanced, after, ok := strings.Cut(text, " "); ok && isStatus(enhanced) {
		status, text = enhanced, after
	}
	if strings.HasPrefix(text, "<") {
		if _, after, ok := strings.Cut(text, ">... "); ok {
			text = after
		}
	}
	return status, text
}

// listedBySendmail is what FEATURE(`dnsbl') says by itself: "Rejected: ADDR listed at LIST"
// (dnsbl.m4).
func listedBySendmail(status, text string) (a policy.Assessment) {
	rest, ok := strings.CutPrefix(text, "Rejected: ")
	if addr, _, listed := strings.Cut(rest, " listed at "); ok && listed && !strings.Contains(addr, " ") {
		return policy.Assessment{Class: policy.Spam, Confidence: policy.Certain, Source: policy.FromDNSBL, Reason: verdict.Clip(status + " " + text)}
	}
	return a
}

// sendmailLogin reads "AUTH failure (LOGIN): authentication failure (-13) SASL(-13): TEXT,
// relay=NAME [ADDR]".
func (r *Reader) sendmailLogin(process, rest []byte) (s policy.Signal, ok bool) {
	c, ok := sendmailRelay(rest)
	_, why, isWhy := bytes.Cut(rest, []byte("): "))
	if !ok || !isWhy || !bytes.HasPrefix(why, []byte("authentication failure")) && !bytes.HasPrefix(why, []byte("user not found")) {
		return s, false
	}
	return r.loginFailed(process, c, "AUTH failure")
}

// sendmailMilter reads what a filter did with a message: "Milter: data, reject=550 5.7.1 TEXT",
// "Milter: data, discard", "milter=NAME, quarantine=TEXT". Of a recipient or a sender that it
// refuses, the milters tell.
func (r *Reader) sendmailMilter(queueID string, rest []byte) (s policy.Signal, ok bool) {
	_, what, ok := bytes.Cut(rest, []byte(", "))
	if !ok || queueID == "" || r.isUsers(queueID) {
		return s, false
	}
	if after, ok := bytes.CutPrefix(what, []byte("action=")); ok {
		_, what, _ = bytes.Cut(after, []byte(", "))
	}
	word, value, _ := bytes.Cut(what, []byte("="))
	s.QueueID, s.Mail, s.Outcome = queueID, true, policy.Rejected
	switch string(word) {
	case "reject":
		status, said := sendmailReply(string(value))
		s.Assessment = verdict.Rejection{Status: status, Text: said}.ByFilter(policy.FromMilterReject)
	case "discard":
		s.Assessment = about(peer{}, policy.Spam, policy.FromMilterDiscard, "discarded by a filter").Assessment
	case "quarantine":
		s.Assessment = about(peer{}, policy.Spam, policy.FromMilterHold, "quarantined: "+string(value)).Assessment
		s.Outcome = policy.Accepted
		if bytes.HasPrefix(value, []byte("ehlogate: tier ")) {
			// It is ours.
			return s, false
		}
	default:
		return s, false
	}
	if o, ok := r.originOf(queueID); ok {
		s.Addr = o.client
	}
	return s, true
}
