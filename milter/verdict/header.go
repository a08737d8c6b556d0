package verdict

import (
	"math"
	"strconv"
	"strings"

	"github.com/ehlogate/ehlogate/policy"
)

// DefaultHeaders are the verdict headers read where the configuration names none.
var DefaultHeaders = []string{"X-Spam-Flag", "X-Spam-Status", "X-Spam-Level", "X-Spam", "X-Spamd-Result", "X-Rspamd-Action"}

// Rules say which headers count.
type Rules struct {
	// Headers are their names in any case.
	Headers []string
	// AuthservID is whose Authentication-Results count, empty for nobody's.
	AuthservID string
	// Silence is the class of an accepted message of which no header says anything: None, or Ham where the filter writes only
	// what it finds bad, as rspamd does by default.
	Silence policy.Class
	// Traps are the recipients that convict.
	Traps Traps
	// Weights are what each source counts.
	Weights policy.Weights
}

// Listed reports whether a header's name is among the rules.
func (r *Rules) Listed(name string) bool {
	for _, h := range r.Headers {
		if strings.EqualFold(h, name) {
			return true
		}
	}
	return false
}

// maxReason is how much of a peer's words is kept as the reason, in bytes.
const maxReason = 200

// Headers collects what the headers of one message say. The zero value has seen none.
type Headers struct {
	verdict policy.Verdict
	detail  detail
	stars   float64
	auth    authentication
	// Odd counts those that say nothing that can be read.
	Odd uint64
}

// Hear reads one header, in the order in which they stand in the message.
func (h *Headers) Hear(r *Rules, name, value string) {
	switch {
	case strings.EqualFold(name, "Received"):
		h.auth.closed = true
	case r.AuthservID != "" && strings.EqualFold(name, "Authentication-Results"):
		if !h.auth.add(r.AuthservID, value) {
			h.Odd++
		}
	}
	if r.Listed(name) {
		h.add(name, value)
	}
}

// detail is how much a header says: a word, with a score, with a score and the limit from which on that is spam.
type detail int

const (
	plain detail = iota
	scored
	graded
)

// add reads one verdict header. Of several the worst reading counts: spam before ham; then the one that says most, as a filter's headers
// come in any order; then the higher score.
func (h *Headers) add(name, value string) {
	value = oneLine(value)
	word := strings.ToLower(name)
	if word == "x-spam-level" {
		h.stars = max(h.stars, float64(min(len(value)-len(strings.TrimLeft(value, "*")), mostStars)))
		return
	}
	v, detail, ok := parse(word, value)
	if !ok {
		h.Odd++
		return
	}
	v.Source, v.Reason = policy.FromHeader, Clip(name+": "+value)
	switch {
	case h.verdict.Source == "":
	case v.Class == policy.Spam && h.verdict.Class != policy.Spam:
	case v.Class != policy.Spam && h.verdict.Class == policy.Spam:
		return
	case detail < h.detail || detail == h.detail && v.Score <= h.verdict.Score:
		return
	}
	h.verdict, h.detail = v, detail
}

// Said is what the headers said, each source by itself; silence where they said nothing.
func (h *Headers) Said(silence policy.Class) (said []policy.Verdict) {
	switch v := h.verdict; {
	case v.Source != "":
		if h.detail == plain && v.Class == policy.Spam {
			v.Score = h.stars
		}
		said = append(said, v)
	case silence == policy.Ham:
		said = append(said, policy.Verdict{Class: policy.Ham, Source: policy.FromSilence, Reason: "accepted without a verdict header"})
	}
	if v, ok := h.auth.verdict(); ok {
		said = append(said, v)
	}
	return said
}

// Auth is what the local Authentication-Results said.
func (h *Headers) Auth() policy.Auth { return h.auth.Auth }

const (
	// addHeaderShare is the share of rspamd's reject score at which it adds a spam header by default: 6 of 15.
	addHeaderShare = 0.4
	// mostStars bounds what is read of X-Spam-Level.
	mostStars = 100
)

// parse reads the value of a verdict header by its lower-case name. A header of the operator's own choice is read as a yes or no.
func parse(name, value string) (v policy.Verdict, d detail, ok bool) {
	switch name {
	case "x-spamd-result":
		return parseSpamdResult(value)
	case "x-rspamd-action":
		class, known := Action(value)
		return policy.Verdict{Class: class}, plain, known
	}
	word, rest, _ := strings.Cut(value, " ")
	score, hasScore := numberAfter(rest, "score=")
	limit, _ := numberAfter(rest, "required=")
	v.Score = score
	switch strings.ToLower(strings.TrimRight(word, ",;")) {
	case "yes", "true", "spam":
		v.Class = policy.Spam
	case "no", "false", "ham":
		v.Class = policy.Ham
	default:
		return v, plain, false
	}
	switch {
	case hasScore && limit > 0:
		return Strength(v, limit), graded, true
	case hasScore:
		return v, scored, true
	}
	return v, plain, true
}

// Action is what an action of rspamd says. One that puts the message off says nothing yet.
func Action(action string) (class policy.Class, known bool) {
	switch strings.ToLower(action) {
	case "reject", "add header", "rewrite subject", "quarantine", "discard":
		return policy.Spam, true
	case "no action":
		return policy.Ham, true
	case "greylist", "soft reject":
		return policy.None, true
	}
	return policy.None, false
}

// Strength gives a verdict with a score the weight of it: spam counts half at the limit, where a filter begins to call it so, and whole at twice that; ham counts
// whole up to a score of 0, and the less the nearer it comes to the limit. What says nothing, or has no limit, stays as it is.
func Strength(v policy.Verdict, limit float64) policy.Verdict {
	if v.Class == policy.None || !(limit > 0) {
		return v
	}
	share := v.Score / limit
	if v.Class == policy.Spam {
		v.Weight = min(max(share/2, 0.5), 1)
	} else if v.Weight = min(max(1-share, 0), 1); v.Weight < leastHam {
		v.Class, v.Weight = policy.None, 0
	}
	return v
}

// leastHam is the weight below which a filter's ham says nothing: half of the smallest weight that evidence keeps.
const leastHam = 1.0 / 16

// parseSpamdResult reads "default: False [11.00 / 15.00]; ...". The word says whether the message would be rejected, so a spam header at
// 11 of 15 stands beside False: the numbers decide.
func parseSpamdResult(value string) (v policy.Verdict, d detail, ok bool) {
	head, _, _ := strings.Cut(value, "]")
	flag, numbers, ok := strings.Cut(head, "[")
	if !ok {
		return v, plain, false
	}
	a, b, ok := strings.Cut(numbers, "/")
	score, errScore := strconv.ParseFloat(strings.TrimSpace(a), 64)
	limit, errLimit := strconv.ParseFloat(strings.TrimSpace(b), 64)
	if !ok || errScore != nil || errLimit != nil || !finite(score) || !finite(limit) {
		return v, plain, false
	}
	v = policy.Verdict{Class: policy.Ham, Score: score}
	spam := addHeaderShare * limit
	if strings.Contains(flag, "True") || limit > 0 && score >= spam {
		v.Class = policy.Spam
	}
	if spam > 0 {
		return Strength(v, spam), graded, true
	}
	return v, scored, true
}

// numberAfter is the number that follows a key; ok is false where there is none.
func numberAfter(s, key string) (v float64, ok bool) {
	_, s, ok = strings.Cut(s, key)
	if !ok {
		return 0, false
	}
	word, _, _ := strings.Cut(s, " ")
	v, err := strconv.ParseFloat(strings.TrimRight(word, ",;"), 64)
	if err != nil || !finite(v) {
		return 0, false
	}
	return v, true
}

// mostScore bounds a score: no filter's means anything beyond it, and JSON writes it plainly.
const mostScore = 1e6

func finite(v float64) bool { return !math.IsNaN(v) && math.Abs(v) <= mostScore }

// oneLine is a header's value unfolded, with what is too long for any use cut off.
func oneLine(s string) string {
	const most = 4096
	if len(s) > most {
		s = s[:most]
	}
	return strings.Join(strings.Fields(s), " ")
}

// Clip bounds what is kept of a peer's words and makes them printable.
func Clip(s string) string {
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
