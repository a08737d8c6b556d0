package policy

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Override is the operator's decision on a network. It goes before any score.
type Override struct {
	Network netip.Prefix `json:"network"`
	// Allow offers STARTTLS always; otherwise it is withheld and the client is in tier bad.
	Allow bool `json:"allow"`
	// Note is the operator's reason.
	Note string `json:"note,omitempty"`
	// By is who set it, and at which node: a user's name as far as the command knows it, or "page",
	// such as "root@mx1".
	By string `json:"by,omitempty"`
	// List is the file from which it was imported, empty where it was set by itself.
	List string    `json:"list,omitempty"`
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

// Known reports whether a cause is one of these.
func (c Cause) Known() bool {
	return c == RequiresTLS || c == TLSDemanded || c == BrokenTLS || c == OwnUser
}

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

// MostExceptions bounds the exceptions of all hosts, MostInNetwork those that the hosts of a
// network can bring about by what they do, and MostInRange those of a range of networks, which is a
// /16 in IPv4 and a /32 in IPv6.
const (
	MostExceptions = 10_000
	MostInNetwork  = 16
	MostInRange    = 512
)

// Exceptions are the exceptions that are kept.
type Exceptions = Networks[Exception]

// Replace is a table of exceptions with one more, and without some.
func Replace(kept *Exceptions, e Exception, gone []Exception) *Exceptions {
	for _, g := range gone {
		kept = kept.Without(g.Network)
	}
	return kept.With(e.Network, &e)
}

// MakeRoom returns the exceptions that have to go for another one, given the network of its host:
// the oldest, of the same network or range if that has too many, and those that a user's login or
// the MTA's demand gave rise to last of all. So nobody can fill the table for others.
func MakeRoom(kept *Exceptions, e Exception, network netip.Prefix) (gone []Exception) {
	if _, renewed := kept.Get(e.Network); renewed {
		return nil
	}
	if e.earned() {
		bits := 16
		if network.Addr().Is6() {
			bits = 32
		}
		around := netip.PrefixFrom(network.Addr(), min(bits, network.Bits())).Masked()
		for _, quota := range []struct {
			netip.Prefix
			most int
		}{{network, MostInNetwork}, {around, MostInRange}} {
			var inside []Exception
			for _, x := range kept.Subnets(quota.Prefix) {
				if x.earned() {
					inside = append(inside, *x)
				}
			}
			if len(inside) >= quota.most {
				return oldest(inside, len(inside)-quota.most+1)
			}
		}
	}
	if n := kept.Size(); n >= MostExceptions {
		// Some more, so that not each further one looks through all of them.
		return oldest(kept.List(), n-MostExceptions+MostExceptions/100)
	}
	return nil
}

// oldest are the n oldest exceptions, those that were not earned last.
func oldest(all []Exception, n int) []Exception {
	slices.SortFunc(all, func(a, b Exception) int {
		if a.earned() != b.earned() {
			if a.earned() {
				return -1
			}
			return 1
		}
		return a.Set.Compare(b.Set)
	})
	return all[:n]
}

// earned reports whether a host can bring the exception about by what it does.
func (e *Exception) earned() bool { return e.Cause == RequiresTLS || e.Cause == BrokenTLS }

// MostNote is the longest note of an override, in bytes.
const MostNote = 1000

// Printable is a text with what a terminal would obey, or break a line at, replaced.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
