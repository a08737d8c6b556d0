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
	// Silence is the class of an accepted message of which no header says anything: None, or Ham
	// where the filter writes only what it finds bad, as rspamd does by default.
	Silence policy.Class
	// Traps are the recipients that convict.
	Traps Traps
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
	assessment policy.Assessment
	detail     detail
	stars      float64
	auth       authentication
	// Malformed counts those that could not be read.
	Malformed uint64
}

// Hear reads one header, in the order in which they stand in the message.
func (h *Headers) Hear(r *Rules, name, value string) {
	switch {
	case strings.EqualFold(name, "Received"):
		h.auth.closed = true
	case r.AuthservID != "" && strings.EqualFold(name, "Authentication-Results"):
		if !h.auth.add(r.AuthservID, value) {
			h.Malformed++
		}
	}
	if r.Listed(name) {
		h.add(name, value)
	}
}

// detail is how much a header says: a word, with a score, with a score and the limit from which on
// that is spam.
type detail int

const (
	plain detail = iota
	scored
	graded
)

// add reads one verdict header. Of several the worst reading counts: spam before ham; then the one
// that says most, as a filter's headers come in any order; then the higher score.
func (h *Headers) add(name, value string) {
	value = oneLine(value)
	word := strings.ToLower(name)
	if word == "x-spam-level" {
		h.stars = max(h.stars, float64(min(len(value)-len(strings.TrimLeft(value, "*")), mostStars)))
		return
	}
	a, detail, ok := parse(word, value)
	if !ok {
		h.Malformed++
		return
	}
	a.Source, a.Reason = policy.FromHeader, Clip(name+": "+value)
	switch {
	case h.assessment.Source == "":
	case a.Class == policy.Spam && h.assessment.Class != policy.Spam:
	case a.Class != policy.Spam && h.assessment.Class == policy.Spam:
		return
	case detail < h.detail || detail == h.detail && a.Score <= h.assessment.Score:
		return
	}
	h.assessment, h.detail = a, detail
}

// Assessments are what the headers say, one for each source; silence where they say nothing.
func (h *Headers) Assessments(silence policy.Class) (all []policy.Assessment) {
	switch a := h.assessment; {
	case a.Source != "":
		if h.detail == plain && a.Class == policy.Spam {
			a.Score = h.stars
		}
		all = append(all, a)
	case silence == policy.Ham:
		all = append(all, policy.Assessment{Class: policy.Ham, Confidence: policy.Certain, Source: policy.FromSilence, Reason: "accepted without a verdict header"})
	}
	if a, ok := h.auth.assessment(); ok {
		all = append(all, a)
	}
	return all
}

// Auth is what the local Authentication-Results said.
func (h *Headers) Auth() policy.Auth { return h.auth.Auth }

const (
	// mostStars bounds what is read of X-Spam-Level.
	mostStars = 100
)

// parse reads the value of a verdict header by its lower-case name. A header of the operator's own
// choice is read as a yes or no.
func parse(name, value string) (a policy.Assessment, d detail, ok bool) {
	a.Confidence = policy.Certain
	switch name {
	case "x-spamd-result":
		return parseSpamdResult(value)
	case "x-rspamd-action":
		class, known := Action(value)
		a.Class = class
		return a, plain, known
	}
	word, rest, _ := strings.Cut(value, " ")
	score, hasScore := numberAfter(rest, "score=")
	limit, _ := numberAfter(rest, "required=")
	a.Score = score
	switch strings.ToLower(strings.TrimRight(word, ",;")) {
	case "yes", "true", "spam":
		a.Class = policy.Spam
	case "no", "false", "ham":
		a.Class = policy.Ham
	default:
		return a, plain, false
	}
	switch {
	case hasScore && limit > 0:
		return grade(a, limit), graded, true
	case hasScore:
		return a, scored, true
	}
	return a, plain, true
}

// grade gives an assessment with a score its confidence: spam counts half at the limit from which
// on the filter calls it so, and whole at twice that; ham counts whole up to a score of 0, and the
// less the nearer it comes to the limit. Without a limit the filter is taken to be certain.
func grade(a policy.Assessment, limit float64) policy.Assessment {
	a.Confidence = policy.Certain
	if !(limit > 0) {
		return a
	}
	share := a.Score / limit
	switch a.Class {
	case policy.Spam:
		a.Confidence = policy.Confidence(min(max(share/2, 0.5), 1))
	case policy.Ham:
		a.Confidence = policy.Confidence(min(max(1-share, 0), 1))
		if a.Confidence < leastHam {
			a.Class, a.Confidence = policy.None, 0
		}
	}
	return a
}

// leastHam is the confidence below which a filter's ham says nothing: half of the smallest weight
// that evidence keeps.
const leastHam = 1.0 / 16

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
	if isPlain(s) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return '?'
		}
		return r
	}, s)
}

// isPlain reports whether a text is printable ASCII.
func isPlain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}
