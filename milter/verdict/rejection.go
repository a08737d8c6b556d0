package verdict

import (
	"fmt"
	"strings"

	"github.com/ehlogate/ehlogate/policy"
)

// Rejection is a recipient that the MTA refused, as Postfix tells of it to milters that ask for rejected recipients: the macros
// {rcpt_host} and {rcpt_addr} beside an {rcpt_mailer} of "error"; or as it is in the log.
type Rejection struct {
	// Status is the enhanced status code, RFC 3463, such as 5.1.1.
	Status string
	// Text is the MTA's reply without the address.
	Text string
}

// RejectedMailer is the {rcpt_mailer} of a rejected recipient.
const RejectedMailer = "error"

// Verdict is what a refused recipient says of its client. An unknown user says nothing by itself; Harvest counts them.
func (r Rejection) Verdict() policy.Verdict {
	v := policy.Verdict{Class: policy.Spam, Source: r.source(), Reason: Clip(r.Status + " " + r.Text)}
	switch v.Source {
	case policy.FromUnknownUser, policy.FromGreylist, policy.FromTempfail:
		v.Class = policy.None
	}
	if v.Source == policy.FromRecipient && !strings.HasPrefix(r.Status, "5.7.") {
		v.Class = policy.None
	}
	return v
}

func (r Rejection) source() policy.Source {
	text := strings.ToLower(r.Text)
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(text, w) {
				return true
			}
		}
		return false
	}
	switch {
	case has("greylist", "graylist"):
		return policy.FromGreylist
	case has("relay access denied", "relaying denied"):
		return policy.FromRelay
	case has("improper use of smtp command pipelining"):
		return policy.FromPipelining
	case has("too many recipients", "too many connections", "too many errors", "too much mail", "too many messages", "rate limit"):
		return policy.FromLimit
	case strings.HasPrefix(r.Status, "4"):
		return policy.FromTempfail
	case has("blocked using"):
		return policy.FromDNSBL
	case strings.HasPrefix(r.Status, "5.1."):
		return policy.FromUnknownUser
	}
	return policy.FromRecipient
}

// Rejections collects the refused recipients of a message: one verdict a source, the first of each.
type Rejections struct {
	said    []policy.Verdict
	unknown int
	harvest float64
}

// Add takes a refused recipient; harvest is what Harvest.Count made of an unknown one.
func (r *Rejections) Add(of Rejection, harvest float64) {
	v := of.Verdict()
	if v.Source == policy.FromUnknownUser {
		r.unknown++
		r.harvest += harvest
	}
	for _, old := range r.said {
		if old.Source == v.Source {
			return
		}
	}
	r.said = append(r.said, v)
}

// Said is what they say.
func (r *Rejections) Said() []policy.Verdict {
	for i, v := range r.said {
		if v.Source == policy.FromUnknownUser {
			r.said[i] = UnknownUsers(v, r.unknown, r.harvest)
		}
	}
	return r.said
}

// UnknownUsers is the verdict of some unknown users, given that of the first.
func UnknownUsers(first policy.Verdict, n int, harvest float64) policy.Verdict {
	v := first
	if n > 1 {
		v.Reason = fmt.Sprintf("%d unknown users: %s", n, v.Reason)
	}
	if harvest > 0 {
		v.Class, v.Weight = policy.Spam, min(harvest, 1)
	}
	return v
}
