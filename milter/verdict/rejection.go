package verdict

import (
	"fmt"
	"strings"

	"github.com/ehlogate/ehlogate/policy"
)

// Rejection is what the MTA refused, as Postfix tells of it to milters that ask for rejected
// recipients: the macros {rcpt_host} and {rcpt_addr} beside an {rcpt_mailer} of "error"; or as it
// is in the log.
type Rejection struct {
	// Status is the enhanced status code, RFC 3463, such as 5.1.1, else the reply code.
	Status string
	// Text is the MTA's reply without the address, such as "Recipient address rejected: User
	// unknown in local recipient table".
	Text string
	// NullSender says that the message had the null sender. Unknown users of a bounce count
	// nothing: others can cause it with a forged sender.
	NullSender bool
}

// RejectedMailer is the {rcpt_mailer} of a rejected recipient.
const RejectedMailer = "error"

// Assessment is what a refusal says of its client. An unknown user says nothing by itself;
// behaviour.Clients counts them.
//
// A refusal is read by position. Its first words are Postfix's own; then come those of a table, a
// policy service, a block list or another server, which can quote the client. Of these only what
// comes before the first quotation counts.
func (r Rejection) Assessment() policy.Assessment {
	class, source, subject := r.judge()
	if class == "" {
		class = r.refused(subject)
	}
	return r.assessment(class, source)
}

// OwnRefusal is the text with which the milter refuses mail where a tier's action is to. The log
// has it as it has those of other filters.
const OwnRefusal = "Refused by local policy"

// ByFilter is what a refusal by a filter before us says: unless it gives another reason, the filter
// found spam. Our own says nothing: it would be evidence for itself.
func (r Rejection) ByFilter(filter policy.Source) policy.Assessment {
	if strings.HasSuffix(r.Text, OwnRefusal) {
		return r.assessment(policy.None, filter)
	}
	class, source, _ := r.judge()
	if class == "" {
		class, source = policy.Spam, filter
	}
	return r.assessment(class, source)
}

func (r Rejection) assessment(class policy.Class, source policy.Source) policy.Assessment {
	return policy.Assessment{Class: class, Confidence: policy.Certain, Source: source, Reason: Clip(strings.TrimSpace(r.Status + " " + r.Text))}
}

// Discarded is what it says of a client that an access table has its mail discarded: "Sender
// address triggers DISCARD action". One of a recipient is for the recipient's sake.
func (r Rejection) Discarded() policy.Assessment {
	a := policy.Assessment{Class: policy.Spam, Confidence: policy.Certain, Source: policy.FromRecipient, Reason: Clip(r.Text)}
	if starts(strings.ToLower(r.Text), aboutRecipient) {
		a.Class = policy.None
	}
	return a
}

// What a refusal is about, in Postfix's words (smtpd_check.c).
const (
	aboutClient    = "client host"
	aboutReverse   = "unverified client host"
	aboutHELO      = "helo command"
	aboutSender    = "sender address"
	aboutRecipient = "recipient address"
	aboutData      = "data command"
	aboutEnd       = "end-of-data"
	aboutETRN      = "etrn command"
)

// judge tells whose refusal it is, what that says and what it is about; an empty class is one that
// depends on who refused.
func (r Rejection) judge() (class policy.Class, source policy.Source, subject string) {
	r.Text = restored(r.Text)
	subject, text := r.subject()
	class, source = r.judgeText(subject, text)
	return class, source, subject
}

// judgeText judges what comes after the subject.
func (r Rejection) judgeText(subject, text string) (policy.Class, policy.Source) {
	said := statement(text)
	if list, ok := parseBlockList(text); ok {
		if list.refusedResolver() {
			return policy.None, policy.FromDNSBL
		}
		return policy.Spam, policy.FromDNSBL
	}
	switch {
	case text == "default_action", r.Status == "5.5.0" && text == "Service unavailable":
		// A milter is away, and milter_default_action has it so (milter8.c).
		return policy.None, policy.FromTempfail
	case subject == aboutETRN, demandsTLS(said),
		contains(said, "not owned by user", "not same as smtp authenticate", "smtp auth is required", "authentication required"):
		return policy.None, policy.FromRecipient
	case starts(said, "undeliverable address", "unverified address", "address verification", "unverified"):
		return policy.None, r.verified(subject, text)
	case starts(said, "server configuration", "temporary lookup failure", "local data error", "service shutting down", "error: queue file write error"):
		return policy.None, policy.FromTempfail
	case starts(said, "relay access denied", "relaying denied"):
		return policy.Spam, policy.FromRelay
	case starts(said, "improper use of smtp command pipelining"), starts(strings.ToLower(text), "bare <lf>", "bare newline"):
		return policy.Spam, policy.FromPipelining
	case r.authentication(said):
		return policy.Spam, policy.FromAuthentication
	case r.unknownUser(subject, said):
		return policy.None, policy.FromUnknownUser
	case r.noMailbox(said):
		return policy.None, policy.FromRecipient
	case r.temporary() && contains(said, "greylist", "graylist", "grey-list", "gray-list", "grey list", "postgrey"):
		return policy.None, policy.FromGreylist
	case contains(said, "too many recipients", "too many connections", "too many errors", "too much mail", "too many messages",
		"rate limit", "ratelimit", "rate-limit", "rate exceeded", "throttl", "sender quota"):
		return policy.Spam, policy.FromLimit
	case r.temporary():
		return policy.None, policy.FromTempfail
	}
	return "", policy.FromRecipient
}

// demandsTLS reports whether a refusal is for want of TLS.
func demandsTLS(said string) bool {
	return contains(said, "encryption is required", "encryption required", "tls is required", "tls required", "requires tls", "must use tls",
		"tls-encrypted", "starttls command first", "requires starttls", "starttls is required")
}

// DemandsTLS reports whether the MTA refused a recipient for want of TLS.
func (r Rejection) DemandsTLS() bool { return demandsTLS(statement(r.Text)) }

// refused is what a permanent refusal by the MTA's own rules says. One of a recipient can be for
// the recipient's sake, unless it is a matter of policy (RFC 3463, x.7.x).
func (r Rejection) refused(subject string) policy.Class {
	if r.NullSender && (subject == aboutRecipient || subject == "") {
		// A bounce to an address that was forged, or whose signature has run out.
		return policy.None
	}
	switch subject {
	case aboutClient, aboutReverse, aboutHELO, aboutSender:
		return policy.Spam
	}
	if strings.HasPrefix(r.Status, "5.7.") {
		return policy.Spam
	}
	return policy.None
}

// subject parts "Helo command rejected: TEXT".
func (r Rejection) subject() (subject, text string) {
	const rejected = " rejected: "
	i := strings.Index(r.Text[:min(len(r.Text), 40)], rejected)
	if i < 0 {
		return "", r.Text
	}
	for _, s := range []string{aboutRecipient, aboutClient, aboutSender, aboutHELO, aboutReverse, aboutData, aboutEnd, aboutETRN} {
		if strings.EqualFold(r.Text[:i], s) {
			return s, r.Text[i+len(rejected):]
		}
	}
	return "", r.Text
}

// restored puts the first word back, which Postfix takes for the address where the reply has none,
// before it tells the milter (smtpd.c).
func restored(text string) string {
	for _, lost := range []struct{ word, rest string }{
		{"Service", "unavailable; "}, {"Client", "host rejected: "}, {"Session", "encryption is required"}, {"Server", "configuration "},
	} {
		if strings.HasPrefix(text, lost.rest) {
			return lost.word + " " + text
		}
	}
	return text
}

// statement is what a text says before it quotes anybody, in lower case: an address, a name in
// quotes, the reply of another server.
func statement(text string) string {
	if i := strings.IndexAny(text, `;<="@?[({`); i > 0 {
		text = text[:i]
	}
	text, _, _ = strings.Cut(text, " '")
	return strings.ToLower(text)
}

func starts(s string, words ...string) bool {
	for _, w := range words {
		if strings.HasPrefix(s, w) {
			return true
		}
	}
	return false
}

func contains(s string, words ...string) bool {
	for _, w := range words {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}

func (r Rejection) temporary() bool { return strings.HasPrefix(r.Status, "4") }

// noMailbox reports a recipient that takes no mail now, or any more, or none of this size: RFC 3463
// section 3.3.
func (r Rejection) noMailbox(said string) bool {
	switch r.Status {
	case "4.2.1", "4.2.2", "4.2.3", "5.2.1", "5.2.2", "5.2.3", "5.3.4":
		return true
	}
	return contains(said, "mailbox is full", "mailbox full", "inbox is full", "over quota", "overquota", "quota exceeded", "exceeded quota",
		"exceeded its quota", "exceeds quota", "insufficient storage", "insufficient disk", "out of storage", "not enough space",
		"message size", "message too large", "mailbox size", "mailbox is locked", "account is locked", "account has been closed", "not enough disk",
		"no longer receiv", "no longer accept", "no longer active", "no longer valid", "no longer in use", "no longer here", "mail to this address bounces",
		"is disabled", "account disabled", "mailbox disabled", "is inactive", "is suspended", "has expired")
}

// authentication reports a refusal because SPF, DKIM or DMARC failed, or because the sender was to
// log in: forwarders and mailing lists meet with it, too.
func (r Rejection) authentication(said string) bool {
	if len(r.Status) == len("5.7.20") {
		switch r.Status[1:] {
		case ".7.20", ".7.21", ".7.22", ".7.23", ".7.24", ".7.26": // RFC 7372
			return true
		}
	}
	if contains(said, "not logged in", "openspf") {
		return true
	}
	for _, word := range []string{"spf", "dmarc", "dkim"} {
		if strings.Contains(said, word) && hasWord(said, word) {
			return true
		}
	}
	return false
}

// hasWord reports whether a text has a word that is not part of a name, such as spf.sender.example.
func hasWord(s, word string) bool {
	for field := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ' ' || r == ':' || r == ',' }) {
		if field == word || strings.TrimSuffix(field, ".") == word {
			return true
		}
	}
	return false
}

// unknownUsers are the words for a recipient that does not exist.
var unknownUsers = []string{
	"user unknown", "unknown user", "address unknown", "unknown address", "unknown recipient", "recipient unknown", "unknown local",
	"no such user", "no such recipient", "no such mailbox", "no such address", "no such account", "no such local",
	"user not found", "recipient not found", "mailbox not found", "account not found", "address not found",
	"does not exist", "doesn't exist", "not exist", "mailbox unavailable", "invalid recipient", "invalid user", "invalid mailbox", "no mailbox",
	"unrouteable address", "unroutable address",
}

// unknownUser reports a recipient that does not exist, whatever the code: a policy service and a
// milter have no other than 5.7.1.
func (r Rejection) unknownUser(subject, said string) bool {
	switch subject {
	case "", aboutRecipient:
		return strings.HasSuffix(r.Status, ".1.1") && len(r.Status) == len("5.1.1") || contains(said, unknownUsers...)
	}
	return false
}

// verified is the source of a recipient that address verification refused: an unknown user where
// the server that was asked says so, in its status code. Whatever else it says is about us, not
// about the client.
func (r Rejection) verified(subject, text string) policy.Source {
	if r.temporary() {
		return policy.FromTempfail
	}
	_, reply, ok := strings.Cut(text, " said: 550")
	if ok && subject == aboutRecipient && starts(reply, " 5.1.1 ", "-5.1.1 ") {
		return policy.FromUnknownUser
	}
	return policy.FromRecipient
}

// blockList is a refusal by a DNS block list, postconf(5) default_rbl_reply: "Service unavailable;
// Client host [192.0.2.7] blocked using LIST; REASON".
type blockList struct {
	// what was looked up; answer is the list's name and its own text.
	what, answer string
}

func parseBlockList(text string) (b blockList, ok bool) {
	text = strings.TrimPrefix(text, "Service unavailable; ")
	i := strings.IndexByte(text, '[')
	if i < 0 {
		return b, false
	}
	switch strings.ToLower(strings.TrimSuffix(text[:i], " ")) {
	case "", "client", aboutClient, aboutReverse, aboutHELO, aboutSender, aboutRecipient, "your ip", "host", "ip", "address":
	default:
		return b, false
	}
	// The sender and the HELO name are the client's, and can look like all that follows.
	for _, words := range []string{"] blocked using ", "] blocked by ", "] listed by ", "] listed in ", "] is listed ", "] is blocked ", "] found in "} {
		if end := strings.LastIndex(text, words); end > i {
			return blockList{what: text[i+1 : end], answer: text[end+len(words):]}, true
		}
	}
	return b, false
}

// resolverRefused are the words, and the addresses, with which block lists answer a resolver that
// they do not serve. They then answer so for every client.
var resolverRefused = []string{
	"127.255.255.", "open resolver", "open/public resolver", "public resolver", "public dns", "excessive number", "excessive quer", "query refused", "queries refused",
	"query limit", "query volume", "returnc/pub", "returnc/vol", "uribl.com/refused", "rate limited",
	"; error",
}

func (b blockList) refusedResolver() bool {
	answer := strings.ToLower(b.answer)
	if what := strings.ToLower(b.what); what != "" {
		// The list's text may quote a name that is the client's.
		answer = strings.ReplaceAll(answer, what, "")
	}
	return !strings.Contains(b.what, "]") && contains(answer, resolverRefused...)
}

// Rejections collects the refused recipients of a message: one assessment for each source, the
// first that says anything.
type Rejections struct {
	all     []policy.Assessment
	unknown int
	harvest policy.Confidence
}

// Add takes a refused recipient; harvest is what behaviour.Clients made of an unknown one.
func (r *Rejections) Add(of Rejection, harvest policy.Confidence) {
	a := of.Assessment()
	if a.Source == policy.FromUnknownUser {
		r.unknown++
		r.harvest += harvest
	}
	for i, old := range r.all {
		if old.Source == a.Source {
			if old.Class == policy.None && a.Class == policy.Spam {
				r.all[i] = a
			}
			return
		}
	}
	r.all = append(r.all, a)
}

// Assessments are what they say.
func (r *Rejections) Assessments() []policy.Assessment {
	for i, a := range r.all {
		if a.Source == policy.FromUnknownUser {
			r.all[i] = UnknownUsers(a, r.unknown, r.harvest)
		}
	}
	return r.all
}

// UnknownUsers is the assessment of some unknown users, given that of the first.
func UnknownUsers(first policy.Assessment, n int, harvest policy.Confidence) policy.Assessment {
	a := first
	if n > 1 {
		a.Reason = fmt.Sprintf("%d unknown users: %s", n, a.Reason)
	}
	if harvest > 0 {
		a.Class, a.Confidence = policy.Spam, min(harvest, policy.Certain)
	}
	return a
}
