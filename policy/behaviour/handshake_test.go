package behaviour

import (
	"net/netip"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

var (
	now  = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	host = netip.MustParsePrefix("192.0.2.7/32")
)

// failing is a host's handshakes that fail, each at a time, and whether an exception follows.
type failing []struct {
	at       time.Duration
	excepted bool
}

func (f failing) check(t *testing.T, h *Handshakes) {
	t.Helper()
	for i, step := range f {
		at := now.Add(step.at)
		e, ok := h.Failed(host, at)
		if ok != step.excepted {
			t.Fatalf("step %d, after %s: an exception %v, want %v", i, step.at, ok, step.excepted)
		}
		if !ok {
			continue
		}
		want := policy.Exception{Network: host, Cause: policy.BrokenTLS, Note: "3 TLS handshakes failed", Set: at, Until: at.Add(24 * time.Hour)}
		if e != want {
			t.Errorf("step %d: %+v, want %+v", i, e, want)
		}
	}
}

func TestThreeFailedHandshakesWithinADayAreAnException(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		name  string
		steps failing
	}{
		{"three within an hour", failing{{0, false}, {20 * time.Minute, false}, {40 * time.Minute, true}}},
		{"three within a day to the second", failing{{0, false}, {time.Hour, false}, {day, true}}},
		{"three within a day and a second", failing{{0, false}, {time.Hour, false}, {day + time.Second, false}}},
		{"three in three days", failing{{0, false}, {20 * time.Hour, false}, {40 * time.Hour, false}, {60 * time.Hour, false}}},
		{"two lines of the log about one", failing{{0, false}, {time.Second, false}, {time.Minute, false}, {time.Minute + 2*time.Second - 1, false}, {time.Hour, true}}},
		{"two seconds apart are two", failing{{0, false}, {2 * time.Second, false}, {4 * time.Second, true}}},
		{"one more renews it within the day", failing{{0, false}, {time.Hour, false}, {2 * time.Hour, true}, {3 * time.Hour, true}}},
		{"when it has ended, it takes three again", failing{{0, false}, {1 * time.Hour, false}, {2 * time.Hour, true}, {27 * time.Hour, false}, {28 * time.Hour, false}, {29 * time.Hour, true}}},
		{"in the order of a log that is read late", failing{{2 * time.Hour, false}, {time.Hour, false}, {0, true}}},
		{"the clock was a year ahead for a while", failing{{0, false}, {365 * day, false}, {time.Hour, false}, {2 * time.Hour, false}, {3 * time.Hour, true}}},
	} {
		t.Run(c.name, func(t *testing.T) { c.steps.check(t, NewHandshakes()) })
	}
}

func TestAHandshakeThatSucceedsEndsTheCount(t *testing.T) {
	h := NewHandshakes()
	failing{{0, false}, {time.Hour, false}}.check(t, h)
	h.Worked(netip.MustParsePrefix("192.0.2.8/32"))
	h.Worked(host)
	failing{{2 * time.Hour, false}, {3 * time.Hour, false}, {4 * time.Hour, true}}.check(t, h)
}

func TestOneHostsFailuresAreNotAnothers(t *testing.T) {
	h := NewHandshakes()
	failing{{0, false}, {time.Hour, false}}.check(t, h)
	if _, ok := h.Failed(netip.MustParsePrefix("192.0.2.8/32"), now.Add(2*time.Hour)); ok {
		t.Error("an exception for the neighbour")
	}
}

func TestWhoLeftMayRequireTLSForAWeek(t *testing.T) {
	got := Left(host, now.Add(time.Millisecond))
	want := policy.Exception{
		Network: host, Cause: policy.RequiresTLS, Note: "left without a message when STARTTLS was withheld",
		Set: now, Until: now.Add(7 * 24 * time.Hour),
	}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
