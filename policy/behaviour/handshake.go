package behaviour

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/ehlogate/ehlogate/policy"
)

const (
	// brokenAfter is how many failed handshakes within brokenWithin make an exception of a host,
	// and brokenFor how long that lasts.
	brokenAfter  = 3
	brokenWithin = 24 * time.Hour
	brokenFor    = 24 * time.Hour
	// requiresFor is how long a host that left without STARTTLS is offered it. MTA-STS policies
	// live for weeks (RFC 8461 section 3.2).
	requiresFor = policy.LongestException
	// sameFailure is how far apart two lines of the MTA's log are that are about two failures: it
	// has two lines of each.
	sameFailure = 2 * time.Second
	// mostFailing bounds the hosts whose failures are counted.
	mostFailing = 100_000
)

// Handshakes notices how hosts get along with STARTTLS.
type Handshakes struct {
	failed *otter.Cache[netip.Prefix, *failures]
}

// failures are the times of the last failed handshakes of a host, the oldest first.
type failures struct {
	sync.Mutex
	times []time.Time
}

// NewHandshakes returns an empty memory of handshakes.
func NewHandshakes() *Handshakes {
	return &Handshakes{bounded[netip.Prefix, *failures](mostFailing)}
}

// Failed takes a handshake of a host that failed at a time. If it is the third within a day, ok is
// true and e is the exception that follows.
func (h *Handshakes) Failed(host netip.Prefix, at time.Time) (e policy.Exception, ok bool) {
	f, _ := h.failed.SetIfAbsent(host, &failures{})
	f.Lock()
	defer f.Unlock()
	if slices.ContainsFunc(f.times, func(t time.Time) bool { return at.Sub(t).Abs() < sameFailure }) {
		return e, false
	}
	f.times = slices.DeleteFunc(f.times, func(t time.Time) bool { return !within(at, t, brokenWithin) })
	f.times = append(f.times, at)
	if len(f.times) < brokenAfter {
		return e, false
	}
	note := fmt.Sprintf("%d TLS handshakes failed", len(f.times))
	// One more failure within the day renews the exception.
	f.times = slices.Delete(f.times, 0, len(f.times)-brokenAfter+1)
	return exception(host, policy.BrokenTLS, note, at, brokenFor), true
}

// Worked takes a handshake of a host that succeeded: what failed before was not the host's fault,
// or was repaired.
func (h *Handshakes) Worked(host netip.Prefix) { h.failed.Invalidate(host) }

// Left returns the exception for a host that left without a message at a time because it was not
// offered STARTTLS.
func Left(host netip.Prefix, at time.Time) policy.Exception {
	return exception(host, policy.RequiresTLS, "left without a message when STARTTLS was withheld", at, requiresFor)
}

// Demanded returns the exception for a host of which the MTA demanded TLS at a time when it was not
// offered STARTTLS: what the MTA refuses because of us comes in with the next try.
func Demanded(host netip.Prefix, at time.Time) policy.Exception {
	return exception(host, policy.TLSDemanded, "a message was refused for want of TLS when STARTTLS was withheld", at, requiresFor)
}

// User returns the exception for a host at which a user of the operator's own was seen at a time.
func User(host netip.Prefix, note string, at time.Time) policy.Exception {
	return exception(host, policy.OwnUser, note, at, policy.LongestException)
}

func exception(host netip.Prefix, cause policy.Cause, note string, at time.Time, lasts time.Duration) policy.Exception {
	at = at.UTC().Truncate(time.Second)
	return policy.Exception{Network: host, Cause: cause, Note: note, Set: at, Until: at.Add(lasts)}
}
