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
// chapter "Log files"). No milter hears of any of it, so the log is all there is. The client is
// read first, and nothing that it can choose stands before its address but the HELO name, which has
// no blanks.

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
	r.when = when{at: at}
	s, ok = r.read(exim, nil, text[:min(len(text), textMost)])
	s.Time = at
	return s, ok, true
}

// isExim reports whether a text is one of Exim's, by how it begins.
func isExim(text []byte) bool {
	if _, _, ok := cutMessageID(text); ok {
		return true
	}
	for _, begin := range []string{"H=", "TLS error on connection from ", "SMTP protocol synchronization error ", "SMTP call from ", "exim ", "Start queue run", "End queue run", "no host name found for IP address ", "unexpected disconnection while reading SMTP command from "} {
		if bytes.HasPrefix(text, []byte(begin)) {
			return true
		}
	}
	_, after, ok := bytes.Cut(text, []byte(" authenticator failed for "))
	return ok && len(after) > 0
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
		c, _, _, ok := eximHost(bytes.TrimPrefix(rest, []byte("TLS error on connection from ")))
		return handshakeFailed(c, ""), ok
	case bytes.HasPrefix(rest, []byte("SMTP protocol synchronization error (")):
		return eximUnsynchronized(rest)
	}
	if _, who, ok := bytes.Cut(rest[:min(len(rest), 200)], []byte(" authenticator failed for ")); ok {
		if c, _, after, ok := eximHost(who); ok && bytes.HasPrefix(after, []byte(": 535 ")) {
			return r.loginFailed(c.text, c, "authentication failed")
		}
	}
	return s, false
}

// eximHost reads a client, "NAME (HELO) [ADDR]:PORT", where name and HELO may be missing.
func eximHost(s []byte) (c peer, helo string, rest []byte, ok bool) {
	all := s
	for range 2 {
		if len(s) > 0 && s[0] == '[' {
			break
		}
		word, _, found := bytes.Cut(s[:min(len(s), 600)], []byte(" "))
		if !found {
			return c, "", nil, false
		}
		if len(word) > 1 && word[0] == '(' && word[len(word)-1] == ')' {
			helo = string(word[1 : len(word)-1])
		}
		s = s[len(word)+1:]
	}
	if len(s) == 0 || s[0] != '[' {
		return c, "", nil, false
	}
	if c.addr, rest, ok = cutAddr(s[1:]); !ok {
		return c, "", nil, false
	}
	c.port, rest = cutPort(rest)
	c.text = all[:len(all)-len(rest)]
	return c, helo, rest, true
}

// eximArrival reads "FROM H=NAME (HELO) [ADDR]:PORT ... P=esmtps X=VERSION:CIPHER:BITS ... A=AUTH
// ...".
func (r *Reader) eximArrival(queueID string, rest []byte) (s policy.Signal, ok bool) {
	from, rest, ok := bytes.Cut(rest, []byte(" H="))
	if !ok || queueID == "" {
		return s, false
	}
	c, helo, rest, ok := eximHost(rest)
	if !ok {
		return s, false
	}
	s = about(c, cmp.Or(r.Silence, policy.None), policy.FromSilence, "accepted, as the log tells")
	s.QueueID, s.Mail, s.Outcome, s.HELO, s.FromDomain = queueID, true, policy.Accepted, verdict.Clip(helo), policy.Domain(string(from))
	for _, field := range bytes.Split(rest, []byte(" ")) {
		key, value, _ := bytes.Cut(field, []byte("="))
		switch string(key) {
		case "A":
			// Its own user's.
			return s, false
		case "X":
			s.TLS = eximTLS(string(value))
		case "S", "id", "T", "DN", "SNI":
			// What comes from here on can be the client's.
			return s, true
		}
	}
	return s, true
}

// eximTLS reads "TLS1.3:TLS_AES_256_GCM_SHA384:256", as OpenSSL writes it, or
// "TLS1.3:ECDHE_X25519__RSA_PSS_RSAE_SHA256__AES_256_GCM:256", as GnuTLS does.
func eximTLS(s string) *policy.TLS {
	version, rest, ok := strings.Cut(s, ":")
	i := strings.LastIndexByte(rest, ':')
	if !ok || i < 0 {
		return nil
	}
	bits, err := strconv.Atoi(rest[i+1:])
	if err != nil {
		return nil
	}
	if number, ok := strings.CutPrefix(version, "TLS1"); ok {
		version = "TLSv1" + number
	}
	return &policy.TLS{Version: verdict.Clip(version), Cipher: verdict.Clip(rest[:i]), Bits: bits}
}

// eximRefusal reads "H=... F=<FROM> rejected RCPT <TO>: TEXT", also "temporarily rejected".
func (r *Reader) eximRefusal(queueID string, rest []byte) (s policy.Signal, ok bool) {
	c, helo, rest, ok := eximHost(rest[len("H="):])
	if !ok || bytes.Contains(rest, []byte(" A=")) {
		return s, false
	}
	before, what, ok := bytes.Cut(rest, []byte("rejected "))
	if !ok {
		return s, false
	}
	stage, said, ok := strings.Cut(string(what), ": ")
	if !ok {
		return s, false
	}
	status := "5.0.0"
	if bytes.HasSuffix(before, []byte("temporarily ")) {
		status = "4.0.0"
	}
	command, recipient, _ := strings.Cut(stage, " ")
	from, hasFrom := eximSender(string(before))
	of := refusal{reply: said, status: status, text: said, envelope: envelope{sender: from, recipient: strings.Trim(recipient, "<>"), helo: helo, hasSender: hasFrom}}
	s = policy.Signal{Addr: c.addr, Port: c.port, QueueID: queueID, Outcome: policy.Rejected, HELO: verdict.Clip(helo), FromDomain: policy.Domain(from)}
	if _, used, ok := bytes.Cut(before, []byte(" X=")); ok {
		used, _, _ = bytes.Cut(used, []byte(" "))
		s.TLS = eximTLS(string(used))
	}
	s.Mail = command == "RCPT" || command == "MAIL" || command == "DATA" || command == "after"
	s.Assessment = eximRejection(command, of).Assessment()
	switch {
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

// eximSender is the sender in "... F=<FROM> ".
func eximSender(s string) (from string, ok bool) {
	_, from, ok = strings.Cut(s, " F=<")
	i := strings.LastIndexByte(from, '>')
	if !ok || i < 0 {
		return "", false
	}
	return verdict.Clip(from[:i]), true
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
	for _, words := range []string{"is in a black list at ", "is in a blacklist at ", "found in a blacklist at ", "listed at ", "blacklisted by ", "listed in ", "blocklisted by ", "found in "} {
		if i := strings.Index(said, words); i >= 0 && strings.Contains(said[i+len(words):], ".") && !strings.ContainsAny(said[:i], `"<@`) {
			return true
		}
	}
	return false
}

// eximUnsynchronized reads "SMTP protocol synchronization error (WHAT): rejected connection from
// H=[ADDR]:PORT input=...".
func eximUnsynchronized(rest []byte) (s policy.Signal, ok bool) {
	what, who, ok := bytes.Cut(rest, []byte(" from H="))
	if !ok {
		return s, false
	}
	c, _, _, ok := eximHost(who)
	if bytes.Contains(what, []byte("without waiting for greeting")) {
		return about(c, policy.Spam, policy.FromPregreet, "spoke before the greeting"), ok
	}
	return about(c, policy.Spam, policy.FromPipelining, "commands before they may be"), ok
}
