package maillog

import (
	"math"
	"net/netip"
	"strconv"

	"github.com/ehlogate/ehlogate/policy"
)

// session is what a process of smtpd(8) has told of the client that it serves. It serves one after
// another.
type session struct {
	client peer
	// user says that the client has logged in.
	user bool
	// sender and queueID are those of the message whose unknown users are counted.
	sender, queueID string
	unknown, failed policy.Confidence
	// users and logins name the groups of signals about these unknown users and failed logins.
	users, logins string
}

// session is that of a process.
func (r *Reader) session(process []byte) *session {
	if s := r.sessions[string(process)]; s != nil {
		return s
	}
	if len(r.sessions) >= processesMost {
		// Processes end without a word; those that go on are entered again.
		clear(r.sessions)
	}
	s := &session{}
	r.sessions[string(process)] = s
	return s
}

// connected begins a session.
func (r *Reader) connected(process []byte, c peer) {
	c.text = nil
	*r.session(process) = session{client: c}
}

// disconnected ends a session.
func (r *Reader) disconnected(process []byte) {
	if s := r.sessions[string(process)]; s != nil {
		*s = session{}
	}
}

// of is the session of a process with a client. Where its beginning was not heard, this is it.
func (r *Reader) of(process []byte, c peer) *session {
	s := r.session(process)
	if s.client.addr != c.addr {
		r.connected(process, c)
	}
	return s
}

// askedFor adds an unknown user that the client asked for, and returns what all of the message
// count.
func (s *session) askedFor(sender string, counts policy.Confidence) policy.Confidence {
	if sender != s.sender {
		s.sender, s.unknown, s.users = sender, 0, ""
	}
	s.unknown += counts
	return min(s.unknown, policy.Certain)
}

// queued takes note of a queue id that a message has got. Another one is another message's.
func (s *session) queued(queueID string) {
	if s.queueID != "" && s.queueID != queueID {
		s.unknown, s.users = 0, ""
	}
	s.queueID = queueID
}

// group is the name of a group of signals, made if there is none yet.
func (r *Reader) group(name *string) string {
	if *name == "" {
		r.groups++
		*name = "log-" + strconv.FormatUint(r.groups, 10)
	}
	return *name
}

// loginCounts is what a failed login counts: ten count whole.
const loginCounts policy.Confidence = 0.1

// loginFailed adds a login that failed, and returns what all of the session count.
func (s *session) loginFailed() policy.Confidence {
	s.failed = policy.Confidence(math.Round(float64(s.failed+loginCounts)*10) / 10)
	return min(s.failed, policy.Certain)
}

// originOf is where a message came from, as far as that is known.
func (r *Reader) originOf(queueID string) (o origin, ok bool) {
	if queueID == "" {
		return o, false
	}
	return r.messages.GetIfPresent(queueID)
}

// isUsers reports whether a message is one of the operator's own users'.
func (r *Reader) isUsers(queueID string) bool {
	o, ok := r.originOf(queueID)
	return ok && o.client == netip.Addr{}
}
