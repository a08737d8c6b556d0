package maillog

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestForms(t *testing.T) {
	const text = "NOQUEUE: reject: RCPT from unknown[192.0.2.41]: 554 5.7.1 Service unavailable; Client host [192.0.2.41] blocked using rbl.example; from=<s@x.example> to=<b@mx.example> proto=ESMTP helo=<x>"
	at := time.Date(2026, 11, 25, 9, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name, line string
		at         time.Time
	}{
		{"traditional", "Nov 25 09:00:00 mx1 postfix/smtpd[9]: " + text, at},
		{"an unpadded day", "Nov 5 09:00:00 mx1 postfix/smtpd[9]: " + text, at.AddDate(0, 0, -20)},
		{"with a year", "Nov 25 2026 09:00:00 mx1 postfix/smtpd[9]: " + text, at},
		{"with the year last", "Nov 25 09:00:00 2026 mx1 postfix/smtpd[9]: " + text, at},
		{"with a weekday", "Wed Nov 25 09:00:00 2026 mx1 postfix/smtpd[9]: " + text, at},
		{"with a fraction", "Nov 25 09:00:00.250 mx1 postfix/smtpd[9]: " + text, at.Add(250 * time.Millisecond)},
		{"without a host", "Nov 25 09:00:00 postfix/smtpd[9]: " + text, at},
		{"German", "Dez 24 09:00:00 mx1 postfix/smtpd[9]: " + text, time.Date(2025, 12, 24, 9, 0, 0, 0, time.UTC)},
		{"German, March", "Mär  5 09:00:00 mx1 postfix/smtpd[9]: " + text, time.Date(2026, 3, 5, 9, 0, 0, 0, time.UTC)},
		{"German, March, Latin-1", "M\xe4r  5 09:00:00 mx1 postfix/smtpd[9]: " + text, time.Date(2026, 3, 5, 9, 0, 0, 0, time.UTC)},
		{"French, July", "juil. 05 09:00:00 mx1 postfix/smtpd[9]: " + text, time.Date(2026, 7, 5, 9, 0, 0, 0, time.UTC)},
		{"French, June", "juin 05 09:00:00 mx1 postfix/smtpd[9]: " + text, time.Date(2026, 6, 5, 9, 0, 0, 0, time.UTC)},
		{"French, August", "août 05 09:00:00 mx1 postfix/smtpd[9]: " + text, time.Date(2026, 8, 5, 9, 0, 0, 0, time.UTC)},
		{"Russian", "мая 05 09:00:00 mx1 postfix/smtpd[9]: " + text, time.Date(2026, 5, 5, 9, 0, 0, 0, time.UTC)},
		{"Polish", "paź 05 09:00:00 mx1 postfix/smtpd[9]: " + text, time.Date(2026, 10, 5, 9, 0, 0, 0, time.UTC)},
		{"Japanese", "11月 25 09:00:00 mx1 postfix/smtpd[9]: " + text, at},
		{"day before month", "25 nov. 09:00:00 mx1 postfix/smtpd[9]: " + text, at},
		{"RFC 3339", "2026-11-25T10:00:00.000000+01:00 mx1 postfix/smtpd[9]: " + text, at},
		{"a zone without colon", "2026-11-25T10:00:00.000+0100 mx1 postfix/smtpd[9]: " + text, at},
		{"a blank, and a zone after another", "2026-11-25 10:00:00 +0100 mx1 postfix/smtpd[9]: " + text, at},
		{"a comma before the fraction", "2026-11-25 09:00:00,500 mx1 postfix/smtpd[9]: " + text, at.Add(500 * time.Millisecond)},
		{"no zone", "2026-11-25 09:00:00 mx1 postfix/smtpd[9]: " + text, at},
		{"seconds since 1970", "1795597200.000000 mx1 postfix/smtpd[9]: " + text, at},
		{"TAI64N", "@400000006b06a39a00000000 mx1 postfix/smtpd[9]: " + text, at},
		{"journalctl -o short-full", "Wed 2026-11-25 09:00:00 UTC mx1 postfix/smtpd[9]: " + text, at},
		{"PRI", "<22>Nov 25 09:00:00 mx1 postfix/smtpd[9]: " + text, at},
		{"RFC 5424", "<22>1 2026-11-25T09:00:00.000000+00:00 mx1 postfix/smtpd 9 - - " + text, at},
		{"RFC 5424 with data", `<22>1 2026-11-25T09:00:00Z mx1 postfix/smtpd 9 - [meta sequenceId="1" x="y z"] ` + text, at},
		{"RFC 5424 without PRI", "2026-11-25T09:00:00Z mx1 postfix/smtpd 9 - - " + text, at},
		{"RFC 5424 with a byte order mark", "<22>1 2026-11-25T09:00:00Z mx1 postfix/smtpd 9 - - \ufeff" + text, at},
		{"docker compose", "mail-1  | Nov 25 09:00:00 mail postfix/smtpd[9]: " + text, at},
		{"docker compose in the journal", "Nov 25 09:00:00 host docker-compose[20080]: mailserver-1  | Nov 25 09:00:00 mail postfix/smtpd[9]: " + text, at},
		{"docker logs -t, whose zone counts", "2026-11-25T09:00:00.000000000Z Nov 25 10:00:00 mail postfix/smtpd[9]: " + text, at},
		{"Docker's json-file", `{"log":"Nov 25 10:00:00 mail postfix/smtpd[9]: ` + text + `\n","stream":"stdout","time":"2026-11-25T09:00:00Z"}`, at},
		{"Docker's syslog driver", "2026-11-25T09:00:00+00:00 host 3f4a5b6c7d8e[812]: Nov 25 10:00:00 mail postfix/smtpd[9]: " + text, at},
		{"Kubernetes", "2026-11-25T09:00:00.000000000Z stdout F Nov 25 10:00:00 mail postfix/smtpd[9]: " + text, at},
		{"a level in place of the host", "2026-11-25T09:00:00.000000+00:00 INFO    postfix/smtpd[9]: " + text, at},
		{"FreeBSD", "Nov 25 09:00:00 <mail.info> mx1 postfix/smtpd[9]: " + text, at},
		{"BusyBox", "Nov 25 09:00:00 mx1 mail.info postfix/smtpd[9]: " + text, at},
		{"illumos", "Nov 25 09:00:00 mx1 postfix/smtpd[9]: [ID 197553 mail.info] " + text, at},
		{"repeated", "Nov 25 09:00:00 mx1 postfix/smtpd[9]: message repeated 2 times: [ " + text + "]", at},
		{"a name without postfix", "Nov 25 09:00:00 mx1 smtp-proxyprotocol/smtpd[9]: " + text, at},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, ok := reader().Read([]byte(c.line))
			if !ok || s.Addr.String() != "192.0.2.41" || !s.Time.Equal(c.at) {
				t.Errorf("%v at %v, want %v: %+v", ok, s.Time, c.at, s)
			}
		})
	}
}

// A log that tells nothing is said, with its first line.
func TestInspect(t *testing.T) {
	const sound = "Nov 25 09:00:00 mx1 postfix/qmgr[9]: 4ABC: removed\n"
	for _, c := range []struct {
		name, text, fault string
		services          []string
	}{
		{"a service that is listed", "Nov 25 09:00:00 mx1 postfix/smtpd[9]: connect from x[192.0.2.7]\n", "", []string{"postfix"}},
		{"a service that is not", "Nov 25 09:00:00 mx1 postfix/smtpd[9]: connect from x[192.0.2.7]\n", `no smtpd of verdict.services is in it; the first service that is not listed is "postfix"`, []string{"postfx"}},
		{"Exim's refusal of a HELO name", "2026-11-25 09:00:00 rejected EHLO from [192.0.2.7]:55547: syntactically invalid argument(s): _a\n", "", nil},
		{"sound", "rubbish\n" + sound, "", nil},
		{"empty", "", "", nil},
		{"another program's", strings.Repeat("Nov 25 09:00:00 mx1 sshd[9]: hello\n", 3), `no line of 3 is Postfix's, Sendmail's or Exim's; the first is "Nov 25 09:00:00 mx1 sshd[9]: hello"`, nil},
		{"no log", "GET / HTTP/1.1\nrubbish\n", `no line of 2 can be read as Postfix's, Sendmail's or Exim's; the first that cannot be read is "GET / HTTP/1.1"`, nil},
		{"no time", "smtp_1 | postfix/smtpd[9]: connect from x[192.0.2.7]\n", `no line of 1 can be read as Postfix's, Sendmail's or Exim's; the first that cannot be read is "smtp_1 | postfix/smtpd[9]: connect from x[192.0.2.7]"`, nil},
		{"the end of a large one", strings.Repeat("x\n", inspected) + sound, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "mail.log")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := Inspect(path, Options{Now: func() time.Time { return now }, Zone: time.UTC, Services: c.services})
			if err != nil || s.Fault() != c.fault {
				t.Errorf("%q, %v, want %q", s.Fault(), err, c.fault)
			}
		})
	}
}

// TestInspectTakesAnyLine: what looks at a log has nothing that counts what the lines tell.
func TestInspectTakesAnyLine(t *testing.T) {
	lines, err := os.ReadFile("testdata/lines.tsv")
	if err != nil {
		t.Fatal(err)
	}
	unknown := "2026-11-25 09:00:00 H=(c.example) [192.0.2.5]:51533 F=<s@sender.example> rejected RCPT <nosuch@mx.example>: Unrouteable address\n"
	for line := range strings.Lines(string(lines) + "Exim\t\t" + unknown) {
		if _, line, ok := strings.Cut(line, "\t"); ok {
			_, line, _ = strings.Cut(line, "\t")
			new(Sample).Take(NewReader(Options{Now: func() time.Time { return now }, Zone: time.UTC}), []byte(strings.TrimSpace(line)))
		}
	}
}
