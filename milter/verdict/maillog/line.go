// Package maillog reads what Postfix writes into its log, and follows that log: a file, the journal
// or standard input.
//
// A filter that refuses a message at its end is invisible to the milters behind it, and
// postscreen's clients are invisible to all. The log knows both. What a line says is taken from its
// fixed parts only, from left to right, as smtpd(8), cleanup(8) and postscreen(8) write them: a
// client can put anything into its HELO name, its addresses and its message, and all of these are
// in the log, too.
package maillog

import (
	"bytes"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/policy"
)

// clientsMost bounds the messages under way whose client is remembered.
const clientsMost = 100_000

// Stats are counts since the start.
type Stats struct {
	// Lines counts all lines, Signals those that say something of a client, Malformed those that
	// are too long or cannot be read.
	Lines, Signals, Malformed atomic.Uint64
}

// Reader makes signals of lines. NewReader makes one; it is for one goroutine.
type Reader struct {
	Stats Stats

	// now and zone are for time stamps without year and zone.
	now     func() time.Time
	zone    *time.Location
	harvest Harvest
	// clients are the clients of queue ids, invalid for those of the operator's own users.
	clients *otter.Cache[string, netip.Addr]
	// when is that of the line that is read.
	when when
}

// Harvest counts an unknown user that a client asked for at a time; see behaviour.Clients.
type Harvest func(client netip.Addr, recipient string, at time.Time) policy.Confidence

// when is the time of a line, or the stamp that says it.
type when struct {
	stamp []byte
	at    time.Time
}

// NewReader returns a reader. Time stamps without a zone are of the given one.
func NewReader(now func() time.Time, zone *time.Location, harvest Harvest) *Reader {
	return &Reader{now: now, zone: zone, harvest: harvest, clients: otter.Must(&otter.Options[string, netip.Addr]{MaximumSize: clientsMost})}
}

// Read reads a line as syslogd or postlogd writes it: a time stamp, the host, PROGRAM[PID]: and the
// text. ok is false when it tells nothing of a client.
func (r *Reader) Read(line []byte) (t policy.Signal, ok bool) {
	r.Stats.Lines.Add(1)
	head, text, ok := bytes.Cut(line, []byte("]: "))
	if !ok {
		return t, false
	}
	i := bytes.LastIndexByte(head, '[')
	if i < 0 {
		return t, false
	}
	head = head[:i]
	i = bytes.LastIndexByte(head, ' ')
	daemon, ok := daemonOf(head[i+1:])
	if !ok {
		return t, false
	}
	r.when = when{stamp: head}
	if t, ok = r.read(daemon, text); ok {
		t.Time, ok = r.time()
	}
	return r.count(t, ok)
}

// Remember reads a line again that was read before a restart, for the client of a message that may
// still be under way. It is not counted, and makes no signal.
func (r *Reader) Remember(line []byte) {
	head, text, ok := bytes.Cut(line, []byte("]: "))
	if !ok || !bytes.Contains(text, []byte(": client=")) {
		return
	}
	head = head[:max(0, bytes.LastIndexByte(head, '['))]
	if daemon, ok := daemonOf(head[bytes.LastIndexByte(head, ' ')+1:]); ok {
		r.read(daemon, text)
	}
}

// ReadEntry reads an entry of the journal: the program, such as postfix/smtpd, and the text.
func (r *Reader) ReadEntry(at time.Time, program string, text []byte) (t policy.Signal, ok bool) {
	r.Stats.Lines.Add(1)
	daemon, ok := daemonOf([]byte(program))
	if !ok {
		return t, false
	}
	r.when = when{at: at}
	t, ok = r.read(daemon, text)
	t.Time = at
	return r.count(t, ok)
}

func (r *Reader) count(t policy.Signal, ok bool) (policy.Signal, bool) {
	if ok {
		r.Stats.Signals.Add(1)
	}
	return t, ok
}

// daemon is which of Postfix's programs wrote a line.
type daemon int

const (
	smtpd daemon = iota
	submission
	cleanup
	postscreen
)

// daemonOf finds it in a syslog tag, such as postfix/smtpd or postfix-in/smtpd, or
// postfix/submission/smtpd for the operator's own users.
func daemonOf(tag []byte) (daemon, bool) {
	if !bytes.HasPrefix(tag, []byte("postfix")) {
		return 0, false
	}
	i := bytes.LastIndexByte(tag, '/')
	if i < 0 {
		return 0, false
	}
	switch string(tag[i+1:]) {
	case "smtpd":
		if bytes.Contains(tag[:i], []byte("/submission")) || bytes.Contains(tag[:i], []byte("/smtps")) {
			return submission, true
		}
		return smtpd, true
	case "cleanup":
		return cleanup, true
	case "postscreen":
		return postscreen, true
	}
	return 0, false
}

// timeOf reads a line's time stamp: RFC 3339, or "Nov 25 05:08:53" of the traditional format (RFC
// 3164), whose year is the one that brings it nearest to now.
func (r *Reader) timeOf(head []byte) (time.Time, bool) {
	if len(head) > 0 && head[0] >= '0' && head[0] <= '9' {
		stamp, _, _ := bytes.Cut(head, []byte(" "))
		at, err := time.Parse(time.RFC3339Nano, string(stamp))
		return at, err == nil
	}
	if len(head) < len(time.Stamp) {
		return time.Time{}, false
	}
	at, err := time.ParseInLocation(time.Stamp, string(head[:len(time.Stamp)]), r.zone)
	if err != nil {
		return time.Time{}, false
	}
	now := r.now().In(r.zone)
	at = at.AddDate(now.Year(), 0, 0)
	if at.After(now.AddDate(0, 0, 2)) {
		at = at.AddDate(-1, 0, 0)
	}
	return at, true
}

// time is the time of the line that is read.
func (r *Reader) time() (time.Time, bool) {
	if !r.when.at.IsZero() {
		return r.when.at, true
	}
	return r.timeOf(r.when.stamp)
}

// read reads the text of a line.
func (r *Reader) read(d daemon, text []byte) (policy.Signal, bool) {
	switch d {
	case postscreen:
		return r.postscreen(text)
	case cleanup:
		return r.queued(text, true)
	case submission:
		// What the operator's own users do says nothing of a mail exchanger's clients.
		if id, _, ok := bytes.Cut(text, []byte(": client=")); ok {
			r.clients.Set(string(id), netip.Addr{})
		}
		return policy.Signal{}, false
	}
	for _, c := range []struct {
		prefix string
		read   func([]byte) (policy.Signal, bool)
	}{
		{"connect from ", nil}, {"disconnect from ", nil},
		{"SSL_accept error from ", handshakeFailed},
		{"lost connection after STARTTLS from ", handshakeFailed},
		{"improper command pipelining after ", pipelining},
		{"warning: ", limit},
	} {
		if rest, ok := bytes.CutPrefix(text, []byte(c.prefix)); ok {
			if c.read == nil {
				return policy.Signal{}, false
			}
			return c.read(rest)
		}
	}
	return r.queued(text, false)
}

// client is a client as Postfix writes it, "name[addr]", with ":port" behind it where
// smtpd_client_port_logging is on; postscreen leaves out the name. rest is what follows.
func client(s []byte) (addr netip.Addr, port uint16, rest []byte, ok bool) {
	name, rest, ok := bytes.Cut(s, []byte("["))
	if !ok || len(name) > 255 || bytes.ContainsAny(name, " :;<") {
		return addr, 0, nil, false
	}
	number, rest, ok := bytes.Cut(rest, []byte("]"))
	if !ok || len(number) > len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255") {
		return addr, 0, nil, false
	}
	addr, err := policy.ParseAddr(string(number))
	if err != nil {
		return addr, 0, nil, false
	}
	if digits, ok := bytes.CutPrefix(rest, []byte(":")); ok {
		n := 0
		for n < len(digits) && digits[n] >= '0' && digits[n] <= '9' {
			n++
		}
		if p, err := strconv.ParseUint(string(digits[:n]), 10, 16); err == nil {
			port, rest = uint16(p), digits[n:]
		}
	}
	return addr, port, rest, true
}

func about(addr netip.Addr, port uint16, class policy.Class, source policy.Source, reason string) policy.Signal {
	return policy.Signal{Addr: addr, Port: port, Assessment: policy.Assessment{Class: class, Confidence: policy.Certain, Source: source, Reason: verdict.Clip(reason)}}
}

// handshakeFailed reads the rest of "SSL_accept error from name[addr]: -1" and of "lost connection
// after STARTTLS from name[addr]".
func handshakeFailed(rest []byte) (t policy.Signal, ok bool) {
	addr, port, rest, ok := client(rest)
	t = about(addr, port, policy.None, policy.FromTLS, "TLS handshake failed"+string(rest))
	t.Trouble = policy.HandshakeFailed
	return t, ok
}

// pipelining reads the rest of "improper command pipelining after EHLO from name[addr]: TEXT".
func pipelining(rest []byte) (t policy.Signal, ok bool) {
	command, rest, ok := bytes.Cut(rest, []byte(" from "))
	if !ok || bytes.IndexByte(command, ' ') >= 0 || len(command) > 20 {
		return t, false
	}
	addr, port, _, ok := client(rest)
	t = about(addr, port, policy.Spam, policy.FromPipelining, "improper command pipelining after "+string(command))
	switch string(command) {
	case "MAIL", "RCPT", "DATA", "BDAT":
		t.Mail, t.Outcome = true, policy.Aborted
	}
	return t, ok
}

// limits are the warnings of a client over one of smtpd's limits, up to its name.
var limits = []string{
	"Connection concurrency limit exceeded: ", "Connection rate limit exceeded: ", "Message delivery request rate limit exceeded: ",
	"Recipient address rate limit exceeded: ", "New TLS session rate limit exceeded: ", "AUTH command rate limit exceeded: ",
}

// limit reads the rest of "warning: Connection rate limit exceeded: 31 from name[addr] for service
// smtp".
func limit(rest []byte) (t policy.Signal, ok bool) {
	for _, words := range limits {
		if number, ok := bytes.CutPrefix(rest, []byte(words)); ok {
			_, who, _ := bytes.Cut(number, []byte(" from "))
			addr, port, _, ok := client(who)
			return about(addr, port, policy.Spam, policy.FromLimit, strings.TrimSuffix(words, ": ")), ok
		}
	}
	return t, false
}

// queued reads what begins with a queue id: "780D29842A2: client=name[addr]", "NOQUEUE: reject:
// RCPT from name[addr]: ...".
func (r *Reader) queued(text []byte, cleanup bool) (t policy.Signal, ok bool) {
	id, rest, ok := bytes.Cut(text, []byte(": "))
	if !ok || len(id) > 32 || bytes.IndexByte(id, ' ') >= 0 {
		return t, false
	}
	queueID := string(id)
	if queueID == "NOQUEUE" {
		queueID = ""
	}
	if who, ok := bytes.CutPrefix(rest, []byte("client=")); ok {
		if addr, _, rest, ok := client(who); ok && queueID != "" {
			if bytes.Contains(rest, []byte("sasl_username=")) {
				addr = netip.Addr{}
			}
			r.clients.Set(queueID, addr)
		}
		return t, false
	}
	if addr, known := r.clients.GetIfPresent(queueID); known && !addr.IsValid() {
		return t, false
	}
	action, rest, ok := bytes.Cut(rest, []byte(": "))
	if !ok {
		return t, false
	}
	source, outcome, ok := actionOf(string(action))
	if !ok {
		return t, false
	}
	if cleanup && source == "" {
		return r.content(queueID, string(action), rest)
	}
	stage, rest, ok := bytes.Cut(rest, []byte(" from "))
	if !ok || bytes.IndexByte(stage, ' ') >= 0 {
		return t, false
	}
	addr, port, rest, ok := client(rest)
	if !ok {
		return t, false
	}
	reply, envelope := splitReply(rest)
	t = about(addr, port, policy.Spam, source, string(action)+": "+string(stage)+": "+reply)
	t.QueueID, t.Outcome = queueID, outcome
	t.Mail = string(stage) != "CONNECT" && string(stage) != "HELO" && string(stage) != "EHLO"
	t.FromDomain, t.HELO = envelope.domain("from=<"), envelope.field(" helo=<")
	if source == "" {
		t.Assessment = r.refusal(reply, addr)
	} else if strings.HasPrefix(reply, "4") {
		// A filter that puts off has not made up its mind.
		t.Assessment.Class, t.Assessment.Source = policy.None, policy.FromTempfail
	}
	return t, true
}

// actionOf is the source that an action of the log stands for, empty for the MTA's own refusal, and
// what becomes of the message.
func actionOf(action string) (policy.Source, policy.Outcome, bool) {
	switch action {
	case "reject", "discard":
		return "", policy.Rejected, true
	case "milter-reject":
		return policy.FromMilterReject, policy.Rejected, true
	case "milter-discard":
		return policy.FromMilterDiscard, policy.Rejected, true
	case "milter-hold":
		return policy.FromMilterHold, policy.Accepted, true
	}
	return "", "", false
}

// content reads what cleanup says of header_checks and body_checks: "ID: reject: header Subject:
// TEXT from name[addr]; ...". The text is the client's, and may look like anything, so the client
// is that of the queue id.
func (r *Reader) content(queueID, action string, rest []byte) (t policy.Signal, ok bool) {
	place, _, _ := bytes.Cut(rest, []byte(" "))
	switch string(place) {
	case "header", "body", "mime-header", "nested-header":
	default:
		return t, false
	}
	addr, _ := r.clients.GetIfPresent(queueID)
	t = about(addr, 0, policy.Spam, policy.FromContent, action+" by a rule about the "+string(place))
	t.QueueID, t.Mail, t.Outcome = queueID, true, policy.Rejected
	return t, queueID != ""
}

// envelope is the end of a refusal, "from=<a@b> to=<c@d> proto=ESMTP helo=<e>". It is recorded
// only.
type envelope string

// splitReply parts ": 550 5.1.1 <to>: TEXT; from=<> to=<> proto=ESMTP helo=<>" into the reply and
// the envelope.
func splitReply(rest []byte) (string, envelope) {
	s := strings.TrimPrefix(string(rest), ": ")
	if i := strings.LastIndex(s, "; from=<"); i >= 0 {
		return s[:i], envelope(s[i+2:])
	}
	return s, ""
}

func (e envelope) field(key string) string {
	_, s, ok := strings.Cut(string(e), key)
	if !ok {
		return ""
	}
	s, _, _ = strings.Cut(s, ">")
	return verdict.Clip(s)
}

func (e envelope) domain(key string) string {
	s := e.field(key)
	return strings.ToLower(s[strings.LastIndexByte(s, '@')+1:])
}

// refusal is what the MTA's own refusal says, "550 5.1.1 <to>: Recipient address rejected: User
// unknown ...", the code maybe missing.
func (r *Reader) refusal(reply string, addr netip.Addr) policy.Assessment {
	s := reply
	if code, rest, ok := strings.Cut(s, " "); ok && len(code) == 3 {
		s = rest
	}
	status, text, _ := strings.Cut(s, " ")
	var about string
	if whom, rest, ok := strings.Cut(text, ">: "); ok && strings.HasPrefix(whom, "<") {
		about, text = whom[1:], rest
	}
	of := verdict.Rejection{Status: status, Text: text}
	a := of.Assessment()
	if a.Source == policy.FromUnknownUser {
		at, _ := r.time()
		a = verdict.UnknownUsers(a, 1, r.harvest(addr, about, at))
	}
	return a
}
