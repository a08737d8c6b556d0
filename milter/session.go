package milter

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	gomilter "github.com/d--j/go-milter"

	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/behaviour"
)

// session is one milter connection, that is one SMTP session. It implements gomilter.Milter; the
// library calls it from one goroutine.
type session struct {
	server  *Server
	actions gomilter.OptAction
	skip    bool
	// mailUnanswered says that the MTA takes no reply to MAIL.
	mailUnanswered bool

	id        string
	connected bool
	client    policy.Client
	// users says that the service is one of the operator's own users.
	users    bool
	answered policy.Answer
	began    time.Time
	helo     string
	tls      *policy.TLS
	mails    int
	// refused says that the session was refused when it began.
	refused bool
	// mail is the message under way, nil between messages.
	mail *message
}

// mostTo is how many recipients of a message are kept.
const mostTo = 8

// message is one MAIL transaction.
type message struct {
	began         time.Time
	queueID       string
	fromDomain    string
	nullSender    bool
	authenticated bool
	rcpts         int
	to            []string
	rejected      int
	rejections    verdict.Rejections
	traps         []policy.Assessment
	data          bool
	rules         verdict.Rules
	headers       verdict.Headers
	decision      policy.Decision
	// refused says that we refused it, or a recipient of it.
	refused bool
	trouble policy.Trouble
}

var _ gomilter.Milter = (*session)(nil)

func newSession(s *Server, actions gomilter.OptAction, protocol gomilter.OptProtocol) *session {
	return &session{server: s, actions: actions, skip: protocol&gomilter.OptSkip != 0, mailUnanswered: protocol&gomilter.OptNoMailReply != 0, answered: policy.Unasked}
}

// guard keeps a fault of ours inside its session: it is counted and logged, and the mail goes on.
func (s *session) guard() {
	if p := recover(); p != nil {
		s.server.Stats.Panics.Add(1)
		s.server.Log.Error("milter: panic", "session", s.id, "client", s.client.Addr, "panic", p, "stack", string(debug.Stack()))
	}
}

// hear does what a stage needs and lets the session go on, whatever became of it.
func (s *session) hear(stage func()) (resp *gomilter.Response, err error) {
	resp = gomilter.RespContinue
	defer s.guard()
	stage()
	return resp, nil
}

// NewConnection starts a session. An MTA may start another one on the same milter connection
// (SMFIC_QUIT_NC).
func (s *session) NewConnection(gomilter.Modifier) error {
	defer s.guard()
	s.end()
	var id [6]byte
	rand.Read(id[:])
	*s = session{server: s.server, actions: s.actions, skip: s.skip, mailUnanswered: s.mailUnanswered, id: hex.EncodeToString(id[:]), answered: policy.Unasked}
	return nil
}

func (s *session) Connect(host, family string, port uint16, addr string, m gomilter.Modifier) (resp *gomilter.Response, err error) {
	resp = gomilter.RespContinue
	s.hear(func() {
		s.connected, s.began = true, s.server.Now()
		if family != "tcp4" && family != "tcp6" {
			addr = m.Get(gomilter.MacroClientAddr)
		}
		s.client = policy.Client{Port: port, Name: cmp.Or(m.Get(gomilter.MacroClientName), host), PTR: m.Get(gomilter.MacroClientPTR)}
		if strings.HasPrefix(s.client.Name, "[") {
			// What Sendmail writes for what Postfix calls "unknown".
			s.client.Name = "unknown"
		}
		if s.client.PTR == s.client.Name {
			s.client.PTR = ""
		}
		if a, err := policy.ParseAddr(addr); err == nil {
			s.client.Addr = a
			s.answered = s.server.Answered(a)
		}
		s.users = s.server.Users(m.Get(gomilter.MacroDaemonName), m.Get(gomilter.MacroDaemonPort))
		s.server.Sessions.Begin(s.id, s.client, s.began)
		if s.server.Refuses(policy.AtConnect) && !s.users {
			resp, s.refused = s.refuse(s.decide(), policy.AtConnect)
		}
	})
	return resp, nil
}

func (s *session) Helo(name string, m gomilter.Modifier) (*gomilter.Response, error) {
	return s.hear(func() {
		s.helo = name
		s.hearTLS(m)
	})
}

// hearTLS keeps the TLS macros where they are given; a session does not go back to plaintext (RFC
// 3207 section 4.2).
func (s *session) hearTLS(m gomilter.Modifier) {
	version := m.Get(gomilter.MacroTlsVersion)
	if version == "" {
		return
	}
	bits, _ := strconv.Atoi(m.Get(gomilter.MacroCipherBits))
	s.tls = &policy.TLS{Version: version, Cipher: m.Get(gomilter.MacroCipher), Bits: bits}
	if v := m.Get(macroVerify); v == verified || v == "" {
		s.tls.CertSubject = m.Get(gomilter.MacroCertSubject)
	}
}

func (s *session) MailFrom(from, _ string, m gomilter.Modifier) (resp *gomilter.Response, err error) {
	resp = gomilter.RespContinue
	s.hear(func() {
		s.abandon()
		s.hearTLS(m)
		s.mails++
		s.mail = &message{
			began: s.server.Now(), fromDomain: policy.Domain(from), nullSender: strings.Trim(from, "<>") == "", authenticated: m.Get(gomilter.MacroAuthAuthen) != "",
			rules: s.server.Rules(), decision: s.decide(),
		}
		s.hearQueueID(m)
		if s.mailUnanswered {
			return
		}
		if resp, s.mail.refused = s.refuseMail(policy.AtMail); s.mail.refused {
			s.abandon()
		}
	})
	return resp, nil
}

func (s *session) RcptTo(rcpt, _ string, m gomilter.Modifier) (resp *gomilter.Response, err error) {
	resp = gomilter.RespContinue
	s.hear(func() {
		if s.mail == nil {
			return
		}
		s.mail.rcpts++
		if a, ok := s.mail.rules.Traps.Caught(rcpt); ok && len(s.mail.traps) == 0 {
			s.mail.traps = append(s.mail.traps, a)
		}
		if m.Get(gomilter.MacroRcptMailer) == verdict.RejectedMailer {
			s.hearRefused(verdict.Rejection{Status: m.Get(gomilter.MacroRcptHost), Text: m.Get(gomilter.MacroRcptAddr), NullSender: s.mail.nullSender}, rcpt)
			return
		}
		if len(s.mail.to) < mostTo {
			s.mail.to = append(s.mail.to, rcpt)
		}
		refused := false
		if resp, refused = s.refuseMail(policy.AtRcpt); refused {
			s.mail.refused = true
			s.mail.rejected++
		}
	})
	return resp, nil
}

// hearRefused takes a recipient that the MTA refused.
func (s *session) hearRefused(r verdict.Rejection, rcpt string) {
	s.mail.rejected++
	if s.answered == policy.Withheld && s.tls == nil && r.DemandsTLS() {
		s.mail.trouble = policy.RefusedWithout
	}
	var harvest policy.Confidence
	if r.Assessment().Source == policy.FromUnknownUser && !r.NullSender {
		harvest = s.server.Clients.UnknownUser(s.client.Addr, rcpt, s.server.Now(), behaviour.ByMilter)
	}
	s.mail.rejections.Add(r, harvest)
}

func (s *session) Data(m gomilter.Modifier) (*gomilter.Response, error) {
	return s.hear(func() {
		if s.mail != nil {
			s.mail.data = true
			s.hearQueueID(m)
		}
	})
}

func (s *session) Header(name, value string, _ gomilter.Modifier) (*gomilter.Response, error) {
	return s.hear(func() {
		if s.mail != nil {
			s.mail.headers.Hear(&s.mail.rules, name, value)
		}
	})
}

func (s *session) Headers(gomilter.Modifier) (*gomilter.Response, error) {
	return gomilter.RespContinue, nil
}

// BodyChunk is called only by an MTA that does not know how to send no bodies.
func (s *session) BodyChunk([]byte, gomilter.Modifier) (*gomilter.Response, error) {
	if s.skip {
		return gomilter.RespSkip, nil
	}
	return gomilter.RespContinue, nil
}

// EndOfMessage is answered when the observation is recorded, or has been waited for long enough.
func (s *session) EndOfMessage(m gomilter.Modifier) (resp *gomilter.Response, err error) {
	resp = gomilter.RespContinue
	defer s.guard()
	if s.mail == nil {
		return resp, nil
	}
	if took := s.server.Took; took != nil {
		defer func(began time.Time) { took(time.Since(began)) }(time.Now())
	}
	s.hearQueueID(m)
	mail := s.mail
	outcome := policy.Accepted
	refusal, refused := s.refuseMail(policy.AtMessage)
	if refused {
		resp, outcome = refusal, policy.Rejected
	}
	s.finish(mail.headers.Assessments(&mail.rules), outcome)
	if !refused && !mail.authenticated {
		s.mark(mail.decision, m)
	}
	return resp, nil
}

// Abort ends the message under way, if there is one: Postfix sends it after every message and
// before TLS, too.
func (s *session) Abort(gomilter.Modifier) error {
	defer s.guard()
	s.abandon()
	return nil
}

func (s *session) Unknown(string, gomilter.Modifier) (*gomilter.Response, error) {
	return gomilter.RespContinue, nil
}

// Cleanup ends the session.
func (s *session) Cleanup(gomilter.Modifier) {
	defer s.server.sessions.Done()
	defer s.guard()
	s.end()
}

func (s *session) hearQueueID(m gomilter.Modifier) {
	if id := m.Get(gomilter.MacroQueueId); id != "" && id != s.mail.queueID {
		s.mail.queueID = id
		s.server.Sessions.Queued(s.id, id)
	}
}

func (s *session) decide() policy.Decision {
	if !s.client.Addr.IsValid() {
		return policy.Decision{}
	}
	return s.server.Decide(s.client.Addr)
}

// abandon records a message that ended before its end: rejected when the MTA refused all its
// recipients, else aborted.
func (s *session) abandon() {
	if s.mail == nil {
		return
	}
	outcome := policy.Aborted
	if s.mail.rejected > 0 && s.mail.rejected == s.mail.rcpts && !s.mail.data || s.mail.refused {
		outcome = policy.Rejected
	}
	s.finish(nil, outcome)
}

// finish records the message under way, with what its headers say.
func (s *session) finish(headers []policy.Assessment, outcome policy.Outcome) {
	mail := s.mail
	s.mail = nil
	o := s.observation()
	o.Nth = s.mails
	o.Began, o.Mail, o.Outcome, o.Decision, o.Auth = mail.began, true, outcome, mail.decision, mail.headers.Auth()
	o.QueueID, o.FromDomain, o.Authenticated, o.Bounce = mail.queueID, mail.fromDomain, mail.authenticated, mail.nullSender
	o.Rcpts, o.RcptsRejected, o.To, o.Trouble = mail.rcpts, mail.rejected, mail.to, mail.trouble
	s.server.Stats.Messages.Add(1)
	s.server.malformed(mail.headers.Malformed, mail.headers.Unread)
	if o.TLS != nil {
		s.server.Stats.TLSMessages.Add(1)
	}
	s.server.Observe(o, slices.Concat(mail.traps, mail.rejections.Assessments(), headers))
}

// end records what is left of a session: a message cut short, or that there was none.
func (s *session) end() {
	s.abandon()
	if s.connected && s.mails == 0 {
		o := s.observation()
		o.Outcome, o.Decision = policy.NoMail, s.decide()
		if s.refused {
			// It left because of us.
			o.Outcome = policy.Rejected
			s.server.Observe(o, nil)
		} else {
			o.Trouble = s.trouble()
			s.server.Observe(o, []policy.Assessment{s.idle()})
		}
	}
	if s.connected {
		s.server.Sessions.End(s.id)
		s.server.Stats.Sessions.Add(1)
	}
	s.connected = false
}

// idle is what a session without a message says.
func (s *session) idle() policy.Assessment {
	if s.server.Clients.Idle(s.client.Addr, s.server.Now()) {
		return policy.Assessment{Class: policy.Spam, Confidence: policy.Certain, Source: policy.FromFlood, Reason: "sessions without a message, again and again within a minute"}
	}
	reason := "left after " + cmp.Or(s.stage(), "nothing")
	return policy.Assessment{Class: policy.None, Source: policy.FromProbe, Reason: reason}
}

// stage is how far a session without a message came.
func (s *session) stage() string {
	switch {
	case s.tls != nil:
		return "STARTTLS"
	case s.helo != "":
		return "EHLO"
	}
	return ""
}

// trouble is the trouble with TLS that a session without a message shows. A handshake that failed
// looks like a client that only says EHLO: Postfix sends one ABORT for either. The MTA's log tells
// the two apart.
func (s *session) trouble() policy.Trouble {
	if s.helo != "" && s.tls == nil && s.answered == policy.Withheld {
		return policy.LeftWithout
	}
	return ""
}

func (s *session) observation() *policy.Observation {
	return &policy.Observation{
		Message: policy.Message{
			Time: s.server.Now(), Began: s.began, Session: s.id, Client: s.client, Submission: s.users, Unfinished: s.server.stopping(),
		},
		HELO: s.helo, STARTTLS: s.answered, TLS: s.tls,
	}
}

// HeaderName is the header that the action "header" adds.
const HeaderName = "X-Ehlogate"

// refuseMail is what becomes of the message under way at a stage. A user's is never refused.
func (s *session) refuseMail(stage policy.Stage) (resp *gomilter.Response, refused bool) {
	if s.mail.authenticated {
		return gomilter.RespContinue, false
	}
	d := s.mail.decision
	if stage == policy.AtRcpt && (d.Stage == policy.AtConnect || d.Stage == policy.AtMail) {
		// It was not refused there: on a service of users it is known only now that nobody has
		// logged in, and a stage may be of a configuration that is newer than the session.
		d.Stage = stage
	}
	return s.refuse(d, stage)
}

// refuse is the reply to a client at a stage, and whether that refuses it.
func (s *session) refuse(d policy.Decision, stage policy.Stage) (resp *gomilter.Response, refused bool) {
	if !d.Action.Refuses() || d.Stage != stage {
		return gomilter.RespContinue, false
	}
	code, text := uint16(451), "4.7.1 Try again later"
	if d.Action == policy.ActReject {
		code, text = 550, "5.7.1 "+verdict.OwnRefusal
	}
	if stage == policy.AtConnect {
		// What RFC 5321 sections 3.1 and 3.8 have for a whole session.
		code = map[uint16]uint16{451: 421, 550: 554}[code]
	}
	resp, err := gomilter.RejectWithCodeAndReason(code, text)
	if err != nil {
		s.server.Log.Error("milter: action of a tier", "session", s.id, "client", d.Addr, "action", d.Action, "error", err)
		return gomilter.RespContinue, false
	}
	s.server.Stats.Actions.Add(1)
	return resp, true
}

// mark does what the client's tier asks for with a message that is accepted, as far as the MTA lets
// us.
func (s *session) mark(d policy.Decision, m gomilter.Modifier) {
	var err error
	switch {
	case d.Action == policy.ActHeader && s.actions&gomilter.OptAddHeader != 0:
		err = m.AddHeader(HeaderName, fmt.Sprintf("tier=%s score=%.2f", d.Tier, d.Score))
	case d.Action == policy.ActQuarantine && s.actions&gomilter.OptQuarantine != 0:
		err = m.Quarantine(fmt.Sprintf("ehlogate: tier %s", d.Tier))
	default:
		return
	}
	s.server.Stats.Actions.Add(1)
	if err != nil {
		s.server.Log.Error("milter: action of a tier", "session", s.id, "client", d.Addr, "action", d.Action, "error", err)
	}
}
