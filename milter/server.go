// Package milter hears SMTP sessions: each message, and each session that carried none, becomes one
// policy.Observation.
//
// It speaks the milter protocol of Sendmail, version 2 to 6, through github.com/d--j/go-milter, as
// Postfix describes it in its MILTER_README. It asks the MTA for the macros it needs, for
// recipients that the MTA rejected, for no bodies, and for no wait for a reply where it has nothing
// to say; an MTA that offers less is served all the same. Whatever happens here, mail goes on: the
// only replies but "continue" are those that a tier's action asks for.
package milter

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	gomilter "github.com/d--j/go-milter"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/behaviour"
)

// Stats are counts since the start.
type Stats struct {
	Connections, Malformed, Panics  atomic.Uint64
	Sessions, Messages, TLSMessages atomic.Uint64
	Actions, MalformedHeaders       atomic.Uint64
	// Cut counts headers that were longer than is held, Crowded connections that were closed
	// because too many packets were incomplete.
	Cut, Crowded atomic.Uint64
}

// Server hears sessions. Its exported fields are set before Serve.
type Server struct {
	// Decide judges an address.
	Decide func(netip.Addr) policy.Decision
	// Answered is what the table answered about an address when it connected.
	Answered func(netip.Addr) policy.Answer
	// Observe learns and records an observation, with what its session says of it. It returns when
	// that is durable or has waited long enough; the end of a message is answered after it.
	Observe func(*policy.Observation, []policy.Assessment)
	// Sessions is told which sessions are open.
	Sessions Sessions
	// Rules are the verdict rules in force; Treats says whether any tier has an action, so that the
	// MTA is asked for leave.
	Rules  func() verdict.Rules
	Treats func() bool
	// Refuses says whether any tier is refused at a stage.
	Refuses func(policy.Stage) bool
	// Users reports whether a service is one of the operator's own users, by its name in the milter
	// protocol and its port.
	Users func(daemon, port string) bool
	// Clients counts what clients do again and again.
	Clients *behaviour.Clients
	Now     func() time.Time
	// Took is told how long the end of a message took; nil for nobody.
	Took func(time.Duration)
	Log  *slog.Logger

	Stats Stats

	once     sync.Once
	server   *gomilter.Server
	sessions sync.WaitGroup
	quit     chan struct{}
	// budget is what packets that are incomplete may hold.
	budget       *semaphore.Weighted
	unread, full rate.Sometimes
}

// crowded counts a connection that was closed because too many packets were incomplete.
func (s *Server) crowded() {
	s.Stats.Crowded.Add(1)
	s.full.Do(func() {
		s.Log.Warn("milter: too many packets are incomplete, connections closed", "bytes", Budget, "closed", s.Stats.Crowded.Load())
	})
}

// unreadEvery is how often a header that cannot be read is logged: a client can send any.
const unreadEvery = time.Hour

// malformed counts the headers of a message that cannot be read, and says so once in a while, with
// the first.
func (s *Server) malformed(n uint64, first string) {
	if n == 0 {
		return
	}
	s.Stats.MalformedHeaders.Add(n)
	s.unread.Do(func() {
		s.Log.Warn("a verdict header cannot be read; if it is your filter's, say how in a [[verdict.filter]]", "header", first)
	})
}

// Sessions is told which SMTP sessions are open, so that what others say of one waits for its end.
// All that was observed of a session comes before its End.
type Sessions interface {
	Begin(session string, client policy.Client, at time.Time)
	// Queued gives the queue id of the message that is under way.
	Queued(session, queueID string)
	End(session string)
}

const (
	// idle ends a milter connection on which nothing happens between messages. Postfix's own limit
	// for its client is smtpd_timeout, 5 minutes; RFC 5321 section 4.5.3.2.7 asks for as much.
	idle = 20 * time.Minute
	// mailIdle is the same while a message is on its way: the longest silence of a living session
	// is a big message over a slow line.
	mailIdle = 4 * time.Hour
)

// tlsMacros come with HELO; they are asked for at MAIL, too, because the library forgets the former
// with every message, and Sendmail sends no HELO when the client says none after STARTTLS.
var tlsMacros = []string{gomilter.MacroTlsVersion, gomilter.MacroCipher, gomilter.MacroCipherBits, gomilter.MacroCertSubject, macroVerify}

// macroVerify is Sendmail's word on the client's certificate (op.me, "${verify}"): it gives the
// subject of one that it does not trust, too. Postfix does not, and does not know the macro.
const macroVerify, verified = "{verify}", "OK"

func (s *Server) init() {
	s.quit, s.budget = make(chan struct{}), semaphore.NewWeighted(Budget)
	s.full, s.unread = rate.Sometimes{First: 1, Interval: time.Minute}, rate.Sometimes{First: 1, Interval: unreadEvery}
	s.server = gomilter.NewServer(
		gomilter.WithDynamicMilter(func(_ uint32, actions gomilter.OptAction, protocol gomilter.OptProtocol, _ gomilter.DataSize) gomilter.Milter {
			s.sessions.Add(1)
			return newSession(s, actions, protocol)
		}),
		gomilter.WithNegotiationCallback(s.negotiate),
		// checkedConn has deadlines of its own.
		gomilter.WithReadTimeout(0),
		gomilter.WithWriteTimeout(0),
		gomilter.WithMacroRequest(gomilter.StageConnect, []string{gomilter.MacroMTAFQDN, gomilter.MacroClientAddr, gomilter.MacroClientPort, gomilter.MacroClientName, gomilter.MacroClientPTR, gomilter.MacroDaemonName, gomilter.MacroDaemonPort}),
		gomilter.WithMacroRequest(gomilter.StageHelo, tlsMacros),
		gomilter.WithMacroRequest(gomilter.StageMail, append([]string{gomilter.MacroQueueId, gomilter.MacroAuthAuthen}, tlsMacros...)),
		gomilter.WithMacroRequest(gomilter.StageRcpt, []string{gomilter.MacroQueueId, gomilter.MacroRcptMailer, gomilter.MacroRcptHost, gomilter.MacroRcptAddr}),
		gomilter.WithMacroRequest(gomilter.StageData, []string{gomilter.MacroQueueId}),
		gomilter.WithMacroRequest(gomilter.StageEOM, []string{gomilter.MacroQueueId}),
	)
}

// want is what we ask of the MTA: rejected recipients, no body, and few waits for a reply. Postfix
// sends a command to which it awaits no reply only with the next one to which it does. So CONNECT
// and RCPT are replied to: what a client does before it pauses has to be known at once, so that
// what the log tells of it can be joined to it. MAIL is where a tier is refused there.
const want = gomilter.OptNoBody | gomilter.OptNoUnknown | gomilter.OptRcptRej |
	gomilter.OptNoReplies&^(gomilter.OptNoConnReply|gomilter.OptNoRcptReply)

// negotiate takes of what we want what the MTA offers, down to protocol version 2 with nothing at
// all.
func (s *Server) negotiate(mtaVersion, _ uint32, mtaActions, _ gomilter.OptAction, mtaProtocol, _ gomilter.OptProtocol, _ gomilter.DataSize) (uint32, gomilter.OptAction, gomilter.OptProtocol, gomilter.DataSize, error) {
	if mtaVersion < 2 {
		return 0, 0, 0, 0, fmt.Errorf("milter: the MTA speaks protocol version %d, the oldest known is 2", mtaVersion)
	}
	actions := gomilter.OptSetMacros
	if s.Treats() {
		actions |= gomilter.OptAddHeader | gomilter.OptQuarantine
	}
	protocol := want
	if s.Refuses(policy.AtMail) {
		protocol &^= gomilter.OptNoMailReply
	}
	return min(mtaVersion, gomilter.MaxServerProtocolVersion), actions & mtaActions, protocol & mtaProtocol, gomilter.DataSize64K, nil
}

// Serve hears sessions on a listener until Shutdown.
func (s *Server) Serve(l net.Listener) error {
	s.once.Do(s.init)
	if err := s.server.Serve(&listener{Listener: l, server: s}); err != nil {
		return fmt.Errorf("milter: %w", err)
	}
	return nil
}

// Shutdown closes the listeners and waits for the sessions under way; those that are not done when
// the context ends are cut off, and what they had to say so far is recorded.
func (s *Server) Shutdown(ctx context.Context) error {
	s.once.Do(s.init)
	close(s.quit)
	err := s.server.Shutdown(ctx)
	s.sessions.Wait()
	return err
}

// stopping reports whether Shutdown was called: what ends now may be cut off.
func (s *Server) stopping() bool {
	select {
	case <-s.quit:
		return true
	default:
		return false
	}
}

// LogLibrary leads the library's warnings, which go to a variable of its own, to a log: at most one
// a second.
func LogLibrary(log *slog.Logger) {
	throttled := &rate.Sometimes{First: 1, Interval: time.Second}
	gomilter.LogWarning = func(format string, args ...any) {
		throttled.Do(func() { log.Warn("milter: " + fmt.Sprintf(format, args...)) })
	}
}
