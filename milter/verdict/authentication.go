package verdict

import (
	"strings"

	"github.com/emersion/go-msgauth/authres"

	"github.com/ehlogate/ehlogate/policy"
)

// authentication collects what the Authentication-Results (RFC 8601) of the local authserv-id say.
// Filters put theirs at the top of the message, so one below a Received header came with it
// (section 5), and does not count. Of several results of a method the worst counts.
type authentication struct {
	policy.Auth
	closed bool
}

// maxResults bounds a header's value in bytes.
const maxResults = 16 << 10

// add reads one header; ok is false when it cannot be read.
func (a *authentication) add(authservID, value string) (ok bool) {
	if a.closed {
		return true
	}
	if len(value) > maxResults {
		return false
	}
	id, results, err := authres.Parse(value)
	if err != nil || !strings.EqualFold(strings.TrimSpace(id), authservID) {
		return err == nil
	}
	for _, r := range results {
		switch r := r.(type) {
		case *authres.SPFResult:
			domain := r.From
			if domain == "" {
				domain = r.Helo
			}
			worse(&a.SPF, &a.SPFDomain, r.Value, domain)
		case *authres.DKIMResult:
			domain := r.Domain
			if domain == "" {
				domain = r.Identifier
			}
			better(&a.DKIM, &a.DKIMDomain, r.Value, domain)
		case *authres.DMARCResult:
			worse(&a.DMARC, &a.DMARCDomain, r.Value, r.From)
		}
	}
	return true
}

// rank orders results from the best to the worst; what is not known is as none.
func rank(v string) int {
	switch authres.ResultValue(v) {
	case authres.ResultPass:
		return 1
	case authres.ResultSoftFail, authres.ResultPolicy, authres.ResultPermError, authres.ResultHardFail:
		return 3
	case authres.ResultFail:
		return 4
	}
	return 2
}

func worse(have, haveDomain *string, value authres.ResultValue, domain string) {
	if v := word(string(value)); *have == "" || rank(v) > rank(*have) {
		*have, *haveDomain = v, domainOf(domain)
	}
}

// better is for DKIM: of several signatures one that passes is enough (RFC 6376 section 6.1). A
// client cannot make one up here.
func better(have, haveDomain *string, value authres.ResultValue, domain string) {
	if v := word(string(value)); *have == "" || rank(v) < rank(*have) {
		*have, *haveDomain = v, domainOf(domain)
	}
}

// word bounds a result that another program wrote.
func word(s string) string { return Clip(s[:min(len(s), 32)]) }

// domainOf is the domain of a mail address, a domain or an identity "@domain".
func domainOf(s string) string {
	s = Clip(strings.Trim(s, "<> "))
	return strings.ToLower(s[strings.LastIndexByte(s, '@')+1:])
}

// assessment is what a failed DMARC says.
func (a *authentication) assessment() (v policy.Assessment, ok bool) {
	if a.DMARC != string(authres.ResultFail) {
		return v, false
	}
	return policy.Assessment{Class: policy.Spam, Confidence: policy.Certain, Source: policy.FromAuthentication, Reason: "dmarc=fail header.from=" + a.DMARCDomain}, true
}
