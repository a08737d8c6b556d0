package maillog

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/behaviour"
)

const stamp = "2026-11-25T09:00:00+00:00 mx1 "

var sender = netip.MustParseAddr("192.0.2.7")

// listen returns a reader that counts unknown users as the daemon does, and what it is told of
// messages that were put back.
func listen(services ...string) (*Reader, *[]policy.Reinjection) {
	clients, put := behaviour.NewClients(), &[]policy.Reinjection{}
	return NewReader(Options{
		Now: func() time.Time { return now }, Zone: time.UTC, Services: services, UserServices: []string{"postfix/staff"},
		UnknownUser: func(client netip.Addr, rcpt string, at time.Time) policy.Confidence {
			return clients.UnknownUser(client, rcpt, at, behaviour.ByLog)
		},
		Reinjected: func(r policy.Reinjection) { *put = append(*put, r) },
	}), put
}

// signals are those of the lines of a log, each without its time stamp.
func signals(r *Reader, lines ...string) (all []policy.Signal) {
	for _, line := range lines {
		if s, ok := r.Read([]byte(stamp + line)); ok {
			all = append(all, s)
		}
	}
	return all
}

// What a client says of itself never decides what a refusal of it says.
func TestTheClientsOwnWordsDecideNothing(t *testing.T) {
	words := []string{
		"greylist", "Greylisted", `"x>: Recipient address rejected: Greylisted"`, `"; from=<> to=<x"`, "spf", "x spf fail", "dmarc", "user unknown",
		`"] blocked using y; Error: open resolver"`, "mailbox full", "x> sasl_username=<bob", `"x>: Relay access denied; from=<> to=<"x`, "127.255.255.254",
		"session encryption is required", `a"b>: Recipient address rejected: undeliverable address: host x said: 550`, "not owned by user",
	}
	for _, w := range words {
		for _, c := range []struct {
			refusal string
			source  policy.Source
		}{
			{"554 5.7.1 <%[1]s@x.example>: Sender address rejected: Access denied; from=<%[1]s@x.example> to=<b@mx.example> proto=ESMTP helo=<x>", policy.FromRecipient},
			{"554 5.7.1 <%[1]s>: Helo command rejected: Access denied; from=<a@x.example> to=<b@mx.example> proto=ESMTP helo=<%[1]s>", policy.FromRecipient},
			{"554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using rbl.example; from=<%[1]s@x.example> to=<%[1]s@mx.example> proto=ESMTP helo=<x>", policy.FromDNSBL},
			{"554 5.7.1 Service unavailable; Sender address [%[1]s@x.example] blocked using rbl.example; from=<%[1]s@x.example> to=<b@mx.example> proto=ESMTP helo=<x>", policy.FromDNSBL},
			{"554 5.7.1 <%[1]s@else.example>: Relay access denied; from=<%[1]s@x.example> to=<%[1]s@else.example> proto=ESMTP helo=<x>", policy.FromRelay},
		} {
			r, _ := listen()
			if strings.HasPrefix(c.refusal, "554 5.7.1 <%[1]s>: Helo") && strings.Contains(w, "sasl_username") {
				continue // smtpd.c puts question marks for blanks and brackets in a HELO name
			}
			all := signals(r, "postfix/smtpd[9]: NOQUEUE: reject: RCPT from unknown[192.0.2.7]: "+fmt.Sprintf(c.refusal, w))
			if strings.Contains(w, "; from=<") && strings.Contains(c.refusal, "Sender address [") {
				// Where the reply ends cannot be told then; it counts as much as a refusal by a rule.
				c.source = policy.FromRecipient
			}
			if len(all) != 1 || all[0].Assessment.Class != policy.Spam || all[0].Assessment.Source != c.source {
				t.Errorf("%s with %s: %+v, want spam from %s", c.refusal, w, all, c.source)
			}
		}
	}
}

func TestWhatUsersDoIsSaidOfNoClient(t *testing.T) {
	const refused = "NOQUEUE: reject: RCPT from home.example[192.0.2.7]: 554 5.7.1 <c@else.example>: Relay access denied; from=<bob@mx.example> to=<c@else.example> proto=ESMTP helo=<pc>"
	for _, c := range []struct {
		name     string
		services []string
		lines    []string
		signals  int
	}{
		{"the control", nil, []string{"postfix/smtpd[9]: " + refused}, 1},
		{"a name as in the refusal", nil, []string{"postfix/smtpd[9]: " + refused + " sasl_username=<bob>"}, 0},
		{"the same without brackets", nil, []string{"postfix/smtpd[9]: " + refused + " sasl_method=PLAIN sasl_username=bob@mx.example"}, 0},
		{"what comes after it in the session", nil, []string{"postfix/smtpd[9]: " + refused + " sasl_username=<bob>", "postfix/smtpd[9]: too many errors after RCPT from home.example[192.0.2.7]"}, 0},
		{"a message of the session before", nil, []string{"postfix/smtpd[9]: connect from home.example[192.0.2.7]",
			"postfix/smtpd[9]: 4QUEUE12345: client=home.example[192.0.2.7], sasl_method=PLAIN, sasl_username=bob", "postfix/smtpd[9]: " + refused}, 0},
		{"the next session of the process", nil, []string{"postfix/smtpd[9]: connect from home.example[192.0.2.7]",
			"postfix/smtpd[9]: 4QUEUE12345: client=home.example[192.0.2.7], sasl_method=PLAIN, sasl_username=bob", "postfix/smtpd[9]: disconnect from home.example[192.0.2.7]", "postfix/smtpd[9]: " + refused}, 1},
		{"another process", nil, []string{"postfix/smtpd[8]: 4QUEUE12345: client=home.example[192.0.2.7], sasl_method=PLAIN, sasl_username=bob", "postfix/smtpd[9]: " + refused}, 1},
		{"a service by its name", nil, []string{"postfix/submissions/smtpd[9]: " + refused, "postfix-smtps/smtpd[9]: " + refused, "postfix/465/smtpd[9]: " + refused}, 0},
		{"a service by master.cf", nil, []string{"postfix/staff/smtpd[9]: " + refused}, 0},
		{"all but those in the configuration", []string{"postfix/mx"}, []string{"postfix/smtpd[9]: " + refused, "postfix/mx/smtpd[9]: " + refused}, 1},
		{"a HELO name that looks like a login", nil, []string{"postfix/smtpd[9]: NOQUEUE: reject: HELO from x[192.0.2.7]: 504 5.5.2 <x>: Helo command rejected: no; proto=SMTP helo=<a b> sasl_username=<bob>"}, 1},
		{"a login that failed", nil, []string{"postfix/submission/smtpd[9]: warning: x[192.0.2.7]: SASL LOGIN authentication failed: authentication failure, sasl_username=bob"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := listen(c.services...)
			if all := signals(r, c.lines...); len(all) != c.signals {
				t.Errorf("%d signals, want %d: %+v", len(all), c.signals, all)
			}
		})
	}
}

// Twenty unknown users in one session count as twenty: each signal says what all of the session
// before it say.
func TestUnknownUsersOfASessionAddUp(t *testing.T) {
	ask := func(r *Reader, n int, process, sender string) (last policy.Signal) {
		for i := range n {
			for _, s := range signals(r, fmt.Sprintf("postfix/smtpd[%s]: NOQUEUE: reject: RCPT from x[192.0.2.7]: 550 5.1.1 <u%d@mx.example>: Recipient address rejected: User unknown; from=<%s> to=<u%d@mx.example> proto=ESMTP helo=<x>", process, i, sender, i)) {
				last = s
			}
		}
		return last
	}
	for _, c := range []struct {
		name   string
		n      int
		sender string
		want   float64
	}{
		{"one may be a typo", 1, "a@x.example", 0},
		{"four", 4, "a@x.example", 3.0 / 9},
		{"twenty", 20, "a@x.example", 1},
		{"twenty of a bounce", 20, "", 0},
	} {
		r, _ := listen()
		s := ask(r, c.n, "9", c.sender)
		got := float64(s.Assessment.Confidence)
		if s.Assessment.Class != policy.Spam {
			got = 0
		}
		if math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	// Another session of the client's asks for the same ones: nothing new.
	r, _ := listen()
	ask(r, 20, "9", "a@x.example")
	if s := ask(r, 20, "8", "a@x.example"); s.Assessment.Class != policy.None {
		t.Errorf("the same again: %+v", s.Assessment)
	}
}

func TestFailedLoginsAddUp(t *testing.T) {
	r, _ := listen()
	var got []string
	for range 12 {
		for _, s := range signals(r, "postfix/smtpd[9]: warning: x[192.0.2.7]: SASL LOGIN authentication failed: authentication failure") {
			got = append(got, fmt.Sprintf("%.1f", float64(s.Assessment.Confidence)))
		}
	}
	if want := "0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9 1.0 1.0 1.0"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %v", got, want)
	}
	for _, fault := range []string{"Connection lost to authentication server", "generic failure"} {
		if all := signals(r, "postfix/smtpd[9]: warning: x[192.0.2.7]: SASL PLAIN authentication failed: "+fault); len(all) > 0 {
			t.Errorf("a fault of the server's: %+v", all)
		}
	}
}

func TestMailThatAFilterPutsBackIsItsFirstClients(t *testing.T) {
	const (
		received  = "postfix/smtpd[9]: 4FIRST00001: client=mail.sender.example[192.0.2.7]:4711"
		back      = "postfix/smtpd[8]: 4BACK000001: client=localhost[127.0.0.1]"
		forwarded = back + ", orig_queue_id=4FIRST00001, orig_client=mail.sender.example[192.0.2.7]"
		sent      = "postfix/smtp[7]: 4FIRST00001: to=<b@mx.example>, relay=127.0.0.1[127.0.0.1]:10024, delay=1, delays=0.1/0/0/1, dsn=2.0.0, status=sent (250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 4BACK000001)"
		refused   = "postfix/cleanup[6]: 4BACK000001: milter-reject: END-OF-MESSAGE from localhost[127.0.0.1]: 5.7.1 Spam message rejected; from=<a@x.example> to=<b@mx.example> proto=ESMTP helo=<localhost>"
		content   = "postfix/cleanup[6]: 4BACK000001: reject: header X-Spam-Flag: YES from localhost[127.0.0.1]; from=<a@x.example> to=<b@mx.example> proto=ESMTP helo=<localhost>: 5.7.1 spam"
	)
	for _, c := range []struct {
		name   string
		lines  []string
		client string
		put    int
	}{
		{"XFORWARD", []string{received, forwarded, refused}, "192.0.2.7:4711 4FIRST00001", 1},
		{"XFORWARD, and the first client is not known", []string{forwarded, refused}, "192.0.2.7:0 4FIRST00001", 1},
		{"the queue id, through the log", []string{received, back, sent, refused}, "192.0.2.7:4711 4FIRST00001", 1},
		{"both", []string{received, forwarded, sent, content}, "192.0.2.7:4711 4FIRST00001", 1},
		{"header_checks", []string{received, forwarded, content}, "192.0.2.7:4711 4FIRST00001", 1},
		{"nobody knows", []string{back, refused, content}, "", 0},
		{"a reply that is forged in a recipient", []string{received, back,
			`postfix/smtp[7]: 4FIRST00001: to=<">, relay=127.0.0.1[127.0.0.1]:10024, status=sent (250 queued as 4BACK000001)"@mx.example>, relay=mx.else.example[198.51.100.1]:25, status=sent (250 2.0.0 Ok: queued as 4X)`, refused}, "", 0},
		{"a user's", []string{"postfix/submission/smtpd[9]: 4FIRST00001: client=home[192.0.2.7]", forwarded, refused}, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, put := listen()
			got := ""
			for _, s := range signals(r, c.lines...) {
				got = fmt.Sprintf("%v:%d %s", s.Addr, s.Port, s.QueueID)
			}
			if got != c.client || len(*put) != c.put {
				t.Errorf("%q, put back %+v; want %q, %d", got, *put, c.client, c.put)
			}
		})
	}
}

func TestBeforeQueueFilters(t *testing.T) {
	r, put := listen()
	all := signals(r,
		"postfix/smtpd[9]: connect from mail.sender.example[192.0.2.7]", "postfix/smtpd[8]: connect from other.example[192.0.2.8]",
		"postfix/smtpd[9]: NOQUEUE: client=mail.sender.example[192.0.2.7]",
		"postfix/smtpd[9]: proxy-reject: END-OF-MESSAGE: 554 5.7.0 Reject, id=1-1 - spam; from=<a@x.example> to=<b@mx.example> proto=ESMTP helo=<x>",
		"postfix/smtpd[8]: proxy-accept: END-OF-MESSAGE: 250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 4BACK000001; from=<a@y.example> to=<b@mx.example> proto=ESMTP helo=<y>",
		"postfix/smtpd[7]: NOQUEUE: proxy-reject: END-OF-MESSAGE: 554 5.7.0 Reject, id=1-1 - spam; from=<> to=<> proto=ESMTP helo=<x>",
		"postfix/smtpd[9]: NOQUEUE: proxy-reject: RCPT: 550 5.1.1 <nobody@mx.example>: Recipient address rejected: User unknown; from=<a@x.example> to=<nobody@mx.example> proto=ESMTP helo=<x>",
		"postfix/smtpd[9]: proxy-reject: END-OF-MESSAGE: ; from=<a@x.example> to=<b@mx.example> proto=ESMTP helo=<x>",
		"postfix/smtpd[9]: proxy-reject: END-OF-MESSAGE: 451 4.3.0 Error: queue file write error; from=<a@x.example> to=<b@mx.example> proto=ESMTP helo=<x>",
		"postfix/smtpd[9]: proxy-reject: END-OF-MESSAGE: 554 5.6.0 Reject, id=1 - BAD_HEADER; from=<a@x.example> to=<b@mx.example> proto=ESMTP helo=<x>",
		"postfix/smtpd[9]: proxy-accept: END-OF-MESSAGE: 250 2.7.0 Ok, discarded, id=1-1 - spam; from=<a@x.example> to=<b@mx.example> proto=ESMTP helo=<x>",
	)
	want := []string{"192.0.2.7 spam milter-reject", "192.0.2.7 none unknown-user", "192.0.2.7 none tempfail", "192.0.2.7 none milter-reject", "192.0.2.7 spam milter-discard"}
	var got []string
	for _, s := range all {
		got = append(got, fmt.Sprint(s.Addr, " ", s.Assessment.Class, " ", s.Assessment.Source))
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") || len(*put) != 1 || (*put)[0].Addr.String() != "192.0.2.8" {
		t.Errorf("%q, put back %+v", got, *put)
	}
}

func TestWhatAnAfterQueueFilterThrowsAway(t *testing.T) {
	const received = "postfix/smtpd[9]: 4FIRST00001: client=mail.sender.example[192.0.2.7]"
	const sent = "postfix/smtp[7]: 4FIRST00001: to=<b@mx.example>, relay=%s:10024, delay=1, delays=0.1/0/0/1, dsn=2.7.0, status=%s"
	for _, c := range []struct {
		relay, status string
		want          policy.Source
	}{
		{"127.0.0.1[127.0.0.1]", "sent (250 2.7.0 Ok, discarded, id=31157-01 - spam)", policy.FromMilterDiscard},
		{"127.0.0.1[127.0.0.1]", "sent (250 2.7.0 Ok, discarded, id=31157-01 - INFECTED: Eicar)", policy.FromMilterDiscard},
		{"127.0.0.1[127.0.0.1]", "bounced (host 127.0.0.1[127.0.0.1] said: 554 5.7.0 Reject, id=31157-01 - spam (in reply to end of DATA command))", policy.FromMilterReject},
		{"127.0.0.1[127.0.0.1]", "sent (250 2.7.0 Ok, discarded, id=31157-01 - BANNED: .exe)", ""},
		{"127.0.0.1[127.0.0.1]", "sent (250 2.0.0 Ok)", ""},
		{"127.0.0.1[127.0.0.1]", "sent (250 2.7.1 Ok, discarded, id=00218-04 - VIRUS: HTML.Phishing)", policy.FromMilterDiscard},
		{"amavis[172.20.0.4]", "sent (250 2.7.0 Ok, discarded, id=31157-01 - spam)", policy.FromMilterDiscard},
		{"/run/amavis.sock[/run/amavis.sock]", "sent (250 2.7.0 Ok, discarded, id=31157-01 - spam)", policy.FromMilterDiscard},
		{"mx.else.example[198.51.100.1]", "sent (250 2.7.0 Ok, discarded, id=31157-01 - spam)", ""},
		{"mx.else.example[198.51.100.1]", "bounced (host mx.else.example[198.51.100.1] said: 554 5.7.0 Reject, id=1-1 - spam (in reply to end of DATA command))", ""},
	} {
		r, _ := listen()
		var got policy.Source
		for _, s := range signals(r, received, fmt.Sprintf(sent, c.relay, c.status)) {
			got = s.Assessment.Source
			if s.Addr != sender || s.QueueID != "4FIRST00001" {
				t.Errorf("%+v", s)
			}
		}
		if got != c.want {
			t.Errorf("%s %s: %q, want %q", c.relay, c.status, got, c.want)
		}
	}
}

func TestABlockListThatRefusesOurResolverAccusesNobody(t *testing.T) {
	r, _ := listen()
	for _, line := range []string{
		"postfix/dnsblog[9]: addr 192.0.2.7 listed by domain zen.dnsbl.example as 127.255.255.254",
		"postfix/postscreen[9]: DNSBL rank 3 for [192.0.2.7]:4711",
		"postfix/postscreen[9]: NOQUEUE: reject: RCPT from [192.0.2.7]:4711: 550 5.7.1 Service unavailable; client [192.0.2.7] blocked using zen.dnsbl.example; from=<a@x.example>, to=<b@mx.example>, proto=ESMTP, helo=<x>",
		"postfix/smtpd[9]: NOQUEUE: reject: RCPT from x[192.0.2.7]: 554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using zen.dnsbl.example; Error: open resolver; https://dnsbl.example/returnc/pub/192.0.2.53; from=<a@x.example> to=<b@mx.example> proto=ESMTP helo=<x>",
		"postfix/smtpd[9]: NOQUEUE: reject: RCPT from x[192.0.2.7]: 554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using bl.example; 127.0.0.1 -> Query Refused. See http://bl.example/refused.shtml; from=<a@x.example> to=<b@mx.example> proto=ESMTP helo=<x>",
		"postfix/smtpd[9]: NOQUEUE: reject: RCPT from x[192.0.2.7]: 554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using bl.example; excessive number of queries; from=<a@x.example> to=<b@mx.example> proto=ESMTP helo=<x>",
	} {
		if all := signals(r, line); len(all) != 1 || all[0].Assessment.Class != policy.None || all[0].Assessment.Source != policy.FromDNSBL {
			t.Errorf("%s: %+v", line, all)
		}
	}
	quoted := "postfix/smtpd[9]: NOQUEUE: reject: RCPT from x[192.0.2.9]: 554 5.7.1 Service unavailable; Helo command [127.255.255.evil.example] blocked using dbl.example; https://dbl.example/q?d=127.255.255.evil.example; from=<a@x.example> to=<b@mx.example> proto=ESMTP helo=<127.255.255.evil.example>"
	if all := signals(r, quoted); len(all) != 1 || all[0].Assessment.Class != policy.Spam {
		t.Errorf("a name that looks like the answer: %+v", all)
	}
	if s, ok := r.Read([]byte("2026-11-25T09:20:00+00:00 mx1 postfix/postscreen[9]: DNSBL rank 3 for [192.0.2.7]:4711")); !ok || s.Assessment.Class != policy.Spam {
		t.Errorf("twenty minutes later: %+v", s)
	}
	if all := signals(r, "postfix/postscreen[9]: DNSBL rank 3 for [192.0.2.8]:4711"); len(all) != 1 || all[0].Assessment.Class != policy.Spam {
		t.Errorf("another client: %+v", all)
	}
}

// Without a milter, what comes late of a session is still about the same: its signals have one group.
func TestTheSignalsOfOneSessionAreAGroup(t *testing.T) {
	r, _ := listen()
	unknown := func(process, sender string) string {
		return "postfix/smtpd[" + process + "]: NOQUEUE: reject: RCPT from x[192.0.2.7]: 550 5.1.1 <u@mx.example>: Recipient address rejected: User unknown; from=<" + sender + "> to=<u@mx.example> proto=ESMTP helo=<x>"
	}
	const login = "postfix/smtpd[9]: warning: x[192.0.2.7]: SASL LOGIN authentication failed: x"
	all := signals(r, unknown("9", "a@b"), unknown("9", "a@b"), unknown("9", "c@d"), unknown("8", "a@b"), login, login,
		"postfix/smtpd[9]: disconnect from x[192.0.2.7]", login)
	var groups []string
	for _, s := range all {
		groups = append(groups, s.Group)
	}
	if want := "log-1 log-1 log-2 log-3 log-4 log-4 log-5"; strings.Join(groups, " ") != want {
		t.Errorf("%v, want %v", groups, want)
	}
}

func TestQueueIDsThatAreUsedAgain(t *testing.T) {
	const first = "postfix/smtpd[9]: 9A1B2C3D: client=x[192.0.2.7]"
	const refused = "postfix/cleanup[5]: 9A1B2C3D: milter-reject: END-OF-MESSAGE from localhost[127.0.0.1]: 5.7.1 Spam; from=<a@b> to=<c@d> proto=ESMTP helo=<x>"
	const content = "postfix/cleanup[5]: 9A1B2C3D: reject: header Subject: x from local; from=<a@b> to=<c@d>: no"
	for _, again := range []string{
		"postfix/qmgr[1]: 9A1B2C3D: removed", "postfix/pickup[4]: 9A1B2C3D: uid=33 from=<www-data>", "postfix/smtpd[9]: 9A1B2C3D: client=unknown[unknown]",
		"postfix/qmqpd[3]: 9A1B2C3D: client=y[198.51.100.1]",
	} {
		r, _ := listen()
		for _, s := range signals(r, first, again, refused, content) {
			if s.Addr.IsValid() {
				t.Errorf("after %s: %+v", again, s)
			}
		}
	}
	r, _ := listen()
	all := signals(r, first, "postfix/smtpd[8]: DDEE1122: client=relay[127.0.0.1], orig_queue_id=9A1B2C3D, orig_client=y[198.51.100.1]",
		"postfix/cleanup[5]: DDEE1122: milter-reject: END-OF-MESSAGE from localhost[127.0.0.1]: 5.7.1 Spam; from=<a@b> to=<c@d> proto=ESMTP helo=<x>")
	if len(all) != 1 || all[0].Addr.String() != "198.51.100.1" {
		t.Errorf("a queue id of another host: %+v", all)
	}
}

func TestAFilterThatIsAwayAccusesNobody(t *testing.T) {
	for _, line := range []string{
		"postfix/smtpd[9]: NOQUEUE: milter-reject: CONNECT from x[192.0.2.7]: 550 5.5.0 Service unavailable; proto=SMTP",
		"postfix/smtpd[9]: NOQUEUE: milter-reject: CONNECT from x[192.0.2.7]: 451 4.7.1 Service unavailable - try again later; proto=SMTP",
		"postfix/cleanup[9]: 780D29842A2: milter-hold: END-OF-MESSAGE from x[192.0.2.7]: default_action; from=<a@b> to=<c@d> proto=ESMTP helo=<x>",
	} {
		r, _ := listen()
		if all := signals(r, line); len(all) != 1 || all[0].Assessment.Class != policy.None {
			t.Errorf("%s: %+v", line, all)
		}
	}
}

// Another program can quote a client in the words of a line of Postfix's.
func TestOtherProgramsForgeNoLine(t *testing.T) {
	const victim = "postfix/smtpd[9]: NOQUEUE: reject: RCPT from victim.example[198.51.100.1]: 554 5.7.1 no; from=<> to=<> proto=ESMTP helo=<x>"
	for _, line := range []string{
		"Nov 25 09:00:00 mx1 dovecot: auth: login with user " + victim,
		"Nov 25 09:00:00 mx1 dovecot[8]: imap-login: Nov 25 09:00:00 mx1 " + victim,
		"Nov 25 09:00:00 mx1 sshd[8]: Invalid user " + victim,
		"Nov 25 09:00:00 mx1 web: " + victim,
		`2026-11-25T09:00:00.1Z stdout F 203.0.113.9 - - "GET / HTTP/1.1" 200 5 "-" "x ` + victim,
		`nginx-1  | 203.0.113.9 - - "x Nov 25 09:00:00 x ` + victim,
		"web-1  | a user agent of many words Nov 25 09:00:00 x " + victim,
		`Nov 25 09:00:00 host docker/web[812]: 203.0.113.9 "x ` + victim,
		`<22>1 2026-11-25T09:00:00Z mx1 dovecot 8 - - user Nov 25 09:00:00 mx1 ` + victim,
		`{"log":"Nov 25 09:00:00 mx1 dovecot: user ` + victim + `\n","stream":"stdout","time":"2026-11-25T09:00:00Z"}`,
	} {
		r, _ := listen()
		if s, ok := r.Read([]byte(line)); ok {
			t.Errorf("%s: %+v", line, s)
		}
	}
}
