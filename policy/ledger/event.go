package ledger

import (
	"encoding/json"
	"math"
	"net/netip"
	"regexp"

	"github.com/ehlogate/ehlogate/policy"
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
	Verdict       policy.Verdict `json:"verdict"`
	Reputation    reputation     `json:"reputation"`
	Outcome       policy.Outcome `json:"outcome"`
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
	e := event{
		Time: o.Time.UTC().Format(timeFormat), Node: node, Event: "session", Session: o.Session, QueueID: o.QueueID,
		Client: client{Port: o.Client.Port, Name: withoutLocalParts(o.Client.Name), PTR: withoutLocalParts(o.Client.PTR), ASN: o.Decision.ASN},
		HELO:   withoutLocalParts(o.HELO), STARTTLS: o.STARTTLS, FromDomain: withoutLocalParts(o.FromDomain),
		Rcpts: o.Rcpts, RcptsRejected: o.RcptsRejected, Authenticated: o.Authenticated, Verdict: o.Verdict,
		Reputation: reputation{Score: math.Round(o.Decision.Score*100) / 100, Tier: o.Decision.Tier.String()},
		Outcome:    o.Outcome,
	}
	if o.Mail {
		e.Event = "message"
	}
	if o.Decision.Mode == policy.Observe {
		e.Reputation.Would = o.Decision.WouldVerb()
	}
	if o.Client.Addr.IsValid() {
		e.Client.Addr = o.Client.Addr.String()
	}
	if o.TLS != nil {
		t := *o.TLS
		t.CertSubject = withoutLocalParts(t.CertSubject)
		e.TLS = &t
	}
	e.Verdict.Reason = withoutLocalParts(e.Verdict.Reason)
	if anonymize {
		e.Client, e.HELO = client{Addr: anonymous(o.Client.Addr), ASN: o.Decision.ASN}, ""
		e.Verdict.Reason = addresses.ReplaceAllString(e.Verdict.Reason, "[addr]")
		if e.TLS != nil {
			e.TLS.CertSubject = ""
		}
	}
	return json.Marshal(e)
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
