package intake

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/ehlogate/ehlogate/policy"
)

// countClient counts an observation by what its client is.
func (in *Intake) countClient(o *policy.Observation) {
	if o.Mail {
		in.Stats.Messages.Add(1)
	}
	if slices.ContainsFunc(o.Verdicts, func(v policy.Verdict) bool { return v.Source == policy.FromHeader }) {
		in.Stats.Headers.Add(1)
	}
	addr := o.Client.Addr
	if !addr.IsValid() || addr.IsLoopback() || o.Submission {
		return
	}
	in.Stats.Observed.Add(1)
	if addr.IsPrivate() || addr.IsLinkLocalUnicast() {
		in.Stats.Private.Add(1)
	}
	switch only := in.only.Load(); {
	case only == nil:
		in.only.CompareAndSwap(nil, &addr)
	case *only != addr:
		in.several.Store(true)
	}
}

// countTold counts a message that no session brought.
func (in *Intake) countTold(o *policy.Observation) {
	if !o.Mail {
		return
	}
	in.Stats.Told.Add(1)
	if o.TLS != nil {
		in.Stats.ToldTLS.Add(1)
	}
}

// Heard counts what was heard since the start: messages, and verdicts of spam and of ham on them.
type Heard struct {
	Messages uint64 `json:"messages"`
	Spam     uint64 `json:"spam"`
	Ham      uint64 `json:"ham"`
	// ResolverRefused counts refusals by DNS block lists that are about our resolver.
	ResolverRefused uint64 `json:"resolver_refused"`
	// Observed counts what was observed of clients other than this host, Private those of private
	// addresses; Only is the client where there was but one.
	Observed uint64     `json:"observed"`
	Private  uint64     `json:"private"`
	Only     netip.Addr `json:"only,omitzero"`
}

// Hidden says why the clients' own addresses do not seem to arrive, or "".
func (h Heard) Hidden() string {
	switch {
	case h.Observed < enoughMessages:
		return ""
	case h.Only.IsValid():
		return fmt.Sprintf("all %d sessions came from %s", h.Observed, h.Only)
	case h.Private == h.Observed:
		return fmt.Sprintf("all %d sessions came from private addresses", h.Observed)
	}
	return ""
}

// Heard is what was heard since the start.
func (in *Intake) Heard() Heard {
	h := Heard{
		Messages: in.Stats.Messages.Load(), Spam: in.Stats.Spam.Load(), Ham: in.Stats.Ham.Load(), ResolverRefused: in.Stats.ResolverRefused.Load(),
		Observed: in.Stats.Observed.Load(), Private: in.Stats.Private.Load(),
	}
	if only := in.only.Load(); only != nil && !in.several.Load() {
		h.Only = *only
	}
	return h
}

// enoughMessages is how many messages it takes until no ham among them is not by chance.
const enoughMessages = 20

// OneSided reports whether there are verdicts of spam and none of ham, among enough messages: a
// client that sends some spam then looks as if it sent nothing else.
func (h Heard) OneSided() bool { return h.Messages >= enoughMessages && h.Spam > 0 && h.Ham == 0 }
