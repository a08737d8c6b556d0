package ledger

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/ehlogate/ehlogate/policy"
)

// Kind is what a tally is by.
type Kind string

// The kinds of tallies. Those by what was authenticated have only what passed.
const (
	ByAddress     Kind = "address"
	ByNetwork     Kind = "network"
	ByASN         Kind = "asn"
	ByDomain      Kind = "domain" // of the envelope sender
	ByDKIM        Kind = "dkim"
	BySPF         Kind = "spf"
	ByCertificate Kind = "certificate" // the subject of a client's certificate that the MTA trusts
)

// Kinds are all kinds.
var Kinds = []Kind{ByAddress, ByNetwork, ByASN, ByDomain, ByDKIM, BySPF, ByCertificate}

// MostTallied is how many names a tally has at most.
const MostTallied = 300

// Protocol is how a message was protected on its way.
type Protocol int

// The protocols.
const (
	InClear Protocol = iota
	OldTLS           // older than TLS 1.2
	TLS12
	TLS13
	NotKnown // nobody heard the session
	protocols
)

// protocolOf is the protocol of a version. One that is not known is taken for new.
func protocolOf(version string) Protocol {
	switch version {
	case Plain:
		return InClear
	case Unheard:
		return NotKnown
	case "TLSv1.2":
		return TLS12
	case "TLSv1.1", "TLSv1", "SSLv3":
		return OldTLS
	}
	return TLS13
}

// Sum is what was counted under a name.
type Sum struct {
	// Spam, Ham and None are messages by protocol, from InClear to NotKnown.
	Spam, Ham, None [protocols]int64
	// Withheld counts messages and sessions without one to which STARTTLS was not offered, Failed
	// handshakes that failed, Left sessions that left for want of STARTTLS, and UnknownUsers
	// messages that were refused for asking for those.
	Withheld, Failed, Left, UnknownUsers int64
}

func (s *Sum) fields() []*int64 {
	all := make([]*int64, 0, 3*int(protocols)+4)
	for _, by := range []*[protocols]int64{&s.Spam, &s.Ham, &s.None} {
		for i := range by {
			all = append(all, &by[i])
		}
	}
	return append(all, &s.Withheld, &s.Failed, &s.Left, &s.UnknownUsers)
}

// add counts an entry n times.
func (s *Sum) add(e *Entry, n int64) {
	if e.Message {
		by := &s.None
		switch e.Verdict.Class {
		case policy.Spam:
			by = &s.Spam
		case policy.Ham:
			by = &s.Ham
		}
		by[protocolOf(Versions[e.version()])] += n
	}
	if e.STARTTLS == policy.Withheld && (e.Message || e.Session) {
		s.Withheld += n
	}
	switch e.Trouble {
	case policy.HandshakeFailed:
		s.Failed += n
	case policy.LeftWithout, policy.RefusedWithout:
		s.Left += n
	}
	if e.Verdict.Source == policy.FromUnknownUser {
		s.UnknownUsers += n
	}
}

func (s *Sum) plus(t *Sum) {
	from := t.fields()
	for i, to := range s.fields() {
		*to += *from[i]
	}
}

// total adds up messages.
func total(by [protocols]int64) (n int64) {
	for _, v := range by {
		n += v
	}
	return n
}

// overTLS adds up messages over TLS.
func overTLS(by [protocols]int64) int64 { return total(by) - by[InClear] - by[NotKnown] }

// Named is a name with its sum.
type Named struct {
	Name string
	Sum
	// Seen is how often the name was seen, as far as that is known, and Missed how many of these
	// may have been another's: Sum has the others.
	Seen, Missed int64
}

// Tally counts under names, and keeps those that are most frequent: the space-saving sketch of
// Metwally, Agrawal and El Abbadi, "Efficient computation of frequent and top-k elements in data
// streams", 2005. A name that is seen more often than one in MostTallied times is in it.
type Tally struct {
	names   map[string]int
	tallied []Named
	// most is how many names there may be.
	most int
}

// NewTally returns an empty tally.
func NewTally() *Tally { return &Tally{names: map[string]int{}, most: MostTallied} }

// mostInMemory is how many names a tally has that is kept in memory only: who counts event logs can
// wait, and wants it exact. Names beyond them are left out.
const mostInMemory = 100_000

// Count counts an entry under a name, n times.
func (t *Tally) Count(name string, e *Entry, n int64) {
	i, ok := t.names[name]
	switch {
	case ok:
	case len(t.tallied) < t.most:
		// A correction may stand before what it corrects.
		i = t.put(Named{Name: name})
	case n < 0:
		// It was replaced meanwhile.
		return
	case t.most > MostTallied:
		return
	default:
		i = t.replace(name)
	}
	t.tallied[i].add(e, n)
	if n > 0 {
		t.tallied[i].Seen += n
	}
}

func (t *Tally) put(n Named) int {
	t.names[n.Name] = len(t.tallied)
	t.tallied = append(t.tallied, n)
	return len(t.tallied) - 1
}

// replace puts a name in the place of the one that was seen least.
func (t *Tally) replace(name string) int {
	least := 0
	for i := range t.tallied {
		if t.tallied[i].Seen < t.tallied[least].Seen {
			least = i
		}
	}
	old := &t.tallied[least]
	delete(t.names, old.Name)
	t.names[name] = least
	*old = Named{Name: name, Seen: old.Seen, Missed: old.Seen}
	return least
}

// merge adds what was counted under a name on another day, or by another node, whatever the number
// of names.
func (t *Tally) merge(n *Named) {
	at, ok := t.names[n.Name]
	if !ok {
		t.put(*n)
		return
	}
	to := &t.tallied[at]
	to.Sum.plus(&n.Sum)
	to.Seen += n.Seen
	to.Missed += n.Missed
}

// Top are the names of which most was counted, by some measure, those of which nothing was left
// out.
func (t *Tally) Top(most int, measure func(*Named) int64) []Named {
	var all []Named
	for i := range t.tallied {
		if measure(&t.tallied[i]) > 0 {
			all = append(all, t.tallied[i])
		}
	}
	slices.SortFunc(all, func(a, b Named) int {
		return cmp.Or(cmp.Compare(measure(&b), measure(&a)), cmp.Compare(b.Seen, a.Seen), cmp.Compare(a.Name, b.Name))
	})
	return all[:min(most, len(all))]
}

func (t *Tally) encode() (b []byte) {
	for i := range t.tallied {
		n := &t.tallied[i]
		b = append(binary.AppendUvarint(b, uint64(len(n.Name))), n.Name...)
		b = binary.AppendVarint(binary.AppendVarint(b, n.Seen), n.Missed)
		fields := n.fields()
		b = append(b, byte(len(fields)))
		for _, v := range fields {
			b = binary.AppendVarint(b, *v)
		}
	}
	return b
}

// decode adds names that were written.
func (t *Tally) decode(b []byte) error {
	for len(b) > 0 {
		length, n := binary.Uvarint(b)
		if n <= 0 || length > mostName || uint64(len(b)-n) < length {
			return errShort
		}
		named := Named{Name: string(b[n : n+int(length)])}
		b = b[n+int(length):]
		varint := func(to *int64) bool {
			v, n := binary.Varint(b)
			if n > 0 {
				*to, b = v, b[n:]
			}
			return n > 0
		}
		if !varint(&named.Seen) || !varint(&named.Missed) || len(b) == 0 {
			return errShort
		}
		count, fields := int(b[0]), named.fields()
		b = b[1:]
		for i := range count {
			// A later version may have more.
			to := new(int64)
			if i < len(fields) {
				to = fields[i]
			}
			if !varint(to) {
				return errShort
			}
		}
		t.merge(&named)
	}
	return nil
}
