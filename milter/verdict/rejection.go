package verdict

import (
	"fmt"
	"strings"

	"github.com/ehlogate/ehlogate/policy"
)

// Rejection is a recipient that the MTA refused, as Postfix tells of it to milters that ask for rejected recipients: the macros
// {rcpt_host} and {rcpt_addr} beside an {rcpt_mailer} of "error".
type Rejection struct {
	// Status is the enhanced status code, RFC 3463, such as 5.1.1.
	Status string
	// Text is the MTA's reply without the address.
	Text string
}

// RejectedMailer is the {rcpt_mailer} of a rejected recipient.
const RejectedMailer = "error"

// harvest is how many unknown users in one message are no longer a typo.
const harvest = 3

// Rejections is what the rejected recipients of a message say of its client: a DNSBL's or a policy's refusal is spam; one unknown user is
// a typo, from three on a harvest; relaying denied is a misconfiguration as often as a probe; a temporary refusal, greylisting above
// all, says nothing.
func Rejections(rejected []Rejection) policy.Verdict {
	v := policy.Verdict{Class: policy.None}
	unknown := 0
	for _, r := range rejected {
		class, source := r.classify()
		if source == sourceUnknownUser {
			if unknown++; unknown >= harvest {
				class = policy.Spam
			}
		}
		if v.Reason == "" || class == policy.Spam && v.Class != policy.Spam {
			v = policy.Verdict{Class: class, Source: source, Reason: clip(r.Status + " " + r.Text)}
		}
	}
	if unknown >= harvest && v.Source == sourceUnknownUser {
		v.Reason = fmt.Sprintf("%d unknown users: %s", unknown, v.Reason)
	}
	return v
}

const sourceUnknownUser = "unknown-user"

func (r Rejection) classify() (policy.Class, string) {
	text := strings.ToLower(r.Text)
	switch {
	case strings.Contains(text, "greylist") || strings.Contains(text, "graylist"):
		return policy.None, "greylist"
	case strings.Contains(text, "relay access denied"):
		return policy.None, "relay"
	case strings.HasPrefix(r.Status, "4"):
		return policy.None, "tempfail"
	case strings.Contains(text, "blocked using"):
		return policy.Spam, "dnsbl"
	case strings.HasPrefix(r.Status, "5.1."):
		return policy.None, sourceUnknownUser
	case strings.HasPrefix(r.Status, "5.7."):
		return policy.Spam, "rcpt"
	}
	return policy.None, "rcpt"
}
