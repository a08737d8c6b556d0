package verdict

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/ehlogate/ehlogate/policy"
)

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

// aNumber is a score, with a comma in some locales.
const aNumber = `([-+]?[0-9]+(?:[.,][0-9]+)?|[-+]?(?i:nan|inf))`

var (
	scoreKey    = regexp.MustCompile(`(?i)(?:^|[ ,(])(?:score|hits)\s?=\s*` + aNumber + `(?:[\s,;)]|$)`)
	requiredKey = regexp.MustCompile(`(?i)(?:^|[ ,(])(?:required|require)(?:\s?=\s*|\s+)` + aNumber + `(?:[\s,;)]|$)`)
	ratio       = regexp.MustCompile(`^` + aNumber + `\s?/\s?` + aNumber + `(?:[\s,;]|$)`)
	leading     = regexp.MustCompile(`^(?i:(?:spam detection results|score)\s*[:=]\s*)?` + aNumber + `(?:[\s,;(/%]|$)`)
	// unknownScore is what SpamAssassin's callers write when it did not answer.
	unknownScore = regexp.MustCompile(`(?i)(?:score|hits)=\?`)
)

// readStatusAlone reads a status of any filter: a word, a score and a limit, as far as they are
// there.
func readStatusAlone(value string) (got reading, ok bool) {
	class, rest, decided := classOfWord(value)
	if decided {
		got = decision(class)
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
	if unknownScore.MatchString(rest) || unweighed(rest) {
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
	if _, isNumber := readNumber(value); isNumber {
		// On a scale that only the filter knows.
		return got, false
	}
	return readLevel(value)
}

// readLettersOrNumber reads MailScanner's, which can also be set to write the number.
func readLettersOrNumber(value string) (got reading, ok bool) {
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
	got = decision(policy.None)
	switch {
	case n.score >= 0.9:
		got.class = policy.Spam
	case n.score <= 0.1:
		got.class = policy.Ham
	}
	return got, true
}
