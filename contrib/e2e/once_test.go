package e2e

import (
	"encoding/json"
	"fmt"
	"net/textproto"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// slowClient is a client that takes its time between commands.
type slowClient struct {
	t testing.TB
	c *textproto.Conn
}

func (x *exchanger) slowClient(client string) *slowClient {
	x.t.Helper()
	c, err := x.DialRaw(client, x.ProxyPort)
	must(x.t, err)
	must(x.t, c.SetDeadline(time.Now().Add(3*time.Minute)))
	s := &slowClient{x.t, textproto.NewConn(c)}
	_, _, err = s.c.ReadResponse(220)
	must(x.t, err)
	s.say(250, "EHLO client.example")
	return s
}

// say sends a command and wants a reply.
func (s *slowClient) say(code int, format string, args ...any) {
	s.t.Helper()
	id, err := s.c.Cmd(format, args...)
	if err == nil {
		s.c.StartResponse(id)
		defer s.c.EndResponse(id)
		_, _, err = s.c.ReadResponse(code)
	}
	if err != nil {
		s.t.Errorf("%q: %v, want %d", fmt.Sprintf(format, args...), err, code)
	}
}

func (s *slowClient) mail()             { s.say(250, "MAIL FROM:<a@sender.example>") }
func (s *slowClient) rcpt()             { s.say(250, "RCPT TO:<bob@mx.example>") }
func (s *slowClient) refused()          { s.say(554, "RCPT TO:<refused@mx.example>") }
func (s *slowClient) wait(secs float64) { time.Sleep(time.Duration(secs * float64(time.Second))) }

// data sends a message and wants a reply to its end.
func (s *slowClient) data(code int, subject string) {
	s.t.Helper()
	s.say(354, "DATA")
	s.say(code, "Subject: %s\r\n\r\nhello\r\n.", subject)
}

// deliver sends a whole message.
func (s *slowClient) deliver(code int, subject string) {
	s.t.Helper()
	s.mail()
	s.rcpt()
	s.data(code, subject)
}

// ownEvidence is what is known of a client.
func (x *exchanger) ownEvidence(client string) (spam, ham float64) {
	x.t.Helper()
	var e struct{ Own struct{ Spam, Ham float64 } }
	must(x.t, json.Unmarshal([]byte(x.command("explain", "--json", client)), &e))
	return e.Own.Spam, e.Own.Ham
}

// slowExchanger refuses a recipient and messages about pills, and says so in its log.
func slowExchanger(t *testing.T) *exchanger {
	x := withLog(t, "")
	checks := filepath.Join(x.ConfigDir(), "checks")
	must(t, os.WriteFile(checks, []byte("/pills/ REJECT no pills\n"), 0o644))
	must(t, x.Set("header_checks = regexp:"+checks, "smtpd_error_sleep_time = 0", "local_recipient_maps =",
		"smtpd_recipient_restrictions = check_recipient_access inline:{{refused@mx.example = REJECT}}, permit_mynetworks, reject_unauth_destination"))
	x.apply()
	x.run()
	return x
}

// scene is what a client does, and what is to be learnt of it.
type scene struct {
	name      string
	do        func(x *exchanger, client string)
	spam, ham float64
	// messages is how many messages, and sessions without one, there are to be in the event log.
	messages int
}

// play lets scenes happen at once, each by a client of its own.
func play(t *testing.T, x *exchanger, scenes []scene) {
	t.Helper()
	client := func(i int) string { return fmt.Sprintf("192.0.%d.7", i+2) }
	var all sync.WaitGroup
	for i, s := range scenes {
		all.Go(func() { s.do(x, client(i)) })
	}
	all.Wait()
	// What waits for a session is concluded by then.
	time.Sleep(5 * time.Second)
	events, err := x.daemon.Events()
	must(t, err)
	for i, s := range scenes {
		messages := 0
		for _, e := range events {
			if e.Client.Addr == client(i) && e.Event != "correction" {
				messages++
			}
		}
		spam, ham := x.ownEvidence(client(i))
		if spam != s.spam || ham != s.ham || messages != s.messages {
			t.Errorf("%s: %g spam and %g ham of %d messages, want %g and %g of %d", s.name, spam, ham, messages, s.spam, s.ham, s.messages)
			for _, e := range events {
				if e.Client.Addr == client(i) {
					t.Logf("%s %s session %q queue id %q: %+v, said %+v", e.Time, e.Event, e.Session, e.QueueID, e.Verdict, e.Said)
				}
			}
		}
	}
}

// TestAMessageCountsOnceHoweverSlowItsClient has clients that pause within their sessions, while
// the log tells of them at once.
func TestAMessageCountsOnceHoweverSlowItsClient(t *testing.T) {
	t.Parallel()
	x := slowExchanger(t)
	play(t, x, []scene{
		{"a recipient is refused, and the session ends eight seconds later", func(x *exchanger, client string) {
			s := x.slowClient(client)
			s.mail()
			s.refused()
			s.wait(8)
			s.say(221, "QUIT")
		}, 1, 0, 1},
		{"a recipient is refused, and the message reset eight seconds later", func(x *exchanger, client string) {
			s := x.slowClient(client)
			s.mail()
			s.refused()
			s.wait(8)
			s.say(250, "RSET")
			s.wait(5)
			s.say(221, "QUIT")
		}, 1, 0, 1},
		{"a recipient is refused, another one not, and the message is ham", func(x *exchanger, client string) {
			s := x.slowClient(client)
			s.mail()
			s.refused()
			s.wait(8)
			s.rcpt()
			s.data(250, "hello")
			s.say(221, "QUIT")
		}, 1, 0, 1},
		{"three refused messages of a session", func(x *exchanger, client string) {
			s := x.slowClient(client)
			for range 3 {
				s.mail()
				s.refused()
				s.wait(4)
				s.say(250, "RSET")
			}
			s.say(221, "QUIT")
		}, 3, 0, 3},
		{"ham and a refused message in turn", func(x *exchanger, client string) {
			s := x.slowClient(client)
			for range 2 {
				s.deliver(250, "hello")
				s.mail()
				s.refused()
				s.wait(4)
				s.say(250, "RSET")
			}
			s.say(221, "QUIT")
			// The second within a minute counts 1/2^(1/4): 1 + 7/8.
		}, 2, 1.88, 4},
		{"ham and at once a refused message", func(x *exchanger, client string) {
			s := x.slowClient(client)
			s.deliver(250, "hello")
			s.mail()
			s.refused()
			s.say(221, "QUIT")
		}, 1, 1, 2},
		{"a message of which header_checks refuses the second one", func(x *exchanger, client string) {
			s := x.slowClient(client)
			s.deliver(250, "hello")
			s.mail()
			s.rcpt()
			s.wait(6)
			s.data(550, "pills")
			s.wait(4)
			s.say(221, "QUIT")
		}, 1, 1, 2},
		{"two sessions at once, a refused one and one with ham", func(x *exchanger, client string) {
			good := x.slowClient(client)
			good.mail()
			good.rcpt()
			good.wait(2)
			bad := x.slowClient(client)
			bad.mail()
			bad.refused()
			bad.wait(1)
			good.data(250, "hello")
			good.say(221, "QUIT")
			bad.wait(5)
			bad.say(221, "QUIT")
		}, 1, 1, 2},
		{"commands before their time, and ham eight seconds later", func(x *exchanger, client string) {
			c, err := x.DialRaw(client, x.ProxyPort)
			must(x.t, err)
			s := &slowClient{x.t, textproto.NewConn(c)}
			_, _, err = s.c.ReadResponse(220)
			must(x.t, err)
			fmt.Fprint(c, "HELO client.example\r\nMAIL FROM:<a@sender.example>\r\nRSET\r\n")
			for range 3 {
				_, _, err = s.c.ReadResponse(250)
				must(x.t, err)
			}
			s.wait(8)
			s.deliver(250, "hello")
			s.say(221, "QUIT")
		}, 0.5, 1, 2},
	})
}

// TestAMessageCountsOnceOverARestart stops and starts the daemon, and kills it, while clients are
// in their sessions. Postfix goes on without it.
func TestAMessageCountsOnceOverARestart(t *testing.T) {
	t.Parallel()
	x := slowExchanger(t)
	again := make(chan struct{})
	var ready sync.WaitGroup
	pause := func() {
		ready.Done()
		<-again
	}
	ready.Add(4)
	go func() {
		ready.Wait()
		time.Sleep(4 * time.Second)
		if err := x.daemon.Stop(); err != nil {
			t.Error(err)
		}
		if err := x.daemon.Start(); err != nil {
			t.Error(err)
		}
		close(again)
	}()
	play(t, x, []scene{
		{"a recipient is refused before and after a restart", func(x *exchanger, client string) {
			s := x.slowClient(client)
			s.mail()
			s.refused()
			pause()
			s.refused()
			s.wait(5)
			s.refused()
			s.say(221, "QUIT")
		}, 1, 0, 1},
		{"a recipient is refused, and the session ends after a restart", func(x *exchanger, client string) {
			s := x.slowClient(client)
			s.mail()
			s.refused()
			pause()
			s.wait(5)
			s.say(221, "QUIT")
		}, 1, 0, 1},
		{"a message under way that header_checks refuses afterwards", func(x *exchanger, client string) {
			s := x.slowClient(client)
			s.mail()
			s.rcpt()
			pause()
			s.data(550, "pills")
			s.say(221, "QUIT")
		}, 1, 0, 1},
		{"a whole session before it", func(x *exchanger, client string) {
			s := x.slowClient(client)
			s.deliver(250, "hello")
			s.mail()
			s.refused()
			s.say(221, "QUIT")
			pause()
		}, 1, 1, 2},
	})
}

// TestAKillLosesNothingAndCountsNothingTwice kills the daemon while what the log told of one client
// waits for its session, and another's message is under way.
func TestAKillLosesNothingAndCountsNothingTwice(t *testing.T) {
	t.Parallel()
	x := slowExchanger(t)
	const client, other = "192.0.2.7", "192.0.3.7"
	refused, late := x.slowClient(client), x.slowClient(other)
	refused.mail()
	refused.refused()
	late.mail()
	late.rcpt()
	refused.wait(6)
	x.daemon.Kill()
	must(t, x.daemon.Start())
	refused.wait(5)
	refused.say(221, "QUIT")
	late.data(550, "pills")
	late.say(221, "QUIT")
	late.wait(5)
	for _, c := range []string{client, other} {
		if spam, ham := x.ownEvidence(c); spam != 1 || ham != 0 {
			t.Errorf("%s: %g spam and %g ham, want 1 and 0", c, spam, ham)
		}
	}
}
