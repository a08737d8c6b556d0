package policy

import (
	"net/netip"
	"time"

	"github.com/ehlogate/ehlogate/policy/reputation"
)

// Client is the SMTP client of a session, as the MTA knows it. Everything but the address is recorded, not judged.
type Client struct {
	// Addr is unmapped and without zone; it is invalid when the MTA does not know it.
	Addr netip.Addr
	// Port is the client's TCP port, 0 when unknown.
	Port uint16
	// Name is the verified host name, "unknown" when there is none; PTR the unverified one.
	Name, PTR string
}

// TLS is what a session negotiated.
type TLS struct {
	Version string `json:"version"`
	Cipher  string `json:"cipher"`
	Bits    int    `json:"bits"`
	// CertSubject is the subject of the client's certificate, empty without one.
	CertSubject string `json:"cert_subject,omitempty"`
}

// Auth is what SPF (RFC 7208), DKIM (RFC 6376) and DMARC (RFC 7489) found, in the words of RFC 8601, such as pass, fail or none; empty
// where nothing was said. It is recorded and reported.
type Auth struct {
	SPF         string `json:"spf,omitempty"`
	SPFDomain   string `json:"spf_domain,omitempty"`
	DKIM        string `json:"dkim,omitempty"`
	DKIMDomain  string `json:"dkim_domain,omitempty"`
	DMARC       string `json:"dmarc,omitempty"`
	DMARCDomain string `json:"dmarc_domain,omitempty"`
}

// Trouble is what went wrong between a client and STARTTLS, empty where nothing did.
type Trouble string

// The troubles.
const (
	// LeftWithout is a client that left without a message when it was not offered STARTTLS: maybe it requires TLS.
	LeftWithout Trouble = "left-without"
	// HandshakeFailed is a TLS handshake that failed, as the MTA's log tells.
	HandshakeFailed Trouble = "handshake-failed"
)

// Outcome is how a message, or a session without one, ended as far as the milter protocol tells.
type Outcome string

// The outcomes.
const (
	Accepted Outcome = "accepted" // the end of the message was reached, and we let it go on
	Rejected Outcome = "rejected" // no recipient was accepted, or our tier's action refused it
	Aborted  Outcome = "aborted"  // the client or an earlier filter ended it before its end
	NoMail   Outcome = "no-mail"  // the session carried no message
)

// Answer is what the MTA was told of STARTTLS when the client connected.
type Answer string

// The answers. Unasked means that the table was not asked.
const (
	Offered  Answer = "offered"
	Withheld Answer = "withheld"
	Unasked  Answer = "unknown"
)

// Observation is one message of a session, or one session that carried none.
type Observation struct {
	// Time is when it ended, Began when it began: the session, or the message with its MAIL command.
	Time, Began time.Time
	// Session is ours, empty where the session was not heard but told of by the MTA's log or a feed.
	Session string
	QueueID string
	Client  Client
	HELO    string
	// STARTTLS is what the client was offered; TLS is nil on a plaintext session.
	STARTTLS Answer
	TLS      *TLS
	// FromDomain is the domain of the envelope sender, empty for the null sender.
	FromDomain string
	// Rcpts counts all recipients, RcptsRejected those of them that the MTA refused.
	Rcpts, RcptsRejected int
	// Authenticated says that the client logged in: its mail is its user's, and nothing is learnt of its address.
	Authenticated bool
	// Verdict is what counts of all that was said, Said what each source said, weighed.
	Verdict Verdict
	Said    []Verdict
	// Auth is what the MTA's own authentication found of the sender.
	Auth Auth
	// Trouble is what went wrong with TLS.
	Trouble Trouble
	// Decision is the judgement of the client before this message.
	Decision Decision
	Outcome  Outcome
	// Mail says whether there was a message at all.
	Mail bool
}

// Lesson is what an observation teaches of a client: weights of spam and ham in messages, below zero where a verdict is taken back.
type Lesson struct {
	At        time.Time
	Spam, Ham float64
}

// Lesson weighs an observation; ok is false when it teaches nothing.
func (o *Observation) Lesson() (l Lesson, ok bool) {
	l = o.Verdict.lesson(o.Time)
	return l, l.teaches() && !o.Authenticated && o.Client.Addr.IsValid()
}

func (l Lesson) teaches() bool { return l.Spam != 0 || l.Ham != 0 }

// Testimony is what something beside the session itself told of a message, or of a session without one: a log, a feed, a person.
type Testimony struct {
	Time time.Time
	// Addr is the client's, invalid where it is not told; Port its TCP port, 0 where it is not told.
	Addr netip.Addr
	Port uint16
	// QueueID is the message's, empty where there is none.
	QueueID string
	// Mail says that it is about a message.
	Mail bool
	// FromDomain and HELO are as the client said.
	FromDomain, HELO string
	// Outcome is what became of it, empty where it is not told.
	Outcome Outcome
	Trouble Trouble
	Verdict Verdict
}

// Observation is what is made of a testimony about what was not heard.
func (t Testimony) Observation() *Observation {
	o := &Observation{
		Time: t.Time, Began: t.Time, QueueID: t.QueueID, Client: Client{Addr: t.Addr, Port: t.Port}, HELO: t.HELO, STARTTLS: Unasked,
		FromDomain: t.FromDomain, Mail: t.Mail, Outcome: t.Outcome, Trouble: t.Trouble, Said: []Verdict{t.Verdict}, Verdict: t.Verdict,
	}
	if o.Outcome == "" {
		o.Outcome = NoMail
		if t.Mail {
			o.Outcome = Accepted
		}
	}
	return o
}

// Correction replaces what was learnt of a message by a later, better verdict. Nothing depends on which of the two comes in first.
type Correction struct {
	// Addr is the client's address, At the time of the message.
	Addr     netip.Addr
	At       time.Time
	Old, New Verdict
}

// Lesson is the new verdict's less the old one's; ok is false when it teaches nothing.
func (c Correction) Lesson() (l Lesson, ok bool) {
	from, to := c.Old.lesson(c.At), c.New.lesson(c.At)
	l = Lesson{At: c.At, Spam: to.Spam - from.Spam, Ham: to.Ham - from.Ham}
	return l, l.teaches() && c.Addr.IsValid()
}

// Keys are the identities of a client's address: its host, its network, and its autonomous system, 0 when that is not known.
type Keys struct {
	Host, Network netip.Prefix
	ASN           uint32
}

// Known is what a store knows of a client.
type Known struct {
	Host, Network, AS reputation.Evidence
	// Override is the operator's word on the address, if Overridden.
	Override   Override
	Overridden bool
	// Mark is what was noticed of the host and STARTTLS, if Marked.
	Mark   Override
	Marked bool
	// Unread says that the store did not answer in time: nothing is known of the host but what was learnt since, not even that there is nothing.
	Unread bool
}

// Record is the evidence of a host or a network, else of an autonomous system, as one store gives it to another.
type Record struct {
	Network  netip.Prefix
	ASN      uint32
	Evidence reputation.Evidence
}

// Override is the operator's word on a network: it goes before any score.
type Override struct {
	Network netip.Prefix `json:"network"`
	// Allow offers STARTTLS always; otherwise it is withheld and the client is in tier bad.
	Allow bool `json:"allow"`
	// Note is the operator's reason.
	Note string `json:"note,omitempty"`
	// Cause is what the daemon noticed, where the override is its own: a mark. The operator's go before these.
	Cause Cause     `json:"cause,omitempty"`
	Set   time.Time `json:"set"`
	// Until is when it ends; zero means never.
	Until time.Time `json:"until,omitzero"`
}

// Verb is the command that sets such an override.
func (o Override) Verb() string {
	if o.Allow {
		return "allow"
	}
	return "deny"
}

// Ended reports whether the override no longer holds.
func (o Override) Ended(now time.Time) bool { return !o.Until.IsZero() && !now.Before(o.Until) }
