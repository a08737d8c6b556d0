package policy

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy/reputation"
)

var troubled = netip.MustParsePrefix("192.0.2.7/32")

func TestThreeFailedHandshakesAreBrokenTLS(t *testing.T) {
	h := NewHandshakes()
	for i, step := range []struct {
		at     time.Duration
		marked bool
	}{
		{0, false},
		{time.Second, false}, // the log's second line of the same
		{20 * time.Minute, false},
		{40 * time.Minute, true},
		{26 * time.Hour, true}, // the mark has ended, and it fails again
		{200 * time.Hour, false},
		{201 * time.Hour, false},
	} {
		m, ok := h.Failed(troubled, now.Add(step.at))
		if ok != step.marked {
			t.Fatalf("step %d: marked %v", i, ok)
		}
		if ok && (m.Allow || m.Cause != BrokenTLS || m.Network != troubled || !m.Ended(m.Set.Add(brokenFor)) || m.Ended(m.Set)) {
			t.Errorf("step %d: %+v", i, m)
		}
	}
	h.Worked(troubled)
	if _, ok := h.Failed(troubled, now.Add(202*time.Hour)); ok {
		t.Error("failures before a handshake that was well count")
	}
}

func TestMarks(t *testing.T) {
	h := NewHandshakes()
	broken := Override{Network: troubled, Cause: BrokenTLS, Set: now, Until: now.Add(time.Hour), Note: "3 TLS handshakes failed"}
	requires := h.Left(troubled, now)
	deny := Override{Network: netip.MustParsePrefix("192.0.2.0/24")}
	for _, c := range []struct {
		name     string
		mode     Mode
		known    Known
		at       time.Duration
		withheld bool
		why      string
	}{
		{"broken TLS is spared it", Protect, Known{Mark: broken, Marked: true}, 0, true, "3 TLS handshakes failed: withheld until"},
		{"in observe it is not", Observe, Known{Mark: broken, Marked: true}, 0, false, "3 TLS handshakes failed"},
		{"for a while", Protect, Known{Mark: broken, Marked: true}, time.Hour, false, "tier unknown"},
		{"a good client's, too", Earn, Known{Host: evidence(0, 9), Mark: broken, Marked: true}, 0, true, "3 TLS"},
		{"who requires TLS is offered it", Earn, Known{Mark: requires, Marked: true}, 0, false, "it left without a message when STARTTLS was withheld"},
		{"also among bad neighbours", Protect, Known{Network: evidence(40, 0), Mark: requires, Marked: true}, 0, false, "may require TLS"},
		{"not when its own mail is bad", Protect, Known{Host: evidence(9, 0), Mark: requires, Marked: true}, 0, true, "tier bad"},
		{"not for ever", Earn, Known{Mark: requires, Marked: true}, requiresFor, true, "tier unknown"},
		{"the operator's word goes first", Protect, Known{Mark: requires, Marked: true, Override: deny, Overridden: true}, 0, true, "operator's deny"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Default()
			p.Mode = c.mode
			d := New(p).Decide(troubled.Addr(), c.known, now.Add(c.at))
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
