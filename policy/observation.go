package policy

import (
	"net/netip"
	"time"

	"github.com/ehlogate/ehlogate/policy/reputation"
)

// Client is the SMTP client of a session, as the MTA knows it. Only the address is judged; the rest
// is recorded.
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
	// CertSubject is the subject of the client's certificate, empty without one that the MTA
	// trusts.
	CertSubject string `json:"cert_subject,omitempty"`
}

// Auth is what SPF (RFC 7208), DKIM (RFC 6376) and DMARC (RFC 7489) found, in the words of RFC
// 8601, such as pass, fail or none; empty where no result was reported. It is recorded and
// reported.
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
	// LeftWithout is a client that left without a message when it was not offered STARTTLS: it may
	// require TLS.
	LeftWithout Trouble = "left-without"
	// RefusedWithout is a client of which the MTA demanded TLS when it was not offered STARTTLS.
	RefusedWithout Trouble = "refused-without"
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

// Message is what tells a message from others, and the verdicts on it: all that is remembered of it
// when it is over. A session without a message is one, too, with Mail false.
type Message struct {
	// Time is when it ended, Began when it began: the session, or the message with its MAIL
	// command.
	Time, Began time.Time
	// Session is ours. It is empty where the session was not heard, and only the MTA's log, a feed
	// or a person told of it.
	Session string
	QueueID string
	Client  Client
	// Mail says whether there was a message at all.
	Mail bool
	// Authenticated says that the client logged in: its mail is its user's, and nothing is learnt
	// of its address.
	Authenticated bool
	// Submission says that it came in at a service of the operator's own users, where the same
	// holds.
	Submission bool
	// Bounce says that its sender was the null sender (RFC 5321 section 4.5.5). Anybody can have
	// any server bounce to a mailbox of their own, so its ham proves nothing. Its spam counts like
	// any other, or spammers would use the null sender; but for Backscatter, one of few bounces
	// of a host of long standing, which bounces what others forged.
	Bounce, Backscatter bool
	// HamShare is the share of its weight that it counts if it is ham, 0 for all of it: a host sent
	// much like it.
	HamShare float64
	// Nth is which message of its session it is, from 1; 0 where there is none, or it was not
	// heard.
	Nth int
	// Reinjected says that an after-queue filter has put it back into the MTA: it is counted as the
	// message that a client sent.
	Reinjected bool
	// Unfinished says that we stopped listening before the session ended.
	Unfinished bool
	// Trouble is what went wrong with TLS.
	Trouble Trouble
	// Verdicts are those of all sources, Verdict the one that counts.
	Verdicts Verdicts
	Verdict  Verdict
	// Forgotten is the verdict that was forgotten with the evidence of its client, and that the
	// event log has; zero where none was.
	Forgotten Verdict
	// Facts are what was heard of it; nil where that is not remembered.
	Facts *Facts
}

// Forget drops the verdict with the evidence of its client, and keeps what the event log has.
func (m *Message) Forget() {
	if m.Verdict.Class != None {
		m.Forgotten = m.Verdict
	}
	m.Verdict = Verdict{Class: None}
}

// Facts are what is counted of a message or a session, beside its verdict. They are remembered with
// it, so that a later verdict can be counted as well as the first one.
type Facts struct {
	ASN uint32 `json:"asn,omitempty"`
	// Message says that there was a message.
	Message  bool   `json:"message"`
	STARTTLS Answer `json:"starttls"`
	TLS      *TLS   `json:"tls,omitempty"`
	// InClear says that it came in the clear, where nobody heard the session and the MTA's log
	// tells.
	InClear    bool    `json:"in_clear,omitempty"`
	FromDomain string  `json:"from_domain,omitempty"`
	Auth       Auth    `json:"auth,omitzero"`
	Tier       string  `json:"tier"`
	Outcome    Outcome `json:"outcome"`
}

// Observation is one message of a session, or one session that carried none.
type Observation struct {
	Message
	HELO string
	// STARTTLS is what the client was offered; TLS is nil on a plaintext session, which InClear
	// says where nobody heard it.
	STARTTLS Answer
	TLS      *TLS
	InClear  bool
	// FromDomain is the domain of the envelope sender, empty for the null sender.
	FromDomain string
	// Rcpts counts all recipients, RcptsRejected those of them that the MTA refused. To are some of
	// the others, which are never written down.
	Rcpts, RcptsRejected int
	To                   []string
	// Auth is what the MTA's own authentication found of the sender.
	Auth Auth
	// Decision is the judgement of the client before this message.
	Decision Decision
	Outcome  Outcome
}

// Remember keeps the facts of an observation with its message.
func (o *Observation) Remember() {
	o.Facts = &Facts{
		ASN: o.Decision.ASN, Message: o.Mail, STARTTLS: o.STARTTLS, TLS: o.TLS, InClear: o.InClear, FromDomain: o.FromDomain, Auth: o.Auth,
		Tier: o.Decision.Tier.String(), Outcome: o.Outcome,
	}
}

// Lesson is what a message teaches of its client: weights of spam and ham in messages, below zero
// where a verdict is taken back.
type Lesson struct {
	At        time.Time
	Spam, Ham float64
	// Line is the line of the event log that goes with it, for a store that keeps a journal; nil
	// where there is none.
	Line []byte
}

func (l Lesson) teaches() bool { return l.Spam != 0 || l.Ham != 0 }

// Lesson is what the message's verdict teaches; ok is false when that is nothing.
func (m *Message) Lesson() (l Lesson, ok bool) {
	l = m.lesson(m.Verdict)
	return l, l.teaches() && m.Teachable()
}

// lesson is what a verdict on the message teaches.
func (m *Message) lesson(v Verdict) Lesson {
	switch {
	case v.Source.People():
	case m.Backscatter && v.Source != FromTrap, m.Bounce && v.Class == Ham:
		v.Weight = 0
	case m.HamShare > 0 && v.Class == Ham:
		v.Weight *= Messages(m.HamShare)
	}
	return v.lesson(m.Time)
}

// Teachable reports whether anything may be learnt of the client.
func (m *Message) Teachable() bool {
	a := m.Client.Addr
	return !m.Authenticated && !m.Submission && a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !IsHere(a)
}

// Correction is a message as it is now, and the verdict that was learnt of it before. Nothing
// depends on which of the two verdicts comes in first.
type Correction struct {
	Message
	Was Verdict
	// NewTrouble says that the trouble became known with it, NewlyReinjected that the reinjection
	// did.
	NewTrouble, NewlyReinjected bool
}

// Lesson is the new verdict's less the old one's; ok is false when the difference is nothing.
func (c *Correction) Lesson() (l Lesson, ok bool) {
	from, to := c.lesson(c.Was), c.lesson(c.Verdict)
	l = Lesson{At: c.Time, Spam: to.Spam - from.Spam, Ham: to.Ham - from.Ham}
	return l, l.teaches() && c.Teachable()
}

// Keys are the identities of a client's address: its host, its network, and its autonomous system,
// 0 when that is not known.
type Keys struct {
	Host, Network netip.Prefix
	ASN           uint32
}

// Known is what a store knows of a client.
type Known struct {
	Host, Network, AS reputation.Evidence
	// Override is the operator's on the address, Exception what was noticed of the host and
	// STARTTLS; nil where there is none.
	Override  *Override
	Exception *Exception
	// Unavailable says that the store did not answer in time: nothing is known of the host but what
	// was learnt since, not even that there is nothing.
	Unavailable bool
}

// What makes a host one of long standing: as many messages of ham from before the last hours, and
// no more spam with them than honest providers send, in messages for each of ham. In a network it
// is as many hosts with ham, each of which has one voice.
const (
	standingHam  = 5
	standingSpam = 1.0 / 6
)

// OfLongStanding reports whether a host is known at a time, from before the last hours, for mail
// that is nearly all ham. What it sent since does not matter.
func (k *Known) OfLongStanding(now time.Time) bool {
	return standing(k.Host.Settled(now))
}

// InGoodCompany reports whether the hosts of a host's network are known for the same.
func (k *Known) InGoodCompany(now time.Time) bool { return standing(k.Network.Settled(now)) }

func standing(m reputation.Mass) bool { return m.Ham >= standingHam && m.Spam <= m.Ham*standingSpam }

// Record is the evidence of a host or a network, else of an autonomous system, as one store gives
// it to another.
type Record struct {
	Network  netip.Prefix
	ASN      uint32
	Evidence reputation.Evidence
}
