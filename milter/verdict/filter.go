package verdict

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ehlogate/ehlogate/policy"
)

// reader reads the value of a verdict header, on one line; ok is false where it is none.
type reader func(value string) (got reading, ok bool)

// reading is what one header says.
type reading struct {
	// filter is whose header it is, empty where nobody else's has a say in it.
	filter string
	// decided says that the filter gives its decision in a word, class.
	decided bool
	class   policy.Class
	// score is there if hasScore; limit is the filter's own, 0 where it names none.
	score, limit float64
	hasScore     bool
	detail       detail
}

// detail is how much a header says: a filter's own decision goes before numbers.
type detail int

const (
	nothing detail = iota
	// starred: as many stars, or bars, as the score has whole points.
	starred
	// numeric: a score alone.
	numeric
	// worded: a decision alone.
	worded
	// full: a decision with its score.
	full
	// acted: what rspamd does with the message.
	acted
)

// The filters of which several headers are known.
const (
	spamAssassin = "spamassassin"
	rspamd       = "rspamd"
)

// goesBefore reports whether a reading decides in place of another one of the same filter. That with
// more detail does, but SpamAssassin's two headers cannot contradict each other: a No beside a Yes is
// forged.
func (r reading) goesBefore(other reading) bool {
	if r.decided && other.decided && (r.filter != rspamd || r.detail == other.detail) && r.class != other.class {
		return r.class == policy.Spam || r.class == policy.Ham && other.class == policy.None
	}
	return r.detail > other.detail || r.detail == other.detail && r.score > other.score
}

// byName are the readers of the headers that filters write, by their names in lower case.
var byName = map[string]reader{
	"x-spam-flag":     of(spamAssassin, readWord),
	"x-spam-status":   readStatus,
	"x-spam-level":    of(spamAssassin, readLevel),
	"x-spam":          of(rspamd, readWord),
	"x-spamd-result":  readSpamdResult,
	"x-spamd-bar":     of(rspamd, readBar),
	"x-rspamd-bar":    of(rspamd, readBar),
	"x-rspamd-action": readAction,
	"x-spam-action":   readAction,
	"x-rspamd-score":  of(rspamd, readNumber),
	"x-spam-score":    readScore,
	"x-spam-bar":      readBar,

	"x-bogosity":                     readBogosity,
	"x-dspam-result":                 readResult,
	"x-pmx-spam":                     readPercentage,
	"x-perlmx-spam":                  readPercentage,
	"x-assp-spam-prob":               readProbability,
	"x-spam-probability":             readProbability,
	"x-yandex-spam":                  readYandex,
	"x-ms-exchange-organization-scl": readSCL,
	"x-microsoft-antispam-scl":       readSCL,
	"x-forefront-antispam-report":    readForefront,
	"x-virus":                        readVirus,
	"x-proxmox-virus":                readVirus,

	// These only say that a filter has run.
	"x-ironport-anti-spam-filtered": readNoVerdict,
	"x-sa-exim-scanned":             readNoVerdict,
	"x-virus-scanned":               readNoVerdict,
}

// readerOf is the reader of a header by its lower-case name. Some filters put the name of their site
// into those of their headers.
func readerOf(name string) reader {
	name = strings.ReplaceAll(name, "_", "-")
	if read := byName[name]; read != nil {
		return read
	}
	switch {
	case strings.HasSuffix(name, "-spamscore"):
		return readLetters
	case strings.HasSuffix(name, "-spam-score"):
		return readScore
	}
	return readAny
}

// of makes a reading one of a filter's.
func of(filter string, read reader) reader {
	return func(value string) (reading, bool) {
		got, ok := read(value)
		got.filter = filter
		return got, ok
	}
}

// The words of filters, in lower case; MailScanner's also in the languages that it comes with. Of two
// that begin alike the longer one counts.
var words = map[policy.Class][]string{
	policy.None: {
		"unsure", "unknown", "undefined", "undef", "not scanned", "not_scanned", "not checked", "not available", "skipped", "error", "failed", "timed out", "maybe",
		"bad header", "bulk", "massmail", "suspicious",
	},
	policy.Ham: {
		"no", "false", "ham", "clean", "found to be clean", "good", "ok", "innocent", "whitelisted", "allowlisted", "trusted", "legit", "legitimate", "negative",
		"not spam", "not-spam", "not_spam", "notspam", "nonspam", "non-spam", "no spam", "notjunk", "outbound_notspam", "inbound_notspam", "not infected", "not detected", "not_detected",
		"ikke spam", "non spam", "ej spam", "neni spam", "není spam", "nieje spam", "nid sbam", "não spam", "kein spam", "no es spam", "geen spam", "nie spam", "n'est pas un polluriel",
	},
	policy.Spam: {
		"yes", "true", "spam", "sbam", "junk", "infected", "found to be infected", "blacklisted", "denylisted", "blocked", "confirmed", "detected", "positive", "bad",
		"probable spam", "probable_spam", "phish", "phishing", "malware", "virus", "dangerous", "polluriel",
	},
}

// classOfWord finds the word that a value begins with. A sentence that begins with one says nothing,
// unless the word is yes or no.
func classOfWord(value string) (class policy.Class, rest string, ok bool) {
	lower := strings.TrimPrefix(strings.ToLower(value), "kas_status_")
	longest := 0
	for c, list := range words {
		for _, w := range list {
			if len(w) > longest && strings.HasPrefix(lower, w) && endsWord(w, lower[len(w):]) {
				class, longest = c, len(w)
			}
		}
	}
	return class, lower[longest:], longest > 0
}

func endsWord(word, rest string) bool {
	if rest == "" {
		return true
	}
	if rest[0] != ' ' {
		return strings.IndexByte(",;:(.-/=", rest[0]) >= 0
	}
	switch word {
	case "yes", "no", "true", "false", "infected", "bad header":
		return true
	}
	next := strings.TrimLeft(rest, " ")
	return next == "" || next[0] < 'a' || next[0] > 'z'
}

// readWord reads a decision: "YES", "Spam, tests=bogofilter", "GOOD ( 14.01 )", "not spam
// (whitelisted), SpamAssassin (...)", "Spam : YES".
func readWord(value string) (got reading, ok bool) {
	value = strings.TrimLeft(value, ": ")
	class, rest, ok := classOfWord(value)
	if !ok {
		return reading{decided: true, class: policy.None, detail: worded}, value == ""
	}
	if contains(rest, "(timed out", "(disabled due", "=? ", "larger than max") {
		// Nothing was weighed.
		class = policy.None
	}
	// "Spam: no" is a label and its value.
	if after, labelled := strings.CutPrefix(strings.TrimLeft(rest, " "), ":"); labelled {
		if inner, _, ok := classOfWord(strings.TrimSpace(after)); ok {
			class = inner
		}
	}
	return reading{decided: true, class: class, detail: worded}, true
}

// readStatus reads X-Spam-Status: "Yes, score=7.5 required=5.0 tests=...", SpamAssassin's and
// amavis's, and "No, score=-1.2", rspamd's and Stalwart's.
func readStatus(value string) (got reading, ok bool) {
	if got, ok = readStatusAlone(value); !ok {
		return got, false
	}
	got.filter = spamAssassin
	if got.hasScore && got.limit == 0 {
		got.filter = rspamd
	}
	return got, true
}

// number is a score, with a comma in some locales.
const aNumber = `([-+]?[0-9]+(?:[.,][0-9]+)?|[-+]?(?i:nan|inf))`

var (
	scoreKey    = regexp.MustCompile(`(?i)(?:^|[ ,(])(?:score|hits)\s?=\s*` + aNumber + `(?:[\s,;)]|$)`)
	requiredKey = regexp.MustCompile(`(?i)(?:^|[ ,(])(?:required|require)(?:\s?=\s*|\s+)` + aNumber + `(?:[\s,;)]|$)`)
	ratio       = regexp.MustCompile(`^` + aNumber + `\s?/\s?` + aNumber + `(?:[\s,;]|$)`)
	leading     = regexp.MustCompile(`^(?i:(?:spam detection results|score)\s*[:=]\s*)?` + aNumber + `(?:[\s,;(/%]|$)`)
	// unknownScore is what SpamAssassin's callers write when it did not answer.
	unknownScore = regexp.MustCompile(`(?i)(?:score|hits)=\?`)
)

// readStatusAlone reads a status of any filter: a word, a score and a limit, as far as they are there.
func readStatusAlone(value string) (got reading, ok bool) {
	class, rest, decided := classOfWord(value)
	if decided {
		got = reading{decided: true, class: class, detail: worded}
	} else {
		rest = value
	}
	if m := ratio.FindStringSubmatch(rest); m != nil && !decided {
		got.score, got.hasScore = parseNumber(m[1])
		got.limit, _ = parseNumber(m[2])
	}
	if m := scoreKey.FindStringSubmatch(rest); m != nil {
		got.score, got.hasScore = parseNumber(m[1])
	}
	if m := requiredKey.FindStringSubmatch(rest); m != nil && got.hasScore {
		got.limit, _ = parseNumber(m[1])
	}
	if unknownScore.MatchString(rest) || contains(rest, "(timed out", "(disabled due", "larger than max") {
		got.class = policy.None
	}
	switch {
	case got.hasScore && decided:
		got.detail = full
	case got.hasScore:
		got.detail = numeric
	case !decided:
		return got, false
	}
	return got, true
}

// parseNumber reads a score; ok is false where it is none.
func parseNumber(s string) (v float64, ok bool) {
	v, err := strconv.ParseFloat(strings.Replace(s, ",", ".", 1), 64)
	if err != nil || !finite(v) {
		return 0, false
	}
	return v, true
}

// readNumber reads "12.3", "-1.6 (-)", "Spam detection results: 12".
func readNumber(value string) (got reading, ok bool) {
	m := leading.FindStringSubmatch(value)
	if m == nil {
		return got, false
	}
	got = reading{detail: numeric}
	got.score, got.hasScore = parseNumber(m[1])
	return got, got.hasScore
}

// readScore reads X-Spam-Score: a number or, of Stalwart's, "spam, score=12.42".
func readScore(value string) (got reading, ok bool) {
	if got, ok = readNumber(value); ok {
		return got, true
	}
	return readStatusAlone(value)
}

// mostStars bounds what is read of stars.
const mostStars = 100

// readLevel reads X-Spam-Level: stars of SpamAssassin's, or Proxmox's "Spam detection results: 12".
func readLevel(value string) (got reading, ok bool) {
	if strings.Contains(value, ":") {
		return readNumber(value)
	}
	if value == "" {
		return countOf("", '*'), true
	}
	got = countOf(value, value[0])
	return got, int(got.score) == min(len(value), mostStars)
}

// readLetters reads "ssssss" of MailScanner's.
func readLetters(value string) (got reading, ok bool) {
	if value == "" {
		return got, false
	}
	if got, ok := readNumber(value); ok {
		return got, true
	}
	return readLevel(value)
}

func countOf(value string, star byte) reading {
	n := 0
	for n < len(value) && n < mostStars && value[n] == star {
		n++
	}
	return reading{score: float64(n), hasScore: true, detail: starred}
}

// readBar reads "+++++++", "----" or "/".
func readBar(value string) (got reading, ok bool) {
	switch {
	case value == "":
		return got, false
	case value[0] == '-':
		got = countOf(value, '-')
		got.score = -got.score
	case value[0] == '+':
		got = countOf(value, '+')
	case value[0] == '/':
		got = reading{hasScore: true, detail: starred}
	default:
		return got, false
	}
	return got, true
}

// readProbability reads "0.9321": how likely it is spam.
func readProbability(value string) (got reading, ok bool) {
	n, ok := readNumber(value)
	if !ok {
		return got, false
	}
	got = reading{decided: true, class: policy.None, detail: worded}
	switch {
	case n.score >= 0.9:
		got.class = policy.Spam
	case n.score <= 0.1:
		got.class = policy.Ham
	}
	return got, true
}

var resultKey = regexp.MustCompile(`(?i)(?:^|[;, ])(?:result|class|rule|verdict)="?([a-z_-]+)`)

// readResult reads DSPAM's `user; result="Spam"; class="Spam"; ...`, or a word.
func readResult(value string) (got reading, ok bool) {
	if m := resultKey.FindStringSubmatch(value); m != nil {
		value = m[1]
	}
	return readWord(value)
}

// readSCL reads Exchange's spam confidence level: -1 is trusted, 0 and 1 are ham, 5 to 9 spam.
func readSCL(value string) (got reading, ok bool) {
	n, err := strconv.Atoi(strings.TrimSpace(value))
	if err != nil || n < -1 || n > 9 {
		return got, false
	}
	got = reading{decided: true, class: policy.None, detail: worded}
	switch {
	case n <= 1:
		got.class = policy.Ham
	case n >= 5:
		got.class = policy.Spam
	}
	return got, true
}

var (
	filteringVerdict  = regexp.MustCompile(`(?:^|;)\s*SFV:([A-Z]+)`)
	filteringCategory = regexp.MustCompile(`;\s*CAT:([A-Z]+)`)
)

// readForefront reads the spam filtering verdict of Exchange Online Protection.
func readForefront(value string) (got reading, ok bool) {
	m := filteringVerdict.FindStringSubmatch(value)
	if m == nil {
		return got, false
	}
	got = reading{decided: true, class: policy.None, detail: worded}
	switch m[1] {
	case "SPM", "SKS", "SKB", "BLK":
		got.class = policy.Spam
	case "NSPM", "SKN", "SKA", "SKI", "SFE":
		got.class = policy.Ham
	}
	if category := filteringCategory.FindStringSubmatch(value); category != nil {
		switch category[1] {
		case "MALW", "PHSH", "HPHSH", "HPHISH", "SPM", "HSPM":
			got.class = policy.Spam
		}
	}
	return got, true
}

// readBogosity reads bogofilter's word, or the letter of its terse format.
func readBogosity(value string) (got reading, ok bool) {
	for letter, word := range map[string]string{"S ": "spam", "H ": "ham", "U ": "unsure"} {
		if strings.HasPrefix(value, letter) {
			value = word
		}
	}
	return readWord(value)
}

var percentage = regexp.MustCompile(`(?i)(?:probability|spam)=([0-9]{1,3})%`)

// readPercentage reads "Gauge=XIIIIII, Probability=16%, ...", of PureMessage.
func readPercentage(value string) (got reading, ok bool) {
	m := percentage.FindStringSubmatch(value)
	if m == nil {
		return got, false
	}
	n, _ := strconv.Atoi(m[1])
	got = reading{decided: true, class: policy.None, detail: worded}
	switch {
	case n >= 50:
		got.class = policy.Spam
	case n < 20:
		got.class = policy.Ham
	}
	return got, true
}

// readYandex reads X-Yandex-Spam: 1 is ham, 2 a newsletter, 4 spam.
func readYandex(value string) (got reading, ok bool) {
	class, ok := map[string]policy.Class{"1": policy.Ham, "2": policy.None, "4": policy.Spam}[value]
	return reading{decided: true, class: class, detail: worded}, ok
}

// readVirus reads the name of a virus, or that there is none.
func readVirus(value string) (got reading, ok bool) {
	if got, ok = readWord(value); !ok {
		got = reading{decided: true, class: policy.Spam, detail: worded}
	}
	return got, true
}

// readNoVerdict is for headers that only say that a filter has run.
func readNoVerdict(string) (reading, bool) {
	return reading{decided: true, class: policy.None, detail: worded}, true
}

// readAny reads a header of which nothing is known: a word, or a score with its limit. A number alone
// could be on any scale.
func readAny(value string) (got reading, ok bool) {
	if got, ok := readStatusAlone(value); ok && (got.decided || got.limit > 0) {
		return got, true
	}
	if got, ok := readWord(value); ok {
		return got, true
	}
	return readResult(value)
}

// Filter says how a header is read that is in no table of ours.
type Filter struct {
	// Header is its name.
	Header string
	// Read is how: one of Reads.
	Read string
	// Spam and Ham are the words that a value begins with, for "word".
	Spam, Ham []string
	// Limit is the score from which on it is spam, for "number" and "stars".
	Limit float64
	// Star is what is counted, for "stars".
	Star string
}

// Reads are the ways to read a header: a word; a word, a score and a limit, as in X-Spam-Status; a
// number; as many stars as there are points.
var Reads = []string{"word", "status", "number", "stars"}

// Check finds what is missing. A filter of which spam can be read and ham cannot would make every
// client that sends some spam look as if it sent nothing else.
func (f *Filter) Check(silence policy.Class) error {
	switch {
	case f.Header == "":
		return fmt.Errorf("has no header; want the name of the header that the filter writes")
	case !slices.Contains(Reads, f.Read):
		return fmt.Errorf("read is %q; want one of %s", f.Read, strings.Join(Reads, ", "))
	case f.Read == "word" && len(f.Spam) == 0:
		return fmt.Errorf("has no words for spam; want such as spam = [\"yes\"]")
	case f.Read == "word" && len(f.Ham) == 0 && silence != policy.Ham:
		return fmt.Errorf("has words for spam and none for ham: every client would look like a spammer; add such as ham = [\"no\"], or verdict.silence = \"ham\" where the filter marks only spam")
	case (f.Read == "number" || f.Read == "stars") && !(f.Limit > 0):
		return fmt.Errorf("has no limit; want the score from which on the filter calls a message spam")
	case f.Read == "stars" && len(f.Star) != 1:
		return fmt.Errorf("star is %q; want the one character that the filter repeats", f.Star)
	}
	return nil
}

// read reads the header.
func (f *Filter) read(value string) (got reading, ok bool) {
	switch f.Read {
	case "word":
		return f.readWords(value)
	case "number":
		got, ok = readNumber(value)
	case "stars":
		got, ok = countOf(value, f.Star[0]), true
	default:
		return readStatusAlone(value)
	}
	got.limit = f.Limit
	return got, ok
}

func (f *Filter) readWords(value string) (got reading, ok bool) {
	longest := 0
	for class, words := range map[policy.Class][]string{policy.Spam: f.Spam, policy.Ham: f.Ham} {
		for _, w := range words {
			if len(w) > longest && len(value) >= len(w) && strings.EqualFold(value[:len(w)], w) {
				got, longest = reading{decided: true, class: class, detail: worded}, len(w)
			}
		}
	}
	return got, longest > 0
}
