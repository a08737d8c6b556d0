package ledger

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"

	"github.com/ehlogate/ehlogate/policy"
)

// A count's place in Counts never changes, or files written before would be read wrongly: a list of
// names below may only grow at its end, up to its room.
const (
	atSessions  = 0   // by answer, 8 for each, and TLS version
	atMessages  = 32  // by class, 8 for each, and TLS version
	atCiphers   = 64  // by class, 16 for each, and cipher group
	atExchanges = 112 // by class, 8 for each, and key exchange
	atSources   = 144 // by class, 64 for each, and source
	atTiers     = 336 // by class, 8 for each, and tier
	atAnswers   = 360 // by class, 8 for each, and answer
	atOutcomes  = 384 // by class, 8 for each, and outcome
	atTroubles  = 408
	atOwn       = 416 // messages of own users, then their sessions
	atProofs    = 424 // by class, 4 for each, and what authenticated the sender
	atFresh     = 440 // clients, each once a day, by what is watched
	series      = 448
)

// Classes are the classes of messages in the order of their counts.
var Classes = []policy.Class{policy.Spam, policy.Ham, policy.None}

// Answers are the answers about STARTTLS in the order of their counts.
var Answers = []policy.Answer{policy.Offered, policy.Withheld, policy.Unasked}

// Plain is the name of sessions without TLS among versions.
const Plain = "none"

// Unheard is the name of those of which nobody knows whether they used TLS: only a log, a feed or a
// person told of them.
const Unheard = "unknown"

// Versions are the versions of TLS in the order of their counts, as Postfix writes them.
var Versions = []string{Plain, "TLSv1.3", "TLSv1.2", "TLSv1.1", "TLSv1", "SSLv3", other, Unheard}

const other = "other"

// Ciphers are the groups of ciphers in the order of their counts.
var Ciphers = []string{"AES-GCM", "CHACHA20", "AES-CCM", "AES-CBC", "CAMELLIA", "3DES", "RC4", other, "ARIA", Unheard}

// Exchanges are the ways to agree on a key in the order of their counts. TLS 1.3 has only ephemeral
// ones, and its cipher does not name which.
var Exchanges = []string{"TLSv1.3", "ECDHE", "DHE", "RSA", other}

// Sources are the sources of verdicts in the order of their counts, the last for those that are not
// named here.
var Sources = []policy.Source{
	"", policy.FromHeader, policy.FromAuthentication, policy.FromSilence, policy.FromRspamd, policy.FromFeed, policy.FromDNSBL, policy.FromRecipient,
	policy.FromUnknownUser, policy.FromRelay, policy.FromGreylist, policy.FromTempfail, policy.FromLimit, policy.FromLogin, policy.FromPipelining,
	policy.FromMilterReject, policy.FromMilterDiscard, policy.FromMilterHold, policy.FromContent, policy.FromPregreet, policy.FromHangup, policy.FromTLS,
	policy.FromProbe, policy.FromFlood, policy.FromTrap, policy.FromPerson, policy.FromReport, other,
}

// Tiers are the tiers in the order of their counts.
var Tiers = []string{"good", "unknown", "suspect", "bad", other}

// Outcomes are the outcomes in the order of their counts.
var Outcomes = []policy.Outcome{policy.Accepted, policy.Rejected, policy.Aborted, other}

// Proofs are what can authenticate a sender in the order of their counts.
var Proofs = []Kind{ByDKIM, BySPF, ByCertificate}

// Troubles are the troubles with TLS in the order of their counts.
var Troubles = []policy.Trouble{policy.HandshakeFailed, policy.LeftWithout, policy.RefusedWithout}

// Counts are the counts of a slot.
type Counts [series]int64

// place is where a name is in a list, the place of "other" where it is not.
func place[T ~string](list []T, name T) int {
	if i := slices.Index(list, name); i >= 0 {
		return i
	}
	return max(0, slices.Index(list, other))
}

// Add counts an entry n times.
func (c *Counts) Add(e *Entry, n int64) {
	if e.Own {
		if e.Message {
			c[atOwn] += n
		}
		if e.Session {
			c[atOwn+1] += n
		}
		return
	}
	version := e.version()
	if e.Session {
		c[atSessions+8*placeAnswer(e.STARTTLS)+version] += n
	}
	if i := slices.Index(Troubles, e.Trouble); i >= 0 {
		c[atTroubles+i] += n
	}
	if !e.Message {
		return
	}
	class := placeClass(e.Verdict.Class)
	c[atMessages+8*class+version] += n
	c[atSources+64*class+place(Sources, e.Verdict.Source)] += n
	c[atTiers+8*class+place(Tiers, e.Tier)] += n
	c[atAnswers+8*class+placeAnswer(e.STARTTLS)] += n
	c[atOutcomes+8*class+place(Outcomes, e.Outcome)] += n
	for i, proven := range []bool{e.Auth.DKIM == "pass", e.Auth.SPF == "pass", e.TLS != nil && e.TLS.CertSubject != ""} {
		if proven {
			c[atProofs+4*class+i] += n
		}
	}
	if e.TLS != nil {
		c[atCiphers+16*class+place(Ciphers, cipherGroup(e.TLS.Cipher))] += n
		c[atExchanges+8*class+place(Exchanges, exchange(e.TLS))] += n
	}
}

func (e *Entry) version() int {
	switch {
	case e.TLS != nil && e.TLS.Version != Unheard:
		return max(1, place(Versions, e.TLS.Version))
	case e.Unheard:
		return len(Versions) - 1
	}
	return 0
}

func placeClass(c policy.Class) int {
	if i := slices.Index(Classes, c); i >= 0 {
		return i
	}
	return len(Classes) - 1
}

func placeAnswer(a policy.Answer) int {
	if i := slices.Index(Answers, a); i >= 0 {
		return i
	}
	return len(Answers) - 1
}

// cipherGroup is the group of a cipher suite, by the name that OpenSSL or RFC 8446 gives it.
func cipherGroup(name string) string {
	has := func(part string) bool { return strings.Contains(name, part) }
	switch {
	case name == "":
		return Unheard
	case has("CHACHA20"):
		return "CHACHA20"
	case has("ARIA"):
		return "ARIA"
	case has("CAMELLIA"):
		return "CAMELLIA"
	case has("AES") && has("GCM"):
		return "AES-GCM"
	case has("AES") && has("CCM"):
		return "AES-CCM"
	case has("AES"):
		return "AES-CBC"
	case has("DES-CBC3"), has("3DES"):
		return "3DES"
	case has("RC4"):
		return "RC4"
	}
	return other
}

// exchange is the key exchange that a cipher suite names: before TLS 1.3 it is the first part of
// OpenSSL's name, and a suite that does not begin with one has RSA key transport.
func exchange(t *policy.TLS) string {
	switch name := t.Cipher; {
	case strings.HasPrefix(name, "TLS_"):
		return "TLSv1.3"
	case strings.HasPrefix(name, "ECDHE-"):
		return "ECDHE"
	case strings.HasPrefix(name, "DHE-"), strings.HasPrefix(name, "EDH-"):
		return "DHE"
	case strings.HasPrefix(name, "AES"), strings.HasPrefix(name, "CAMELLIA"), strings.HasPrefix(name, "ARIA"), strings.HasPrefix(name, "DES-CBC3"), strings.HasPrefix(name, "RC4"):
		return "RSA"
	}
	return other
}

// plus adds other counts.
func (c *Counts) plus(d *Counts) {
	for i, n := range d {
		c[i] += n
	}
}

var errShort = errors.New("counts are cut short")

// encode writes the counts that are not zero, each after its place.
func (c *Counts) encode() (b []byte) {
	for i, n := range c {
		if n != 0 {
			b = binary.AppendVarint(binary.AppendUvarint(b, uint64(i)), n)
		}
	}
	return b
}

// decode adds counts that were written. It passes over places that a later version has.
func (c *Counts) decode(b []byte) error {
	for len(b) > 0 {
		i, n := binary.Uvarint(b)
		if n <= 0 {
			return errShort
		}
		v, m := binary.Varint(b[n:])
		if m <= 0 {
			return errShort
		}
		if b = b[n+m:]; i < series {
			c[i] += v
		}
	}
	return nil
}
