package maillog

import (
	"bytes"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// stampOf reads the time stamp in what stands before a program's name: of several the first one
// with a zone, else the first. One without a zone is of the given one; one without a year is of the
// year that brings it nearest to now.
func stampOf(head []byte, now time.Time, zone *time.Location) (at time.Time, zoned, ok bool) {
	s := string(trimPriority(head))
	for s != "" {
		if found, inZone, rest, is := parseStamp(s, now, zone); is {
			if !ok || inZone {
				at, zoned, ok = found, inZone, true
			}
			if zoned {
				return at, zoned, ok
			}
			s = rest
			continue
		}
		_, s, _ = strings.Cut(s, " ")
	}
	return at, zoned, ok
}

// parseStamp reads a time stamp at the beginning of a text.
func parseStamp(s string, now time.Time, zone *time.Location) (at time.Time, zoned bool, rest string, ok bool) {
	switch {
	case len(s) < len("Nov 5 09:00:00"):
		return at, false, s, false
	case s[0] == '@':
		return parseTAI(s)
	case len(s) >= len(time.DateTime) && (s[4] == '-' && s[7] == '-' || s[4] == '/' && s[7] == '/'):
		return parseISO(s, zone)
	case s[0] >= '0' && s[0] <= '9':
		if at, rest, ok := parseUnix(s); ok {
			return at, true, rest, true
		}
	}
	at, rest, ok = parseTraditional(s, now, zone)
	return at, false, rest, ok
}

// parseISO reads "2026-11-25T09:00:00.123+01:00", with a blank in place of the T, a comma before
// the fraction, a zone without colon, or none.
func parseISO(s string, zone *time.Location) (at time.Time, zoned bool, rest string, ok bool) {
	date, clock := strings.ReplaceAll(s[:len(time.DateOnly)], "/", "-"), s[len(time.DateOnly)+1:]
	if c := s[len(time.DateOnly)]; c != 'T' && c != ' ' {
		return at, false, s, false
	}
	word, rest, _ := strings.Cut(clock, " ")
	word = strings.Replace(word, ",", ".", 1)
	if len(rest) >= 5 && (rest[0] == '+' || rest[0] == '-') && digits([]byte(rest[1:5])) {
		word, rest = word+rest[:5], strings.TrimPrefix(rest[5:], " ")
	}
	for _, layout := range []string{"2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05Z0700", "2006-01-02 15:04:05Z07"} {
		if at, err := time.Parse(layout, date+" "+word); err == nil {
			return at, true, rest, true
		}
	}
	at, err := time.ParseInLocation(time.DateTime, date+" "+word, zone)
	return at, false, rest, err == nil
}

// parseUnix reads seconds since 1970, with a fraction.
func parseUnix(s string) (at time.Time, rest string, ok bool) {
	word, rest, _ := strings.Cut(s, " ")
	whole, fraction, _ := strings.Cut(word, ".")
	if len(whole) != 10 || len(fraction) > 9 {
		return at, s, false
	}
	seconds, err := strconv.ParseInt(whole, 10, 64)
	nanos, fractionErr := strconv.ParseInt((fraction + "000000000")[:9], 10, 64)
	return time.Unix(seconds, nanos), rest, err == nil && fractionErr == nil
}

// parseTAI reads a label of TAI64N, as multilog(8) writes it. TAI is ten seconds ahead of its
// label's count and 27 leap seconds more ahead of UTC; D. J. Bernstein's libtai knows no leap
// second after 1972, as most loggers do not.
func parseTAI(s string) (at time.Time, zoned bool, rest string, ok bool) {
	word, rest, _ := strings.Cut(s, " ")
	if len(word) != 25 {
		return at, false, s, false
	}
	seconds, err := strconv.ParseUint(word[1:17], 16, 64)
	nanos, nanosErr := strconv.ParseUint(word[17:], 16, 32)
	if err != nil || nanosErr != nil || seconds < 1<<62+10 {
		return at, false, s, false
	}
	return time.Unix(int64(seconds-1<<62)-10, int64(nanos)), true, rest, true
}

// parseTraditional reads "Nov 25 05:08:53" of RFC 3164, the day padded or not, with a fraction or
// the year, and the month in another language, or after the day.
func parseTraditional(s string, now time.Time, zone *time.Location) (at time.Time, rest string, ok bool) {
	first, s, _ := strings.Cut(s, " ")
	s = strings.TrimLeft(s, " ")
	second, s, _ := strings.Cut(s, " ")
	month, ok := monthOf(first)
	dayText := second
	if !ok {
		month, ok = monthOf(second)
		dayText = first
	}
	day, err := strconv.Atoi(strings.TrimRight(dayText, ".,"))
	if !ok || err != nil || day < 1 || day > 31 {
		return at, s, false
	}
	clock, rest, _ := strings.Cut(s, " ")
	year := 0
	if len(clock) == 4 && digits([]byte(clock)) {
		year, _ = strconv.Atoi(clock)
		clock, rest, _ = strings.Cut(rest, " ")
	}
	t, err := time.Parse("15:04:05", strings.TrimSuffix(clock, ":"))
	if err != nil {
		return at, s, false
	}
	if year == 0 && len(rest) > 4 && rest[4] == ' ' && digits([]byte(rest[:4])) {
		year, _ = strconv.Atoi(rest[:4])
		rest = rest[5:]
	}
	of := func(year int) time.Time {
		return time.Date(year, month, day, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), zone)
	}
	if year != 0 {
		return of(year), rest, true
	}
	now = now.In(zone)
	if at = of(now.Year()); at.After(now.AddDate(0, 0, 2)) {
		at = of(now.Year() - 1)
	}
	return at, rest, true
}

// months are the beginnings of the names of months, in the languages whose names strftime(3) and
// syslog daemons write: English, German, French, Spanish, Italian, Portuguese, Dutch, the
// Scandinavian ones, Polish, Czech, Russian, Hungarian, Romanian and Turkish. A name that two of
// them have for different months is not among them.
var months = [12]string{
	"jan ene gen sty led янв ian oca", "feb fév lut úno фев şub", "mar mär mrt bře мар", "apr avr abr kwi dub ápr апр nis",
	"may mai mag maj mei kvě máj мая май", "jun giu cze čvn jún июн iun haz", "jul lug čvc júl июл iul tem", "aug aoû ago sie srp авг ağu",
	"sep set wrz zář sze сен eyl", "oct okt ott out paź říj окт eki", "nov lis ноя noi kas", "dec déc dez des dic gru pro дек ara",
}

// monthOf finds a month by the first letters of its name, or by its number in Chinese and Japanese.
func monthOf(name string) (time.Month, bool) {
	if n, ok := strings.CutSuffix(name, "月"); ok {
		m, err := strconv.Atoi(n)
		return time.Month(m), err == nil && m >= 1 && m <= 12
	}
	if !utf8.ValidString(name) {
		// A locale of Latin-1.
		name = latin1(name)
	}
	name = strings.ToLower(strings.TrimRight(name, ".,"))
	switch {
	case strings.HasPrefix(name, "juin"):
		return time.June, true
	case strings.HasPrefix(name, "juil"):
		return time.July, true
	}
	letters := []rune(name)
	if len(letters) < 3 {
		return 0, false
	}
	start := string(letters[:3])
	for m, names := range months {
		for _, known := range strings.Fields(names) {
			if known == start {
				return time.Month(m + 1), true
			}
		}
	}
	return 0, false
}

func latin1(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(rune(s[i]))
	}
	return b.String()
}

// cutPort takes a port, ":4711", from the beginning of a text.
func cutPort(s []byte) (port uint16, rest []byte) {
	number, ok := bytes.CutPrefix(s, []byte(":"))
	if !ok {
		return 0, s
	}
	n := 0
	for n < len(number) && number[n] >= '0' && number[n] <= '9' {
		n++
	}
	p, err := strconv.ParseUint(string(number[:n]), 10, 16)
	if err != nil {
		return 0, s
	}
	return uint16(p), number[n:]
}
