package e2e

import (
	"strings"
	"testing"
	"time"
)

// TestSpamOverTLSLosesSTARTTLS is the whole idea: a client that sends spam over TLS is soon offered
// no STARTTLS, cannot force it, and its mail still comes in; a good client of another network keeps
// it all along.
func TestSpamOverTLSLosesSTARTTLS(t *testing.T) {
	for family, c := range map[string]struct{ spammer, neighbour, good string }{
		"IPv4": {"192.0.2.7", "192.0.2.8", "198.51.100.7"},
		"IPv6": {"2001:db8:1::7", "2001:db8:1::8", "2001:db8:2::7"},
	} {
		t.Run(family, func(t *testing.T) {
			x := start(t, "")
			for range 3 {
				if !x.send(c.good, "hello") {
					t.Fatal("a stranger is offered STARTTLS")
				}
			}
			n := x.sendUntilWithheld(c.spammer)
			if n < 2 || n > 5 {
				t.Errorf("withheld after %d messages over TLS, want a few", n)
			}
			s, err := x.Dial(c.spammer)
			must(t, err)
			defer s.Close()
			if code, err := s.ForceTLS(); err != nil || code != 502 {
				t.Errorf("STARTTLS that was not offered: %d, %v, want 502", code, err)
			}
			must(t, s.Deliver(message("spam")))
			must(t, s.Quit())
			if !x.send(c.good, "hello") {
				t.Error("the good client lost STARTTLS")
			}
			events, err := x.daemon.WaitEvents(n + 6)
			must(t, err)
			last := events[len(events)-2]
			if last.STARTTLS != "withheld" || last.TLS != nil || last.Outcome != "accepted" || last.Verdict.Class != "spam" || last.Reputation.Tier != "bad" {
				t.Errorf("the spammer's last message: %+v", last)
			}
			if l, err := x.daemon.Lookup(c.good); err != nil || l.Tier != "good" && l.Tier != "unknown" || l.STARTTLS != "offer" {
				t.Errorf("the good client: %+v, %v", l, err)
			}
		})
	}
}

func TestObserveWithholdsNothingAndSaysWhatItWould(t *testing.T) {
	x := start(t, "[policy]\nmode = 'observe'\n")
	for range 6 {
		if !x.send("192.0.2.7", "spam") {
			t.Fatal("observe withheld STARTTLS")
		}
	}
	events, err := x.daemon.WaitEvents(6)
	must(t, err)
	first, last := events[0], events[5]
	if first.Reputation.Would != "offer" || last.Reputation.Would != "withhold" || last.STARTTLS != "offered" || last.Reputation.Tier != "bad" {
		t.Errorf("first %+v, last %+v", first.Reputation, last.Reputation)
	}
}

func TestEarnOffersOnlyToTheProven(t *testing.T) {
	x := start(t, "[policy]\nmode = 'earn'\n")
	n := 0
	for !x.send("198.51.100.7", "hello") {
		if n++; n > 6 {
			t.Fatal("six ham messages earned nothing")
		}
	}
	if n < 2 {
		t.Errorf("earned after %d messages, want some more", n)
	}
	if x.offered("198.51.101.7") {
		t.Error("a stranger is offered STARTTLS")
	}
	if !x.offered("198.51.100.7") {
		t.Error("the proven is not")
	}
}

func TestOverridesWorkAtTheNextConnection(t *testing.T) {
	x := start(t, "")
	x.sendUntilWithheld("192.0.2.7")
	for _, step := range []struct {
		args    []string
		addr    string
		offered bool
	}{
		{[]string{"allow", "192.0.2.7", "--note", "our partner"}, "192.0.2.7", true},
		{[]string{"forget", "192.0.2.7"}, "192.0.2.7", true},
		{[]string{"deny", "198.51.100.0/24"}, "198.51.100.9", false},
		{[]string{"forget", "198.51.100.0/24"}, "198.51.100.9", true},
		{[]string{"deny", "2001:db8::/32"}, "2001:db8::9", false},
		{[]string{"allow", "2001:db8::9"}, "2001:db8::9", true},
	} {
		x.command(step.args...)
		if got := x.offered(step.addr); got != step.offered {
			t.Errorf("after %v, offered to %s: %v", step.args, step.addr, got)
		}
	}
	if out := x.command("overrides"); strings.Count(out, "\n") != 2 || !strings.Contains(out, "allow 2001:db8::9/128") {
		t.Errorf("overrides:\n%s", out)
	}
	if out := x.command("explain", "192.0.2.7"); !strings.Contains(out, "none: the client is a stranger") {
		t.Errorf("forgotten, but explained as\n%s", out)
	}
}

func TestTheSocketmapTableWorksToo(t *testing.T) {
	x := start(t, "", "--socketmap")
	x.sendUntilWithheld("192.0.2.7")
	if !x.offered("198.51.100.7") {
		t.Error("a stranger is not offered STARTTLS")
	}
	if out, status := x.daemon.Command("check", "--postfix-config", x.ConfigDir()); status != 1 || !strings.Contains(out, "no mail comes in while the daemon is away") {
		t.Errorf("check: %d\n%s", status, out)
	}
}

// TestAMessageForWhichPostfixDemandsTLSComesInWithTheNextTry: an access table asks for TLS at one
// recipient, as tables of mail systems do that let their users enforce TLS. A client of low
// reputation is put off once, and offered STARTTLS from then on, whatever its mail.
func TestAMessageForWhichPostfixDemandsTLSComesInWithTheNextTry(t *testing.T) {
	x := prepare(t, "")
	must(t, x.Set("smtpd_recipient_restrictions = check_recipient_access inline:{bob@mx.example=reject_plaintext_session}"))
	x.apply()
	x.run()
	toCarol := message("spam")
	toCarol.To = []string{"carol@mx.example"}
	for x.offered("192.0.2.7") {
		s, err := x.Dial("192.0.2.7")
		must(t, err)
		must(t, s.UseTLS())
		must(t, s.Deliver(toCarol))
		must(t, s.Quit())
	}
	offered, err := x.trySend("192.0.2.7", "hello")
	if offered || err == nil || !strings.Contains(err.Error(), `450 "4.7.1 Session encryption is required`) {
		t.Fatalf("to a recipient that demands TLS: offered %v, %v", offered, err)
	}
	// A client comes back after minutes; the session has to have ended here.
	for l, err := x.daemon.Lookup("192.0.2.7"); l.STARTTLS != "offer"; l, err = x.daemon.Lookup("192.0.2.7") {
		must(t, err)
		time.Sleep(10 * time.Millisecond)
	}
	if offered, err := x.trySend("192.0.2.7", "hello"); !offered || err != nil {
		t.Errorf("with the next try: offered %v, %v", offered, err)
	}
	if out := x.command("top", "--requires-tls"); !strings.Contains(out, "192.0.2.7/32  tls-demanded") {
		t.Errorf("top:\n%s", out)
	}
	if out := x.command("explain", "192.0.2.7"); !strings.Contains(out, "refused for want of TLS when STARTTLS was withheld") {
		t.Errorf("explain:\n%s", out)
	}
}
