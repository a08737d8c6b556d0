package policy

import (
	"net/netip"
	"time"

	"github.com/ehlogate/ehlogate/policy/reputation"
)

// Outlook is what would change what a client is told of STARTTLS. Zero means that it would not, as far as was looked.
type Outlook struct {
	// Ham and Spam are how many further messages of the kind, sent now, turn the answer.
	Ham, Spam int
	// Wait is how long the client has to send nothing until the answer turns, to a quarter of an hour.
	Wait time.Duration
}

const (
	// outlookMessages and outlookTime are how far ahead Outlook looks.
	outlookMessages = 20
	outlookTime     = reputation.PastWidth * reputation.Pasts
	outlookStep     = 15 * time.Minute
)

// Outlook tries out what would change the decision on an address of which this is known. An exempt or overridden one has none.
func (p *Policy) Outlook(addr netip.Addr, known Known, now time.Time) (o Outlook) {
	d := p.Decide(addr, known, now)
	if d.Exempt || d.Override != nil {
		return Outlook{}
	}
	turned := func(k Known, at time.Time) bool { return p.Decide(addr, k, at).Would != d.Would }
	further := func(spam, ham float64) int {
		k := known
		for n := 1; n <= outlookMessages; n++ {
			k = p.after(k, Lesson{At: now, Spam: spam, Ham: ham}, now)
			if turned(k, now) {
				return n
			}
		}
		return 0
	}
	o.Ham, o.Spam = further(0, 1), further(1, 0)
	for wait := outlookStep; wait <= outlookTime; wait += outlookStep {
		if turned(known, now.Add(wait)) {
			o.Wait = wait
			break
		}
	}
	return o
}

// after is what would be known of a client after a lesson.
func (p *Policy) after(before Known, l Lesson, now time.Time) Known {
	after := before
	var m reputation.Move
	after.Host, m = before.Host.Add(l.At, l.Spam, l.Ham)
	after.Network, after.AS = before.Network.Apply(m), before.AS.Apply(m)
	after.Host = p.settle(before, after, now)
	return after
}
