package maillog

import (
	"bytes"
	"cmp"
	"strconv"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/policy"
)

// Exim writes its mainlog itself, each line with a stamp of its own: "2026-11-27 22:10:00 MSGID <=
// FROM H=NAME (HELO) [ADDR]:PORT P=esmtps X=TLS1.3:CIPHER:256 ..." for a message that it has taken,
// and "H=(HELO) [ADDR]:PORT F=<FROM> rejected RCPT <TO>: TEXT" for what it refuses (spec.txt,
// chapter "Log files"). No milter hears of any of it, so the log is all there is.
//
// A client has its say in its HELO name, its sender and its commands, and may write there what
// looks like a line about somebody else. So lines are read from their beginning, each part by its
// rules; and where a HELO name or a command may have another client's address in it, a line with
// more than one is not believed.

// eximStamp is how Exim writes a time. A fraction and a zone may follow.
const eximStamp = "2006-01-02 15:04:05"

// splitExim parts a line of the mainlog from its stamp.
func (r *Reader) splitExim(line []byte) (at time.Time, text []byte, ok bool) {
	if len(line) < len(eximStamp)+2 || line[4] != '-' || line[10] != ' ' {
		return at, nil, false
	}
	stamp, rest := string(line[:len(eximStamp)]), line[len(eximStamp):]
	if rest[0] == '.' {
		_, rest, _ = bytes.Cut(rest, []byte(" "))
	} else {
		rest = bytes.TrimPrefix(rest, []byte(" "))
	}
	zone := r.Zone
	if len(rest) > 6 && (rest[0] == '+' || rest[0] == '-') && digits(rest[1:5]) && rest[5] == ' ' {
		hours, _ := strconv.Atoi(string(rest[1:3]))
		minutes, _ := strconv.Atoi(string(rest[3:5]))
		offset := hours*3600 + minutes*60
		if rest[0] == '-' {
			offset = -offset
		}
		zone, rest = time.FixedZone("", offset), rest[6:]
	}
	if pid, _, found := bytes.Cut(rest[:min(len(rest), 16)], []byte("] ")); found && len(pid) > 1 && pid[0] == '[' && digits(pid[1:]) {
		rest = rest[len(pid)+len("] "):]
	}
	at, err := time.ParseInLocation(eximStamp, stamp, zone)
	return at, rest, err == nil
}

// readExim reads a line of a mainlog. known says that it is one.
func (r *Reader) readExim(line []byte) (s policy.Signal, ok, known bool) {
	at, text, ok := r.splitExim(line)
	if !ok || !isExim(text) {
		return s, false, false
	}
	if len(text) > textMost {
		// Exim cuts a line at 8 KiB, so that a long HELO name may push the client's address out of
		// it.
		return s, false, true
	}
	r.when = when{at: at}
	s, ok = r.read(exim, nil, text)
	s.Time = at
	return s, ok, true
}

// isExim reports whether a text is one of Exim's, by how it begins.
func isExim(text []byte) bool {
	if _, _, ok := cutMessageID(text); ok {
		return true
	}
	for _, begin := range []string{"H=", "TLS error on connection from ", "SMTP protocol synchronization error ", "SMTP call from ", "rejected EHLO from ", "rejected HELO from ", "exim ", "Start queue run", "End queue run", "no host name found for IP address ", "unexpected disconnection while reading SMTP command from "} {
		if bytes.HasPrefix(text, []byte(begin)) {
			return true
		}
	}
	_, _, ok := cutAuthenticator(text)
	return ok
}

// cutAuthenticator takes the name of a driver off "plain_login authenticator failed for CLIENT:
// ...". It is the first word, which no client has a say in.
func cutAuthenticator(text []byte) (name string, rest []byte, ok bool) {
	word, rest, ok := bytes.Cut(text, []byte(" "))
	if !ok || !isName(word) {
		return "", nil, false
	}
	rest, ok = bytes.CutPrefix(rest, []byte("authenticator failed for "))
	return string(word), bytes.TrimPrefix(rest, []byte("H=")), ok
}

// isName reports whether a word is made of letters, digits, and what else host names and the names
// of drivers have.
func isName(word []byte) bool {
	for _, c := range word {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return len(word) > 0 && len(word) <= 255
}

// cutMessageID takes a message id, "1abcde-000001-AB" or since Exim 4.97 "1abcde-00000000001-ABCD",
// off a text.
func cutMessageID(text []byte) (id string, rest []byte, ok bool) {
	word, rest, ok := bytes.Cut(text, []byte(" "))
	if !ok || len(word) != 16 && len(word) != 23 || word[6] != '-' || bytes.Count(word, []byte("-")) != 2 {
		return "", text, false
	}
	for _, c := range word {
		if c != '-' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return "", text, false
		}
	}
	return string(word), rest, true
}

// exim reads the text of a line.
func (r *Reader) exim(text []byte) (s policy.Signal, ok bool) {
	if _, inner, stamped := r.splitExim(text); stamped {
		// Syslog has stamped it, too.
		text = inner
	}
	queueID, rest, _ := cutMessageID(text)
	switch {
	case bytes.HasPrefix(rest, []byte("<= ")):
		return r.eximArrival(queueID, rest[len("<= "):])
	case bytes.HasPrefix(rest, []byte("H=")):
		return r.eximRefusal(queueID, rest)
	case bytes.HasPrefix(rest, []byte("TLS error on connection from ")):
		return eximHandshake(bytes.TrimPrefix(rest, []byte("TLS error on connection from ")))
	case bytes.HasPrefix(rest, []byte("SMTP protocol synchronization error (")):
		return eximUnsynchronized(rest)
	}
	if _, who, ok := cutAuthenticator(rest); ok && queueID == "" {
		c, _, after, ok := eximHost(who)
		if ok && bytes.HasPrefix(afterInterface(after), []byte(": 535 ")) {
			return r.loginFailed(c.text, c, "authentication failed")
		}
	}
	return s, false
}

// afterInterface takes off " I=[ADDR]:PORT", which stands behind a client where Exim logs on which
// interface it came (log_selector = +incoming_interface).
func afterInterface(s []byte) []byte {
	number, ok := bytes.CutPrefix(s, []byte(" I=["))
	if !ok {
		return s
	}
	_, rest, ok := cutAddr(number)
	if !ok {
		return s
	}
	_, rest = cutPort(rest)
	return rest
}

// eximHandshake reads "CLIENT (gnutls_handshake): TEXT", or "(SSL_accept)" with OpenSSL. What
// breaks later is "(recv)", "(send)" and the like, and is no handshake's failure: many clients
// close a connection without taking leave of TLS.
func eximHandshake(rest []byte) (s policy.Signal, ok bool) {
	c, _, after, ok := eximHost(rest)
	after = afterInterface(after)
	failed := bytes.HasPrefix(after, []byte(" (gnutls_handshake)")) || bytes.HasPrefix(after, []byte(" (SSL_accept)"))
	return handshakeFailed(c, ""), ok && failed
}

// eximHost reads a client, "NAME (HELO) [ADDR]:PORT", where name and HELO may be missing. A HELO
// name can have anything in it where helo_accept_junk_hosts lets it: one in whose line there is
// another "(...) [ADDR]" is not believed.
func eximHost(s []byte) (c peer, helo string, rest []byte, ok bool) {
	at := s
	if word, after, found := bytes.Cut(at[:min(len(at), 600)], []byte(" ")); found && isName(word) {
		at = at[len(at[:min(len(at), 600)])-len(after):]
	}
	if len(at) > 0 && at[0] == '(' {
		clients := behindHELO(at)
		if len(clients) != 1 {
			return c, "", nil, false
		}
		helo, at = string(at[1:clients[0]]), at[clients[0]+len(") "):]
	}
	if len(at) == 0 || at[0] != '[' {
		return c, "", nil, false
	}
	if c.addr, rest, ok = cutAddr(at[1:]); !ok {
		return c, "", nil, false
	}
	c.port, rest = cutPort(rest)
	c.text = s[:len(s)-len(rest)]
	return c, helo, rest, true
}

// behindHELO are the places of ") [ADDR]" in a text.
func behindHELO(s []byte) (all []int) {
	const mark = ") ["
	for i := 0; i < len(s); i++ {
		n := bytes.Index(s[i:], []byte(mark))
		if n < 0 {
			break
		}
		if _, _, ok := cutAddr(s[i+n+len(mark):]); ok {
			all = append(all, i+n)
		}
		i += n
	}
	return all
}

// cutQuoted takes a mailbox or a value off a text, in quotes where it begins with one, and all up
// to a stop.
func cutQuoted(s []byte, stop byte) (value, rest []byte, ok bool) {
	i := 0
	if len(s) > 0 && s[0] == '"' {
		for i = 1; i < len(s) && s[i] != '"'; i++ {
			if s[i] == '\\' {
				i++
			}
		}
	}
	if i >= len(s) {
		return nil, nil, false
	}
	n := bytes.IndexByte(s[i:], stop)
	if n < 0 {
		return nil, nil, false
	}
	return s[:i+n], s[i+n+1:], true
}

// eximArrival reads "FROM H=NAME (HELO) [ADDR]:PORT ... P=esmtps X=VERSION:CIPHER:BITS ... A=AUTH
// ...". By the end of the protocol's name (RFC 3848) TLS was used and the client had logged in;
// what comes behind it, the names in a certificate and in SNI, can be the client's.
func (r *Reader) eximArrival(queueID string, rest []byte) (s policy.Signal, ok bool) {
	from, rest, ok := cutQuoted(rest, ' ')
	if !ok || queueID == "" || !bytes.HasPrefix(rest, []byte("H=")) {
		return s, false
	}
	c, helo, rest, ok := eximHost(rest[len("H="):])
	if !ok {
		return s, false
	}
	s = about(c, cmp.Or(r.Silence, policy.None), policy.FromSilence, "accepted, as the log tells")
	s.QueueID, s.Mail, s.Outcome, s.HELO, s.FromDomain = queueID, true, policy.Accepted, verdict.Clip(helo), policy.Domain(string(from))
	protocol := ""
	for len(rest) > 0 {
		key, after, ok := bytes.Cut(bytes.TrimPrefix(rest, []byte(" ")), []byte("="))
		value, next, more := cutQuoted(after, ' ')
		if !ok || !more {
			value, next = bytes.TrimSuffix(after, []byte(" ")), nil
		}
		rest = next
		switch string(key) {
		case "P":
			if protocol != "" {
				continue
			}
			protocol = string(value)
			s.InClear = protocol == "smtp" || protocol == "esmtp" || protocol == "esmtpa"
			if s.Authenticated = protocol == "esmtpa" || protocol == "esmtpsa"; s.Authenticated {
				s.Assessment = about(c, policy.None, policy.FromSilence, "a user's, as the log tells").Assessment
			}
		case "X":
			if s.TLS == nil {
				s.TLS = verdict.EximTLS(string(value))
			}
		case "S", "id", "T":
			// What comes from here on can be the client's.
			return s, true
		}
	}
	return s, true
}

// eximRefusal reads "H=... F=<FROM> rejected RCPT <TO>: TEXT", also "temporarily rejected".
func (r *Reader) eximRefusal(queueID string, rest []byte) (s policy.Signal, ok bool) {
	c, helo, rest, ok := eximHost(rest[len("H="):])
	if !ok {
		return s, false
	}
	before, from, hasFrom, what, ok := cutRejected(rest)
	if !ok || bytes.Contains(before, []byte(" A=")) {
		return s, false
	}
	temporarily := bytes.HasPrefix(what, []byte("temporarily "))
	if what, ok = bytes.CutPrefix(bytes.TrimPrefix(what, []byte("temporarily ")), []byte("rejected ")); !ok {
		return s, false
	}
	stage, said, ok := strings.Cut(string(what), ": ")
	if !ok {
		return s, false
	}
	status := "5.0.0"
	if temporarily {
		status = "4.0.0"
	}
	command, recipient, _ := strings.Cut(stage, " ")
	of := refusal{reply: said, status: status, text: said, envelope: envelope{sender: from, recipient: strings.Trim(recipient, "<>"), helo: helo, hasSender: hasFrom}}
	s = policy.Signal{Addr: c.addr, Port: c.port, QueueID: queueID, Outcome: policy.Rejected, HELO: verdict.Clip(helo), FromDomain: policy.Domain(from)}
	if _, used, ok := bytes.Cut(before, []byte(" X=")); ok {
		used, _, _ = bytes.Cut(used, []byte(" "))
		s.TLS = verdict.EximTLS(string(used))
	}
	s.Mail = command == "RCPT" || command == "MAIL" || command == "DATA" || command == "after"
	s.Assessment = eximRejection(command, of).Assessment()
	switch {
	case command == "after" && isEximForm(said):
		s.Assessment = about(c, policy.None, policy.FromContent, said).Assessment
	case command == "after" && status[0] == '5':
		s.Assessment = eximRejection(command, of).ByFilter(policy.FromContent)
	case isEximList(said):
		s.Assessment = about(c, policy.Spam, policy.FromDNSBL, said).Assessment
	}
	if s.Assessment.Source == policy.FromUnknownUser && !(hasFrom && from == "") {
		r.harvest(r.of(c.text, c), c, of, &s)
	}
	s.Assessment.Reason = verdict.Clip("rejected " + stage + ": " + said)
	return s, true
}

// cutRejected parts "... F=<FROM> rejected ...", where the sender may be missing.
func cutRejected(s []byte) (before []byte, from string, hasFrom bool, what []byte, ok bool) {
	for _, mark := range []string{" rejected ", " temporarily rejected "} {
		// What stands before the sender is Exim's.
		if i := bytes.Index(s, []byte(mark)); i >= 0 && (what == nil || i < len(s)-len(what)-1) {
			what = s[i+1:]
		}
	}
	if what == nil {
		return nil, "", false, nil, false
	}
	before = s[:len(s)-len(what)-1]
	i := bytes.Index(s, []byte(" F=<"))
	if i < 0 || i > len(before) {
		return before, "", false, what, true
	}
	mailbox, rest, ok := cutQuoted(s[i+len(" F=<"):], '>')
	return s[:i], verdict.Clip(string(mailbox)), true, bytes.TrimPrefix(rest, []byte(" ")), ok
}

// eximRejection is a refusal as package verdict understands it, in whose words the text of Exim's
// configuration is put where Debian's or the specification's says the same in others.
func eximRejection(command string, of refusal) verdict.Rejection {
	said := strings.ToLower(of.text)
	text := of.text
	switch {
	case strings.HasPrefix(said, "relay not permitted"), strings.HasPrefix(said, "relaying denied"):
		text = "Relay access denied"
	case command == "RCPT" && (strings.HasPrefix(said, "unrouteable address") || strings.HasPrefix(said, "unknown user") || strings.HasPrefix(said, "no such")):
		text = "User unknown"
	}
	subject := map[string]string{"RCPT": "Recipient address", "MAIL": "Sender address", "EHLO": "Helo command", "HELO": "Helo command", "connection": "Client host"}[command]
	if subject != "" {
		text = subject + " rejected: " + text
	}
	return verdict.Rejection{Status: of.status, Text: text, NullSender: of.hasSender && of.sender == ""}
}

// isEximList reports a refusal by a block list: "rejected because 192.0.2.7 is in a black list at
// zen.example" is the specification's, "found in zen.example" that of many.
func isEximList(said string) bool {
	said = strings.ToLower(said)
	for _, words := range []string{"is in a black list at ", "is in a blacklist at ", "found in a blacklist at ", "listed at ", "blacklisted by ", "listed in ", "blocklisted by ", "found in ", "blocked using ", "is in an rbl"} {
		if i := strings.Index(said, words); i >= 0 && strings.Contains(said[i+len(words):], ".") && !strings.ContainsAny(said[:i], `"<@`) {
			return true
		}
	}
	return false
}

// isEximForm reports a refusal of a message for its form or size, which says nothing of spam.
func isEximForm(said string) bool {
	said = strings.ToLower(said)
	for _, words := range []string{"maximum allowed line length", "lines too long", "header syntax", "message too big", "message too large", "message size"} {
		if strings.HasPrefix(said, words) {
			return true
		}
	}
	return false
}

// eximUnsynchronized reads "SMTP protocol synchronization error (WHAT): rejected connection from
// H=CLIENT input=..." and "... rejected "COMMAND" H=CLIENT next input=...". A command can have
// anything in it.
func eximUnsynchronized(rest []byte) (s policy.Signal, ok bool) {
	what, after, ok := bytes.Cut(rest, []byte("): rejected "))
	if !ok || bytes.Count(rest, []byte("H=")) != 1 {
		return s, false
	}
	early := bytes.HasSuffix(what, []byte("without waiting for greeting"))
	if who, ok := bytes.CutPrefix(after, []byte("connection from H=")); ok {
		c, _, _, ok := eximHost(who)
		if early {
			return about(c, policy.Spam, policy.FromPregreet, "spoke before the greeting"), ok
		}
		return about(c, policy.Spam, policy.FromPipelining, "commands before they may be"), ok
	}
	_, who, ok := bytes.Cut(after, []byte(`" H=`))
	if !ok {
		return s, false
	}
	c, _, _, ok := eximHost(who)
	return about(c, policy.Spam, policy.FromPipelining, "commands before they may be"), ok
}
