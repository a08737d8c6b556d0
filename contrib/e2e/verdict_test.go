package e2e

import (
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// TestTheEventLogHasOneRecordPerMessage sends messages of every kind and holds the log against
// them.
func TestTheEventLogHasOneRecordPerMessage(t *testing.T) {
	x := start(t, "[log]\nnode = 'mx1'\n")
	s, err := x.Dial("192.0.2.7")
	must(t, err)
	must(t, s.UseTLS())
	must(t, s.Deliver(message("hello")))
	must(t, s.Deliver(message("spam")))
	must(t, s.Reset())
	must(t, s.Quit())
	x.offered("192.0.2.9")

	events, err := x.daemon.WaitEvents(3)
	must(t, err)
	queueID := regexp.MustCompile(`^[0-9A-Za-z]{6,}$`)
	ids := map[string]bool{}
	for i, class := range []string{"ham", "spam"} {
		e := events[i]
		if e.Event != "message" || e.Node != "mx1" || e.Session != events[0].Session || !queueID.MatchString(e.QueueID) || e.Client.Addr != "192.0.2.7" || e.Client.Port != 40000 ||
			e.HELO != "client.example" || e.STARTTLS != "offered" || e.FromDomain != "sender.example" || e.Rcpts != 1 || e.RcptsRejected != 0 ||
			e.Verdict.Class != class || e.Verdict.Source != "header" || e.Outcome != "accepted" || e.Reputation.Tier == "" {
			t.Errorf("message %d: %+v", i, e)
		}
		if e.TLS == nil || e.TLS.Version != "TLSv1.3" || e.TLS.Cipher == "" || e.TLS.Bits < 128 {
			t.Errorf("message %d: TLS %+v", i, e.TLS)
		}
		if !strings.Contains(x.Log(), e.QueueID+": ") {
			t.Errorf("queue id %s is not in Postfix's log", e.QueueID)
		}
		ids[e.QueueID] = true
	}
	if len(ids) != 2 {
		t.Errorf("queue ids %v", ids)
	}
	if e := events[2]; e.Event != "session" || e.Outcome != "no-mail" || e.Verdict.Class != "none" || e.TLS != nil || e.Session == events[0].Session {
		t.Errorf("the session without mail: %+v", e)
	}
}

// TestRejectionsReachTheEventLogAsWhatTheyAre makes Postfix itself refuse recipients, as a local
// table, a DNSBL and a greylist would.
func TestRejectionsReachTheEventLogAsWhatTheyAre(t *testing.T) {
	x := prepare(t, "")
	must(t, x.Set("smtpd_recipient_restrictions = check_client_access inline:{"+
		"{192.0.2.1 = REJECT 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.example}, "+
		"{192.0.2.2 = 450 4.2.0 Greylisted, try again later}, {192.0.2.3 = REJECT 5.7.1 Access denied}}, reject_unauth_destination"))
	x.apply()
	x.run()
	for i, c := range []struct {
		name, client, to, class, source, reason string
	}{
		{"DNSBL", "192.0.2.1", "bob@mx.example", "spam", "dnsbl", "blocked using zen.example"},
		{"greylist", "192.0.2.2", "bob@mx.example", "none", "greylist", "Greylisted"},
		{"access table", "192.0.2.3", "bob@mx.example", "spam", "rcpt", "Access denied"},
		{"unknown user", "192.0.2.4", "nobody@mx.example", "none", "unknown-user", "5.1.1"},
		{"relay", "192.0.2.5", "bob@elsewhere.example", "spam", "relay", "Relay access denied"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := x.Dial(c.client)
			must(t, err)
			m := message("hello")
			m.To = []string{c.to}
			if err := s.Deliver(m); err == nil || !strings.Contains(err.Error(), "RCPT") {
				t.Fatalf("not refused at RCPT: %v", err)
			}
			must(t, s.Quit())
			events, err := x.daemon.WaitEvents(i + 1)
			must(t, err)
			e := events[i]
			if e.Outcome != "rejected" || e.Rcpts != 1 || e.RcptsRejected != 1 || e.Verdict.Class != c.class || e.Verdict.Source != c.source || !strings.Contains(e.Verdict.Reason, c.reason) {
				t.Errorf("%+v", e)
			}
			if strings.Contains(e.Verdict.Reason, "nobody@") {
				t.Errorf("a local part was logged: %q", e.Verdict.Reason)
			}
		})
	}
}

// TestForgedVerdictsCountForNothing lets a client write verdict headers at every place of its
// message. "setup postfix" has them removed before any filter runs, so that only the filter's word
// is left.
func TestForgedVerdictsCountForNothing(t *testing.T) {
	x := start(t, "")
	forged := []string{"X-Spam-Flag: NO", "x-spam-status: No, score=-99", "X-Spam: No", "X-Spamd-Result: default: False [-9.00 / 15.00]"}
	accused := []string{"X-Spam-Flag: YES", "X-Spam-Status: Yes, score=99"}
	for i, c := range []struct {
		name, subject string
		first, last   []string
		class         string
	}{
		{"a No at the top beside the filter's Yes", "spam", forged, nil, "spam"},
		{"a No at the end beside the filter's Yes", "spam", nil, forged, "spam"},
		{"a No while the filter is mute", "mute", forged, forged, "none"},
		{"a Yes beside the filter's No", "hello", accused, accused, "ham"},
		{"a Yes while the filter is mute", "mute", accused, nil, "none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := x.Dial("192.0.2.7")
			must(t, err)
			m := message(c.subject)
			m.Headers, m.Last = c.first, c.last
			must(t, s.Deliver(m))
			must(t, s.Quit())
			events, err := x.daemon.WaitEvents(i + 1)
			must(t, err)
			if v := events[i].Verdict; v.Class != c.class || strings.Contains(v.Reason, "99") {
				t.Errorf("verdict %+v, want %s", v, c.class)
			}
		})
	}
}

// TestAForgedNoNeverHidesAYes is the same without the header_checks table: then the worst reading
// counts.
func TestAForgedNoNeverHidesAYes(t *testing.T) {
	x := start(t, "")
	must(t, x.Service("cleanup_service_name=cleanup"))
	must(t, x.Reload())
	if out, status := x.daemon.Command("check", "--postfix-config", x.ConfigDir()); status != 1 || !strings.Contains(out, "a client can write X-Spam-Flag") {
		t.Errorf("check: %d\n%s", status, out)
	}
	for i, place := range []string{"first", "last"} {
		s, err := x.Dial("192.0.2.7")
		must(t, err)
		m := message("spam")
		if place == "first" {
			m.Headers = []string{"X-Spam-Flag: NO"}
		} else {
			m.Last = []string{"X-Spam-Flag: NO"}
		}
		must(t, s.Deliver(m))
		must(t, s.Quit())
		events, err := x.daemon.WaitEvents(i + 1)
		must(t, err)
		if v := events[i].Verdict; v.Class != "spam" {
			t.Errorf("a forged No %s: %+v", place, v)
		}
	}
}

func TestActionsOfATierReachTheMessage(t *testing.T) {
	x := start(t, "[[policy.tier]]\nname = 'bad'\naction = 'reject'\nstage = 'message'\ndiscard = ['chunking']\n")
	x.sendUntilWithheldOrRefused("192.0.2.7")
	s, err := x.Dial("192.0.2.7")
	must(t, err)
	if ok, _ := s.Extension("CHUNKING"); ok {
		t.Error("CHUNKING is offered to tier bad")
	}
	if err := s.Deliver(message("spam")); err == nil || !strings.Contains(err.Error(), "Refused by local policy") {
		t.Errorf("tier bad was not refused: %v", err)
	}
	s.Quit()
	if !x.send("198.51.100.7", "hello") {
		t.Error("a stranger is not offered STARTTLS")
	}
	events, err := x.daemon.Events()
	must(t, err)
	if e := events[len(events)-2]; e.Outcome != "rejected" || e.Verdict.Class != "spam" {
		t.Errorf("the refused message: %+v", e)
	}
	// At an earlier stage the message is not even transmitted, and nothing more is learnt of it.
	for _, c := range []struct{ tier, refused string }{
		{"action = 'reject'", `RCPT: 550 "5.7.1 Refused`}, {"action = 'tempfail'\nstage = 'mail'", `MAIL: 451 "4.7.1 Try again`}, {"action = 'reject'\nstage = 'connect'", "greeting: 554 "},
	} {
		must(t, x.daemon.Configure("[[policy.tier]]\nname = 'bad'\n"+c.tier+"\n"))
		must(t, x.daemon.Signal(syscall.SIGHUP))
		waitUntil(t, func() bool {
			before, err := x.daemon.Events()
			must(t, err)
			s, err := x.Dial("192.0.2.7")
			if err == nil {
				err = s.Deliver(message("spam"))
				s.Close()
			}
			events, errEvents := x.daemon.WaitEvents(len(before) + 1)
			must(t, errEvents)
			e := events[len(before)]
			return err != nil && strings.Contains(err.Error(), c.refused) && e.Outcome == "rejected" && e.Verdict.Class == "none"
		})
		if !x.send("198.51.100.7", "hello") {
			t.Errorf("%s: a stranger is not offered STARTTLS", c.tier)
		}
	}
}

func (x *exchanger) sendUntilWithheldOrRefused(client string) {
	x.t.Helper()
	for range 10 {
		if offered, err := x.trySend(client, "spam"); !offered || err != nil {
			return
		}
	}
	x.t.Fatal("10 spam messages changed nothing")
}

// TestAFilterThatMarksOnlySpamIsNoticed sends mail of which the filter says nothing, and some spam:
// without any ham, a provider with a little spam would look as a spammer does.
func TestAFilterThatMarksOnlySpamIsNoticed(t *testing.T) {
	x := start(t, "")
	check := func() string {
		out, _ := x.daemon.Command("check", "--postfix-config", x.ConfigDir())
		return out
	}
	for range 19 {
		x.send("198.51.100.7", "mute")
	}
	x.send("192.0.2.7", "spam")
	if out := check(); !strings.Contains(out, "ham never") || !strings.Contains(out, `verdict.silence = "ham"`) {
		t.Errorf("checked as\n%s", out)
	}
	x.send("198.51.100.7", "hello")
	if out := check(); strings.Contains(out, "ham never") {
		t.Errorf("with ham checked as\n%s", out)
	}
	if !strings.Contains(x.daemon.Log(), "ham never") {
		t.Errorf("logged\n%s", x.daemon.Log())
	}
}
