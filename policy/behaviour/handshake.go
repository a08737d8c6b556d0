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
	// brokenAfter is how many failed handshakes within brokenWithin make an exception of a host. It
	// lasts brokenFirst, and brokenTimes as long each further time, up to brokenMost: whoever is on
	// the path can break a handshake, and would take TLS from the host for that long.
	brokenAfter  = 3
	brokenWithin = 24 * time.Hour
	brokenFirst  = time.Hour
	brokenTimes  = 4
	brokenMost   = 24 * time.Hour
	// worksFor is how long a host is not believed to have broken TLS after a handshake that
	// succeeded.
	worksFor = 7 * 24 * time.Hour
	// requiresFor is how long a host that left without STARTTLS is offered it. MTA-STS policies
	// live for weeks (RFC 8461 section 3.2).
	requiresFor = policy.LongestException
	// sameFailure is how far apart two lines of the MTA's log are that are about two failures: it
	// has two lines of each.
	sameFailure = 2 * time.Second
	// mostFailing bounds the hosts whose failures are counted, mostWorking those whose successes
	// are remembered.
	mostFailing, mostWorking = 100_000, 200_000
)

// Handshakes notices how hosts get along with STARTTLS.
type Handshakes struct {
	failed *otter.Cache[netip.Prefix, *failures]
	worked *otter.Cache[netip.Prefix, time.Time]
}

// failures are the times of the last failed handshakes of a host, the oldest first, and how long
// the last exception of it lasted.
type failures struct {
	sync.Mutex
	times  []time.Time
	lasted time.Duration
}

// NewHandshakes returns an empty memory of handshakes.
func NewHandshakes() *Handshakes {
	return &Handshakes{bounded[netip.Prefix, *failures](mostFailing), bounded[netip.Prefix, time.Time](mostWorking)}
}

// Failed takes a handshake of a host that failed at a time. If it is the third within a day, and
// none has succeeded lately, ok is true and e is the exception that follows.
func (h *Handshakes) Failed(host netip.Prefix, at time.Time) (e policy.Exception, ok bool) {
	if worked, ok := h.worked.GetIfPresent(host); ok && within(at, worked, worksFor) {
		return e, false
	}
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
	f.lasted = min(max(brokenFirst, brokenTimes*f.lasted), brokenMost)
	return exception(host, policy.BrokenTLS, note, at, f.lasted), true
}

// Worked takes a handshake of a host that succeeded at a time: what failed before was not the
// host's fault, or was repaired, and what fails next may be somebody else's.
func (h *Handshakes) Worked(host netip.Prefix, at time.Time) {
	h.failed.Invalidate(host)
	h.worked.Set(host, at)
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
