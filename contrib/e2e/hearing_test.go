package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
)

// withLog prepares an exchanger whose log the daemon follows.
func withLog(t *testing.T, more string) *exchanger {
	t.Helper()
	x := prepare(t, "")
	must(t, x.daemon.Configure(filterTOML(x, more)))
	return x
}

// breakTLS begins a TLS handshake and breaks it.
func (x *exchanger) breakTLS(client string) (offered bool) {
	x.t.Helper()
	c, err := x.DialRaw(client, x.ProxyPort)
	must(x.t, err)
	defer c.Close()
	in := bufio.NewReader(c)
	reply := func() (text string) {
		for {
			line, err := in.ReadString('\n')
			must(x.t, err)
			if text += line; len(line) > 3 && line[3] == ' ' {
				return text
			}
		}
	}
	reply()
	fmt.Fprint(c, "EHLO client.example\r\n")
	if !strings.Contains(reply(), "STARTTLS") {
		return false
	}
	fmt.Fprint(c, "STARTTLS\r\n")
	reply()
	fmt.Fprint(c, "this is no handshake\r\n")
	in.ReadByte()
	return true
}

// until waits until something holds.
func (x *exchanger) until(what string, holds func() bool) {
	x.t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			x.t.Fatalf("not within ten seconds: %s", what)
		}
	}
}

// TestBrokenTLSIsSparedIt breaks three handshakes of a client: then its mail gets through without
// TLS.
func TestBrokenTLSIsSparedIt(t *testing.T) {
	t.Parallel()
	x := withLog(t, "")
	x.apply()
	x.run()
	const client = "192.0.2.7"
	for i := range 3 {
		if !x.breakTLS(client) {
			t.Fatalf("not offered after %d failures", i)
		}
		// The next attempt is no part of this one.
		time.Sleep(2500 * time.Millisecond)
	}
	x.until("the client is listed", func() bool { return strings.Contains(x.command("top", "--broken-tls"), client+"/32") })
	if x.send(client, "hello") {
		t.Error("STARTTLS is offered to a client that cannot speak it")
	}
	if !x.offered("192.0.2.8") {
		t.Error("its neighbour is not offered STARTTLS")
	}
	if out := x.command("explain", client); !strings.Contains(out, "3 TLS handshakes failed") || !strings.Contains(out, "withhold STARTTLS") {
		t.Errorf("explained as\n%s", out)
	}
	if out := x.command("top", "--broken-tls", "--json"); !strings.Contains(out, `"cause":"broken-tls"`) {
		t.Errorf("%s", out)
	}
	// It is not the operator's, and lasts over a restart.
	if out := x.command("overrides"); strings.Contains(out, client) {
		t.Errorf("listed as the operator's: %s", out)
	}
	must(t, x.daemon.Stop())
	must(t, x.daemon.Start())
	if x.offered(client) {
		t.Error("forgotten with a restart")
	}
	x.command("forget", client)
	if !x.offered(client) {
		t.Error("the operator cannot lift it")
	}
	if n, err := x.daemon.Metric("ehlogate_tls_failures_total"); err != nil || n != 0 {
		t.Errorf("%v failures since the restart, %v: the log was read twice", n, err)
	}
}

// TestWhoRequiresTLSIsOfferedItAgain lets a stranger leave in mode earn because it is not offered
// STARTTLS.
func TestWhoRequiresTLSIsOfferedItAgain(t *testing.T) {
	t.Parallel()
	x := start(t, "[policy]\nmode = 'earn'\n")
	const client = "192.0.2.7"
	if x.offered(client) {
		t.Fatal("a stranger is offered STARTTLS in mode earn")
	}
	// A mail server tries again.
	time.Sleep(11 * time.Second)
	if x.offered(client) {
		t.Error("once was enough")
	}
	x.until("it is offered again", func() bool { return x.offered(client) })
	if out := x.command("explain", client); !strings.Contains(out, "maybe it requires TLS") || !strings.Contains(out, "offer STARTTLS") {
		t.Errorf("explained as\n%s", out)
	}
	if out := x.command("top", "--requires-tls"); !strings.Contains(out, client) {
		t.Errorf("%s", out)
	}
	for range 5 {
		x.send(client, "spam")
	}
	if x.offered(client) {
		t.Error("its own spam does not count")
	}
}

// TestPostscreenIsHeard lets clients fail postscreen's tests: the milter never sees them.
func TestPostscreenIsHeard(t *testing.T) {
	t.Parallel()
	x := withLog(t, "")
	must(t, x.Set("postscreen_greet_action = enforce"))
	x.apply()
	x.run()
	hasty, err := x.DialRaw("192.0.2.7", x.ScreenPort)
	must(t, err)
	fmt.Fprint(hasty, "EHLO client.example\r\nMAIL FROM:<a@sender.example>\r\nRCPT TO:<bob@mx.example>\r\nQUIT\r\n")
	bufio.NewReader(hasty).WriteTo(&strings.Builder{})
	hasty.Close()
	gone, err := x.DialRaw("192.0.2.8", x.ScreenPort)
	must(t, err)
	gone.Close()
	_, err = x.daemon.WaitEvents(2)
	must(t, err)
	time.Sleep(4 * time.Second)
	events, err := x.daemon.Events()
	must(t, err)
	if len(events) != 2 {
		t.Fatalf("%d observations of two clients: %+v", len(events), events)
	}
	for _, e := range events {
		want := mx.Verdict{Class: "spam", Source: "pregreet", Weight: 1}
		if e.Client.Addr == "192.0.2.8" {
			want = mx.Verdict{Class: "none", Source: "hangup"}
		}
		if v := e.Verdict; v.Class != want.Class || v.Source != want.Source || v.Weight != want.Weight || e.STARTTLS != "unknown" || e.Session != "" {
			t.Errorf("%+v", e)
		}
	}
}

// say connects to a port that takes PROXY lines, says something at once, reads the replies until
// their end and returns them.
func (x *exchanger) say(client, text string) string {
	x.t.Helper()
	c, err := x.DialRaw(client, x.ProxyPort)
	must(x.t, err)
	defer c.Close()
	fmt.Fprint(c, text)
	var replies strings.Builder
	bufio.NewReader(c).WriteTo(&replies)
	return replies.String()
}

// TestTheLogOfARealPostfix makes happen what its log tells, and wants one observation of each
// client.
func TestTheLogOfARealPostfix(t *testing.T) {
	t.Parallel()
	x := withLog(t, "")
	must(t, x.Set("smtpd_client_connection_rate_limit = 3", "smtpd_client_event_limit_exceptions =", "smtpd_delay_reject = no",
		"smtpd_client_restrictions = check_client_access inline:{{192.0.2.6 = REJECT}}"))
	x.apply()
	x.run()
	deliver := func(client, subject string) {
		s, err := x.Dial(client)
		must(t, err)
		must(t, s.Deliver(message(subject)))
		s.Quit()
	}
	const hello = "EHLO client.example\r\n"
	for _, c := range []struct {
		client, name, class, source string
		weight                      float64
		happen                      func(client string)
	}{
		{"192.0.2.1", "a filter discards", "spam", "milter-discard", 1, func(c string) { deliver(c, "discard") }},
		{"192.0.2.2", "a filter holds", "spam", "milter-hold", 0.5, func(c string) { deliver(c, "hold") }},
		{"192.0.2.3", "a connection lost in the handshake", "none", "tls", 0, func(c string) {
			conn, err := x.DialRaw(c, x.ProxyPort)
			must(t, err)
			fmt.Fprint(conn, hello+"STARTTLS\r\n")
			in := bufio.NewReader(conn)
			for line := ""; !strings.Contains(line, "Ready to start TLS"); {
				line, err = in.ReadString('\n')
				must(t, err)
			}
			conn.Close()
		}},
		{"192.0.2.4", "commands before the greeting's end", "spam", "pipelining", 0.5, func(c string) { x.say(c, hello+hello+"QUIT\r\n") }},
		{"192.0.2.6", "refused at once", "spam", "rcpt", 1, func(c string) { x.say(c, "QUIT\r\n") }},
		{"192.0.2.7", "connections without end", "spam", "limit", 0.25, func(c string) {
			for range 5 {
				x.say(c, "QUIT\r\n")
				time.Sleep(100 * time.Millisecond)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.happen(c.client)
			var verdicts []mx.Verdict
			x.until(c.source+" is heard", func() bool {
				events, err := x.daemon.Events()
				must(t, err)
				verdicts = nil
				for _, e := range events {
					if e.Client.Addr == c.client {
						verdicts = append(verdicts, e.Verdict)
						verdicts = append(verdicts, e.Said...)
					}
				}
				for _, v := range verdicts {
					if v.Source == c.source {
						return v.Class == c.class && v.Weight == c.weight
					}
				}
				return false
			})
		})
	}
	if t.Failed() {
		t.Log(x.Log())
	}
}

// TestTheJournalAndStandardInputAreFollowed gives the daemon a line in each.
func TestTheJournalAndStandardInputAreFollowed(t *testing.T) {
	t.Parallel()
	const told = "SSL_accept error from unknown[192.0.2.7]: -1"
	t.Run("journal", func(t *testing.T) {
		x := prepare(t, "")
		dir := tempDir(t)
		must(t, x.daemon.Configure(fmt.Sprintf("[verdict]\nlog_file = 'journal:%s'\n", dir)))
		write := func(text string) {
			cmd := exec.Command("/lib/systemd/systemd-journal-remote", "--output="+filepath.Join(dir, "remote-mx.journal"), "-")
			cmd.Stdin = strings.NewReader(fmt.Sprintf("__REALTIME_TIMESTAMP=%d\n__MONOTONIC_TIMESTAMP=1\n_BOOT_ID=0123456789abcdef0123456789abcdef\nSYSLOG_FACILITY=2\nSYSLOG_IDENTIFIER=postfix/smtpd\nMESSAGE=%s\n\n", time.Now().UnixMicro(), text))
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		write("SSL_accept error from unknown[192.0.2.6]: -1")
		must(t, x.daemon.Start())
		time.Sleep(time.Second)
		write(told)
		x.heardOf("192.0.2.7")
		must(t, x.daemon.Stop())
		write("SSL_accept error from unknown[192.0.2.8]: -1")
		must(t, x.daemon.Start())
		x.heardOf("192.0.2.7", "192.0.2.8")
	})
	t.Run("standard input", func(t *testing.T) {
		x := prepare(t, "")
		must(t, x.daemon.Configure("[verdict]\nlog_file = '-'\n"))
		cmd := exec.Command(x.daemon.Binary, "serve", "--config", x.daemon.Config())
		cmd.Stdin = strings.NewReader(time.Now().Format(time.RFC3339Nano) + " mx1 postfix/smtpd[9]: " + told + "\n")
		must(t, x.daemon.StartAs(cmd))
		x.heardOf("192.0.2.7")
	})
}

// heardOf waits until exactly these clients were observed, each once.
func (x *exchanger) heardOf(clients ...string) {
	x.t.Helper()
	events, err := x.daemon.WaitEvents(len(clients))
	must(x.t, err)
	for i, e := range events {
		if e.Client.Addr != clients[i] {
			x.t.Errorf("heard of %s, want %s", e.Client.Addr, clients[i])
		}
	}
}

// TestEveryMessageOfTheLogIsCountedOnce kills the daemon again and again while Postfix refuses
// messages by their content, which only its log and the docket know to be spam, and rotates the
// log.
func TestEveryMessageOfTheLogIsCountedOnce(t *testing.T) {
	t.Parallel()
	x := withLog(t, "")
	checks := filepath.Join(x.ConfigDir(), "checks")
	must(t, os.WriteFile(checks, []byte("/pills/ REJECT no pills\n"), 0o644))
	must(t, x.Set("header_checks = regexp:"+checks))
	x.apply()
	x.run()
	const messages = 60
	for i := range messages {
		s, err := x.Dial("192.0.2.7")
		must(t, err)
		if err := s.Deliver(message("pills")); err == nil {
			t.Fatal("not refused")
		}
		s.Quit()
		switch i {
		case 15, 35:
			x.daemon.Kill()
		case 20, 40:
			must(t, x.daemon.Start())
		case 25, 50:
			must(t, os.Rename(filepath.Join(x.Dir, "mail.log"), filepath.Join(x.Dir, fmt.Sprintf("mail.log.%d", i))))
			must(t, x.Reload())
		}
		time.Sleep(20 * time.Millisecond)
	}
	spam := func() float64 {
		var e struct{ Own struct{ Spam float64 } }
		must(t, json.Unmarshal([]byte(x.command("explain", "--json", "192.0.2.7")), &e))
		return e.Own.Spam
	}
	for end := time.Now().Add(10 * time.Second); spam() < messages && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
	}
	time.Sleep(4 * time.Second)
	if n := spam(); n != messages {
		t.Errorf("%v spam of %d messages", n, messages)
		events, err := x.daemon.Events()
		must(t, err)
		last := map[string]string{}
		for _, e := range events {
			last[e.QueueID] += fmt.Sprintf(" %s %s", e.Event, e.Verdict.Class)
		}
		t.Log(len(last), last)
	}
}

// TestPeopleCorrect lets people say what messages were.
func TestPeopleCorrect(t *testing.T) {
	t.Parallel()
	x := start(t, "[verdict]\nown_networks = ['127.0.0.0/8']\n")
	x.send("192.0.2.7", "hello")
	x.send("192.0.2.7", "spam")
	events, err := x.daemon.WaitEvents(2)
	must(t, err)
	own := func(client string) string {
		var e struct{ Own struct{ Spam, Ham float64 } }
		must(t, json.Unmarshal([]byte(x.command("explain", "--json", client)), &e))
		return fmt.Sprintf("%g spam, %g ham", e.Own.Spam, e.Own.Ham)
	}
	received := func(client, queueID string) string {
		return fmt.Sprintf("Received: from c.example (unknown [%s])\n\tby mx.example (Postfix) with ESMTP id %s\n\tfor <bob@mx.example>; %s\nSubject: x\n\nx\n", client, queueID, time.Now().Format(time.RFC1123Z))
	}
	file := filepath.Join(tempDir(t), "mbox")
	must(t, os.WriteFile(file, []byte("From a Tue Nov 24 13:21:57 2026\n"+received("192.0.2.7", events[0].QueueID)+"\nFrom b Tue Nov 24 13:21:57 2026\n"+received("192.0.2.9", "4ELSEWHERE1")), 0o600))
	for _, step := range []struct {
		args      []string
		out, want string
	}{
		{[]string{"learn", "spam", events[0].QueueID}, "1 corrected", "2 spam, 0 ham"},
		{[]string{"learn", "spam", events[0].QueueID}, "1 said before", "2 spam, 0 ham"},
		{[]string{"learn", "ham", events[0].QueueID, events[1].QueueID}, "2 corrected", "0 spam, 2 ham"},
		{[]string{"learn", "spam", "192.0.2.7"}, "1 new", "1 spam, 2 ham"},
		{[]string{"learn", "spam", file}, "1 corrected, 1 new", "2 spam, 1 ham"},
	} {
		if out := x.command(step.args...); !strings.Contains(out, step.out) {
			t.Errorf("%v: %s", step.args, out)
		}
		if got := own("192.0.2.7"); got != step.want {
			t.Errorf("after %v: %s, want %s", step.args, got, step.want)
		}
	}
	if got := own("192.0.2.9"); got != "1 spam, 0 ham" {
		t.Errorf("the client of an unknown message: %s", got)
	}
	if out, status := x.daemon.Command("learn", "spam", "4NOWHERE001"); status != 1 || !strings.Contains(out, "with this queue id is known here") {
		t.Errorf("%d: %s", status, out)
	}
	// A sieve script pipes a message in, and a feedback loop's report says by itself what it is.
	piped := exec.Command(x.daemon.Binary, "learn", "spam", "--config", x.daemon.Config())
	piped.Env = append(piped.Environ(), "STATE_DIRECTORY="+filepath.Join(x.daemon.Dir, "data"))
	piped.Stdin = strings.NewReader(received("192.0.2.10", "4PIPED00001"))
	if out, err := piped.CombinedOutput(); err != nil || !strings.Contains(string(out), "1 new") {
		t.Errorf("%v: %s", err, out)
	}
	arf := filepath.Join(tempDir(t), "arf")
	must(t, os.WriteFile(arf, []byte("Content-Type: multipart/report; report-type=feedback-report; boundary=b\n\n--b\nContent-Type: message/feedback-report\n\n"+
		"Feedback-Type: not-spam\nVersion: 1\nSource-IP: 192.0.2.10\n\n--b\nContent-Type: message/rfc822\n\n"+received("192.0.2.10", "4PIPED00001")+"\n--b--\n"), 0o600))
	if out := x.command("learn", "spam", arf); !strings.Contains(out, "1 corrected") {
		t.Errorf("%s", out)
	}
	if got := own("192.0.2.10"); got != "0 spam, 1 ham" {
		t.Errorf("after a message and a feedback report: %s", got)
	}
	// After a restart the event log knows.
	must(t, x.daemon.Stop())
	must(t, x.daemon.Start())
	x.command("learn", "ham", file)
	if got := own("192.0.2.7"); got != "1 spam, 2 ham" {
		t.Errorf("after a restart: %s", got)
	}
	// What was learnt and corrected is what a replay of the event log learns.
	out := x.command("replay", "--json", "--trace", filepath.Join(x.daemon.Dir, "data", "events.ndjson"))
	if !strings.Contains(out, `"corrections":7`) || !strings.Contains(out, `"orphans":0`) {
		t.Errorf("replayed as %s", out)
	}
}
