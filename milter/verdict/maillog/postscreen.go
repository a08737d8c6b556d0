package maillog

import (
	"bytes"

	"github.com/ehlogate/ehlogate/policy"
)

// postscreen reads a line of postscreen(8).
func (r *Reader) postscreen(text []byte) (t policy.Signal, ok bool) {
	if rest, ok := bytes.CutPrefix(text, []byte("NOQUEUE: reject: RCPT from ")); ok {
		return r.screened(rest)
	}
	for _, c := range []struct {
		prefix, before string
		class          policy.Class
		source         policy.Source
	}{
		{"PREGREET ", " from ", policy.Spam, policy.FromPregreet},
		{"DNSBL rank ", " for ", policy.Spam, policy.FromDNSBL},
		{"HANGUP ", " from ", policy.Spam, policy.FromHangup},
		{"COMMAND PIPELINING", " from ", policy.Spam, policy.FromPipelining},
		{"NON-SMTP COMMAND", " from ", policy.Spam, policy.FromPipelining},
		{"BARE NEWLINE", " from ", policy.Spam, policy.FromPipelining},
		{"COMMAND COUNT LIMIT", " from ", policy.Spam, policy.FromLimit},
		{"COMMAND LENGTH LIMIT", " from ", policy.Spam, policy.FromLimit},
	} {
		if !bytes.HasPrefix(text, []byte(c.prefix)) {
			continue
		}
		words, rest, _ := bytes.Cut(text, []byte(c.before))
		addr, port, _, ok := client(rest)
		return about(addr, port, c.class, c.source, string(words)), ok
	}
	return t, false
}

// screened reads the rest of "NOQUEUE: reject: RCPT from [addr]:port: 550 5.7.1 Service
// unavailable; client [addr] blocked using NAME; from=<>, to=<>, ...".
func (r *Reader) screened(rest []byte) (t policy.Signal, ok bool) {
	addr, port, rest, ok := client(rest)
	if !ok {
		return t, false
	}
	reply, envelope := splitReply(rest)
	t = policy.Signal{Addr: addr, Port: port, Mail: true, Outcome: policy.Rejected, Assessment: r.refusal(reply, addr)}
	t.FromDomain, t.HELO = envelope.domain("from=<"), envelope.field(" helo=<")
	return t, true
}
