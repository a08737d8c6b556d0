package verdict

import (
	"math"
	"mime"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ehlogate/ehlogate/policy"
)

// DefaultHeaders are the verdict headers read where the configuration names none.
var DefaultHeaders = []string{"X-Spam-Flag", "X-Spam-Status", "X-Spam-Level", "X-Spam", "X-Spamd-Result", "X-Rspamd-Action"}

// Rules say which headers count.
type Rules struct {
	// Headers are their names in any case.
	Headers []string
	// Filters say how headers are read that are in no table of ours; see Filter.
	Filters []Filter
	// Thresholds are those of a filter that gives numbers alone, such as rspamd's.
	Thresholds Thresholds
	// AuthservID is whose Authentication-Results count, empty for nobody's.
	AuthservID string
	// Silence is the class of an accepted message of which no header says anything: None, or Ham
	// where the filter writes only what it finds bad, as rspamd does by default.
	Silence policy.Class
	// Traps are the recipients that convict.
	Traps Traps
}

// Thresholds are scores: from AddHeader on a filter calls a message spam, and from Reject on it is
// certain.
type Thresholds struct{ AddHeader, Reject float64 }

// DefaultThresholds are rspamd's (actions.conf).
var DefaultThresholds = Thresholds{6, 15}

// Names are the names of all headers that count.
func (r *Rules) Names() []string {
	names := slices.Clone(r.Headers)
	for _, f := range r.Filters {
		if !slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, f.Header) }) {
			names = append(names, f.Header)
		}
	}
	return names
}

// readerOf is what reads a header, nil where the rules do not list it.
func (r *Rules) readerOf(name string) reader {
	for i := range r.Filters {
		if f := &r.Filters[i]; strings.EqualFold(f.Header, name) {
			return f.read
		}
	}
	for _, h := range r.Headers {
		if strings.EqualFold(h, name) {
			return readerOf(strings.ToLower(name))
		}
	}
	return nil
}

// maxReason is how much of a peer's words is kept as the reason, in bytes.
const maxReason = 200

// Headers collects what the headers of one message say. The zero value has seen none.
type Headers struct {
	// filters has the verdict of each filter that wrote a header.
	filters []verdict
	auth    authentication
	// Malformed counts those that could not be read, Unread is the first of them.
	Malformed uint64
	Unread    string
}

// verdict is what one filter says in its headers.
type verdict struct {
	filter string
	// decisive is the reading that decides, reason its header.
	decisive reading
	reason   string
	// scores are the readings of the filter that have a score.
	scores []reading
}

// mostScores bounds the scores of a filter: nobody writes more.
const mostScores = 8

// Hear reads one header, in the order in which they stand in the message.
func (h *Headers) Hear(r *Rules, name, value string) {
	name = strings.TrimRight(name, " \t")
	switch {
	case strings.EqualFold(name, "Received"):
		h.auth.closed = true
	case r.AuthservID != "" && strings.EqualFold(name, "Authentication-Results"):
		if !h.auth.add(r.AuthservID, value) {
			h.malformed(name, value)
		}
	}
	if read := r.readerOf(name); read != nil {
		h.add(read, name, value)
	}
}

// add reads one verdict header.
func (h *Headers) add(read reader, name, value string) {
	value = oneLine(decodeWords(value))
	got, ok := read(value)
	if !ok {
		h.malformed(name, value)
		return
	}
	if got.filter == "" {
		got.filter = strings.ToLower(name)
	}
	i := slices.IndexFunc(h.filters, func(v verdict) bool { return v.filter == got.filter })
	if i < 0 {
		h.filters = append(h.filters, verdict{filter: got.filter, decisive: got, reason: Clip(name + ": " + value)})
		i = len(h.filters) - 1
	}
	v := &h.filters[i]
	if got.hasScore && len(v.scores) < mostScores {
		v.scores = append(v.scores, got)
	}
	if got.goesBefore(v.decisive) {
		v.decisive, v.reason = got, Clip(name+": "+value)
	}
}

func (h *Headers) malformed(name, value string) {
	if h.Malformed++; h.Unread == "" {
		h.Unread = Clip(name + ": " + oneLine(value))
	}
}

// Assessments are what the headers say, one for each source; silence where they say nothing.
func (h *Headers) Assessments(r *Rules) (all []policy.Assessment) {
	var worst *policy.Assessment
	decided := slices.ContainsFunc(h.filters, func(v verdict) bool { return v.decisive.decided })
	for i := range h.filters {
		if decided && !h.filters[i].decisive.decided {
			// A number beside a decision is on a scale that only its filter knows.
			continue
		}
		if a := h.filters[i].assessment(r.Thresholds); worst == nil || worse(&a, worst) {
			worst = &a
		}
	}
	switch {
	case worst != nil:
		all = append(all, *worst)
	case r.Silence == policy.Ham:
		all = append(all, policy.Assessment{Class: policy.Ham, Confidence: policy.Certain, Source: policy.FromSilence, Reason: "accepted without a verdict header"})
	}
	if a, ok := h.auth.assessment(); ok {
		all = append(all, a)
	}
	return all
}

// worse reports whether an assessment goes before another one: spam before ham before none, then
// the greater score.
func worse(a, b *policy.Assessment) bool {
	rank := func(c policy.Class) int { return slices.Index([]policy.Class{policy.None, policy.Ham, policy.Spam}, c) }
	if ra, rb := rank(a.Class), rank(b.Class); ra != rb {
		return ra > rb
	}
	return a.Score > b.Score
}

// Auth is what the local Authentication-Results said.
func (h *Headers) Auth() policy.Auth { return h.auth.Auth }

// scored is the reading whose score counts: the decisive one, or of those that do not contradict it
// the one with the most detail.
func (v *verdict) scored() (best reading) {
	if v.decisive.hasScore {
		return v.decisive
	}
	for _, r := range v.scores {
		if r.decided && r.class != v.decisive.class {
			continue
		}
		if !best.hasScore || r.detail > best.detail || r.detail == best.detail && r.score > best.score {
			best = r
		}
	}
	return best
}

// assessment is what a filter says, given the thresholds of one that gives numbers alone.
func (v *verdict) assessment(t Thresholds) policy.Assessment {
	a := policy.Assessment{Class: v.decisive.class, Confidence: policy.Certain, Source: policy.FromHeader, Reason: Clip(v.reason)}
	scored := v.scored()
	a.Score = scored.score
	decided := v.decisive.decided
	switch {
	case decided && a.Class == policy.None:
		a.Confidence = 0
		return a
	case !scored.hasScore, decided && scored.detail == starred:
		// Stars have no fraction and no sign: beside a word they say nothing of how sure that is.
		return a
	case decided && a.Class == policy.Ham && scored.limit > 0 && a.Score >= scored.limit:
		// The filter lets it pass for another reason, such as a list of the operator's.
		return a
	case decided && a.Class == policy.Ham && scored.limit > 3*t.Reject && a.Score >= t.AddHeader:
		// The limit was raised so that nothing is marked.
		a.Class, a.Confidence = policy.None, 0
		return a
	case scored.limit > 0:
		if !decided {
			a.Class = classOf(a.Score, scored.limit)
		}
		return grade(a, scored.limit)
	case !decided:
		a.Class = classOf(a.Score, t.AddHeader)
		return t.between(a, t.AddHeader)
	}
	return t.grade(a)
}

func classOf(score, limit float64) policy.Class {
	if score >= limit {
		return policy.Spam
	}
	return policy.Ham
}

// grade gives an assessment with a score its confidence: spam counts half at the limit from which
// on the filter calls it so, and whole at twice that; ham counts whole up to a score of 0, and the
// less the nearer it comes to the limit. Without a limit the filter is taken to be certain.
func grade(a policy.Assessment, limit float64) policy.Assessment {
	if !(limit > 0) {
		a.Confidence = policy.Certain
		return a
	}
	return Thresholds{limit, 2 * limit}.between(a, limit)
}

// grade is the same for a filter that names no limit: spam counts half at the threshold from which
// on it adds a header, and whole at that from which on it rejects. Its own word for ham goes before
// our thresholds, so that counts something up to the latter.
func (t Thresholds) grade(a policy.Assessment) policy.Assessment { return t.between(a, t.Reject) }

// between grades spam between the thresholds, and ham below a limit.
func (t Thresholds) between(a policy.Assessment, ham float64) policy.Assessment {
	a.Confidence = policy.Certain
	switch a.Class {
	case policy.Spam:
		share := 0.5 + 0.5*(a.Score-t.AddHeader)/(t.Reject-t.AddHeader)
		a.Confidence = policy.Confidence(min(max(share, 0.5), 1))
	case policy.Ham:
		a.Confidence = policy.Confidence(min(max(1-a.Score/ham, 0), 1))
		if a.Confidence < leastHam {
			a.Class, a.Confidence = policy.None, 0
		}
	}
	return a
}

// leastHam is the confidence below which a filter's ham says nothing: half of the smallest weight
// that evidence keeps.
const leastHam = 1.0 / 16

// mostScore bounds a score: no filter's means anything beyond it, and JSON writes it plainly.
const mostScore = 1e6

func finite(v float64) bool { return !math.IsNaN(v) && math.Abs(v) <= mostScore }

// decodeWords undoes RFC 2047, in which some gateways put all headers.
func decodeWords(s string) string {
	if !strings.Contains(s, "=?") || len(s) > maxResults {
		return s
	}
	plain, err := new(mime.WordDecoder).DecodeHeader(s)
	if err != nil {
		return s
	}
	return plain
}

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
		if r == utf8.RuneError {
			return '?'
		}
		return r
	}, policy.Printable(s))
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
