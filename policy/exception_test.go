package policy

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy/reputation"
)

var excepted = netip.MustParsePrefix("192.0.2.7/32")

func TestExceptions(t *testing.T) {
	broken := &Exception{Network: excepted, Cause: BrokenTLS, Set: now, Until: now.Add(time.Hour), Note: "3 TLS handshakes failed"}
	const week = 7 * 24 * time.Hour
	requires := &Exception{Network: excepted, Cause: RequiresTLS, Set: now, Until: now.Add(week), Note: "left without a message when STARTTLS was withheld"}
	own := &Exception{Network: excepted, Cause: OwnUser, Set: now, Until: now.Add(week), Note: "a user of this host logged in"}
	deny := &Override{Network: netip.MustParsePrefix("192.0.2.0/24")}
	for _, c := range []struct {
		name     string
		mode     Mode
		known    Known
		at       time.Duration
		withheld bool
		why      string
	}{
		{"broken TLS is spared it", Protect, Known{Exception: broken}, 0, true, "3 TLS handshakes failed: withheld until"},
		{"in observe it is not", Observe, Known{Exception: broken}, 0, false, "3 TLS handshakes failed"},
		{"for a while", Protect, Known{Exception: broken}, time.Hour, false, "tier unknown"},
		{"a good client's, too", Earn, Known{Host: evidence(0, 9), Exception: broken}, 0, true, "3 TLS"},
		{"who requires TLS is offered it", Earn, Known{Exception: requires}, 0, false, "it left without a message when STARTTLS was withheld"},
		{"also among bad neighbours", Protect, Known{Network: evidence(40, 0), Exception: requires}, 0, false, "may require TLS"},
		{"not when its own mail is bad", Protect, Known{Host: evidence(9, 0), Exception: requires}, 0, true, "tier bad"},
		{"a user of our own is offered it, whatever the mail of the address", Protect, Known{Host: evidence(9, 0), Exception: own}, 0, false, "a user of this host logged in: offered until"},
		{"not for ever", Earn, Known{Exception: requires}, week, true, "tier unknown"},
		{"the operator's override goes first", Protect, Known{Exception: requires, Override: deny}, 0, true, "operator's deny"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Default()
			p.Mode = c.mode
			d := New(p).Decide(excepted.Addr(), c.known, now.Add(c.at))
			if d.Withhold != c.withheld || !strings.Contains(d.Why(), c.why) {
				t.Errorf("withheld %v: %s", d.Withhold, d.Why())
			}
		})
	}
}

func evidence(spam, ham float64) reputation.Evidence {
	e, _ := reputation.Evidence{}.Add(now, spam, ham)
	return e
}

// TestAnExceptionMadeByAWrongClockEnds when the clock is right.
func TestAnExceptionMadeByAWrongClockEnds(t *testing.T) {
	for until, ended := range map[time.Duration]bool{
		0: true, 1: false, LongestException: false, LongestException + 1: true, 36 * 365 * 24 * time.Hour: true, -time.Hour: true,
	} {
		if e := (Exception{Until: now.Add(until)}); e.Ended(now) != ended {
			t.Errorf("until %s from now: ended %v", until, !ended)
		}
	}
}
