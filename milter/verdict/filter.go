package verdict

import (
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
	_ detail = iota
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
	case strings.HasSuffix(name, "mailscanner-spamscore"):
		return readLettersOrNumber
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
