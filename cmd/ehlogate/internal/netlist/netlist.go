// Package netlist reads lists of networks as people keep and publish them: cidr_table(5), the DROP
// lists of Spamhaus as text ("192.0.2.0/24 ; SBL1") and as JSON, DNSWL as rbldnsd(8) has it
// ("192.0.2.0/24:127.0.10.1:mail.example"), and plain networks with comments.
package netlist

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/policy"
)

// Entry is a network of a list.
type Entry struct {
	// Line is from 1.
	Line    int
	Network netip.Prefix
	// Verb is allow or deny, empty where the line does not say.
	Verb string
	// Until is when it ends, zero where the line does not say.
	Until time.Time
	Note  string
}

const (
	// maxLine bounds a line in bytes, MostEntries a list.
	maxLine     = 4096
	MostEntries = 200_000
)

// mostFaults is how many lines are named that are none of a list.
const mostFaults = 10

// Read reads a list. The error names the lines that are none of a list, and what is wrong with
// each.
func Read(r io.Reader) (all []Entry, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, maxLine), maxLine)
	n, faults := 1, []string{}
	for ; lines.Scan(); n++ {
		if text := lines.Bytes(); n == 1 && (bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff"))) {
			return nil, errors.New("it is in UTF-16; write it as UTF-8")
		}
		e, ok, err := parse(strings.TrimPrefix(lines.Text(), "\ufeff"))
		if err != nil {
			if faults = append(faults, fmt.Sprintf("line %d: %v", n, err)); len(faults) == mostFaults {
				return nil, errors.New(strings.Join(faults, "; "))
			}
		}
		if err != nil || !ok {
			continue
		}
		if e.Line = n; len(all) == MostEntries {
			return nil, fmt.Errorf("line %d: more than %d networks", n, MostEntries)
		}
		all = append(all, e)
	}
	if err := lines.Err(); err != nil && !errors.Is(err, bufio.ErrTooLong) {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("line %d: longer than %d bytes: %w", n, maxLine, err)
	}
	if len(faults) > 0 {
		return nil, errors.New(strings.Join(faults, "; "))
	}
	return all, nil
}

// verbs are what lines say to do: in our own words, and in those of access(5).
var verbs = map[string]string{
	"allow": "allow", "deny": "deny",
	"ok": "allow", "permit": "allow", "accept": "allow", "reject": "deny", "discard": "deny", "drop": "deny",
}

// dunno is what a table of access(5) says of what it leaves to others: nothing.
const dunno = "DUNNO"

// undecided are results of access(5) that neither take mail nor refuse it, and replies of SMTP that
// put it off. Notes are not in capitals.
var undecided = regexp.MustCompile(`^(DEFER|DEFER_IF_REJECT|DEFER_IF_PERMIT|HOLD|FILTER|REDIRECT|PREPEND|WARN|INFO|BCC|4[0-9][0-9])$`)

// refusal is a reply of SMTP that refuses.
var refusal = regexp.MustCompile(`^5[0-9][0-9]$`)

// parse reads a line; ok is false where it has no network.
func parse(line string) (e Entry, ok bool, err error) {
	line = strings.TrimSpace(line)
	if strings.Contains(line, "\r") {
		return e, false, errors.New("a carriage return within it; end lines by a line feed")
	}
	if strings.HasPrefix(line, "{") {
		return parseJSON(line)
	}
	text, comment := line, ""
	if i := strings.IndexAny(line, "#;"); i >= 0 {
		text, comment = line[:i], line[i+1:]
	}
	words := strings.Fields(text)
	if len(words) == 0 || strings.HasPrefix(words[0], ":") && !strings.HasPrefix(words[0], "::") || strings.HasPrefix(words[0], "$") {
		// A comment, or a default or directive of rbldnsd.
		return e, false, nil
	}
	network, rest := words[0], ""
	if n := strings.IndexByte(network, ':'); n > 0 && strings.Contains(network[:n], ".") {
		network, rest = network[:n], network[n+1:]
	}
	if verbs[strings.ToLower(network)] != "" && len(words) > 1 {
		return e, false, fmt.Errorf("the network comes first: %s %s", words[1], words[0])
	}
	if e.Network, err = config.ParseNetwork(network); err != nil {
		return e, false, err
	}
	// ours says that the verb is one of our words: behind those of access(5), there may be a text for
	// the client.
	ours := false
	if words = words[1:]; len(words) > 0 {
		switch first := words[0]; {
		case first == dunno:
			return e, false, nil
		case undecided.MatchString(first):
			return e, false, fmt.Errorf("%s is neither allow nor deny", first)
		case refusal.MatchString(first):
			e.Verb = "deny"
		default:
			e.Verb = verbs[strings.ToLower(first)]
		}
		if e.Verb != "" {
			ours = strings.EqualFold(words[0], e.Verb)
			words = words[1:]
		}
		if e.Verb != "" && len(words) > 0 && (words[0] == "allow" || words[0] == "deny") {
			return e, false, fmt.Errorf("%s is to be %s and %s", e.Network, e.Verb, words[0])
		}
	}
	if len(words) > 1 && words[0] == "until" {
		if e.Until, err = time.Parse(time.RFC3339, words[1]); err != nil {
			return e, false, fmt.Errorf("until %s: want a time such as 2026-11-24T13:00:00Z", words[1])
		}
		words = words[2:]
	}
	if len(words) > 0 && ours {
		return e, false, fmt.Errorf("%q behind %s: a network a line, and a note after #", policy.Printable(words[0]), e.Verb)
	}
	e.Note = note(rest, strings.Join(words, " "), comment)
	return e, true, nil
}

// parseJSON reads a line of the DROP lists as JSON; the last one has no network.
func parseJSON(line string) (e Entry, ok bool, err error) {
	var v struct{ CIDR, SBLID string }
	if err := json.Unmarshal([]byte(line), &v); err != nil {
		return e, false, fmt.Errorf("not JSON: %w", err)
	}
	if v.CIDR == "" {
		return e, false, nil
	}
	e.Network, err = config.ParseNetwork(v.CIDR)
	e.Note = note(v.SBLID)
	return e, err == nil, err
}

// note is what a line says beside its network, as an override may have it.
func note(parts ...string) string {
	var all []string
	for _, p := range parts {
		if p = strings.TrimSpace(policy.Printable(p)); p != "" {
			all = append(all, p)
		}
	}
	return strings.ToValidUTF8(cut(strings.Join(all, " ")), "")
}

func cut(s string) string { return s[:min(len(s), policy.MostNote)] }
