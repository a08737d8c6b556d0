package policy

import (
	"encoding/json"
	"net/netip"
	"time"
)

// Override is the operator's decision on a network. It goes before any score.
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

// Cause is what was noticed of a host and STARTTLS.
type Cause string

// The causes.
const (
	// RequiresTLS is a host that left without a message when it was not offered STARTTLS.
	RequiresTLS Cause = "requires-tls"
	// TLSDemanded is a host of which the MTA demanded TLS, as access(5) tables can, when it was not
	// offered STARTTLS.
	TLSDemanded Cause = "tls-demanded"
	// BrokenTLS is a host whose TLS handshakes fail again and again.
	BrokenTLS Cause = "broken-tls"
	// OwnUser is a host at which a user of the operator's own logged in, or was about to at a
	// service that must not ask the table.
	OwnUser Cause = "own-user"
)

// Exception is what was noticed of a host and STARTTLS: for a while the host is treated otherwise
// than its tier says. The operator's overrides go before it.
type Exception struct {
	Network netip.Prefix `json:"network"`
	Cause   Cause        `json:"cause"`
	// Note says what was noticed.
	Note  string    `json:"note,omitempty"`
	Set   time.Time `json:"set"`
	Until time.Time `json:"until"`
}

// Offers reports whether STARTTLS is offered because of the exception; otherwise it is withheld.
func (e Exception) Offers() bool { return e.Cause != BrokenTLS }

// MarshalJSON writes an exception, with "allow" where STARTTLS is offered because of it.
func (e Exception) MarshalJSON() ([]byte, error) {
	type plain Exception
	return json.Marshal(struct {
		plain
		Allow bool `json:"allow"`
	}{plain(e), e.Offers()})
}

// LongestException is how long an exception holds at most.
const LongestException = 7 * 24 * time.Hour

// Ended reports whether the exception no longer holds. One that would hold for longer than any may
// was made when the clock was wrong.
func (e Exception) Ended(now time.Time) bool {
	return !now.Before(e.Until) || e.Until.Sub(now) > LongestException
}

// MostExceptions bounds the exceptions of all hosts.
const MostExceptions = 10_000
