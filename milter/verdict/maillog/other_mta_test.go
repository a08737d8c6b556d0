package maillog

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// said is what a log says of its last client.
type said struct {
	addr, queueID string
	class         policy.Class
	source        policy.Source
	mail          bool
	outcome       policy.Outcome
}

// lastOf reads lines, and returns the last signal, if there is one.
func lastOf(lines string) (s policy.Signal, ok bool) {
	r := NewReader(Options{
		Now: func() time.Time { return time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC) }, Zone: time.UTC,
		UnknownUser: func(netip.Addr, string, time.Time) policy.Confidence { return policy.Certain },
	})
	for line := range strings.Lines(lines) {
		if one, signals := r.Read([]byte(strings.TrimRight(line, "\n"))); signals {
			s, ok = one, true
		}
	}
	return s, ok
}

func check(t *testing.T, lines string, want *said) policy.Signal {
	t.Helper()
	s, ok := lastOf(lines)
	if want == nil {
		if ok {
			t.Errorf("it says %+v", s)
		}
		return s
	}
	addr := ""
	if s.Addr.IsValid() {
		addr = s.Addr.String()
	}
	if got := (said{addr, s.QueueID, s.Assessment.Class, s.Assessment.Source, s.Mail, s.Outcome}); !ok || got != *want {
		t.Errorf("%v: got %+v, want %+v", ok, got, *want)
	}
	return s
}

// TestSendmailsLog has lines of Sendmail 8.17 as its syslog writes them.
func TestSendmailsLog(t *testing.T) {
	const at = "Nov 27 22:51:29 mx sm-mta[16787]: "
	const from = at + "6ARMpTYr016787: from=<a@client.example>, size=73, class=0, nrcpts=1, msgid=<1@client.example>, proto=ESMTPS, daemon=MTA-v4, relay=mail.client.example [192.0.2.7]\n"
	for _, c := range []struct {
		name, lines string
		want        *said
	}{
		{"a client that relays", at + "6ARMpTYr016787: ruleset=check_rcpt, arg1=<root@elsewhere.example>, relay=[192.0.2.7], reject=550 5.7.1 <root@elsewhere.example>... Relaying denied. IP name lookup failed [192.0.2.7]",
			&said{"192.0.2.7", "6ARMpTYr016787", policy.Spam, policy.FromRelay, true, policy.Rejected}},
		{"a sender's domain that does not exist", at + "6ARMpTYr016787: ruleset=check_mail, arg1=<a@client.example>, relay=mail.client.example [192.0.2.7] (may be forged), reject=553 5.1.8 <a@client.example>... Domain of sender address a@client.example does not exist",
			&said{"192.0.2.7", "6ARMpTYr016787", policy.Spam, policy.FromRecipient, true, policy.Rejected}},
		{"one that cannot be looked up now", at + "6ARMpTYr016787: ruleset=check_mail, arg1=<a@client.example>, relay=[192.0.2.7], reject=451 4.1.8 Domain of sender address a@client.example does not resolve",
			&said{"192.0.2.7", "6ARMpTYr016787", policy.None, policy.FromTempfail, true, policy.Rejected}},
		{"a client on a block list", at + "6ARMpTYr016787: ruleset=check_relay, arg1=[192.0.2.7], arg2=192.0.2.7, relay=[192.0.2.7], reject=550 5.7.1 Rejected: 192.0.2.7 listed at zen.example",
			&said{"192.0.2.7", "6ARMpTYr016787", policy.Spam, policy.FromDNSBL, false, policy.Rejected}},
		{"one that the access table denies", at + "NOQUEUE: ruleset=check_relay, arg1=[IPv6:2001:db8::7], arg2=IPv6:2001:db8::7, relay=[IPv6:2001:db8::7], reject=550 5.7.1 Access denied",
			&said{"2001:db8::7", "", policy.Spam, policy.FromRecipient, false, policy.Rejected}},
		{"a recipient that the access table denies, for its own sake", at + "6ARMpTYr016787: ruleset=check_rcpt, arg1=<info@mx.example>, relay=[192.0.2.7], reject=550 5.0.0 <info@mx.example>... Mailbox disabled for this recipient",
			&said{"192.0.2.7", "6ARMpTYr016787", policy.None, policy.FromRecipient, true, policy.Rejected}},
		{"what a filter refuses", from + at + "6ARMpTYr016787: Milter: data, reject=550 5.7.1 Spam message rejected",
			&said{"192.0.2.7", "6ARMpTYr016787", policy.Spam, policy.FromMilterReject, true, policy.Rejected}},
		{"what a filter puts off", from + at + "6ARMpTYr016787: milter=rspamd, action=eom, reject=451 4.7.1 Greylisted, please try again later",
			&said{"192.0.2.7", "6ARMpTYr016787", policy.None, policy.FromGreylist, true, policy.Rejected}},
		{"what a filter discards", from + at + "6ARMpTYr016787: Milter: data, discard",
			&said{"192.0.2.7", "6ARMpTYr016787", policy.Spam, policy.FromMilterDiscard, true, policy.Rejected}},
		{"what a filter holds", from + at + "6ARMpTYr016787: milter=filter, quarantine=held by the filter",
			&said{"192.0.2.7", "6ARMpTYr016787", policy.Spam, policy.FromMilterHold, true, policy.Accepted}},
		{"what a filter says of a message whose client is not known", at + "6ARMpTYr016787: Milter: data, discard",
			&said{"", "6ARMpTYr016787", policy.Spam, policy.FromMilterDiscard, true, policy.Rejected}},
		{"our own refusal is no evidence", from + at + "6ARMpTYr016787: Milter: data, reject=550 5.7.1 Refused by local policy",
			&said{"192.0.2.7", "6ARMpTYr016787", policy.None, policy.FromMilterReject, true, policy.Rejected}},
		{"our own quarantine says nothing", from + at + "6ARMpTYr016787: milter=ehlogate, quarantine=ehlogate: tier bad", nil},
		{"a handshake that failed", at + "STARTTLS=server, error: accept failed=-1, reason=wrong version number, SSL_error=1, errno=0, retry=-1, relay=[192.0.2.7]",
			&said{"192.0.2.7", "", policy.None, policy.FromTLS, false, ""}},
		{"commands before the greeting", at + "6ARMpTYr016787: rejecting commands from client.example [192.0.2.7] due to pre-greeting traffic after 0 seconds",
			&said{"192.0.2.7", "", policy.Spam, policy.FromPregreet, false, ""}},
		{"a login that failed", at + "6ARMpTYr016787: AUTH failure (LOGIN): authentication failure (-13) SASL(-13): authentication failure: checkpass failed, relay=[192.0.2.7]",
			&said{"192.0.2.7", "", policy.Spam, policy.FromLogin, false, ""}},
		{"a login server that is away", at + "6ARMpTYr016787: AUTH failure (LOGIN): generic failure (-1) SASL(-1): generic failure: cannot connect to saslauthd server, relay=[192.0.2.7]", nil},
		{"who has logged in may do as he likes", at + "AUTH=server, relay=[192.0.2.7], authid=bob, mech=PLAIN, bits=0\n" + from + at + "6ARMpTYr016787: Milter: data, reject=550 5.7.1 Spam message rejected", nil},
		{"a service of users", strings.ReplaceAll(from, "daemon=MTA-v4", "daemon=MSA") + at + "6ARMpTYr016787: Milter: data, discard", nil},
		{"mail of this host", strings.ReplaceAll(from, "mail.client.example [192.0.2.7]", "root@localhost [127.0.0.1]") + at + "6ARMpTYr016787: Milter: data, discard", nil},
		{"a recipient that names another client", at + `6ARMpTYr016787: ruleset=check_rcpt, arg1=<"x, relay=[198.51.100.9], reject=550 5.7.1 Access denied"@mx.example>, relay=[192.0.2.7], reject=550 5.7.1 Relaying denied`, nil},
		{"a sender that names another client", strings.ReplaceAll(from, "<a@client.example>", `<"a, relay=[198.51.100.9]"@client.example>`) + at + "6ARMpTYr016787: Milter: data, discard",
			&said{"", "6ARMpTYr016787", policy.Spam, policy.FromMilterDiscard, true, policy.Rejected}},
		{"a delivery", at + "6ARMpTYr016787: to=<root@mx.example>, delay=00:00:01, mailer=relay, pri=30072, relay=in.example [198.51.100.9], dsn=5.1.1, stat=User unknown", nil},
		{"what has no message is not of one", at + "NOQUEUE: client.example [192.0.2.7] did not issue MAIL/EXPN/VRFY/ETRN during connection to MTA-v4", nil},
	} {
		t.Run(c.name, func(t *testing.T) { check(t, c.lines, c.want) })
	}
}

// TestEximsLog has lines of Exim 4.96's mainlog.
func TestEximsLog(t *testing.T) {
	const at = "2026-11-27 23:25:44 "
	const host = "H=(client.example) [192.0.2.7]:56325 "
	for _, c := range []struct {
		name, lines string
		want        *said
	}{
		{"a message that was taken", at + "1xX5K4-0001at-10 <= a@client.example H=mail.client.example (client.example) [192.0.2.7]:56325 P=esmtps X=TLS1.3:ECDHE_X25519__RSA_PSS_RSAE_SHA256__AES_256_GCM:256 CV=no S=293",
			&said{"192.0.2.7", "1xX5K4-0001at-10", policy.None, policy.FromSilence, true, policy.Accepted}},
		{"one with a long id, a zone, a fraction and a process", "2026-11-27 23:25:44.123 +0000 [17] 1xX5K4-000000001Mv-10Ui <= a@client.example " + host + "P=esmtp S=293",
			&said{"192.0.2.7", "1xX5K4-000000001Mv-10Ui", policy.None, policy.FromSilence, true, policy.Accepted}},
		{"through syslog", "Nov 27 23:25:44 mx exim[17]: " + at + "1xX5K4-0001at-10 <= a@client.example " + host + "P=esmtp S=293",
			&said{"192.0.2.7", "1xX5K4-0001at-10", policy.None, policy.FromSilence, true, policy.Accepted}},
		{"one of a user", at + "1xX5K4-0001at-10 <= a@client.example " + host + "P=esmtpsa X=TLS1.3:TLS_AES_256_GCM_SHA384:256 A=plain_server:bob S=293",
			&said{"192.0.2.7", "1xX5K4-0001at-10", policy.None, policy.FromSilence, true, policy.Accepted}},
		{"one of this host", at + "1xX5K4-0001at-10 <= root@mx.example U=root P=local S=293", nil},
		{"a delivery", at + "1xX5K4-0001at-10 => root@elsewhere.example R=dnslookup T=remote_smtp H=in.example [198.51.100.9] X=TLS1.3:ECDHE:256 CV=yes C=\"250 OK\"", nil},
		{"a client that relays", at + host + "F=<a@client.example> rejected RCPT <root@elsewhere.example>: relay not permitted",
			&said{"192.0.2.7", "", policy.Spam, policy.FromRelay, true, policy.Rejected}},
		{"an unknown user", at + host + "X=TLS1.3:TLS_AES_256_GCM_SHA384:256 CV=no F=<a@client.example> rejected RCPT <nobody@mx.example>: Unrouteable address",
			&said{"192.0.2.7", "", policy.Spam, policy.FromUnknownUser, true, policy.Rejected}},
		{"an unknown user of a bounce", at + host + "F=<> rejected RCPT <nobody@mx.example>: Unrouteable address",
			&said{"192.0.2.7", "", policy.None, policy.FromUnknownUser, true, policy.Rejected}},
		{"a block list", at + host + "F=<a@client.example> rejected RCPT <root@mx.example>: rejected because 192.0.2.7 is in a black list at zen.example",
			&said{"192.0.2.7", "", policy.Spam, policy.FromDNSBL, true, policy.Rejected}},
		{"greylisted", at + host + "F=<a@client.example> temporarily rejected RCPT <root@mx.example>: greylisted, try again later",
			&said{"192.0.2.7", "", policy.None, policy.FromGreylist, true, policy.Rejected}},
		{"spam at its end", at + "1xX5K4-0001at-10 " + host + "F=<a@client.example> rejected after DATA: This message scored 12.3 spam points",
			&said{"192.0.2.7", "1xX5K4-0001at-10", policy.Spam, policy.FromContent, true, policy.Rejected}},
		{"a user's", at + host + "A=plain_server:bob F=<a@client.example> rejected after DATA: This message scored 12.3 spam points", nil},
		{"a handshake that failed", at + "TLS error on connection from (x) [192.0.2.7]:59601 (gnutls_handshake): An unexpected TLS packet was received.",
			&said{"192.0.2.7", "", policy.None, policy.FromTLS, false, ""}},
		{"a connection that breaks after the handshake", at + "TLS error on connection from (x) [192.0.2.7]:59601 (recv): The TLS connection was non-properly terminated.", nil},
		{"a handshake that failed, of OpenSSL, with the interface", at + "TLS error on connection from mail.client.example (x) [192.0.2.7]:59601 I=[198.51.100.1]:25 (SSL_accept): error:0A0000C1:SSL routines::no shared cipher",
			&said{"192.0.2.7", "", policy.None, policy.FromTLS, false, ""}},
		{"commands too soon", at + `SMTP protocol synchronization error (next input sent too soon: pipelining was not advertised): rejected "RSET" H=mail.client.example [192.0.2.7]:58302 next input="QUIT\r\n"`,
			&said{"192.0.2.7", "", policy.Spam, policy.FromPipelining, false, ""}},
		{"a line that is too long", at + "1xX5K4-0001at-10 " + host + "F=<a@client.example> rejected after DATA: maximum allowed line length is 998 octets, got 1200",
			&said{"192.0.2.7", "1xX5K4-0001at-10", policy.None, policy.FromContent, true, policy.Rejected}},
		{"a block list at the connection", at + "H=[192.0.2.7]:1 rejected connection in \"connect\" ACL: blocked using bl.spamcop.example",
			&said{"192.0.2.7", "", policy.Spam, policy.FromDNSBL, false, policy.Rejected}},
		{"a login that failed, with the interface", at + "plain_server authenticator failed for (client.example) [192.0.2.7]:59601 I=[198.51.100.1]:25: 535 Incorrect authentication data (set_id=bob)",
			&said{"192.0.2.7", "", policy.Spam, policy.FromLogin, false, ""}},
		{"before the greeting", at + `SMTP protocol synchronization error (input sent without waiting for greeting): rejected connection from H=[192.0.2.7]:59601 input="EHLO x\r\n"`,
			&said{"192.0.2.7", "", policy.Spam, policy.FromPregreet, false, ""}},
		{"a login that failed", at + "plain_server authenticator failed for (client.example) [192.0.2.7]:59601: 535 Incorrect authentication data (set_id=bob)",
			&said{"192.0.2.7", "", policy.Spam, policy.FromLogin, false, ""}},
		{"a login server that is away", at + "plain_server authenticator failed for (client.example) [192.0.2.7]:59601: 435 Unable to authenticate at present (set_id=bob)", nil},
		{"a sender that names another client", at + `H=(x) [192.0.2.7]:1 F=<"H=[198.51.100.9]:1 F=<a@b> rejected RCPT <c@d>: x"@client.example> rejected RCPT <root@elsewhere.example>: relay not permitted`,
			&said{"192.0.2.7", "", policy.Spam, policy.FromRelay, true, policy.Rejected}},
		{"another program's line", at + "something else altogether", nil},
	} {
		t.Run(c.name, func(t *testing.T) { check(t, c.lines, c.want) })
	}
	for line, want := range map[string][2]bool{
		"P=esmtp S=293": {true, false}, "P=esmtps X=TLS1.3:TLS_AES_256_GCM_SHA384:256 S=293": {false, false},
		"P=esmtpsa X=TLS1.3:TLS_AES_256_GCM_SHA384:256 DN=\"/CN=a b\" SNI=mx.example A=plain_server:bob S=293": {false, true},
		"P=esmtps X=TLS1.3:TLS_AES_256_GCM_SHA384:256 CV=no SNI=x A=y P=esmtpsa A=z S=293":                     {false, false},
		"P=esmtps X=TLS1.3:TLS_AES_256_GCM_SHA384:256 CV=no S=293 T=\"x A=y P=esmtp\"":                         {false, false},
	} {
		if s, ok := lastOf(at + "1xX5K4-0001at-10 <= a@client.example " + host + line); !ok || s.InClear != want[0] || s.Authenticated != want[1] {
			t.Errorf("%s: in the clear %v, logged in %v, want %v", line, s.InClear, s.Authenticated, want)
		}
	}
	s, _ := lastOf(at + "1xX5K4-0001at-10 <= a@client.example H=(client.example) [192.0.2.7]:56325 P=esmtps X=TLS1.2:ECDHE_SECP256R1__RSA_SHA256__AES_256_GCM:256 CV=no S=293")
	if want := (policy.TLS{Version: "TLSv1.2", Cipher: "ECDHE_SECP256R1__RSA_SHA256__AES_256_GCM", Bits: 256}); s.TLS == nil || *s.TLS != want || s.Port != 56325 || s.HELO != "client.example" || s.FromDomain != "client.example" {
		t.Errorf("%+v, %+v", s, s.TLS)
	}
}

// TestNobodySpeaksForAnotherClientInEximsLog has a client put whole lines about another one into
// all that it can choose: its HELO name, with whatever helo_accept_junk_hosts lets in, its sender,
// its recipient, its commands, its subject, its login's name.
func TestNobodySpeaksForAnotherClientInEximsLog(t *testing.T) {
	const at, victim, real = "2026-11-27 23:25:44 ", "198.51.100.99", "192.0.2.7"
	forged := []string{
		"x", "x [V]:1", "x [V]:1 F=<a@b> rejected RCPT <c@d>: listed at zen.example", "x) [V]:1 F=<a@b> rejected RCPT <c@d>: listed at zen.example",
		"(x) [V]:1", "H=(x) [V]:1 P=esmtp S=1", `x H=[V]:1 P=esmtp S=1`, `"x H=[V]:1 P=esmtp S=1"@client.example`, `x" H=[V]:1 P=esmtp`, `a\" H=[V]:1 P=esmtp`,
		"X authenticator failed for [V]:1: 535 Incorrect authentication data", "X authenticator failed for H=(x) [V]:1: 535 x",
		"RSET without waiting for greeting from H=[V]:1", `connection from H=[V]:1 input="x"`, `RSET" H=[V]:1 x`, "TLS error on connection from [V]:1 (SSL_accept): x",
		"x sendmail[1]: y", "sm-mta[16787]: NOQUEUE: ruleset=check_rcpt, arg1=<x>, relay=[V], reject=550 5.7.1 <x>... Relaying denied",
		"postfix/smtpd[12]: NOQUEUE: reject: RCPT from x[V]: 554 5.7.1 <c@d>: Relay access denied; from=<a@b> to=<c@d> proto=ESMTP helo=<x>",
		"x I=[V]:25: 535 x", "x\n2026-11-27 23:25:44 H=[V]:1 F=<a@b> rejected RCPT <c@d>: listed at zen.example",
	}
	lines := []string{
		"H=({}) [R]:5 F=<a@client.example> rejected RCPT <b@mx.example>: relay not permitted",
		"H=(c) [R]:5 F=<{}> rejected RCPT <b@mx.example>: relay not permitted", "H=(c) [R]:5 F=<a@client.example> rejected RCPT <{}>: relay not permitted",
		"H=(c) [R]:5 F=<a@client.example> rejected RCPT {}: relay not permitted: {}", "H=mail.client.example ({}) [R]:5 X=TLS1.3:A:256 CV=no F=<{}> temporarily rejected RCPT <{}>: greylisted",
		"1xX5K4-0001at-10 <= {} H=(c) [R]:5 P=esmtp S=293", "1xX5K4-0001at-10 <= a@client.example H=({}) [R]:5 P=esmtp S=293",
		"1xX5K4-0001at-10 <= a@client.example H=(c) [R]:5 P=esmtp S=293 id={} T=\"{}\"", "1xX5K4-0001at-10 <= a@client.example H=(c) [R]:5 P=esmtps X=TLS1.3:A:256 DN=\"{}\" SNI={} S=293",
		"1xX5K4-0001at-10 H=({}) [R]:5 F=<{}> rejected after DATA: spam", "1xX5K4-0001at-10 ** {}: SMTP error from remote mail server after RCPT TO: {}",
		"SMTP syntax error in \"{}\" H=({}) [R]:5 unrecognized command", "SMTP call from ({}) [R]:5 dropped: too many unrecognized commands (last was \"{}\")",
		"SMTP protocol synchronization error (input sent without waiting for greeting): rejected connection from H=[R]:5 input=\"{}\"",
		"SMTP protocol synchronization error (next input sent too soon: pipelining was not advertised): rejected \"{}\" H=({}) [R]:5 next input=\"{}\"",
		"TLS error on connection from ({}) [R]:5 (gnutls_handshake): {}", "plain_server authenticator failed for ({}) [R]:5: 535 Incorrect authentication data (set_id={})",
		"rejected EHLO from ({}) [R]:5: syntactically invalid argument(s): {}", "unexpected disconnection while reading SMTP command from ({}) [R]:5",
		"H=({}) [R]:5 Warning: {}", "no host name found for IP address [R]",
	}
	seen := 0
	for _, line := range lines {
		for _, text := range forged {
			for _, much := range []string{"", strings.Repeat("x", 5000)} {
				line := line
				if strings.ContainsAny(text, " \"") {
					// So Exim wants a sender with blanks.
					line = strings.Replace(line, "<= {}", "<= \""+strings.NewReplacer(`\`, `\\`, `"`, `\"`, "V", victim).Replace(text)+much+"\"@client.example", 1)
				}
				one := at + strings.NewReplacer("{}", strings.ReplaceAll(text, "V", victim)+much, "[R]", "["+real+"]").Replace(line)
				// What comes after a line's end is a line of its own only where the MTA writes it
				// as one.
				one = strings.ReplaceAll(one, "\n", "\\n")
				for _, syslogged := range []string{one, "Nov 27 23:25:44 mx exim[17]: " + one, "2026-11-27T23:25:44+00:00 mx exim[17]: " + one} {
					s, ok := lastOf(syslogged)
					if ok && s.Addr.String() != real {
						t.Errorf("%s\nsays of %s: %+v", syslogged[:min(len(syslogged), 300)], s.Addr, s.Assessment)
					}
					if ok {
						seen++
					}
				}
			}
		}
	}
	if seen < 200 {
		t.Errorf("only %d lines were read", seen)
	}
}
