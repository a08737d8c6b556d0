package verdict

import (
	"regexp"
	"strings"

	"github.com/ehlogate/ehlogate/policy"
)

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
		return decision(policy.None), value == ""
	}
	if unweighed(rest) || strings.Contains(rest, "=? ") {
		class = policy.None
	}
	// "Spam: no" is a label and its value.
	if after, labelled := strings.CutPrefix(strings.TrimLeft(rest, " "), ":"); labelled {
		if inner, _, ok := classOfWord(strings.TrimSpace(after)); ok {
			class = inner
		}
	}
	return decision(class), true
}

// decision is a reading of a filter that says only what it decided.
func decision(class policy.Class) reading {
	return reading{decided: true, class: class, detail: worded}
}

// unweighed reports that the filter did not look at the message: MailScanner's words, and
// SpamAssassin's callers'.
func unweighed(rest string) bool {
	return contains(rest, "(timed out", "(disabled due", "larger than max")
}

var resultKey = regexp.MustCompile(`(?i)(?:^|[;, ])(?:result|class|rule|verdict)="?([a-z_-]+)`)

// readResult reads DSPAM's `user; result="Spam"; class="Spam"; ...`, or a word.
func readResult(value string) (got reading, ok bool) {
	if m := resultKey.FindStringSubmatch(value); m != nil {
		value = m[1]
	}
	return readWord(value)
}
