package eventlog

import (
	"encoding/json"
	"math"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// Kind is what an event is about.
type Kind string

// The kinds of events.
const (
	KindMessage    Kind = "message"
	KindSession    Kind = "session"
	KindCorrection Kind = "correction"
	// KindForget is that the operator dropped the evidence of a network, which stands for the
	// client.
	KindForget Kind = "forget"
	// KindOverride is that an operator changed the overrides; the network stands for the client.
	KindOverride Kind = "override"
)

// Event is a line of the event log; contrib/doc/event-log.md documents it. Of makes one of an
// observation, OfCorrection of a correction, and Message reads it back.
type Event struct {
	Time    Stamp  `json:"time"`
	Node    string `json:"node"`
	Kind    Kind   `json:"event"`
	Session string `json:"session"`
	QueueID string `json:"queue_id,omitempty"`
	Client  Client `json:"client"`
	// Heard is nil for a correction.
	*Heard
	Authenticated bool    `json:"authenticated,omitempty"`
	Submission    bool    `json:"submission,omitempty"`
	Bounce        bool    `json:"bounce,omitempty"`
	Backscatter   bool    `json:"backscatter,omitempty"`
	HamShare      float64 `json:"ham_share,omitempty"`
	// Nth is there for the second message of a session and those after it, Reinjected for a message
	// that an after-queue filter has put back.
	Nth        int            `json:"nth,omitempty"`
	Reinjected bool           `json:"reinjected,omitempty"`
	Verdict    policy.Verdict `json:"verdict"`
	// Verdicts are there where more than one source gave one.
	Verdicts   policy.Verdicts `json:"said,omitempty"`
	Trouble    policy.Trouble  `json:"tls_trouble,omitempty"`
	Unfinished bool            `json:"unfinished,omitempty"`
	// Change is there for an override only.
	Change *Change `json:"change,omitempty"`
	// Corrected is there for a correction only.
	*Corrected
}

// Change is what an operator changed, by allow, deny, forget or lift, for whoever asks later.
type Change struct {
	Verb string `json:"verb"`
	By   string `json:"by,omitempty"`
	Note string `json:"note,omitempty"`
	List string `json:"list,omitempty"`
	// Until is when it ends, zero for never.
	Until time.Time `json:"until,omitzero"`
}

// Client is the client of an event.
type Client struct {
	Addr string `json:"addr"`
	Port uint16 `json:"port,omitempty"`
	Name string `json:"name,omitempty"`
	PTR  string `json:"ptr,omitempty"`
	ASN  uint32 `json:"asn,omitempty"`
}

// Heard is what was heard of a message, or of a session without one.
type Heard struct {
	HELO          string         `json:"helo,omitempty"`
	STARTTLS      policy.Answer  `json:"starttls"`
	TLS           *policy.TLS    `json:"tls,omitempty"`
	InClear       bool           `json:"in_clear,omitempty"`
	FromDomain    string         `json:"from_domain,omitempty"`
	Rcpts         int            `json:"rcpts"`
	RcptsRejected int            `json:"rcpts_rejected"`
	Auth          policy.Auth    `json:"auth,omitzero"`
	Reputation    Reputation     `json:"reputation"`
	Outcome       policy.Outcome `json:"outcome"`
	// Seconds is how long it took.
	Seconds float64 `json:"seconds,omitempty"`
}

// Reputation is the client's before the message.
type Reputation struct {
	Score float64 `json:"score"`
	Tier  string  `json:"tier"`
	// Would is what a mode other than observe would have answered; it is there in mode observe
	// only.
	Would string `json:"would,omitempty"`
}

// Corrected is what a correction corrects: the event of the time Of, whose verdict was Was. About
// is what was heard of it.
type Corrected struct {
	Of  Stamp          `json:"of"`
	Was policy.Verdict `json:"was"`
	// Forgotten is the verdict that the event had before the evidence of its client was dropped.
	Forgotten *policy.Verdict `json:"forgotten,omitempty"`
	About     *policy.Facts   `json:"about,omitempty"`
	// NewTrouble says that tls_trouble is new, NewlyReinjected that reinjected is.
	NewTrouble      bool `json:"new_trouble,omitempty"`
	NewlyReinjected bool `json:"newly_reinjected,omitempty"`
}

// Stamp is a time that is written in RFC 3339, in UTC, to the millisecond.
type Stamp struct{ time.Time }

const stampFormat = `"2006-01-02T15:04:05.000Z"`

// MarshalJSON writes a stamp.
func (s Stamp) MarshalJSON() ([]byte, error) { return s.UTC().AppendFormat(nil, stampFormat), nil }

// The prefix lengths to which addresses are cut when the log is anonymized.
const anonymousIPv4, anonymousIPv6 = 24, 48

// Of is the event of an observation. Local parts of mail addresses are never in it.
func Of(o *policy.Observation, node string) *Event {
	e := about(&o.Message, node)
	e.Time, e.Kind = Stamp{o.Time}, KindSession
	if o.Mail {
		e.Kind = KindMessage
	}
	e.Client.ASN = o.Decision.ASN
	e.Heard = &Heard{
		HELO: localParts.ReplaceAllString(o.HELO, "...@"), STARTTLS: o.STARTTLS, InClear: o.InClear, FromDomain: withoutLocalParts(o.FromDomain),
		Rcpts: o.Rcpts, RcptsRejected: o.RcptsRejected, Auth: plainAuth(o.Auth), Outcome: o.Outcome,
		Reputation: Reputation{Score: math.Round(o.Decision.Score*100) / 100, Tier: o.Decision.Tier.String()},
	}
	if !o.Began.IsZero() {
		e.Seconds = math.Round(o.Time.Sub(o.Began).Seconds()*1000) / 1000
	}
	if o.Decision.Mode == policy.Observe {
		e.Reputation.Would = o.Decision.WouldVerb()
	}
	e.TLS = plainTLS(o.TLS)
	return e
}

// OfCorrection is the event of a correction that came in at a time.
func OfCorrection(c *policy.Correction, at time.Time, node string) *Event {
	e := about(&c.Message, node)
	e.Time, e.Kind = Stamp{at}, KindCorrection
	e.Corrected = &Corrected{Of: Stamp{c.Time}, Was: plainVerdict(c.Was), NewTrouble: c.NewTrouble, NewlyReinjected: c.NewlyReinjected}
	if c.Forgotten.Class != "" {
		v := plainVerdict(c.Forgotten)
		e.Forgotten = &v
	}
	if c.Facts != nil {
		f := *c.Facts
		f.FromDomain, f.Auth, f.TLS = withoutLocalParts(f.FromDomain), plainAuth(f.Auth), plainTLS(f.TLS)
		e.About = &f
	}
	return e
}

// Dropped is the network whose evidence an event says was dropped; ok is false for other events.
func (e *Event) Dropped() (n netip.Prefix, ok bool) {
	if e.Kind != KindForget {
		return n, false
	}
	n, err := netip.ParsePrefix(e.Client.Addr)
	return n, err == nil
}

// OfForget is the event of the evidence of a network that was dropped at a time.
func OfForget(n netip.Prefix, at time.Time, node string) *Event {
	return &Event{Time: Stamp{at}, Node: node, Kind: KindForget, Client: Client{Addr: n.String()}, Verdict: policy.Verdict{Class: policy.None}}
}

// OfChange is the event of a change of the overrides on a network.
func OfChange(c Change, n netip.Prefix, at time.Time, node string) *Event {
	return &Event{Time: Stamp{at}, Node: node, Kind: KindOverride, Client: Client{Addr: n.String()}, Verdict: policy.Verdict{Class: policy.None}, Change: &c}
}

// about is what events of both kinds say of a message.
func about(m *policy.Message, node string) *Event {
	e := &Event{
		Node: node, Session: m.Session, QueueID: m.QueueID, Authenticated: m.Authenticated, Submission: m.Submission,
		Bounce: m.Bounce, Backscatter: m.Backscatter, HamShare: m.HamShare, Reinjected: m.Reinjected,
		Client:  Client{Port: m.Client.Port, Name: withoutLocalParts(m.Client.Name), PTR: withoutLocalParts(m.Client.PTR)},
		Verdict: plainVerdict(m.Verdict), Trouble: m.Trouble, Unfinished: m.Unfinished,
	}
	if m.Client.Addr.IsValid() {
		e.Client.Addr = m.Client.Addr.String()
	}
	if m.Nth > 1 {
		e.Nth = m.Nth
	}
	if len(m.Verdicts) > 1 {
		for _, v := range m.Verdicts {
			e.Verdicts = append(e.Verdicts, plainVerdict(v))
		}
	}
	return e
}

// Anonymize leaves out the host part of the client's address, its names and its port.
func (e *Event) Anonymize() {
	if n, err := netip.ParsePrefix(e.Client.Addr); err == nil {
		// It is about a network that an operator named.
		e.Client.Addr = anonymousNetwork(n.Addr(), n.Bits()).String()
		if e.Change != nil {
			e.Change.By, e.Change.Note = "", ""
		}
		return
	}
	addr, _ := netip.ParseAddr(e.Client.Addr)
	e.Client = Client{Addr: anonymous(addr), ASN: e.Client.ASN}
	if e.Heard != nil {
		e.HELO = ""
		if e.TLS != nil {
			e.TLS.CertSubject = ""
		}
	}
	hide := func(v *policy.Verdict) { v.Reason = addresses.ReplaceAllString(v.Reason, "[addr]") }
	hide(&e.Verdict)
	for i := range e.Verdicts {
		hide(&e.Verdicts[i])
	}
	if e.Corrected != nil {
		hide(&e.Was)
		if e.About != nil && e.About.TLS != nil {
			e.About.TLS.CertSubject = ""
		}
	}
}

// Message is what the event tells of its message: of a correction, as it is after it. ok is false
// where the client's address cannot be read.
func (e *Event) Message() (m policy.Message, ok bool) {
	m = policy.Message{
		Time: e.Time.Time, Session: e.Session, QueueID: e.QueueID, Mail: e.Kind != KindSession,
		Authenticated: e.Authenticated, Submission: e.Submission, Unfinished: e.Unfinished, Trouble: e.Trouble,
		Bounce: e.Bounce, Backscatter: e.Backscatter, HamShare: e.HamShare, Nth: e.Nth, Reinjected: e.Reinjected, Facts: e.Facts(),
		Verdict: e.Verdict, Verdicts: e.Verdicts, Client: policy.Client{Port: e.Client.Port},
	}
	if e.Corrected != nil {
		m.Time = e.Of.Time
	}
	m.Began = m.Time
	if e.Heard != nil {
		m.Began = m.Time.Add(-time.Duration(e.Seconds * float64(time.Second)))
	}
	if m.Verdicts == nil && m.Verdict.Source != "" {
		m.Verdicts = policy.Verdicts{m.Verdict}
	}
	if e.Client.Addr == "" {
		return m, true
	}
	addr, err := policy.ParseAddr(e.Client.Addr)
	m.Client.Addr = addr
	return m, err == nil
}

// Facts are what was heard of the event's message, nil where the event does not say.
func (e *Event) Facts() *policy.Facts {
	switch {
	case e.Heard != nil:
		return &policy.Facts{
			ASN: e.Client.ASN, Message: e.Kind == KindMessage, STARTTLS: e.STARTTLS, TLS: e.TLS, InClear: e.InClear, FromDomain: e.FromDomain, Auth: e.Auth,
			Tier: e.Reputation.Tier, Outcome: e.Outcome,
		}
	case e.Corrected != nil:
		return e.About
	}
	return nil
}

// Line is the event as a line of the event log, without its end.
func (e *Event) Line() ([]byte, error) { return json.Marshal(e) }

func plainVerdict(v policy.Verdict) policy.Verdict {
	v.Reason = withoutLocalParts(v.Reason)
	return v
}

func plainTLS(t *policy.TLS) *policy.TLS {
	if t == nil {
		return nil
	}
	plain := *t
	plain.CertSubject = withoutLocalParts(t.CertSubject)
	return &plain
}

func plainAuth(a policy.Auth) policy.Auth {
	for _, domain := range []*string{&a.SPFDomain, &a.DKIMDomain, &a.DMARCDomain} {
		*domain = withoutLocalParts(*domain)
	}
	return a
}

func anonymous(addr netip.Addr) string {
	if !addr.IsValid() {
		return ""
	}
	return anonymousNetwork(addr, addr.BitLen()).Addr().String()
}

// anonymousNetwork is the network that stands for one of so many bits: itself, unless it is smaller
// than what may be known.
func anonymousNetwork(addr netip.Addr, bits int) netip.Prefix {
	most := anonymousIPv4
	if addr.Is6() {
		most = anonymousIPv6
	}
	return netip.PrefixFrom(addr, min(bits, most)).Masked()
}

var (
	localParts = regexp.MustCompile(`("[^"]*"|[^\s<>,;:"'()]+)@`)
	addresses  = regexp.MustCompile(`[0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9A-Fa-f]{0,4}(:[0-9A-Fa-f]{0,4}){2,}`)
)

// bareParts are mail addresses without a domain.
var bareParts = regexp.MustCompile(`<[^\s<>@.:\[\]]+>`)

// withoutLocalParts hides the local part of whatever looks like a mail address.
func withoutLocalParts(s string) string {
	if !strings.ContainsAny(s, "@<") {
		return s
	}
	return bareParts.ReplaceAllString(localParts.ReplaceAllString(s, "...@"), "<...>")
}
