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

// Class is what a verdict says of a message.
type Class string

// The classes. None says nothing: no filter spoke, or what it said is no judgement of the client, like greylisting.
const (
	Spam Class = "spam"
	Ham  Class = "ham"
	None Class = "none"
)

// Verdict is what was said of a message, by whom and why.
type Verdict struct {
	Class Class `json:"class"`
	// Score is the filter's own score, 0 when it gave none.
	Score float64 `json:"score"`
	// Source is who said it: header, rcpt, dnsbl or greylist; empty for None without a word.
	Source string `json:"source,omitempty"`
	// Reason is the words it was said in.
	Reason string `json:"reason,omitempty"`
}

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
	Time    time.Time
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
	Verdict       Verdict
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
	if o.Authenticated || !o.Client.Addr.IsValid() || !o.Mail {
		return Lesson{}, false
	}
	l = o.Verdict.lesson(o.Time)
	return l, l.Spam != 0 || l.Ham != 0
}

// lesson is what a verdict on a message of a time teaches.
func (v Verdict) lesson(at time.Time) Lesson {
	switch v.Class {
	case Spam:
		return Lesson{At: at, Spam: 1}
	case Ham:
		return Lesson{At: at, Ham: 1}
	}
	return Lesson{At: at}
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
	return l, c.Addr.IsValid() && (l.Spam != 0 || l.Ham != 0)
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
	Note string    `json:"note,omitempty"`
	Set  time.Time `json:"set"`
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
