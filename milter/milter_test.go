package milter

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gomilter "github.com/d--j/go-milter"

	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/behaviour"
)

// hall is a served Server that keeps what it heard.
type hall struct {
	*Server
	addr string

	mu    sync.Mutex
	heard []policy.Observation
	// open are the sessions that are open, queued the queue ids that were told of them.
	open, queued []string
}

func (h *hall) Begin(session string, _ policy.Client, _ time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open = append(h.open, session)
}

func (h *hall) Queued(_, queueID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.queued = append(h.queued, queueID)
}

func (h *hall) End(session string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open = slices.DeleteFunc(h.open, func(s string) bool { return s == session })
}

func serve(t testing.TB, change func(*Server)) *hall {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hall{addr: l.Addr().String()}
	p := policy.New(policy.Default())
	h.Server = &Server{
		Decide:   func(a netip.Addr) policy.Decision { return p.Decide(a, policy.Known{}, time.Now()) },
		Answered: func(netip.Addr) policy.Answer { return policy.Offered },
		Rules: func() verdict.Rules {
			return verdict.Rules{Headers: verdict.DefaultHeaders, Silence: policy.None}
		},
		Users:    func(daemon, port string) bool { return daemon == "ORIGINATING" || port == "587" },
		Clients:  behaviour.NewClients(),
		Sessions: h,
		Treats:   func() bool { return true },

		Refuses: func(policy.Stage) bool { return true },
		Now:     time.Now,
		Log:     slog.New(slog.DiscardHandler),
		Observe: func(o *policy.Observation, assessments []policy.Assessment) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if !slices.Contains(h.open, o.Session) {
				t.Errorf("observed of a session that is not open: %+v", o)
			}
			for _, a := range assessments {
				o.Verdicts = o.Verdicts.With(policy.DefaultWeights().Weigh(a))
			}
			o.Verdict = o.Verdicts.Resolve()
			h.heard = append(h.heard, *o)
		},
	}
	if change != nil {
		change(h.Server)
	}
	h.once.Do(h.init)
	served := make(chan error, 1)
	go func() { served <- h.Serve(l) }()
	t.Cleanup(func() {
		h.stop(t)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return h
}

// stop ends the server if it still runs, and returns what it heard.
func (h *hall) stop(t testing.TB) []policy.Observation {
	t.Helper()
	select {
	case <-h.quit:
	default:
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if err := h.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.open) > 0 {
		t.Errorf("sessions that never ended: %v", h.open)
	}
	return h.heard
}

// must fails the test on an error of the client side.
type must struct{ t testing.TB }

func (m must) do(_ *gomilter.Action, err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m must) done(err error) { m.t.Helper(); m.do(nil, err) }

func (h *hall) session(t testing.TB, options ...gomilter.Option) (*gomilter.ClientSession, *gomilter.MacroBag) {
	t.Helper()
	macros := gomilter.NewMacroBag()
	s, err := gomilter.NewClient("tcp", h.addr, options...).Session(macros)
	if err != nil {
		t.Fatal(err)
	}
	return s, macros
}

// message sends a message with one header, or none where name is empty, and returns what the milter
// did at its end.
func (m must) message(s *gomilter.ClientSession, from, name, value string) ([]gomilter.ModifyAction, *gomilter.Action) {
	m.t.Helper()
	m.do(s.Mail(from, ""))
	m.do(s.Rcpt("bob@mx.example", ""))
	m.do(s.DataStart())
	if name != "" {
		m.do(s.HeaderField(name, value, nil))
	}
	m.do(s.HeaderEnd())
	mods, action, err := s.BodyReadFrom(strings.NewReader("hello\r\n"))
	m.do(action, err)
	return mods, action
}

func TestASessionOfTwoMessagesOverTLS(t *testing.T) {
	h := serve(t, nil)
	s, macros := h.session(t)
	m := must{t}
	macros.Set(gomilter.MacroClientName, "mail.example")
	m.do(s.Conn("mail.example", gomilter.FamilyInet, 2525, "192.0.2.7"))
	m.do(s.Helo("client.example"))
	m.done(s.Abort(nil))
	macros.Set(gomilter.MacroTlsVersion, "TLSv1.3")
	macros.Set(gomilter.MacroCipher, "TLS_AES_256_GCM_SHA384")
	macros.Set(gomilter.MacroCipherBits, "256")
	m.do(s.Helo("client.example"))
	for i, header := range []string{"YES", "NO"} {
		macros.Set(gomilter.MacroQueueId, []string{"Q1", "Q2"}[i])
		if _, action := m.message(s, "alice@Sender.Example", "X-Spam-Flag", header); action.StopProcessing() && action.Type != gomilter.ActionAccept {
			t.Fatalf("end of message: %+v", action)
		}
		m.done(s.Abort(nil))
	}
	m.done(s.Close())
	heard := h.stop(t)
	if len(heard) != 2 {
		t.Fatalf("heard %d observations, want one for each message: %+v", len(heard), heard)
	}
	for i, want := range []policy.Class{policy.Spam, policy.Ham} {
		o := heard[i]
		if !o.Mail || o.Verdict.Class != want || o.Outcome != policy.Accepted || o.QueueID != []string{"Q1", "Q2"}[i] || o.FromDomain != "sender.example" ||
			o.Rcpts != 1 || len(o.To) != 1 || o.TLS == nil || o.TLS.Version != "TLSv1.3" || o.TLS.Bits != 256 || o.STARTTLS != policy.Offered || o.Client.Addr.String() != "192.0.2.7" || o.Client.Port != 2525 {
			t.Errorf("message %d: %+v", i+1, o)
		}
	}
}

func TestTheNullSenderMakesABounce(t *testing.T) {
	h := serve(t, nil)
	s, _ := h.session(t)
	m := must{t}
	m.do(s.Conn("mail.example", gomilter.FamilyInet, 2525, "192.0.2.7"))
	m.do(s.Helo("client.example"))
	senders := []string{"alice@sender.example", "", "bob@sender.example"}
	for _, from := range senders {
		m.message(s, from, "X-Spam-Flag", "NO")
		m.done(s.Abort(nil))
	}
	m.done(s.Close())
	heard := h.stop(t)
	if len(heard) != len(senders) {
		t.Fatalf("heard %d observations", len(heard))
	}
	for i, o := range heard {
		if o.Bounce != (senders[i] == "") {
			t.Errorf("from %q: bounce %v", senders[i], o.Bounce)
		}
	}
}

func TestWhatIsNoAcceptedMessage(t *testing.T) {
	reject := func(m must, s *gomilter.ClientSession, macros *gomilter.MacroBag, status, text string) {
		macros.Set(gomilter.MacroRcptMailer, "error")
		macros.Set(gomilter.MacroRcptHost, status)
		macros.Set(gomilter.MacroRcptAddr, text)
		m.do(s.Rcpt("bob@mx.example", ""))
	}
	for _, c := range []struct {
		name    string
		session func(must, *gomilter.ClientSession, *gomilter.MacroBag)
		outcome policy.Outcome
		source  policy.Source
		class   policy.Class
	}{
		{"no mail", func(must, *gomilter.ClientSession, *gomilter.MacroBag) {}, policy.NoMail, policy.FromProbe, policy.None},
		{"refused by a DNSBL", func(m must, s *gomilter.ClientSession, macros *gomilter.MacroBag) {
			m.do(s.Mail("", ""))
			reject(m, s, macros, "5.7.1", "Client host rejected: Service unavailable; Client host [192.0.2.7] blocked using zen.example")
		}, policy.Rejected, "dnsbl", policy.Spam},
		{"greylisted", func(m must, s *gomilter.ClientSession, macros *gomilter.MacroBag) {
			m.do(s.Mail("", ""))
			reject(m, s, macros, "4.2.0", "Client host rejected: Greylisted")
		}, policy.Rejected, "greylist", policy.None},
		{"ended in DATA by an earlier filter", func(m must, s *gomilter.ClientSession, _ *gomilter.MacroBag) {
			m.do(s.Mail("", ""))
			m.do(s.Rcpt("bob@mx.example", ""))
			m.do(s.DataStart())
			m.done(s.Abort(nil))
		}, policy.Aborted, "", policy.None},
		{"left after MAIL", func(m must, s *gomilter.ClientSession, _ *gomilter.MacroBag) { m.do(s.Mail("", "")) }, policy.Aborted, "", policy.None},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := serve(t, nil)
			s, macros := h.session(t)
			m := must{t}
			m.do(s.Conn("mail.example", gomilter.FamilyInet6, 2525, "2001:db8::7"))
			m.do(s.Helo("client.example"))
			c.session(m, s, macros)
			m.done(s.Close())
			heard := h.stop(t)
			if len(heard) != 1 || heard[0].Outcome != c.outcome || heard[0].Verdict.Source != c.source || heard[0].Verdict.Class != c.class {
				t.Errorf("heard %+v", heard)
			}
		})
	}
}

// TestSessionsWithoutAMessage runs thirty of them within a minute: each is a probe, the last makes
// a flood whole.
func TestSessionsWithoutAMessage(t *testing.T) {
	h := serve(t, nil)
	m := must{t}
	for range 30 {
		s, _ := h.session(t)
		m.do(s.Conn("mail.example", gomilter.FamilyInet, 25, "192.0.2.7"))
		m.do(s.Helo("client.example"))
		m.done(s.Close())
	}
	said := map[policy.Source]int{}
	for _, o := range h.stop(t) {
		said[o.Verdict.Source]++
		if l, teaches := o.Lesson(); teaches != (o.Verdict.Source == policy.FromFlood) || teaches && l.Spam != 0.25 {
			t.Errorf("%+v teaches %+v", o.Verdict, l)
		}
	}
	if said[policy.FromProbe] != 29 || said[policy.FromFlood] != 1 {
		t.Errorf("said %v", said)
	}
}

// TestAClientThatLeavesWithoutSTARTTLS is one that may require it; one that was offered it is not.
func TestAClientThatLeavesWithoutSTARTTLS(t *testing.T) {
	for answered, want := range map[policy.Answer]policy.Trouble{policy.Withheld: policy.LeftWithout, policy.Offered: "", policy.Unasked: ""} {
		h := serve(t, func(s *Server) { s.Answered = func(netip.Addr) policy.Answer { return answered } })
		m := must{t}
		s, _ := h.session(t)
		m.do(s.Conn("mail.example", gomilter.FamilyInet, 25, "192.0.2.7"))
		m.do(s.Helo("client.example"))
		m.done(s.Abort(nil))
		m.done(s.Close())
		if heard := h.stop(t); len(heard) != 1 || heard[0].Trouble != want {
			t.Errorf("answered %s: %+v", answered, heard)
		}
	}
}

// TestServicesOfUsersTeachNothing is about a session that the MTA names a submission's, by name or
// by port.
func TestServicesOfUsersTeachNothing(t *testing.T) {
	for name, macro := range map[string][2]string{"by name": {gomilter.MacroDaemonName, "ORIGINATING"}, "by port": {gomilter.MacroDaemonPort, "587"}} {
		t.Run(name, func(t *testing.T) {
			h := serve(t, nil)
			m := must{t}
			s, macros := h.session(t)
			macros.Set(macro[0], macro[1])
			m.do(s.Conn("client.example", gomilter.FamilyInet, 25, "192.0.2.7"))
			m.do(s.Helo("client.example"))
			m.message(s, "alice@sender.example", "X-Spam-Flag", "YES")
			m.done(s.Close())
			heard := h.stop(t)
			if len(heard) != 1 || !heard[0].Submission {
				t.Fatalf("%+v", heard)
			}
			if _, teaches := heard[0].Lesson(); teaches {
				t.Errorf("%+v teaches", heard[0])
			}
		})
	}
}

func TestAnOldMTAIsServed(t *testing.T) {
	h := serve(t, nil)
	s, _ := h.session(t, gomilter.WithMaximumVersion(2), gomilter.WithActions(0), gomilter.WithProtocols(0))
	m := must{t}
	m.do(s.Conn("mail.example", gomilter.FamilyInet, 25, "192.0.2.7"))
	m.do(s.Helo("client.example"))
	if _, action := m.message(s, "a@sender.example", "X-Spam-Flag", "YES"); action.Type != gomilter.ActionAccept {
		t.Fatalf("end of message: %+v", action)
	}
	m.done(s.Close())
	if heard := h.stop(t); len(heard) != 1 || heard[0].Verdict.Class != policy.Spam {
		t.Errorf("heard %+v", heard)
	}
}

func TestAFaultOfOursStopsNoMail(t *testing.T) {
	h := serve(t, func(s *Server) { s.Decide = func(netip.Addr) policy.Decision { panic("a fault") } })
	s, _ := h.session(t, gomilter.WithMaximumVersion(2), gomilter.WithActions(0), gomilter.WithProtocols(0))
	m := must{t}
	m.do(s.Conn("mail.example", gomilter.FamilyInet, 25, "192.0.2.7"))
	m.do(s.Helo("client.example"))
	if _, action := m.message(s, "a@sender.example", "", ""); action.Type != gomilter.ActionAccept {
		t.Fatalf("end of message: %+v", action)
	}
	m.done(s.Close())
	h.stop(t)
	if h.Stats.Panics.Load() == 0 {
		t.Error("the fault was not counted")
	}
}

func TestActionsOfATier(t *testing.T) {
	for action, want := range map[policy.Action]gomilter.ActionType{
		policy.ActNone: gomilter.ActionAccept, policy.ActHeader: gomilter.ActionAccept, policy.ActQuarantine: gomilter.ActionAccept,
		policy.ActTempfail: gomilter.ActionRejectWithCode, policy.ActReject: gomilter.ActionRejectWithCode,
	} {
		t.Run(string(action), func(t *testing.T) {
			h := serve(t, func(s *Server) {
				s.Decide = func(a netip.Addr) policy.Decision {
					return policy.Decision{Addr: a, Action: action, Stage: policy.AtMessage}
				}
			})
			s, _ := h.session(t)
			m := must{t}
			m.do(s.Conn("mail.example", gomilter.FamilyInet, 25, "192.0.2.7"))
			m.do(s.Helo("client.example"))
			mods, got := m.message(s, "a@sender.example", "", "")
			if got.Type != want {
				t.Fatalf("%+v", got)
			}
			if changes := action == policy.ActHeader || action == policy.ActQuarantine; changes != (len(mods) == 1) {
				t.Errorf("modifications %+v", mods)
			}
			s.Close()
		})
	}
}

// An action that refuses mail does so at its stage, and what is refused teaches nothing: no verdict
// comes of it, and the client that leaves is no flood. A user who has logged in is let through.
func TestMailIsRefusedAtAStage(t *testing.T) {
	for _, c := range []struct {
		stage policy.Stage
		user  bool
		want  []string // the commands that are refused
		codes uint16
	}{
		{policy.AtConnect, false, []string{"CONNECT", "RCPT"}, 554}, {policy.AtMail, false, []string{"MAIL"}, 550}, {policy.AtRcpt, false, []string{"RCPT"}, 550},
		{policy.AtMail, true, nil, 0}, {policy.AtRcpt, true, nil, 0}, {policy.AtMessage, true, nil, 0},
		// The session is older than the configuration.
		{policy.AtMail, false, []string{"RCPT"}, 550},
	} {
		t.Run(fmt.Sprint(c.stage, c.user), func(t *testing.T) {
			h := serve(t, func(s *Server) {
				s.Refuses = func(at policy.Stage) bool { return at != policy.AtMail || slices.Contains(c.want, "MAIL") }
				s.Decide = func(a netip.Addr) policy.Decision {
					return policy.Decision{Addr: a, Action: policy.ActReject, Stage: c.stage}
				}
			})
			s, macros := h.session(t)
			if c.user {
				macros.Set(gomilter.MacroAuthAuthen, "alice")
			}
			var refused []string
			first := uint16(0)
			step := func(name string) func(a *gomilter.Action, err error) {
				return func(a *gomilter.Action, err error) {
					if err != nil {
						t.Fatal(name, err)
					}
					if a.Type == gomilter.ActionRejectWithCode {
						refused = append(refused, name)
						if first == 0 {
							first = a.SMTPCode
						}
					}
				}
			}
			step("CONNECT")(s.Conn("mail.example", gomilter.FamilyInet, 25, "192.0.2.7"))
			step("HELO")(s.Helo("client.example"))
			step("MAIL")(s.Mail("a@sender.example", ""))
			if !slices.Contains(refused, "MAIL") {
				step("RCPT")(s.Rcpt("bob@mx.example", ""))
			}
			if err := s.Abort(nil); err != nil {
				t.Fatal(err)
			}
			s.Close()
			if !slices.Equal(refused, c.want) || first != c.codes {
				t.Errorf("refused %v with %d, want %v with %d", refused, first, c.want, c.codes)
			}
			heard := h.stop(t)
			if len(heard) != 1 || (heard[0].Outcome == policy.Rejected) != (c.want != nil) || heard[0].Verdict.Class != policy.None {
				t.Errorf("heard %+v", heard)
			}
		})
	}
	h := serve(t, func(s *Server) {
		s.Decide = func(a netip.Addr) policy.Decision {
			return policy.Decision{Addr: a, Action: policy.ActTempfail, Stage: policy.AtConnect}
		}
	})
	s, _ := h.session(t)
	if a, err := s.Conn("mail.example", gomilter.FamilyInet, 25, "192.0.2.7"); err != nil || a.SMTPCode != 421 {
		t.Errorf("%+v, %v", a, err)
	}
	s.Close()
	if heard := h.stop(t); len(heard) != 1 || heard[0].Outcome != policy.Rejected || len(heard[0].Verdicts) != 0 {
		t.Errorf("heard %+v", heard)
	}
}

// A kernel holds back what an MTA writes until what it wrote before is acknowledged; ours does that
// 40 ms later where nothing is replied, unless it is told to.
func TestNobodyWaitsForAnAcknowledgement(t *testing.T) {
	h := serve(t, func(s *Server) { s.Refuses = func(policy.Stage) bool { return false } })
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.(*net.TCPConn).SetNoDelay(false)
	write := func(packets ...[]byte) {
		t.Helper()
		if _, err := c.Write(slices.Concat(packets...)); err != nil {
			t.Fatal(err)
		}
	}
	in := bufio.NewReader(c)
	reply := func() []byte {
		t.Helper()
		head := make([]byte, 4)
		if _, err := io.ReadFull(in, head); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, binary.BigEndian.Uint32(head))
		if _, err := io.ReadFull(in, answer); err != nil {
			t.Fatal(err)
		}
		return answer
	}
	write(negotiation)
	if asked := gomilter.OptProtocol(binary.BigEndian.Uint32(reply()[9:])); asked&gomilter.OptNoMailReply == 0 || asked&(gomilter.OptNoConnReply|gomilter.OptNoRcptReply) != 0 {
		t.Errorf("asked for %v", asked)
	}
	write(packet('C', "client\x004\x9c\x40192.0.2.7\x00"))
	reply()
	var took []time.Duration
	for range 20 {
		write(packet('M', "<a@sender.example>\x00"), packet('R', "<bob@mx.example>\x00"))
		reply()
		began := time.Now()
		// Postfix's smtpd(8) writes the first, its cleanup(8) the rest.
		write(packet('T', ""))
		write(packet('L', "Subject\x00hello\x00"), packet('N', ""), packet('E', ""))
		reply()
		took = append(took, time.Since(began))
		write(packet('A', ""))
	}
	slices.Sort(took)
	if took[len(took)/2] > 30*time.Millisecond {
		t.Errorf("from DATA to the reply to the end of the message it takes %v", took[len(took)/2])
	}
}

func packet(code byte, data string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(data)+1))
	return append(append(b, code), data...)
}

var negotiation = packet('O', "\x00\x00\x00\x06\x00\x00\x01\xff\x00\x1f\xff\xff")

// malformed are packets on which the library would panic, read without bound or wait.
var malformed = map[string][]byte{
	"of no length":                    {0, 0, 0, 0},
	"of 512 MB":                       {0x1f, 0xff, 0xff, 0xff, 'H'},
	"of the greatest length":          {0xff, 0xff, 0xff, 0xff, 'H'},
	"CONNECT that ends after a name":  packet('C', "mail.example\x00"),
	"CONNECT without end of its name": packet('C', "mail.example"),
	"CONNECT without a port":          packet('C', "mail.example\x004\x00"),
	"CONNECT of an unknown family":    packet('C', "mail.example\x00X\x00\x00a\x00"),
	"HELO without end":                packet('H', "client"),
	"MAIL without end":                packet('M', "a@b"),
	"RCPT of nothing":                 packet('R', ""),
	"HEADER of one string":            packet('L', "Subject\x00"),
	"MACRO without end":               packet('D', "Mi\x00Q"),
	"MACRO of nothing":                packet('D', ""),
	"an unknown command":              packet('z', "x"),
	"a second negotiation":            negotiation,
}

func TestMalformedPacketsCloseTheirConnectionOnly(t *testing.T) {
	h := serve(t, nil)
	for name, raw := range malformed {
		t.Run(name, func(t *testing.T) {
			before := h.Stats.Malformed.Load()
			c, err := net.Dial("tcp", h.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(5 * time.Second))
			c.Write(append(bytes.Clone(negotiation), raw...))
			if _, err := io.Copy(io.Discard, c); err != nil && !bytes.Contains([]byte(err.Error()), []byte("reset")) {
				t.Errorf("the connection was not closed: %v", err)
			}
			if got := h.Stats.Malformed.Load(); got != before+1 {
				t.Errorf("counted %d, was %d", got, before)
			}
		})
	}
	s, _ := h.session(t)
	must{t}.do(s.Conn("mail.example", gomilter.FamilyInet, 25, "192.0.2.7"))
	s.Close()
}

// FuzzSession sends what it likes after a negotiation to a served session. A panic in the library's
// goroutine would end the process.
func FuzzSession(f *testing.F) {
	for _, raw := range malformed {
		f.Add(raw)
	}
	f.Add(bytes.Join([][]byte{
		packet('D', "C{client_addr}\x00192.0.2.7\x00"), packet('C', "mail.example\x004\x00\x19192.0.2.7\x00"), packet('H', "c\x00"), packet('M', "<a@b>\x00"),
		packet('R', "<c@d>\x00"), packet('T', ""), packet('L', "X-Spam\x00Yes\x00"), packet('N', ""), packet('E', ""), packet('A', ""), packet('Q', ""),
	}, nil))
	h := serve(f, nil)
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(5 * time.Second))
		c.Write(append(bytes.Clone(negotiation), raw...))
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
		c.Close()
	})
}
