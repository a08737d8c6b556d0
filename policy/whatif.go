package policy

import (
	"net/netip"
	"time"

	"github.com/ehlogate/ehlogate/policy/reputation"
)

// WhatIf is what would change the answer about a client. Zero means that nothing would, as far
// ahead as was tried.
type WhatIf struct {
	// Ham and Spam are how many further messages of the kind, sent now, turn the answer.
	Ham, Spam int
	// Wait is how long the client has to send nothing until the answer turns, to a quarter of an
	// hour.
	Wait time.Duration
}

const (
	// whatIfMessages and whatIfTime are how far ahead WhatIf looks.
	whatIfMessages = 20
	whatIfTime     = reputation.PastWidth * reputation.Pasts
	whatIfStep     = 15 * time.Minute
)

// WhatIf tries out what would change the decision on an address of which this is known. For an
// exempt or overridden one it is zero.
func (p *Policy) WhatIf(addr netip.Addr, known Known, now time.Time) (w WhatIf) {
	d := p.Decide(addr, known, now)
	if d.Rule == RuleExempt || d.Rule == RuleOverride {
		return WhatIf{}
	}
	turned := func(k Known, at time.Time) bool { return p.Decide(addr, k, at).Would != d.Would }
	further := func(spam, ham float64) int {
		k := known
		for n := 1; n <= whatIfMessages; n++ {
			k = p.after(k, Lesson{At: now, Spam: spam, Ham: ham}, now)
			if turned(k, now) {
				return n
			}
		}
		return 0
	}
	w.Ham, w.Spam = further(0, 1), further(1, 0)
	for wait := whatIfStep; wait <= whatIfTime; wait += whatIfStep {
		if turned(known, now.Add(wait)) {
			w.Wait = wait
			break
		}
	}
	return w
}

// after is what would be known of a client after a lesson.
func (p *Policy) after(before Known, l Lesson, now time.Time) Known {
	after := before
	var m reputation.Move
	after.Host, m = before.Host.Add(l.At, l.Spam, l.Ham)
	after.Network, after.AS = before.Network.Apply(m), before.AS.Apply(m)
	after.Host = p.tier(before, after, now)
	return after
}
