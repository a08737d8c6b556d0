package behaviour

import (
	"net/netip"
	"slices"
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
		want := policy.Exception{Network: host, Cause: policy.BrokenTLS, Note: "3 TLS handshakes failed", Set: at, Until: e.Until}
		if e != want || !e.Until.After(at) {
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

// TestAHandshakeThatSucceededLatelyProtects: whoever is on the path can break the next ones.
func TestAHandshakeThatSucceededLatelyProtects(t *testing.T) {
	h := NewHandshakes()
	failing{{0, false}, {time.Hour, false}}.check(t, h)
	h.Worked(netip.MustParsePrefix("192.0.2.8/32"), now.Add(time.Hour))
	h.Worked(host, now.Add(time.Hour))
	failing{{2 * time.Hour, false}, {3 * time.Hour, false}, {4 * time.Hour, false}, {5 * time.Hour, false}}.check(t, h)
	const week = 7 * 24 * time.Hour
	failing{{week + 2*time.Hour, false}, {week + 3*time.Hour, false}, {week + 4*time.Hour, true}}.check(t, h)
}

// TestAnExceptionForBrokenTLSLastsAnHourAtFirst, and longer each time that it follows on.
func TestAnExceptionForBrokenTLSLastsAnHourAtFirst(t *testing.T) {
	h := NewHandshakes()
	at := now
	for i, want := range []time.Duration{0, 0, time.Hour, 4 * time.Hour, 16 * time.Hour, 24 * time.Hour, 24 * time.Hour} {
		e, ok := h.Failed(host, at)
		if got := e.Until.Sub(e.Set); ok != (want > 0) || got != want {
			t.Errorf("failure %d: an exception %t for %s, want %s", i+1, ok, got, want)
		}
		at = at.Add(10 * time.Minute)
	}
}

func TestOneHostsFailuresAreNotAnothers(t *testing.T) {
	h := NewHandshakes()
	failing{{0, false}, {time.Hour, false}}.check(t, h)
	if _, ok := h.Failed(netip.MustParsePrefix("192.0.2.8/32"), now.Add(2*time.Hour)); ok {
		t.Error("an exception for the neighbour")
	}
}

func TestWhoLeavesAgainAndAgainMayRequireTLSForAWeek(t *testing.T) {
	for _, c := range []struct {
		name       string
		suspicious bool
		// at are departures, in minutes; the last is the first that counts, where one does.
		at   []float64
		want bool
	}{
		{"once", false, []float64{0}, false},
		{"twice at the same moment", false, []float64{0, 0.1}, false},
		{"twice", false, []float64{0, 1}, true},
		{"twice, a day and more apart", false, []float64{0, 25 * 60}, false},
		{"twice, the clock stepped back between", false, []float64{10, 0}, true},
		{"of a network of spam, twice", true, []float64{0, 1}, false},
		{"of a network of spam, a hundred times within minutes", true, slices.Repeat([]float64{0, 1, 2, 3, 4}, 20), false},
		{"of a network of spam, for hours", true, []float64{0, 20, 60, 120, 240, 420}, true},
		{"of a network of spam, too few", true, []float64{0, 60, 120, 420}, false},
	} {
		d := NewDepartures()
		var e policy.Exception
		var ok bool
		for i, m := range c.at {
			e, ok = d.Left(host, now.Add(time.Duration(m*float64(time.Minute))), c.suspicious)
			if ok && i < len(c.at)-1 {
				t.Errorf("%s: an exception after %d", c.name, i+1)
			}
		}
		if ok != c.want || ok && (e.Cause != policy.RequiresTLS || e.Until.Sub(e.Set) != 7*24*time.Hour) {
			t.Errorf("%s: %t, %+v", c.name, ok, e)
		}
	}
}
