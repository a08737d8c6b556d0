package verdict

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/ehlogate/ehlogate/policy"
)

// readSCL reads Exchange's spam confidence level: -1 is trusted, 0 and 1 are ham, 5 to 9 spam.
func readSCL(value string) (got reading, ok bool) {
	n, err := strconv.Atoi(strings.TrimSpace(value))
	if err != nil || n < -1 || n > 9 {
		return got, false
	}
	got = decision(policy.None)
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
	got = decision(policy.None)
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
	got = decision(policy.None)
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
	return decision(class), ok
}

// readVirus reads the name of a virus, or that there is none.
func readVirus(value string) (got reading, ok bool) {
	if got, ok = readWord(value); !ok && strings.Contains(value, " ") {
		// A sentence, not a name.
		return got, false
	} else if !ok {
		got = decision(policy.Spam)
	}
	return got, true
}

// readNoVerdict is for headers that only say that a filter has run.
func readNoVerdict(string) (reading, bool) {
	return decision(policy.None), true
}
