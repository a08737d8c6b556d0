// Package verdict reads what filters and the MTA said of a message.
//
// Which header can be trusted? A client can write any header into its own message, at any place: filters add theirs at the end
// (rspamd), at the top, or replace a forged one where it stands (spamass-milter), so no position tells the filter's word from the
// client's. Two rules follow. Within a message the worst reading wins: a forged "No" never hides a "Yes". And the client's copies have to go
// before any filter runs, which Postfix does with header_checks(5): those see the client's headers only, never a milter's. The command
// "setup postfix" writes that table and "check" complains where it is missing.
package verdict

import (
	"strconv"
	"strings"

	"github.com/ehlogate/ehlogate/policy"
)

// DefaultHeaders are the verdict headers read where the configuration names none.
var DefaultHeaders = []string{"X-Spam-Flag", "X-Spam-Status", "X-Spam", "X-Spamd-Result"}

// Rules say which headers count.
type Rules struct {
	// Headers are their names in any case.
	Headers []string
	// Silence is the class of an accepted message of which no header says anything: None, or Ham where the filter writes only
	// what it finds bad, as rspamd does by default.
	Silence policy.Class
}

// Listed reports whether a header's name is among the rules.
func (r Rules) Listed(name string) bool {
	for _, h := range r.Headers {
		if strings.EqualFold(h, name) {
			return true
		}
	}
	return false
}

// maxReason is how much of a header's value is kept as the reason, in bytes.
const maxReason = 200

// Headers collects the verdict headers of one message. The zero value has none.
type Headers struct {
	verdict policy.Verdict
	seen    bool
}

// Add reads one header that the rules list. Of several the worst class counts, and among equals the first that has a score.
func (h *Headers) Add(name, value string) {
	value = strings.Join(strings.Fields(value), " ")
	class, score, ok := parse(strings.ToLower(name), value)
	if !ok {
		return
	}
	worse := class == policy.Spam && h.verdict.Class != policy.Spam
	better := class == h.verdict.Class && h.verdict.Score == 0 && score != 0
	if h.seen && !worse && !better {
		return
	}
	h.seen = true
	reason := name + ": " + value
	if better && h.verdict.Reason != "" {
		reason = h.verdict.Reason
	}
	h.verdict = policy.Verdict{Class: class, Score: score, Source: "header", Reason: clip(reason)}
}

// Verdict is what the headers said; silence where they said nothing.
func (h *Headers) Verdict(silence policy.Class) policy.Verdict {
	switch {
	case h.seen:
		return h.verdict
	case silence == policy.Ham:
		return policy.Verdict{Class: policy.Ham, Source: "silence", Reason: "accepted without a verdict header"}
	}
	return policy.Verdict{Class: policy.None}
}

// addHeaderShare is the share of rspamd's reject score at which it adds a spam header by default: 6 of 15.
const addHeaderShare = 0.4

// parse reads the value of a verdict header by its lower-case name. A header of the operator's own choice is read as a yes or no.
func parse(name, value string) (policy.Class, float64, bool) {
	word, rest, _ := strings.Cut(value, " ")
	word = strings.TrimRight(word, ",;")
	if name == "x-spamd-result" {
		return parseSpamdResult(value)
	}
	score := numberAfter(rest, "score=")
	switch strings.ToLower(word) {
	case "yes", "true", "spam":
		return policy.Spam, score, true
	case "no", "false", "ham":
		return policy.Ham, score, true
	}
	return policy.None, 0, false
}

// parseSpamdResult reads "default: False [11.00 / 15.00]; ...". The word says whether the message would be rejected, so a spam header at
// 11 of 15 stands beside False: the numbers decide.
func parseSpamdResult(value string) (policy.Class, float64, bool) {
	head, _, _ := strings.Cut(value, "]")
	flag, numbers, ok := strings.Cut(head, "[")
	if !ok {
		return policy.None, 0, false
	}
	a, b, ok := strings.Cut(numbers, "/")
	score, errScore := strconv.ParseFloat(strings.TrimSpace(a), 64)
	limit, errLimit := strconv.ParseFloat(strings.TrimSpace(b), 64)
	if !ok || errScore != nil || errLimit != nil || !finite(score) || !finite(limit) {
		return policy.None, 0, false
	}
	if strings.Contains(flag, "True") || limit > 0 && score >= addHeaderShare*limit {
		return policy.Spam, score, true
	}
	return policy.Ham, score, true
}

// numberAfter is the number that follows a key, or 0.
func numberAfter(s, key string) float64 {
	_, s, ok := strings.Cut(s, key)
	if !ok {
		return 0
	}
	word, _, _ := strings.Cut(s, " ")
	v, err := strconv.ParseFloat(strings.TrimRight(word, ",;"), 64)
	if err != nil || !finite(v) {
		return 0
	}
	return v
}

func finite(v float64) bool { return v-v == 0 }

// clip bounds what is kept of a peer's words and makes them printable.
func clip(s string) string {
	if len(s) > maxReason {
		s = s[:maxReason] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return '?'
		}
		return r
	}, s)
}
