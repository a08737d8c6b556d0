// Package maillog reads what Postfix writes into its log, and follows that log: a file, the journal
// or standard input.
//
// A filter that refuses a message at its end is invisible to the milters behind it, and
// postscreen's clients are invisible to all. The log knows both. What a line says is taken from its
// fixed parts only, by their position, as smtpd(8), cleanup(8) and postscreen(8) write them: a
// client can put anything into its HELO name, its addresses and its message, and all of these are
// in the log, too.
//
// The operator's own users are not judged: services under the names of a submission service,
// sessions that have logged in, and mail that came from this host. Mail that an after-queue filter
// puts back is its first client's, see reinjection.go.
package maillog

import (
	"bytes"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/policy"
)

const (
	// messagesMost bounds the messages under way whose client is remembered, processesMost the
	// processes of smtpd(8), tagsMost the names of programs, unservedMost the clients of which a
	// block list does not tell.
	messagesMost  = 100_000
	processesMost = 20_000
	tagsMost      = 1000
	unservedMost  = 10_000
	// unservedFor is how long that is remembered: postscreen asks the list anew for each client.
	unservedFor = 10 * time.Minute
	// textMost bounds what is read of a line in bytes: Postfix's own are at most 2 KiB.
	textMost = 4096
)

// Stats are counts since the start.
type Stats struct {
	// Lines counts all lines, Postfix those of Postfix's programs, Signals those that say something
	// of a client, Malformed those that are too long or cannot be read.
	Lines, Postfix, Signals, Malformed atomic.Uint64
}

// Options are what a Reader needs to know. Now and Zone are for time stamps without year and zone.
type Options struct {
	Now  func() time.Time
	Zone *time.Location
	// UnknownUser counts an unknown user that a client asked for at a time; see behaviour.Clients.
	// It is nil where nothing counts them.
	UnknownUser func(client netip.Addr, recipient string, at time.Time) policy.Confidence
	// Reinjected is told which message an after-queue filter put back as which, or is nil.
	Reinjected func(policy.Reinjection)
	// Silence is the class of a message of which the log tells only that it was accepted, and that
	// no milter hears of; empty for none.
	Silence policy.Class
	// Services are the names under which the mail exchanger's smtpd(8) logs, such as "postfix" or
	// "postfix/mx"; empty for all that are not known for those of the operator's own users.
	Services []string
	// UserServices are names of services of the operator's own users, from master.cf.
	UserServices []string
}

// Reader makes signals of lines. NewReader makes one; it is for one goroutine.
type Reader struct {
	Stats Stats

	Options
	programs map[string]program
	// messages are those under way, by their queue ids.
	messages *otter.Cache[string, origin]
	sessions map[string]*session
	// groups counts the groups of signals.
	groups uint64
	// unserved are clients of which a block list said only that it does not serve our resolver, and
	// when.
	unserved map[netip.Addr]time.Time
	// when is that of the line that is read.
	when when
}

// origin is where a message came from. The client is invalid for the operator's own users.
type origin struct {
	client netip.Addr
	port   uint16
	// queueID is the message's first one, where an after-queue filter has put it back; else empty.
	queueID string
}

// when is the time of a line, or the stamps that say it.
type when struct {
	stamp, outer []byte
	at           time.Time
}

// NewReader returns a reader.
func NewReader(o Options) *Reader {
	return &Reader{
		Options: o, programs: map[string]program{}, sessions: map[string]*session{}, unserved: map[netip.Addr]time.Time{},
		messages: otter.Must(&otter.Options[string, origin]{MaximumSize: messagesMost}),
	}
}

// Read reads a line. ok is false when it tells nothing of a client.
func (r *Reader) Read(line []byte) (s policy.Signal, ok bool) {
	if len(line) > 0 && line[0] == '{' {
		// As journalctl(1) writes it with --output=json.
		if e, err := ParseEntry(line); err == nil && e.Program != "" {
			return r.ReadEntry(e)
		}
	}
	r.Stats.Lines.Add(1)
	// Exim's own lines first: a sender in them may look like another program's name.
	if s, ok, known := r.readExim(line); known {
		return r.noted(s, ok)
	}
	p, ok := split(line)
	if !ok {
		return s, false
	}
	program := r.programOf(p.tag)
	if program == another {
		return s, false
	}
	r.Stats.Postfix.Add(1)
	if program == exim && len(p.text) > textMost {
		return s, false
	}
	r.when = when{stamp: p.head, outer: p.outer}
	if s, ok = r.read(program, p.process, p.text[:min(len(p.text), textMost)]); !ok {
		return s, false
	}
	if s.Time, ok = r.time(); !ok || !isPrefix(p.head) {
		r.Stats.Malformed.Add(1)
		return s, false
	}
	r.Stats.Signals.Add(1)
	return s, true
}

// noted counts a line of the MTA's with its signal, if it is one.
func (r *Reader) noted(s policy.Signal, ok bool) (policy.Signal, bool) {
	r.Stats.Postfix.Add(1)
	if ok {
		r.Stats.Signals.Add(1)
	}
	return s, ok
}

// Remember reads a line again that was read before a restart, for the client of a session or a
// message that may still be under way. It is not counted, and makes no signal.
func (r *Reader) Remember(line []byte) {
	p, ok := split(line)
	if ok && (bytes.HasPrefix(p.text, []byte("connect from ")) || bytes.Contains(p.text, []byte(": client="))) {
		r.when = when{stamp: p.head, outer: p.outer}
		r.read(r.programOf(p.tag), p.process, p.text)
	}
}

// ReadEntry reads an entry of the journal: the program, such as postfix/smtpd, its process id, and
// the text.
func (r *Reader) ReadEntry(e Entry) (s policy.Signal, ok bool) {
	r.Stats.Lines.Add(1)
	program := r.programOf([]byte(e.Program))
	if program == another {
		return s, false
	}
	r.Stats.Postfix.Add(1)
	if program == exim && len(e.Text) > textMost {
		return s, false
	}
	r.when = when{at: e.At}
	if s, ok = r.read(program, []byte(e.Program+"["+e.PID+"]"), unfold(e.Text)); ok {
		s.Time = e.At
		r.Stats.Signals.Add(1)
	}
	return s, ok
}

// time is the time of the line that is read.
func (r *Reader) time() (time.Time, bool) {
	if !r.when.at.IsZero() {
		return r.when.at, true
	}
	now := r.Now()
	at, zoned, ok := stampOf(r.when.stamp, now, r.Zone)
	if len(r.when.outer) > 0 && !zoned {
		if outer, outerZoned, outerOK := stampOf(r.when.outer, now, r.Zone); outerOK && (outerZoned || !ok) {
			return outer, true
		}
	}
	return at, ok
}

// read reads the text of a line.
func (r *Reader) read(p program, process, text []byte) (s policy.Signal, ok bool) {
	switch p {
	case postscreen:
		s, ok = r.postscreen(text)
	case dnsblog:
		s, ok = r.listed(text)
	case tlsproxy:
		s, ok = tlsProxy(text)
	case cleanup:
		s, ok = r.cleanup(text)
	case delivery:
		s, ok = r.delivered(text)
	case submission:
		r.users(text)
		return s, false
	case qmgr:
		if id, ok := bytes.CutSuffix(text, []byte(": removed")); ok {
			// Short queue ids are used again.
			r.messages.Invalidate(string(id))
		}
		return s, false
	case pickup:
		if queueID, _, ok := cutQueueID(text); ok && queueID != "" {
			r.messages.Set(queueID, origin{})
		}
		return s, false
	case smtpd:
		s, ok = r.smtpd(process, text)
	case sendmail:
		s, ok = r.sendmail(process, text)
	case exim:
		s, ok = r.exim(text)
	}
	if !ok || policy.IsHere(s.Addr) || !s.Addr.IsValid() && s.QueueID == "" {
		return s, false
	}
	return s, true
}

// about is the signal of a client.
func about(c peer, class policy.Class, source policy.Source, reason string) policy.Signal {
	return policy.Signal{Addr: c.addr, Port: c.port, Assessment: policy.Assessment{Class: class, Confidence: policy.Certain, Source: source, Reason: verdict.Clip(reason)}}
}

// handshakeFailed is the signal of a TLS handshake that failed.
func handshakeFailed(c peer, how string) policy.Signal {
	s := about(c, policy.None, policy.FromTLS, "TLS handshake failed"+how)
	s.Trouble = policy.HandshakeFailed
	return s
}

// peer is a client as Postfix writes it.
type peer struct {
	addr netip.Addr
	port uint16
	// text is all of it, such as "mail.example[192.0.2.7]".
	text []byte
}

// cutAddr reads an address up to the bracket behind it, with "IPv6:" before one of that kind.
func cutAddr(s []byte) (addr netip.Addr, rest []byte, ok bool) {
	number, rest, ok := bytes.Cut(s, []byte("]"))
	if !ok || len(number) > len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255%interface-name") {
		return addr, nil, false
	}
	addr, err := policy.ParseAddr(string(number))
	return addr, rest, err == nil
}

// parsePeer reads a client, "name[addr]", with ":port" behind it where smtpd_client_port_logging is
// on; postscreen leaves out the name. rest is what follows.
func parsePeer(s []byte) (c peer, rest []byte, ok bool) {
	name, rest, ok := bytes.Cut(s, []byte("["))
	if !ok || len(name) > 255 || bytes.ContainsAny(name, " :;<,=") {
		return c, nil, false
	}
	if c.addr, rest, ok = cutAddr(rest); !ok {
		return c, nil, false
	}
	c.port, rest = cutPort(rest)
	c.text = s[:len(s)-len(rest)]
	return c, rest, true
}
