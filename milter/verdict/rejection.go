package verdict

import (
	"fmt"
	"strings"

	"github.com/ehlogate/ehlogate/policy"
)

// Rejection is a recipient that the MTA refused, as Postfix tells of it to milters that ask for
// rejected recipients: the macros {rcpt_host} and {rcpt_addr} beside an {rcpt_mailer} of "error";
// or as it is in the log.
type Rejection struct {
	// Status is the enhanced status code, RFC 3463, such as 5.1.1.
	Status string
	// Text is the MTA's reply without the address.
	Text string
}

// RejectedMailer is the {rcpt_mailer} of a rejected recipient.
const RejectedMailer = "error"

// Assessment is what a refused recipient says of its client. An unknown user says nothing by
// itself; behaviour.Clients counts them.
func (r Rejection) Assessment() policy.Assessment {
	a := policy.Assessment{Class: policy.Spam, Confidence: policy.Certain, Source: r.source(), Reason: Clip(r.Status + " " + r.Text)}
	switch a.Source {
	case policy.FromUnknownUser, policy.FromGreylist, policy.FromTempfail:
		a.Class = policy.None
	}
	if a.Source == policy.FromRecipient && !strings.HasPrefix(r.Status, "5.7.") {
		a.Class = policy.None
	}
	return a
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

// Rejections collects the refused recipients of a message: one assessment for each source, the
// first.
type Rejections struct {
	all     []policy.Assessment
	unknown int
	harvest policy.Confidence
}

// Add takes a refused recipient; harvest is what behaviour.Clients made of an unknown one.
func (r *Rejections) Add(of Rejection, harvest policy.Confidence) {
	a := of.Assessment()
	if a.Source == policy.FromUnknownUser {
		r.unknown++
		r.harvest += harvest
	}
	for _, old := range r.all {
		if old.Source == a.Source {
			return
		}
	}
	r.all = append(r.all, a)
}

// Assessments are what they say.
func (r *Rejections) Assessments() []policy.Assessment {
	for i, a := range r.all {
		if a.Source == policy.FromUnknownUser {
			r.all[i] = UnknownUsers(a, r.unknown, r.harvest)
		}
	}
	return r.all
}

// UnknownUsers is the assessment of some unknown users, given that of the first.
func UnknownUsers(first policy.Assessment, n int, harvest policy.Confidence) policy.Assessment {
	a := first
	if n > 1 {
		a.Reason = fmt.Sprintf("%d unknown users: %s", n, a.Reason)
	}
	if harvest > 0 {
		a.Class, a.Confidence = policy.Spam, min(harvest, policy.Certain)
	}
	return a
}
