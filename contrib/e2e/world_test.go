package e2e

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	mathrand "math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/ehlogate/ehlogate/contrib/e2e/filters"
	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
)

// services adds lines to master.cf.
func (x *exchanger) services(lines ...string) {
	x.t.Helper()
	f, err := os.OpenFile(filepath.Join(x.ConfigDir(), "master.cf"), os.O_APPEND|os.O_WRONLY, 0)
	must(x.t, err)
	_, err = f.WriteString(strings.Join(lines, "\n") + "\n")
	must(x.t, err)
	must(x.t, f.Close())
}

// putBack is the smtpd(8) that takes back what a filter has seen, as the manual of Postfix has it
// (FILTER_README), with our milter.
func putBack(a *filters.Amavis) string {
	return fmt.Sprintf("127.0.0.1:%d inet n - n - - smtpd -o syslog_name=postfix/reinject -o content_filter= -o smtpd_proxy_filter= -o smtpd_authorized_xforward_hosts=127.0.0.0/8"+
		" -o receive_override_options=no_header_body_checks,no_unknown_recipient_checks,no_address_mappings -o smtpd_tls_security_level=none", a.Back)
}

// own is the evidence of a client.
func (x *exchanger) own(client string) string {
	x.t.Helper()
	out := x.command("explain", "--json", client)
	i := strings.Index(out, `"own":{`)
	if i < 0 {
		x.t.Fatalf("explain %s: %s", client, out)
	}
	own, _, _ := strings.Cut(out[i+len(`"own":{`):], "}")
	return own
}

// waitOwn waits for the evidence of a client.
func (x *exchanger) waitOwn(client, want string) {
	x.t.Helper()
	var got string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if got = x.own(client); strings.Contains(got, want) {
			return
		}
	}
	x.t.Errorf("%s has %s, want %s\n%s", client, got, want, x.Log())
}

// TestAmavisBehindTheQueue has amavisd-new as content_filter, the commonest layout there is: the
// message that it puts back comes from this host. What it found is said of the client that sent the
// message.
func TestAmavisBehindTheQueue(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, option string
	}{
		{"with XFORWARD", " -o smtp_send_xforward_command=yes"},
		{"by the queue id in the log", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := withLog(t, "")
			a, err := filters.StartAmavis(tempDir(t), "D_DISCARD")
			must(t, err)
			t.Cleanup(a.Stop)
			x.services("smtp-amavis unix - - n - 2 smtp"+c.option, putBack(a))
			must(t, x.Set("smtpd_milters =", fmt.Sprintf("content_filter = smtp-amavis:[127.0.0.1]:%d", a.Port)))
			x.apply()
			x.run()
			for _, m := range []struct{ subject, client, want string }{
				{"hello", "198.51.100.7", `"spam":0,"ham":1`},
				{"score3", "198.52.100.7", `"spam":0,"ham":0.38`},
				{"score9", "198.53.100.7", `"spam":0.88,"ham":0`},
				{"score20", "198.54.100.7", `"spam":1,"ham":0`},
			} {
				s, err := x.Dial(m.client)
				must(t, err)
				must(t, s.Deliver(message(m.subject)))
				must(t, s.Quit())
				x.waitOwn(m.client, m.want)
			}
			if got := x.own("127.0.0.1"); !strings.Contains(got, `"spam":0,"ham":0`) {
				t.Errorf("this host has %s", got)
			}
		})
	}
}

// TestAmavisBeforeTheQueue has amavisd-new as smtpd_proxy_filter: it refuses within the session.
func TestAmavisBeforeTheQueue(t *testing.T) {
	t.Parallel()
	x := withLog(t, "")
	a, err := filters.StartAmavis(tempDir(t), "D_REJECT")
	must(t, err)
	t.Cleanup(a.Stop)
	x.services(putBack(a))
	must(t, x.Set("smtpd_milters ="))
	x.apply()
	must(t, x.Service(fmt.Sprintf("smtpd_proxy_filter = 127.0.0.1:%d", a.Port)))
	x.run()
	for _, m := range []struct{ subject, client, want string }{
		{"hello", "198.51.100.7", `"spam":0,"ham":1`},
		{"score9", "198.53.100.7", `"spam":0.88,"ham":0`},
		{"score20", "198.54.100.7", `"spam":1,"ham":0`},
	} {
		s, err := x.Dial(m.client)
		must(t, err)
		if err := s.Deliver(message(m.subject)); (err != nil) != (m.subject == "score20") {
			t.Errorf("%s: %v", m.subject, err)
		}
		s.Quit()
		x.waitOwn(m.client, m.want)
	}
	if got := x.own("127.0.0.1"); !strings.Contains(got, `"spam":0,"ham":0`) {
		t.Errorf("this host has %s", got)
	}
}

// TestSenderAuthentication has OpenDKIM and pypolicyd-spf before the daemon, which ask a name
// server of the test's own.
func TestSenderAuthentication(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(mathrand.New(mathrand.NewSource(1)), 2048)
	must(t, err)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	d, err := filters.StartDNS(tempDir(t),
		`sender.example. 60 IN TXT "v=spf1 ip4:198.51.100.7 ip4:198.51.100.8 -all"`,
		fmt.Sprintf(`s1._domainkey.sender.example. 60 IN TXT "v=DKIM1; k=rsa; p=%s" "%s"`, base64.StdEncoding.EncodeToString(public)[:200], base64.StdEncoding.EncodeToString(public)[200:]))
	must(t, err)
	t.Cleanup(d.Stop)
	o, err := filters.StartOpenDKIM(tempDir(t), d)
	must(t, err)
	t.Cleanup(o.Stop)
	x := withLog(t, "")
	x.Resolver = d.ResolvConf
	spf := filepath.Join(tempDir(t), "policyd-spf.conf")
	must(t, os.WriteFile(spf, []byte("debugLevel = 1\nHELO_reject = False\nMail_From_reject = Fail\nPermError_reject = False\nTempError_Defer = False\nskip_addresses = 127.0.0.1\n"+
		"Header_Type = AR\nAuthserv_Id = mx.example\n"), 0o644))
	x.services("policyd-spf unix - n n - 0 spawn user=nobody argv=/usr/bin/policyd-spf " + spf)
	must(t, x.Set("smtpd_milters = "+o.Milter(), "smtpd_recipient_restrictions = reject_unauth_destination, check_policy_service unix:private/policyd-spf"))
	x.apply()
	// What a policy service prepends, header_checks(5) sees, unlike what a milter adds: the table
	// that removes a client's own Authentication-Results removes this one, too.
	must(t, x.Service("cleanup_service_name=cleanup"))
	x.run()

	signed := func(tamper bool) mx.Message {
		var out bytes.Buffer
		body := "Hello"
		raw := "From: <alice@sender.example>\r\nTo: <bob@mx.example>\r\nSubject: hello\r\n\r\n" + body + "\r\n"
		must(t, dkim.Sign(&out, strings.NewReader(raw), &dkim.SignOptions{Domain: "sender.example", Selector: "s1", Signer: key, HeaderKeys: []string{"From", "To", "Subject"}}))
		header, _, _ := strings.Cut(out.String(), "\r\nFrom: ")
		m := message("hello")
		m.Headers = []string{header}
		if m.Body = body; tamper {
			m.Body = "Goodbye"
		}
		return m
	}
	for i, c := range []struct {
		name, client string
		message      mx.Message
		spf, dkim    string
	}{
		{"SPF and DKIM pass", "198.51.100.7", signed(false), "pass", "pass"},
		{"DKIM fails", "198.51.100.8", signed(true), "pass", "fail"},
		{"SPF fails: refused", "198.51.100.9", signed(false), "", ""},
	} {
		s, err := x.Dial(c.client)
		must(t, err)
		err = s.Deliver(c.message)
		if refused := err != nil; refused != (c.spf == "") {
			t.Errorf("%s: %v\n%s", c.name, err, x.Log())
		}
		s.Quit()
		events, err := x.daemon.WaitEvents(i + 1)
		must(t, err)
		e := events[i]
		if e.Client.Addr != c.client || e.Auth.SPF != c.spf || e.Auth.DKIM != c.dkim {
			t.Errorf("%s: %+v\n%s", c.name, e, x.Log())
		}
		if c.spf == "" && (e.Verdict.Class != "none" || e.Verdict.Source != "authentication") {
			t.Errorf("%s: %+v", c.name, e.Verdict)
		}
	}
}

// TestBlockLists has smtpd and postscreen ask a DNS block list of the test's own, and one that does
// not serve the test's resolver.
func TestBlockLists(t *testing.T) {
	t.Parallel()
	d, err := filters.StartDNS(tempDir(t),
		"7.100.51.198.bl.example. 60 IN A 127.0.0.2", `7.100.51.198.bl.example. 60 IN TXT "listed: greylist, Error-free"`,
		"8.100.51.198.bl.example. 60 IN A 127.0.0.2",
		"9.100.51.198.public.example. 60 IN A 127.255.255.254", `9.100.51.198.public.example. 60 IN TXT "Error: open resolver; https://check.example/returnc/pub/192.0.2.53/"`,
		"10.100.51.198.public.example. 60 IN A 127.255.255.254")
	must(t, err)
	t.Cleanup(d.Stop)
	x := withLog(t, "")
	x.Resolver = d.ResolvConf
	must(t, x.Set("smtpd_recipient_restrictions = reject_unauth_destination, reject_rbl_client bl.example, reject_rbl_client public.example",
		"postscreen_dnsbl_sites = bl.example, public.example", "postscreen_dnsbl_action = enforce", "postscreen_greet_wait = 4s"))
	x.apply()
	x.run()
	refused := func(client string) {
		s, err := x.Dial(client)
		must(t, err)
		if err := s.Deliver(message("hello")); err == nil || !strings.Contains(err.Error(), "blocked using") {
			t.Errorf("%s: %v", client, err)
		}
		s.Quit()
	}
	refused("198.51.100.7")
	x.waitOwn("198.51.100.7", `"spam":1,"ham":0`)
	refused("198.51.100.9")
	for _, client := range []string{"198.51.100.8", "198.51.100.10"} {
		c, err := x.DialRaw(client, x.ScreenPort)
		must(t, err)
		// It waits, and says nothing before its turn.
		time.Sleep(6 * time.Second)
		c.Close()
	}
	x.waitOwn("198.51.100.8", `"spam":1,"ham":0`)
	time.Sleep(4 * time.Second)
	events, err := x.daemon.Events()
	must(t, err)
	for _, client := range []string{"198.51.100.9", "198.51.100.10"} {
		if got := x.own(client); !strings.Contains(got, `"spam":0,"ham":0`) {
			t.Errorf("%s has %s, although the list said nothing of it\n%s\n%+v", client, got, x.Log(), events)
		}
	}
	if out, _ := x.daemon.Command("check", "--postfix-config", x.ConfigDir()); !strings.Contains(out, "does not serve this host's resolver") {
		t.Errorf("check: %s", out)
	}
	if !strings.Contains(x.daemon.Log(), "does not serve this host's resolver") {
		t.Error("the daemon says nothing")
	}
}

// TestTwentyUnknownUsersCountAsTwenty asks for them in one session, with the log read and not, and
// as the bounce that a forged sender causes.
func TestTwentyUnknownUsersCountAsTwenty(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, from string
		log        bool
		want       string
	}{
		{"milter and log", "alice@sender.example", true, `"spam":1,"ham":0`},
		{"milter alone", "alice@sender.example", false, `"spam":1,"ham":0`},
		{"a bounce", "", true, `"spam":0,"ham":0`},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := prepare(t, "")
			if c.log {
				must(t, x.daemon.Configure(filterTOML(x, "")))
			}
			must(t, x.Set("smtpd_milters =", "smtpd_soft_error_limit = 100", "smtpd_hard_error_limit = 100"))
			x.apply()
			x.run()
			s, err := x.Dial("198.51.100.7")
			must(t, err)
			must(t, s.Mail(c.from))
			for i := range 20 {
				if err := s.Rcpt(fmt.Sprintf("nobody%d@mx.example", i)); err == nil {
					t.Fatal("an unknown user is taken")
				}
			}
			must(t, s.Quit())
			time.Sleep(4 * time.Second)
			if got := x.own("198.51.100.7"); !strings.Contains(got, c.want) {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// TestReportSafe has SpamAssassin wrap a message, as it does by default, and a user report that.
func TestReportSafe(t *testing.T) {
	t.Parallel()
	x := start(t, "")
	for i, safe := range []int{0, 1, 2} {
		client := fmt.Sprintf("198.51.100.%d", 7+i)
		spam := fmt.Sprintf("Return-Path: <a@sender.example>\nReceived: from mail.sender.example (mail.sender.example [%s])\n\tby mx.example (Postfix) with ESMTPS id 4SPAM000000%d\n\tfor <bob@mx.example>; %s\n"+
			"Received: from victim.example (victim.example [203.0.113.98])\n\tby mx.example (Postfix) with ESMTP id 4FAKE000001; %[3]s\nFrom: a@sender.example\nTo: bob@mx.example\nSubject: hello\nMessage-ID: <1@sender.example>\n\n%s\n",
			client, i, time.Now().Format(time.RFC1123Z), filters.GTUBE)
		wrap := exec.Command("spamassassin", "--local", "--cf=use_bayes 0", fmt.Sprintf("--cf=report_safe %d", safe))
		wrap.Env = append(os.Environ(), "HOME="+tempDir(t))
		wrap.Stdin = strings.NewReader(spam)
		wrapped, err := wrap.Output()
		must(t, err)
		if !strings.Contains(string(wrapped), "X-Spam-Flag: YES") {
			t.Fatalf("SpamAssassin finds nothing:\n%s", wrapped)
		}
		file := filepath.Join(tempDir(t), "wrapped.eml")
		must(t, os.WriteFile(file, wrapped, 0o600))
		if out := x.command("learn", "spam", file); !strings.Contains(out, "1 new") {
			t.Errorf("report_safe %d: %s\n%s", safe, out, wrapped)
		}
		if got := x.own(client); !strings.Contains(got, `"spam":1,"ham":0`) {
			t.Errorf("report_safe %d: %s has %s", safe, client, got)
		}
	}
}
