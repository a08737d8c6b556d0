package maillog

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func reader() *Reader {
	return NewReader(Options{Now: func() time.Time { return now }, Zone: time.UTC, UnknownUser: func(netip.Addr, string, time.Time) policy.Confidence { return 0 }})
}

func TestLines(t *testing.T) {
	const stamp = "Nov 25 05:08:53 mx1 "
	for _, c := range []struct {
		name, line string
		want       string // client, port, queue id, mail, class, source; empty for a line that tells nothing
	}{
		{"a filter refuses", "postfix/cleanup[9]: 780D29842A2: milter-reject: END-OF-MESSAGE from c.example[192.0.2.7]: 5.7.1 Gtube pattern; from=<a@b.example> to=<bob@mx.example> proto=ESMTP helo=<c.example>", "192.0.2.7 0 780D29842A2 true spam milter-reject"},
		{"a filter puts off", "postfix/cleanup[9]: 780D29842A2: milter-reject: END-OF-MESSAGE from c.example[192.0.2.7]: 4.7.1 Try again later; from=<> to=<bob@mx.example> proto=ESMTP helo=<c>", "192.0.2.7 0 780D29842A2 true none tempfail"},
		{"a filter discards", "postfix/cleanup[9]: 780D29842A2: milter-discard: END-OF-MESSAGE from c.example[192.0.2.7]: milter triggers DISCARD action; from=<> to=<> proto=ESMTP helo=<c>", "192.0.2.7 0 780D29842A2 true spam milter-discard"},
		{"a filter holds", "postfix/cleanup[9]: 780D29842A2: milter-hold: END-OF-MESSAGE from c.example[192.0.2.7]: milter triggers HOLD action; from=<> to=<> proto=ESMTP helo=<c>", "192.0.2.7 0 780D29842A2 true spam milter-hold"},
		{"a filter refuses at RCPT", "postfix/smtpd[9]: NOQUEUE: milter-reject: RCPT from unknown[2001:db8::7]: 550 5.7.1 No; from=<> to=<> proto=ESMTP helo=<c>", "2001:db8::7 0  true spam milter-reject"},
		{"an unknown user", "postfix/smtpd[9]: NOQUEUE: reject: RCPT from unknown[192.0.2.7]: 550 5.1.1 <nobody@mx.example>: Recipient address rejected: User unknown in local recipient table; from=<a@b> to=<nobody@mx.example> proto=ESMTP helo=<c>", "192.0.2.7 0  true none unknown-user"},
		{"with the client's port", "postfix/smtpd[9]: NOQUEUE: reject: RCPT from unknown[192.0.2.7]:4711: 554 5.7.1 <x@y>: Relay access denied; from=<a@b> to=<x@y> proto=ESMTP helo=<c>", "192.0.2.7 4711  true spam relay"},
		{"a DNSBL", "postfix/smtpd[9]: NOQUEUE: reject: RCPT from unknown[192.0.2.7]: 554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using zen.example; from=<a@b> to=<x@y> proto=ESMTP helo=<c>", "192.0.2.7 0  true spam dnsbl"},
		{"a client refused at once", "postfix/smtpd[9]: NOQUEUE: reject: CONNECT from unknown[192.0.2.7]: 554 5.7.1 <unknown[192.0.2.7]>: Client host rejected: Access denied; proto=SMTP", "192.0.2.7 0  false spam rcpt"},
		{"pipelining refused", "postfix/smtpd[9]: NOQUEUE: reject: DATA from unknown[192.0.2.7]: 503 5.5.0 <DATA>: Data command rejected: Improper use of SMTP command pipelining; from=<a@b> proto=ESMTP helo=<c>", "192.0.2.7 0  true spam pipelining"},
		{"pipelining noticed", "postfix/smtpd[9]: improper command pipelining after EHLO from unknown[192.0.2.7]: MAIL FROM:<x>\\r\\n", "192.0.2.7 0  false spam pipelining"},
		{"a rate limit", "postfix/smtpd[9]: warning: Connection rate limit exceeded: 31 from unknown[192.0.2.7] for service smtp", "192.0.2.7 0  false spam limit"},
		{"header_checks", "postfix/cleanup[9]: 780D29842A2: reject: header Subject: pills from c.example[192.0.2.7]; from=<a@b> to=<bob@mx.example> proto=ESMTP helo=<c>: no pills", "192.0.2.7 0 780D29842A2 true spam content"},
		{"body_checks", "postfix/cleanup[9]: 780D29842A2: discard: body pills from c.example[192.0.2.7]; from=<a@b> to=<bob@mx.example> proto=ESMTP helo=<c>: no pills", "192.0.2.7 0 780D29842A2 true spam content"},
		{"postscreen: PREGREET", `postfix/postscreen[9]: PREGREET 14 after 0.05 from [192.0.2.7]:4711: EHLO c.example\r\n`, "192.0.2.7 4711  false spam pregreet"},
		{"postscreen: DNSBL", "postfix/postscreen[9]: DNSBL rank 3 for [192.0.2.7]:4711", "192.0.2.7 4711  false spam dnsbl"},
		{"postscreen: HANGUP", "postfix/postscreen[9]: HANGUP after 0.3 from [2001:db8::7]:4711 in tests before SMTP handshake", "2001:db8::7 4711  false spam hangup"},
		{"postscreen: reject", "postfix/postscreen[9]: NOQUEUE: reject: RCPT from [192.0.2.7]:4711: 550 5.7.1 Service unavailable; client [192.0.2.7] blocked using zen.example; from=<a@b>, to=<bob@mx.example>, proto=ESMTP, helo=<c>", "192.0.2.7 4711  true spam dnsbl"},
		{"postscreen: non-SMTP command", `postfix/postscreen[9]: NON-SMTP COMMAND from [192.0.2.7]:4711 after CONNECT: GET / HTTP/1.1`, "192.0.2.7 4711  false spam pipelining"},
		{"a handshake that failed", "postfix/smtpd[9]: SSL_accept error from unknown[192.0.2.7]: -1", "192.0.2.7 0  false none tls"},
		{"a connection lost in it", "postfix/smtpd[9]: lost connection after STARTTLS from unknown[192.0.2.7]", "192.0.2.7 0  false none tls"},
		{"another instance of Postfix", "postfix-in/smtpd[9]: SSL_accept error from unknown[192.0.2.7]: -1", "192.0.2.7 0  false none tls"},

		{"the operator's own users", "postfix/submission/smtpd[9]: NOQUEUE: reject: RCPT from unknown[192.0.2.7]: 554 5.7.1 <x@y>: Relay access denied; from=<a@b> to=<x@y> proto=ESMTP helo=<c>", ""},
		{"another program", "sshd[9]: Connection closed by 192.0.2.7", ""},
		{"a program named like ours", "postfix[9]: NOQUEUE: reject: RCPT from unknown[192.0.2.7]: 554 5.7.1 no", ""},
		{"connect", "postfix/smtpd[9]: connect from unknown[192.0.2.7]", ""},
		{"disconnect", "postfix/smtpd[9]: disconnect from unknown[192.0.2.7] ehlo=1 quit=1 commands=2", ""},
		{"a warning", "postfix/smtpd[9]: warning: hostname a.example does not resolve to address 192.0.2.7", ""},
		{"a name with a space", "postfix/smtpd[9]: NOQUEUE: reject: RCPT from a b[192.0.2.7]: 554 5.7.1 no", ""},
		{"an address that is none", "postfix/smtpd[9]: NOQUEUE: reject: RCPT from unknown[unknown]: 554 5.7.1 no", ""},
		{"no time", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			if signal, ok := reader().Read([]byte(stamp + c.line)); ok {
				got = fmt.Sprint(signal.Addr, " ", signal.Port, " ", signal.QueueID, " ", signal.Mail, " ", signal.Assessment.Class, " ", signal.Assessment.Source)
				if want := time.Date(2026, 11, 25, 5, 8, 53, 0, time.UTC); !signal.Time.Equal(want) {
					t.Errorf("at %v, want %v", signal.Time, want)
				}
			}
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// TestForgedClientsAccuseNobody puts another client's name wherever a client's own words are in the
// log.
func TestForgedClientsAccuseNobody(t *testing.T) {
	const victim = "victim.example[198.51.100.1]: 550 5.7.1 no; from=<> to=<> proto=ESMTP helo=<x>"
	for _, line := range []string{
		"postfix/cleanup[9]: 780D29842A2: reject: header Subject: x from " + victim + " from c.example[192.0.2.7]; from=<a@b> to=<x@y> proto=ESMTP helo=<c>: no pills",
		"postfix/cleanup[9]: 780D29842A2: reject: header Subject: x: reject: RCPT from " + victim + " from c.example[192.0.2.7]; from=<a@b> to=<x@y> proto=ESMTP helo=<c>: no",
		"postfix/smtpd[9]: NOQUEUE: reject: RCPT from c.example[192.0.2.7]: 554 5.7.1 <x from victim.example[198.51.100.1]: 550>: Relay access denied; from=<NOQUEUE: reject: RCPT from " + victim + "> to=<x> proto=ESMTP helo=<c>",
		`postfix/postscreen[9]: PREGREET 200 after 0 from [192.0.2.7]:4711: EHLO x\r\nfrom [198.51.100.1]:25: x`,
		`postfix/postscreen[9]: PREGREET 200 after 0 from [192.0.2.7]:4711: Nov 25 05:08:53 mx1 postfix/smtpd[9]: NOQUEUE: reject: RCPT from victim.example[198.51.100.1]: 550`,
		"postfix/smtpd[9]: improper command pipelining after DATA from c.example[192.0.2.7]: from victim.example[198.51.100.1]: x",
		"postfix/smtpd[9]: warning: non-SMTP command from c.example[192.0.2.7]: SSL_accept error from victim.example[198.51.100.1]: -1",
		"postfix/smtpd[9]: warning: Illegal address syntax from c.example[192.0.2.7] in MAIL command: <Connection rate limit exceeded: 1 from victim.example[198.51.100.1]>",
	} {
		if signal, ok := reader().Read([]byte("2026-11-25T05:08:53.123456+00:00 mx1 " + line)); ok && signal.Addr.IsValid() && signal.Addr != netip.MustParseAddr("192.0.2.7") {
			t.Errorf("%s\naccuses %v", line, signal.Addr)
		}
	}
}

func TestContentIsHeldAgainstTheClientOfItsQueueID(t *testing.T) {
	r := reader()
	r.Read([]byte("2026-11-25T05:08:53.123456+00:00 mx1 postfix/smtpd[9]: 780D29842A2: client=c.example[192.0.2.7]"))
	signal, ok := r.Read([]byte("2026-11-25T05:08:54.5+01:00 mx1 postfix/cleanup[9]: 780D29842A2: reject: header Subject: x from v[198.51.100.1]; from=<>: no"))
	if !ok || signal.Addr != netip.MustParseAddr("192.0.2.7") || signal.QueueID != "780D29842A2" || !signal.Time.Equal(time.Date(2026, 11, 25, 4, 8, 54, 5e8, time.UTC)) {
		t.Errorf("%+v", signal)
	}
}

func TestTheOperatorsOwnUsersAreNotAccused(t *testing.T) {
	const stamp = "2026-11-25T05:08:53.123456+00:00 mx1 postfix/"
	for _, client := range []string{"submission/smtpd[9]: Q1: client=home.example[192.0.2.7], sasl_method=PLAIN, sasl_username=bob", "smtpd[9]: Q1: client=home.example[192.0.2.7], sasl_method=PLAIN, sasl_username=bob"} {
		r := reader()
		r.Read([]byte(stamp + client))
		for _, line := range []string{"cleanup[9]: Q1: milter-reject: END-OF-MESSAGE from home.example[192.0.2.7]: 5.7.1 spam; from=<b@c> to=<d@e> proto=ESMTP helo=<f>", "cleanup[9]: Q1: reject: body pills from home.example[192.0.2.7]; from=<b@c>: no"} {
			if signal, ok := r.Read([]byte(stamp + line)); ok {
				t.Errorf("after %s\n%s tells %+v", client, line, signal)
			}
		}
	}
}

func TestTimesWithoutAYear(t *testing.T) {
	const line = " mx1 postfix/smtpd[9]: SSL_accept error from unknown[192.0.2.7]: -1"
	for stamp, want := range map[string]time.Time{
		"Nov 25 11:59:59": time.Date(2026, 11, 25, 11, 59, 59, 0, time.UTC),
		"Nov 26 00:00:01": time.Date(2026, 11, 26, 0, 0, 1, 0, time.UTC), // the log's clock is ahead
		"Dec 31 23:59:59": time.Date(2025, 12, 31, 23, 59, 59, 0, time.UTC),
		"Feb  1 00:00:00": time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC),
	} {
		if signal, ok := reader().Read([]byte(stamp + line)); !ok || !signal.Time.Equal(want) {
			t.Errorf("%s is %v, want %v", stamp, signal.Time, want)
		}
	}
	if _, ok := reader().Read([]byte("Foo 99 99:99:99" + line)); ok {
		t.Error("a line without a time tells something")
	}
}

func TestEntriesOfTheJournal(t *testing.T) {
	e, err := ParseEntry([]byte(`{"__CURSOR":"s=1","__REALTIME_TIMESTAMP":"1795583333123456","SYSLOG_IDENTIFIER":"postfix/smtpd","MESSAGE":"SSL_accept error from unknown[192.0.2.7]: -1"}`))
	if err != nil || e.Cursor != "s=1" || e.At.UnixMicro() != 1795583333123456 {
		t.Fatalf("%+v, %v", e, err)
	}
	if signal, ok := reader().ReadEntry(e); !ok || signal.Addr.String() != "192.0.2.7" || !signal.Time.Equal(e.At) {
		t.Errorf("%+v", signal)
	}
	if e, err = ParseEntry([]byte(`{"__REALTIME_TIMESTAMP":"1","MESSAGE":[72,105,255]}`)); err != nil || string(e.Text) != "Hi\xff" {
		t.Errorf("%q, %v", e.Text, err)
	}
	for _, bad := range []string{"", "{", `{"__REALTIME_TIMESTAMP":"x"}`, `{"__REALTIME_TIMESTAMP":"1","MESSAGE":{}}`, `{"__REALTIME_TIMESTAMP":"1","MESSAGE":["a"]}`} {
		if _, err := ParseEntry([]byte(bad)); err == nil {
			t.Errorf("%q is an entry", bad)
		}
	}
}

// TestTheLinesOfTheWorld reads lines in the shapes in which others publish theirs:
// testdata/lines.tsv has a name, what is read of the line, and the line.
func TestTheLinesOfTheWorld(t *testing.T) {
	lines, err := os.ReadFile("testdata/lines.tsv")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(lines)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		field := strings.SplitN(strings.TrimSuffix(line, "\n"), "\t", 3)
		if len(field) != 3 {
			t.Fatalf("%q has %d fields", line, len(field))
		}
		t.Run(field[0], func(t *testing.T) {
			r := reader()
			if strings.Contains(field[2], "proxy-reject: ") {
				r.Read([]byte("2026-11-25T08:59:59+00:00 mx1 postfix/smtpd[9]: connect from mail.sender.example[192.0.2.99]"))
			}
			got := "nothing"
			if s, ok := r.Read([]byte(field[2])); ok {
				got = fmt.Sprint(s.Addr, " ", s.Assessment.Class, " ", s.Assessment.Source)
				if s.Trouble != "" {
					got += " " + string(s.Trouble)
				}
			}
			if got != field[1] {
				t.Errorf("%s\nis read as %q, want %q", field[2], got, field[1])
			}
		})
	}
}

func FuzzLine(f *testing.F) {
	for _, line := range []string{
		"Nov 25 05:08:53 mx1 postfix/cleanup[9]: 780D29842A2: milter-reject: END-OF-MESSAGE from c[192.0.2.7]: 5.7.1 x; from=<a@b> to=<c> proto=ESMTP helo=<d>",
		"2026-11-25T05:08:53Z mx1 postfix/postscreen[9]: PREGREET 14 after 0.05 from [192.0.2.7]:4711: EHLO\\r\\n",
		"Nov 25 05:08:53 mx1 postfix/smtpd[9]: SSL_accept error from unknown[IPv6:::1%eth0]:99999: -1",
		"Nov 27 22:51:29 mx sm-mta[9]: 6ARMpTYr016787: ruleset=check_rcpt, arg1=<a@b>, relay=c [192.0.2.7] (may be forged), reject=550 5.7.1 <a@b>... Relaying denied",
		"Nov 27 22:51:29 mx sm-mta[9]: 6ARMpTYr016787: Milter: data, reject=550 5.7.1 Spam",
		"2026-11-27 23:25:44.1 +0000 [17] 1xX5K4-0001at-10 <= a@b H=c (d) [192.0.2.7]:56325 P=esmtps X=TLS1.3:E:256 CV=no S=293",
		"2026-11-27 23:25:44 H=(d) [192.0.2.7]:1 F=<a@b> temporarily rejected RCPT <c@d>: greylisted",
		"2026-11-27 23:25:44 plain authenticator failed for (d) [192.0.2.7]: 535 Incorrect",
		"Nov 25 05:08:53 mx1 postfix/smtpd[9]: NOQUEUE: reject: RCPT from \x00[]: ", strings.Repeat("[", 1000) + "]: ",
	} {
		f.Add([]byte(line))
	}
	r := reader()
	f.Fuzz(func(t *testing.T, line []byte) {
		signal, ok := r.Read(line)
		if !ok {
			return
		}
		if a := signal.Addr; a.Is4In6() || a.Zone() != "" || !a.IsValid() && signal.QueueID == "" || len(signal.Assessment.Reason) > 1700 || len(signal.QueueID) > 32 {
			t.Fatalf("%+v", signal)
		}
		if signal.Addr.IsValid() && !bytes.Contains(line, []byte("[")) {
			t.Fatalf("a client out of nothing: %+v", signal)
		}
	})
}

func FuzzEntry(f *testing.F) {
	f.Add([]byte(`{"__CURSOR":"s=1","__REALTIME_TIMESTAMP":"1795583333123456","SYSLOG_IDENTIFIER":"postfix/smtpd","MESSAGE":[83]}`))
	f.Add([]byte(strings.Repeat(`{"MESSAGE":`, 1000)))
	r := reader()
	f.Fuzz(func(t *testing.T, line []byte) {
		if e, err := ParseEntry(line); err == nil {
			r.ReadEntry(e)
		}
	})
}

// sampleLines are what a busy Postfix writes of a message, as one in three tells something.
func sampleLines(i int) string {
	id := fmt.Sprintf("%X", 0x780D29842A2+i)
	at := fmt.Sprintf("2026-11-25T05:08:53.%06d+00:00 mx1 postfix/", i%1_000_000)
	who := fmt.Sprintf("mail%d.example[10.%d.%d.%d]", i%1000, i>>16&255, i>>8&255, i&255)
	return at + "smtpd[4711]: connect from " + who + "\n" +
		at + "smtpd[4711]: " + id + ": client=" + who + "\n" +
		at + "cleanup[4712]: " + id + ": message-id=<" + id + "@sender.example>\n" +
		at + "smtpd[4711]: NOQUEUE: reject: RCPT from " + who + ": 550 5.1.1 <nobody@mx.example>: Recipient address rejected: User unknown in local recipient table; from=<alice@sender.example> to=<nobody@mx.example> proto=ESMTP helo=<mail.sender.example>\n" +
		at + "qmgr[4713]: " + id + ": from=<alice@sender.example>, size=4242, nrcpt=1 (queue active)\n" +
		at + "smtpd[4711]: disconnect from " + who + " ehlo=2 starttls=1 mail=1 rcpt=1/2 data=1 quit=1 commands=7/8\n"
}

// BenchmarkRead reports lines a second; a fifth of them tell something.
func BenchmarkRead(b *testing.B) {
	var lines [][]byte
	for i := range 10_000 {
		lines = append(lines, bytes.Split([]byte(strings.TrimSpace(sampleLines(i))), []byte("\n"))...)
	}
	r := reader()
	b.ReportAllocs()
	for i := range b.N {
		r.Read(lines[i%len(lines)])
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lines/s")
}

// TestAClientThatIsRememberedIsKnown has the daemon restarted between the client of a message and
// what cleanup(8) says of it.
func TestAClientThatIsRememberedIsKnown(t *testing.T) {
	r := reader()
	const stamp = "Nov 25 05:08:53 mx1 "
	for _, line := range []string{
		"postfix/smtpd[9]: 780D29842A2: client=v[192.0.2.7]", "postfix/submission/smtpd[9]: 780D29842A3: client=v[192.0.2.8]",
		"postfix/smtpd[9]: NOQUEUE: reject: RCPT from v[192.0.2.7]: 554 5.7.1 no", "client=", "]: ", "x[9]: 780D29842A4: client=v[192.0.2.9]",
	} {
		r.Remember([]byte(stamp + line))
	}
	if n := r.Stats.Lines.Load(); n != 0 {
		t.Errorf("%d lines counted", n)
	}
	reject := func(id string) policy.Signal {
		s, _ := r.Read([]byte(stamp + "postfix/cleanup[9]: " + id + ": reject: header Subject: x from v[198.51.100.1]; from=<> from w[192.0.2.9]; from=<>: no"))
		return s
	}
	if s := reject("780D29842A2"); s.Addr != netip.MustParseAddr("192.0.2.7") {
		t.Errorf("%+v", s)
	}
	for _, id := range []string{"780D29842A3", "780D29842A4"} {
		if s := reject(id); s.Addr.IsValid() {
			t.Errorf("%+v", s)
		}
	}
}
