package verdict

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ehlogate/ehlogate/policy"
)

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

// authors are headers that a message's author writes, or servers on the way.
var authors = []string{"From", "To", "Cc", "Subject", "Date", "Message-ID", "Reply-To", "Sender", "Return-Path", "Received", "DKIM-Signature"}

// Check finds what is missing. A filter of which spam can be read and ham cannot would make every
// client that sends some spam look as if it sent nothing else.
func (f *Filter) Check(silence policy.Class) error {
	switch {
	case f.Header == "":
		return fmt.Errorf("has no header; want the name of the header that the filter writes")
	case slices.ContainsFunc(authors, func(h string) bool { return strings.EqualFold(f.Header, h) }):
		return fmt.Errorf("header %s is written by the sender, not by a filter", f.Header)
	case !slices.Contains(Reads, f.Read):
		return fmt.Errorf("read is %q; want one of %s", f.Read, strings.Join(Reads, ", "))
	case f.Read == "word" && len(f.Spam) == 0:
		return fmt.Errorf("has no words for spam; expected something like spam = [\"yes\"]")
	case f.Read == "word" && len(f.Ham) == 0 && silence != policy.Ham:
		return fmt.Errorf("has words for spam and none for ham: every client would look like a spammer; for example, add ham = [\"no\"], or verdict.silence = \"ham\" where the filter marks only spam")
	case f.Read != "word" && len(f.Spam)+len(f.Ham) > 0:
		return fmt.Errorf("has words, which read = %q does not look at", f.Read)
	case slices.ContainsFunc(f.Spam, func(w string) bool {
		return slices.ContainsFunc(f.Ham, func(h string) bool { return strings.EqualFold(w, h) })
	}):
		return fmt.Errorf("has the same word for spam and for ham")
	case slices.Contains(f.Spam, "") || slices.Contains(f.Ham, ""):
		return fmt.Errorf("has an empty word")
	case (f.Read == "number" || f.Read == "stars") && !(f.Limit > 0):
		return fmt.Errorf("limit is %g; want the score from which on the filter calls a message spam", f.Limit)
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
		got = countOf(value, f.Star[0])
		ok = int(got.score) == min(len(value), mostStars)
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
			if len(w) > longest && len(value) >= len(w) && strings.EqualFold(value[:len(w)], w) && !letterAt(value, len(w)) {
				got, longest = decision(class), len(w)
			}
		}
	}
	return got, longest > 0
}

// letterAt reports whether a word goes on at a place.
func letterAt(s string, i int) bool {
	return i < len(s) && (s[i] >= 0x80 || s[i]|0x20 >= 'a' && s[i]|0x20 <= 'z' || s[i] >= '0' && s[i] <= '9')
}
