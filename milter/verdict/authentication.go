package verdict

import (
	"strings"

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
const maxResults = 64 << 10

// add reads one header; ok is false when not all of it could be read.
func (a *authentication) add(authservID, value string) (ok bool) {
	if a.closed {
		return true
	}
	if len(value) > maxResults {
		return false
	}
	h := parseAuthResults(value)
	// Some write a queue id behind theirs.
	if id, _, _ := strings.Cut(h.id, "/"); !strings.EqualFold(id, authservID) {
		return !h.odd
	}
	for _, r := range h.results {
		if known, ok := results[r.result]; ok {
			r.result = known
		} else {
			continue
		}
		if h.odd && r.result == pass {
			// It could be the sender's.
			continue
		}
		switch r.method {
		case "spf":
			worst(&a.SPF, &a.SPFDomain, r.result, r.domain("smtp.mailfrom", "smtp.mfrom", "smtp.mail", "smtp.helo"))
		case "dkim":
			best(&a.DKIM, &a.DKIMDomain, r.result, r.domain("header.d", "header.i"))
		case "dmarc":
			worst(&a.DMARC, &a.DMARCDomain, r.result, r.domain("header.from"))
		}
	}
	return !h.odd
}

// domain is that of the first property that has one.
func (r *authResult) domain(properties ...string) string {
	for _, p := range properties {
		if d := domainOf(r.properties[p]); d != "" {
			return d
		}
	}
	return ""
}

// The results that are told apart, RFC 8601 section 2.7.
const (
	pass = "pass"
	fail = "fail"
)

// results are the results of RFC 8601 section 2.7, and what some filters write for them.
var results = map[string]string{
	pass: pass, fail: fail, "none": "none", "neutral": "neutral", "softfail": "softfail", "policy": "policy",
	"permerror": "permerror", "temperror": "temperror", "hardfail": "hardfail", "tmperror": "temperror", "timeout": "temperror",
}

// rank orders results from the best to the worst; what is not known is as none.
func rank(result string) int {
	switch result {
	case pass:
		return 1
	case "softfail", "policy", "permerror", "hardfail":
		return 3
	case fail:
		return 4
	}
	return 2
}

func worst(have, haveDomain *string, result, domain string) {
	if *have == "" || rank(result) > rank(*have) {
		*have, *haveDomain = result, domain
	}
}

// best is for DKIM: of several signatures one that passes is enough (RFC 6376 section 6.1).
func best(have, haveDomain *string, result, domain string) {
	if *have == "" || rank(result) < rank(*have) {
		*have, *haveDomain = result, domain
	}
}

// domainOf is the domain of a mail address, a domain or an identity "@domain".
func domainOf(s string) string {
	s = strings.Trim(s, "<> ")
	s = s[strings.LastIndexByte(s, '@')+1:]
	if len(s) > 255 || strings.ContainsAny(s, " \t;=,\"()<>") {
		return ""
	}
	if s = strings.ToLower(strings.TrimSuffix(Clip(s), ".")); s == "none" {
		return ""
	}
	// Not a part of a header that would be held as long.
	return strings.Clone(s)
}

// assessment is what a failed DMARC says.
func (a *authentication) assessment() (v policy.Assessment, ok bool) {
	if a.DMARC != fail {
		return v, false
	}
	return policy.Assessment{Class: policy.Spam, Confidence: policy.Certain, Source: policy.FromAuthentication, Reason: "dmarc=fail header.from=" + a.DMARCDomain}, true
}
