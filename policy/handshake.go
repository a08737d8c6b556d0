package policy

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"
)

// Cause is what was noticed of a host, so that the daemon itself set an override; empty for the operator's own.
type Cause string

// The causes.
const (
	// RequiresTLS is a host that left without a message when it was not offered STARTTLS.
	RequiresTLS Cause = "requires-tls"
	// BrokenTLS is a host whose TLS handshakes fail again and again.
	BrokenTLS Cause = "broken-tls"
)

const (
	// brokenAfter is how many failed handshakes within brokenWithin make a host one whose TLS is broken, and for how long that is so.
	brokenAfter  = 3
	brokenWithin = 24 * time.Hour
	brokenFor    = 24 * time.Hour
	// requiresFor is how long a host that left without STARTTLS is offered it. MTA-STS policies live for weeks.
	requiresFor = 7 * 24 * time.Hour
	// sameFailure is how long one failed handshake is told of: the MTA's log has two lines of it.
	sameFailure = 2 * time.Second
	// troubledMost bounds the hosts whose failures are counted.
	troubledMost = 100_000
	// MarksMost bounds the marks of all hosts.
	MarksMost = 10_000
)

// Handshakes notices how hosts get along with STARTTLS. It is bounded.
type Handshakes struct {
	failed *otter.Cache[netip.Prefix, *failures]
}

type failures struct {
	sync.Mutex
	n    int
	last time.Time
}

// NewHandshakes returns one that has noticed nothing.
func NewHandshakes() *Handshakes {
	return &Handshakes{otter.Must(&otter.Options[netip.Prefix, *failures]{
		MaximumSize: troubledMost, ExpiryCalculator: otter.ExpiryWriting[netip.Prefix, *failures](brokenWithin + brokenFor),
	})}
}

// Failed takes a handshake of a host that failed at a time. It returns the mark that follows, if one does. When a mark has ended, one more failure is enough for another.
func (h *Handshakes) Failed(host netip.Prefix, at time.Time) (mark Override, ok bool) {
	f, _ := h.failed.SetIfAbsent(host, &failures{})
	f.Lock()
	defer f.Unlock()
	since := at.Sub(f.last)
	switch {
	case since.Abs() < sameFailure:
		return mark, false
	case since > brokenWithin+brokenFor:
		f.n = 0
	}
	f.n++
	if at.After(f.last) {
		f.last = at
	}
	if f.n < brokenAfter {
		return mark, false
	}
	n := f.n
	f.n = brokenAfter - 1
	return Override{
		Network: host, Cause: BrokenTLS, Set: at.UTC().Truncate(time.Second), Until: at.Add(brokenFor).UTC().Truncate(time.Second),
		Note: fmt.Sprintf("%d TLS handshakes failed", n),
	}, true
}

// Worked takes a handshake of a host that was well: what failed before was not the host's fault, or is mended.
func (h *Handshakes) Worked(host netip.Prefix) { h.failed.Invalidate(host) }

// Left takes a host that left without a message when it was not offered STARTTLS, and returns the mark that follows.
func (h *Handshakes) Left(host netip.Prefix, at time.Time) Override {
	return Override{
		Network: host, Allow: true, Cause: RequiresTLS, Set: at.UTC().Truncate(time.Second), Until: at.Add(requiresFor).UTC().Truncate(time.Second),
		Note: "left without a message when STARTTLS was withheld",
	}
}
