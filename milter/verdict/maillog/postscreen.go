package maillog

import (
	"bytes"

	"github.com/ehlogate/ehlogate/policy"
)

// screenings are what postscreen(8) says of a client, by the words at the beginning and those before
// the client.
var screenings = []struct {
	prefix, before string
	source         policy.Source
}{
	{"PREGREET ", " from ", policy.FromPregreet},
	{"DNSBL rank ", " for ", policy.FromDNSBL},
	{"HANGUP ", " from ", policy.FromHangup},
	{"COMMAND PIPELINING", " from ", policy.FromPipelining},
	{"NON-SMTP COMMAND", " from ", policy.FromPipelining},
	{"BARE NEWLINE", " from ", policy.FromPipelining},
	{"COMMAND COUNT LIMIT", " from ", policy.FromLimit},
	{"COMMAND LENGTH LIMIT", " from ", policy.FromLimit},
	{"COMMAND TIME LIMIT", " from ", policy.FromLimit},
	{"DENYLISTED", " ", policy.FromRecipient},
	{"BLACKLISTED", " ", policy.FromRecipient},
}

// postscreen reads a line of postscreen(8).
func (r *Reader) postscreen(text []byte) (s policy.Signal, ok bool) {
	if rest, ok := bytes.CutPrefix(text, []byte("NOQUEUE: reject: ")); ok {
		return r.screened(rest)
	}
	for _, w := range screenings {
		if !bytes.HasPrefix(text, []byte(w.prefix)) {
			continue
		}
		words, rest, _ := bytes.Cut(text, []byte(w.before))
		c, _, ok := parsePeer(rest)
		s := about(c, policy.Spam, w.source, string(words))
		r.unlessUnserved(&s)
		return s, ok
	}
	return s, false
}

// screened reads the rest of "NOQUEUE: reject: RCPT from [addr]:port: 550 5.7.1 Service
// unavailable; client [addr] blocked using NAME; from=<>, to=<>, ...".
func (r *Reader) screened(rest []byte) (s policy.Signal, ok bool) {
	stage, c, rest, ok := parseStage(rest)
	if !ok {
		return s, false
	}
	if stage == "CONNECT" {
		return about(c, policy.Spam, policy.FromLimit, "too many connections"), bytes.HasPrefix(rest, []byte(": too many connections"))
	}
	s = r.refusal(&session{}, "reject", stage, c, "", parseRefusal(rest, c.text))
	r.unlessUnserved(&s)
	return s, true
}

// listed reads a line of dnsblog(8), "addr 192.0.2.7 listed by domain LIST as 127.0.0.2": whether a
// block list does not serve our resolver, which postscreen does not say.
func (r *Reader) listed(text []byte) (s policy.Signal, ok bool) {
	word := bytes.Fields(text)
	if len(word) != 8 || string(word[0]) != "addr" || string(word[2]) != "listed" && string(word[2]) != "blocked" || !bytes.HasPrefix(word[7], []byte("127.255.255.")) {
		return s, false
	}
	addr, err := policy.ParseAddr(string(word[1]))
	if err != nil {
		return s, false
	}
	if len(r.unserved) >= unservedMost {
		clear(r.unserved)
	}
	r.unserved[addr], _ = r.time()
	return about(peer{addr: addr}, policy.None, policy.FromDNSBL, "block list does not serve our resolver: "+string(word[5])+" says "+string(word[7])), true
}

// unlessUnserved takes back a block list's verdict that is only about our resolver.
func (r *Reader) unlessUnserved(s *policy.Signal) {
	if s.Assessment.Source != policy.FromDNSBL {
		return
	}
	said, ok := r.unserved[s.Addr]
	if at, _ := r.time(); ok && at.Sub(said) < unservedFor {
		s.Assessment.Class = policy.None
	}
}

// tlsProxy reads a line of tlsproxy(8), which speaks TLS for postscreen(8).
func tlsProxy(text []byte) (s policy.Signal, ok bool) {
	if rest, ok := bytes.CutPrefix(text, []byte("SSL_accept error from ")); ok {
		_, s, ok := failedHandshake(rest)
		return s, ok
	}
	if rest, ok := bytes.CutPrefix(text, []byte("TLS handshake failed for service=smtpd peer=")); ok {
		c, _, ok := parsePeer(rest)
		return handshakeFailed(c, ""), ok
	}
	return s, false
}
