package policy

import (
	"net/netip"
	"time"
)

// Signal is what something beside the SMTP session says of a message, or of a session without one:
// a log, a feed, a person.
type Signal struct {
	Time time.Time
	// Addr is the client's address, invalid where the signal does not name it; Port is the client's
	// TCP port, 0 where it is not named.
	Addr netip.Addr
	Port uint16
	// QueueID is the message's, empty where it has none.
	QueueID string
	// Group names what several signals of one source are about together, such as the unknown users
	// of a message, of which each signal gives the total so far; empty where there is nothing like
	// that.
	Group string
	// Mail says that the signal is about a message.
	Mail bool
	// Posted says that another program posted it, which may serve several hosts.
	Posted bool
	// FromDomain and HELO are as the client gave them.
	FromDomain, HELO string
	// TLS is what the client used, nil where it used none or the signal does not say; InClear says
	// that it used none.
	TLS     *TLS
	InClear bool
	// Authenticated says that the client logged in.
	Authenticated bool
	// Outcome is what became of the message, empty where the signal does not say.
	Outcome    Outcome
	Trouble    Trouble
	Assessment Assessment
}

// Observation is what a signal tells of a message, or a session, that was not heard itself, given
// the signal's verdict.
func (s Signal) Observation(v Verdict) *Observation {
	o := &Observation{
		Message: Message{
			Time: s.Time, Began: s.Time, QueueID: s.QueueID, Client: Client{Addr: s.Addr, Port: s.Port},
			Mail: s.Mail, Authenticated: s.Authenticated, Trouble: s.Trouble, Verdicts: Verdicts{v}, Verdict: v,
		},
		HELO: s.HELO, STARTTLS: Unasked, TLS: s.TLS, InClear: s.InClear, FromDomain: s.FromDomain, Outcome: s.Outcome,
	}
	if s.TLS != nil {
		o.STARTTLS = Offered
	}
	if o.Outcome == "" {
		o.Outcome = NoMail
		if s.Mail {
			o.Outcome = Accepted
		}
	}
	return o
}

// Reinjection is a message that an after-queue filter has put back into the MTA, as the MTA's log
// tells: QueueID is what it is called then, Original what it was called when its client, Addr, sent
// it. What is said of the one is said of the other.
type Reinjection struct {
	QueueID, Original string
	Addr              netip.Addr
	Port              uint16
}
