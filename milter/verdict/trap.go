package verdict

import (
	"fmt"
	"os"
	"strings"

	"github.com/ehlogate/ehlogate/policy"
)

// Traps are recipients that nobody has a reason to write to. The zero value has none.
type Traps struct {
	addresses, domains map[string]struct{}
}

// maxTrapFile bounds a file of traps in bytes.
const maxTrapFile = 64 << 20

// ParseTraps reads a list of mail addresses, domains as "@spam.example" or "spam.example", and
// files as "/PATH" with one of these a line; empty lines and what follows a "#" are left out.
func ParseTraps(list []string) (t Traps, err error) {
	t = Traps{map[string]struct{}{}, map[string]struct{}{}}
	for _, item := range list {
		if strings.HasPrefix(item, "/") {
			err = t.addFile(item)
		} else {
			err = t.add(item)
		}
		if err != nil {
			return Traps{}, err
		}
	}
	return t, nil
}

func (t Traps) add(item string) error {
	local, domain, isAddress := strings.Cut(strings.ToLower(item), "@")
	if !isAddress {
		local, domain = "", local
	}
	if domain == "" || strings.ContainsAny(domain, "@ \t/") || !strings.Contains(domain, ".") && domain != "localhost" {
		return fmt.Errorf("%q is not a trap; want an address such as old@mx.example, a domain such as @spam.example, with a dot in it, or the path of a file", item)
	}
	if local == "" {
		t.domains[domain] = struct{}{}
	} else {
		t.addresses[local+"@"+domain] = struct{}{}
	}
	return nil
}

func (t Traps) addFile(path string) error {
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxTrapFile {
		err = fmt.Errorf("%s has %d bytes, more than %d", path, info.Size(), maxTrapFile)
	}
	if err != nil {
		return err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if err := t.add(line); err != nil {
			return fmt.Errorf("%s:%d: %w", path, n, err)
		}
	}
	return nil
}

// Len is how many there are.
func (t Traps) Len() int { return len(t.addresses) + len(t.domains) }

// Caught is the assessment of a recipient that is a trap. A subaddress, "old+news@", is the address
// (RFC 5233).
func (t Traps) Caught(rcpt string) (a policy.Assessment, ok bool) {
	if t.Len() == 0 {
		return a, false
	}
	rcpt = strings.ToLower(strings.Trim(rcpt, "<> "))
	i := strings.LastIndexByte(rcpt, '@')
	if i < 0 {
		return a, false
	}
	local, domain := rcpt[:i], rcpt[i+1:]
	base, _, _ := strings.Cut(local, "+")
	_, isDomain := t.domains[domain]
	_, isAddress := t.addresses[rcpt]
	_, isBase := t.addresses[base+"@"+domain]
	if !isDomain && !isAddress && !isBase {
		return a, false
	}
	return policy.Assessment{Class: policy.Spam, Confidence: policy.Certain, Source: policy.FromTrap, Reason: Clip("a recipient in " + domain + " is a spam trap")}, true
}
