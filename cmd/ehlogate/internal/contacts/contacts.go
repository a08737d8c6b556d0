// Package contacts knows whom to write to about abuse, from what an operator has fetched: answers
// of whois servers, one after the other in a file, or of RDAP servers (RFC 9083), one JSON object
// after the other. Nobody is asked.
package contacts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/gaissmai/bart"
	"go4.org/netipx"

	"github.com/ehlogate/ehlogate/policy/regular"
)

// Book has contacts by network, autonomous system and domain. Read makes one.
type Book struct {
	// Fault is why the file cannot be used, nil where it can.
	Fault error
	// path and changed are of the file that it was read from.
	path    string
	changed time.Time

	networks bart.Table[string]
	systems  map[uint32]string
	domains  map[string]string
}

// Open reads the file of a path, or returns what was read of it before, if it has not changed.
// Where it cannot be used, the book has no contacts, and Fault says why. An empty path has none.
func Open(path string, before *Book) *Book {
	if path == "" {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return &Book{path: path, Fault: fmt.Errorf("contacts: %w", err)}
	}
	if before != nil && before.path == path && before.changed.Equal(info.ModTime()) {
		return before
	}
	b := new(Book)
	f, err := regular.Open(path)
	if err == nil {
		defer f.Close()
		b, err = Read(f)
	}
	if err != nil {
		b.Fault = fmt.Errorf("contacts: %s: %w", path, err)
	}
	b.path, b.changed = path, info.ModTime()
	return b
}

// Len is how many networks, systems and domains have a contact.
func (b *Book) Len() int { return b.networks.Size() + len(b.systems) + len(b.domains) }

// Of is the contact for a name of a report: an address, a network, an AS or a domain, or what is
// above it; empty where none is known.
func (b *Book) Of(name string) string {
	if b == nil {
		return ""
	}
	if n, ok := strings.CutPrefix(name, "AS"); ok {
		if asn, err := strconv.ParseUint(n, 10, 32); err == nil {
			return b.systems[uint32(asn)]
		}
	}
	if addr, err := netip.ParseAddr(name); err == nil {
		contact, _ := b.networks.Lookup(addr)
		return contact
	}
	if n, err := netip.ParsePrefix(name); err == nil {
		contact, _ := b.networks.LookupPrefix(n)
		return contact
	}
	for domain := strings.ToLower(name); domain != ""; {
		if contact, ok := b.domains[domain]; ok {
			return contact
		}
		_, domain, _ = strings.Cut(domain, ".")
	}
	return ""
}

// ErrNone is what is wrong with a file that has no contact in it.
var ErrNone = errors.New("no contact for abuse is in it; want answers of whois servers, or of RDAP servers in JSON")

// mostBytes bounds a file that is read.
const mostBytes = 256 << 20

// Read reads contacts: answers of both kinds, in any order.
func Read(r io.Reader) (*Book, error) {
	b := &Book{systems: map[uint32]string{}, domains: map[string]string{}}
	text, err := io.ReadAll(io.LimitReader(r, mostBytes))
	if err != nil {
		return b, fmt.Errorf("contacts: %w", err)
	}
	w := whois{book: b}
	for line := 1; len(text) > 0; line++ {
		if text[0] == '{' {
			n, err := b.readRDAP(text)
			if err != nil {
				return b, fmt.Errorf("contacts: line %d: no RDAP object in JSON: %w", line, err)
			}
			line += bytes.Count(text[:n], []byte("\n")) - 1
			text = bytes.TrimLeft(text[n:], " \t\r\n")
			continue
		}
		one, rest, _ := bytes.Cut(text, []byte("\n"))
		w.line(string(one))
		text = rest
	}
	if b.Len() == 0 {
		return b, ErrNone
	}
	return b, nil
}

// add enters a contact for what a whois server or an RDAP server calls it.
func (b *Book) add(subject, contact string) {
	subject, contact = strings.TrimSpace(subject), strings.TrimSpace(contact)
	if !mailbox.MatchString(contact) {
		return
	}
	if from, to, ok := strings.Cut(subject, "-"); ok {
		first, errFirst := netip.ParseAddr(strings.TrimSpace(from))
		last, errLast := netip.ParseAddr(strings.TrimSpace(to))
		if r := netipx.IPRangeFrom(first, last); errFirst == nil && errLast == nil && r.IsValid() {
			for _, n := range r.Prefixes() {
				b.networks.Insert(n, contact)
			}
			return
		}
	}
	if n, ok := strings.CutPrefix(strings.ToUpper(subject), "AS"); ok {
		if asn, err := strconv.ParseUint(n, 10, 32); err == nil {
			b.systems[uint32(asn)] = contact
			return
		}
	}
	if n, err := netip.ParsePrefix(subject); err == nil {
		b.networks.Insert(n.Masked(), contact)
		return
	}
	if domain := strings.ToLower(strings.TrimSuffix(subject, ".")); domainName.MatchString(domain) {
		b.domains[domain] = contact
	}
}

var (
	mailbox    = regexp.MustCompile(`^[!-~]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}$`)
	domainName = regexp.MustCompile(`^[a-z0-9_-]+(\.[a-z0-9_-]+)+$`)
	// ripeContact is the line that RIPE's and APNIC's servers put above an answer.
	ripeContact = regexp.MustCompile(`(?i)^% Abuse contact for '([^']+)' is '([^']+)'`)
	field       = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9 /-]*):[ \t]*(.*?)\s*$`)
)

// Fields of whois answers, lower-case: what an answer is about, and whom to write to.
var (
	subjects = map[string]bool{"inetnum": true, "inet6num": true, "netrange": true, "cidr": true, "route": true, "route6": true, "aut-num": true, "asnumber": true, "domain": true, "domain name": true}
	contacts = map[string]bool{"abuse-mailbox": true, "orgabuseemail": true, "registrar abuse contact email": true, "rabuseemail": true}
)

// whois reads the answers of whois servers, line by line. A contact is for what was named before
// it, since the last contact.
type whois struct {
	book  *Book
	about []string
	told  bool
}

func (w *whois) line(line string) {
	if m := ripeContact.FindStringSubmatch(line); m != nil {
		w.book.add(m[1], m[2])
		w.about, w.told = nil, false
		return
	}
	m := field.FindStringSubmatch(line)
	if m == nil {
		return
	}
	switch name := strings.ToLower(m[1]); {
	case subjects[name]:
		if w.told {
			w.about, w.told = nil, false
		}
		w.about = append(w.about, strings.Split(m[2], ",")...)
	case contacts[name]:
		for _, subject := range w.about {
			w.book.add(subject, m[2])
		}
		w.told = true
	}
}

// rdap is an answer of an RDAP server: RFC 9083 sections 5.3 to 5.5.
type rdap struct {
	Start       string   `json:"startAddress"`
	End         string   `json:"endAddress"`
	FirstSystem *uint32  `json:"startAutnum"`
	Name        string   `json:"ldhName"`
	Entities    []entity `json:"entities"`
}

// entity is somebody who is responsible: RFC 9083 section 5.1.
type entity struct {
	Roles    []string          `json:"roles"`
	VCard    []json.RawMessage `json:"vcardArray"`
	Entities []entity          `json:"entities"`
}

// readRDAP reads the object at the start of a text, and returns how long it is.
func (b *Book) readRDAP(text []byte) (n int, err error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	var r rdap
	if err := decoder.Decode(&r); err != nil {
		return 0, err
	}
	contact := abuse(r.Entities)
	switch {
	case contact == "":
	case r.Start != "":
		b.add(r.Start+" - "+r.End, contact)
	case r.FirstSystem != nil:
		b.add(fmt.Sprint("AS", *r.FirstSystem), contact)
	default:
		b.add(r.Name, contact)
	}
	return int(decoder.InputOffset()), nil
}

// mostNested bounds how deep entities are looked through.
const mostNested = 8

// abuse is the mailbox of who has the role "abuse" (RFC 9083 section 10.2.4), in the vCard of RFC
// 7095.
func abuse(all []entity) string { return abuseAt(all, 0) }

func abuseAt(all []entity, depth int) string {
	if depth == mostNested {
		return ""
	}
	for _, e := range all {
		for _, role := range e.Roles {
			if role == "abuse" {
				if m := e.mailbox(); m != "" {
					return m
				}
			}
		}
		if m := abuseAt(e.Entities, depth+1); m != "" {
			return m
		}
	}
	return ""
}

func (e *entity) mailbox() string {
	if len(e.VCard) < 2 {
		return ""
	}
	var properties [][]any
	if json.Unmarshal(e.VCard[1], &properties) != nil {
		return ""
	}
	for _, p := range properties {
		if len(p) > 3 && p[0] == "email" {
			if m, ok := p[3].(string); ok {
				return m
			}
		}
	}
	return ""
}
