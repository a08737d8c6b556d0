package maillog

import (
	"bytes"
	"slices"
	"strings"

	"github.com/ehlogate/ehlogate/policy"
)

// program is which of Postfix's programs wrote a line.
type program int

const (
	// another is a program that is not Postfix's.
	another program = iota
	// silent is one of Postfix's of which nothing is read.
	silent
	smtpd
	// submission is smtpd(8) where it serves the operator's own users.
	submission
	cleanup
	postscreen
	// dnsblog asks block lists for postscreen.
	dnsblog
	tlsproxy
	// delivery is smtp(8) or lmtp(8), which hands mail on to filters, too.
	delivery
	// qmgr tells when a message is gone, pickup that one was submitted on this host, or by QMQP.
	qmgr
	pickup
	// sendmail is Sendmail, which is one program; see sendmail.go.
	sendmail
	// exim is Exim where it logs to syslog; see exim.go.
	exim
)

// programOf finds the program in a syslog tag, such as postfix/smtpd, postfix-in/smtpd or
// postfix/submission/smtpd. Operators change what stands before the last slash: syslog_name in
// postconf(5).
func (r *Reader) programOf(tag []byte) program {
	if p, ok := r.programs[string(tag)]; ok {
		return p
	}
	p := r.parseTag(string(tag))
	if len(r.programs) < tagsMost {
		r.programs[string(tag)] = p
	}
	return p
}

func (r *Reader) parseTag(tag string) program {
	switch tag {
	case "sendmail", "sm-mta":
		return sendmail
	case "exim", "exim4":
		return exim
	}
	i := strings.LastIndexByte(tag, '/')
	if i <= 0 || strings.ContainsAny(tag, `"'=<>()`) {
		return another
	}
	switch name := tag[i+1:]; name {
	case "smtpd":
		if r.ofUsers(tag[:i]) {
			return submission
		}
		return smtpd
	case "cleanup":
		return cleanup
	case "postscreen":
		return postscreen
	case "dnsblog":
		return dnsblog
	case "tlsproxy":
		return tlsproxy
	case "smtp", "lmtp":
		return delivery
	case "qmgr":
		return qmgr
	case "pickup", "qmqpd":
		return pickup
	case "anvil", "bounce", "discard", "error", "flush", "local", "master", "pipe", "postdrop", "postfix-script", "postlog",
		"postalias", "postcat", "postconf", "postkick", "postmap", "postqueue", "postsuper", "proxymap", "scache", "sendmail", "showq", "spawn", "tlsmgr", "trivial-rewrite", "verify", "virtual":
		return silent
	}
	return another
}

// userWords mark the names of services of the operator's own users, where neither the configuration
// nor master.cf tells.
var userWords = []string{"submission", "submissions", "submit", "smtps", "msa", "mua", "587", "465", "2525", "10587", "sasl", "auth", "webmail", "sogo", "out", "outgoing", "outbound"}

// ofUsers reports whether smtpd(8) under a name serves the operator's own users.
func (r *Reader) ofUsers(name string) bool {
	if len(r.Services) > 0 {
		return !slices.Contains(r.Services, name)
	}
	if slices.Contains(r.UserServices, name) {
		return true
	}
	parts := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
	return slices.ContainsFunc(parts, func(p string) bool { return slices.Contains(userWords, p) })
}

// users notes the messages of the operator's own users: nothing is said of their clients. A filter
// puts mail back through a service of its own, too.
func (r *Reader) users(text []byte) {
	queueID, rest, ok := cutQueueID(text)
	if !ok || queueID == "" {
		return
	}
	who, ok := bytes.CutPrefix(rest, []byte("client="))
	if !ok {
		return
	}
	o := origin{}
	if c, rest, ok := parsePeer(who); ok && (policy.IsHere(c.addr) || bytes.HasPrefix(rest, []byte(", orig_"))) {
		o = r.reinjected(queueID, origin{client: c.addr, port: c.port}, rest)
	}
	r.messages.Set(queueID, o)
}

// isQueueID reports whether a word can be a queue id of Postfix's, short or long, or NOQUEUE.
func isQueueID(s []byte) bool {
	if len(s) < 5 || len(s) > 32 {
		return false
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}
