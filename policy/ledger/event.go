package ledger

import (
	"encoding/json"
	"math"
	"net/netip"
	"regexp"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// The kinds of events.
const (
	eventMessage    = "message"
	eventSession    = "session"
	eventCorrection = "correction"
)

// event is a line of the event log; its shape is documented in the README.
type event struct {
	Time          string         `json:"time"`
	Node          string         `json:"node"`
	Event         string         `json:"event"`
	Session       string         `json:"session"`
	QueueID       string         `json:"queue_id,omitempty"`
	Client        client         `json:"client"`
	HELO          string         `json:"helo,omitempty"`
	STARTTLS      policy.Answer  `json:"starttls"`
	TLS           *policy.TLS    `json:"tls,omitempty"`
	FromDomain    string         `json:"from_domain,omitempty"`
	Rcpts         int            `json:"rcpts"`
	RcptsRejected int            `json:"rcpts_rejected"`
	Authenticated bool           `json:"authenticated,omitempty"`
	Auth          policy.Auth    `json:"auth,omitzero"`
	Verdict       policy.Verdict `json:"verdict"`
	// Said is what each source said, where more than one did.
	Said       []policy.Verdict `json:"said,omitempty"`
	Reputation reputation       `json:"reputation"`
	Outcome    policy.Outcome   `json:"outcome"`
	Trouble    policy.Trouble   `json:"tls_trouble,omitempty"`
	// Seconds is how long it took.
	Seconds float64 `json:"seconds,omitempty"`
}

// correction is a line of the event log that says what later became of the verdict of an earlier one.
type correction struct {
	Time          string           `json:"time"`
	Node          string           `json:"node"`
	Event         string           `json:"event"`
	Session       string           `json:"session"`
	QueueID       string           `json:"queue_id,omitempty"`
	Client        client           `json:"client"`
	Authenticated bool             `json:"authenticated,omitempty"`
	Of            string           `json:"of"`
	Was           policy.Verdict   `json:"was"`
	Verdict       policy.Verdict   `json:"verdict"`
	Said          []policy.Verdict `json:"said,omitempty"`
}

type client struct {
	Addr string `json:"addr"`
	Port uint16 `json:"port,omitempty"`
	Name string `json:"name,omitempty"`
	PTR  string `json:"ptr,omitempty"`
	ASN  uint32 `json:"asn,omitempty"`
}

type reputation struct {
	Score float64 `json:"score"`
	Tier  string  `json:"tier"`
	// Would is what a mode other than observe would have answered; it is there in mode observe only.
	Would string `json:"would,omitempty"`
}

// timeFormat is RFC 3339 in UTC to the millisecond.
const timeFormat = "2006-01-02T15:04:05.000Z"

// anonymous is how much of an address is left when the log is anonymized.
const anonymousIPv4, anonymousIPv6 = 24, 48

// Encode makes the line of an observation. Local parts of mail addresses are never in it; anonymize also leaves out the host part of
// the client's address, its names and its port.
func Encode(o *policy.Observation, node string, anonymize bool) ([]byte, error) {
	hide := privacy(anonymize)
	e := event{
		Time: o.Time.UTC().Format(timeFormat), Node: node, Event: eventSession, Session: o.Session, QueueID: o.QueueID,
		Client: hide.client(o), HELO: withoutLocalParts(o.HELO), STARTTLS: o.STARTTLS, FromDomain: withoutLocalParts(o.FromDomain),
		Rcpts: o.Rcpts, RcptsRejected: o.RcptsRejected, Authenticated: o.Authenticated, Auth: hide.auth(o.Auth), Verdict: hide.verdict(o.Verdict), Said: hide.said(o.Said),
		Reputation: reputation{Score: math.Round(o.Decision.Score*100) / 100, Tier: o.Decision.Tier.String()},
		Outcome:    o.Outcome, Trouble: o.Trouble,
	}
	if o.Mail {
		e.Event = eventMessage
	}
	if !o.Began.IsZero() {
		e.Seconds = math.Round(o.Time.Sub(o.Began).Seconds()*1000) / 1000
	}
	if o.Decision.Mode == policy.Observe {
		e.Reputation.Would = o.Decision.WouldVerb()
	}
	if o.TLS != nil {
		t := *o.TLS
		t.CertSubject = withoutLocalParts(t.CertSubject)
		e.TLS = &t
	}
	if anonymize {
		e.HELO = ""
		if e.TLS != nil {
			e.TLS.CertSubject = ""
		}
	}
	return json.Marshal(e)
}

// EncodeCorrection makes the line of a later word on an observation, which comes as it is now, with what its verdict was before.
func EncodeCorrection(o *policy.Observation, was policy.Verdict, at time.Time, node string, anonymize bool) ([]byte, error) {
	hide := privacy(anonymize)
	return json.Marshal(correction{
		Time: at.UTC().Format(timeFormat), Node: node, Event: eventCorrection, Session: o.Session, QueueID: o.QueueID, Client: hide.client(o), Authenticated: o.Authenticated,
		Of: o.Time.UTC().Format(timeFormat), Was: hide.verdict(was), Verdict: hide.verdict(o.Verdict), Said: hide.said(o.Said),
	})
}

// privacy says whether to hide what an anonymized log leaves out.
type privacy bool

func (p privacy) client(o *policy.Observation) client {
	c := client{Port: o.Client.Port, Name: withoutLocalParts(o.Client.Name), PTR: withoutLocalParts(o.Client.PTR), ASN: o.Decision.ASN}
	switch {
	case bool(p):
		return client{Addr: anonymous(o.Client.Addr), ASN: c.ASN}
	case o.Client.Addr.IsValid():
		c.Addr = o.Client.Addr.String()
	}
	return c
}

func (p privacy) verdict(v policy.Verdict) policy.Verdict {
	v.Reason = withoutLocalParts(v.Reason)
	if p {
		v.Reason = addresses.ReplaceAllString(v.Reason, "[addr]")
	}
	return v
}

// said leaves out what Verdict says by itself.
func (p privacy) said(all []policy.Verdict) []policy.Verdict {
	if len(all) < 2 {
		return nil
	}
	said := make([]policy.Verdict, len(all))
	for i, v := range all {
		said[i] = p.verdict(v)
	}
	return said
}

func (p privacy) auth(a policy.Auth) policy.Auth {
	a.SPFDomain, a.DKIMDomain, a.DMARCDomain = withoutLocalParts(a.SPFDomain), withoutLocalParts(a.DKIMDomain), withoutLocalParts(a.DMARCDomain)
	return a
}

func anonymous(addr netip.Addr) string {
	if !addr.IsValid() {
		return ""
	}
	bits := anonymousIPv4
	if addr.Is6() {
		bits = anonymousIPv6
	}
	return netip.PrefixFrom(addr, bits).Masked().Addr().String()
}

var (
	localParts = regexp.MustCompile(`("[^"]*"|[^\s<>,;:"'()]+)@`)
	addresses  = regexp.MustCompile(`[0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9A-Fa-f]{0,4}(:[0-9A-Fa-f]{0,4}){2,}`)
)

// withoutLocalParts hides the local part of whatever looks like a mail address in what a peer wrote.
func withoutLocalParts(s string) string { return localParts.ReplaceAllString(s, "...@") }
