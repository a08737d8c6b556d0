package behaviour

import (
	"net/netip"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/ehlogate/ehlogate/policy"
)

const (
	// requiresAfter is how many departures within requiresWithin, each departuresApart after the
	// one before, show that a host requires TLS: a mail server comes again, and leaves again.
	requiresAfter   = 2
	requiresWithin  = 24 * time.Hour
	departuresApart = 10 * time.Second
	// stubbornAfter, stubbornApart and stubbornFor are the same for a host of which there is only
	// bad to tell, or of whose network: a queue that is tried again for hours. Drones that only say
	// EHLO come at once or not at all.
	stubbornAfter = 6
	stubbornApart = 10 * time.Minute
	stubbornFor   = 6 * time.Hour
	// mostLeaving bounds the hosts whose departures are counted.
	mostLeaving = 100_000
)

// Departures notices hosts that leave again and again because they are not offered STARTTLS.
type Departures struct {
	hosts *otter.Cache[netip.Prefix, *departures]
}

// departures are those of a host that were counted: the times of the first and the last, and how
// many.
type departures struct {
	sync.Mutex
	first, last time.Time
	n           int
}

// NewDepartures returns an empty memory of departures.
func NewDepartures() *Departures {
	return &Departures{bounded[netip.Prefix, *departures](mostLeaving)}
}

// Left takes a host that left without a message at a time because it was not offered STARTTLS.
// suspicious says that it, or its network, has sent only spam. If the host came for it often
// enough, ok is true and e is the exception that follows.
func (d *Departures) Left(host netip.Prefix, at time.Time, suspicious bool) (e policy.Exception, ok bool) {
	h, _ := d.hosts.SetIfAbsent(host, &departures{})
	h.Lock()
	defer h.Unlock()
	apart := departuresApart
	if suspicious {
		apart = stubbornApart
	}
	switch since := at.Sub(h.last); {
	case h.n == 0, since > requiresWithin, since < -requiresWithin:
		h.first, h.last, h.n = at, at, 1
	case since.Abs() >= apart:
		h.last = at
		h.n++
	default:
		return e, false
	}
	if h.n < requiresAfter || suspicious && (h.n < stubbornAfter || at.Sub(h.first) < stubbornFor) {
		return e, false
	}
	d.hosts.Invalidate(host)
	return exception(host, policy.RequiresTLS, "left again and again without a message when STARTTLS was withheld", at, requiresFor), true
}
