package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
)

// sendmailDir is a directory below which Sendmail accepts certificates: nobody else may write to
// any above it, so that it cannot be below /tmp.
func sendmailDir(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	must(t, err)
	dir, err := os.MkdirTemp(filepath.Join(cache, "ehlogate"), "sendmail-test-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// besideSendmail is a Sendmail with a spam filter and the daemon, connected by the lines that setup
// prints.
func besideSendmail(t *testing.T, toml string) (*mx.Sendmail, *mx.Daemon) {
	t.Helper()
	filter, err := mx.StartFilter()
	must(t, err)
	t.Cleanup(filter.Stop)
	s, err := mx.NewSendmail(sendmailDir(t), "")
	must(t, err)
	d, err := mx.NewDaemon(binary, tempDir(t), "", "[policy]\nexempt = []\n[verdict]\nlog_file = '"+s.LogFile()+"'\n"+toml)
	must(t, err)
	lines, status := d.Command("setup", "sendmail", "--milter.users", strconv.Itoa(s.UserPort))
	if status != 0 {
		t.Fatalf("setup: %d: %s", status, lines)
	}
	host, port, _ := strings.Cut(strings.TrimPrefix(filter.Addr(), "inet:"), ":")
	must(t, s.Configure("INPUT_MAIL_FILTER(`filter', `S=inet:"+port+"@"+host+"')dnl\n"+lines))
	startBeside(t, s, d)
	return s, d
}

// startBeside starts an MTA and the daemon until the test ends.
func startBeside(t *testing.T, mta interface {
	Start() error
	Stop() error
	Log() string
}, d *mx.Daemon) {
	t.Helper()
	must(t, mta.Start())
	t.Cleanup(func() { mta.Stop() })
	must(t, d.Start())
	t.Cleanup(func() {
		d.Stop()
		if t.Failed() {
			t.Logf("daemon:\n%s\nMTA:\n%s", d.Log(), mta.Log())
		}
	})
}

// sends has a client of an MTA send a message, and tells whether it was offered STARTTLS, which it
// then uses.
func sends(t *testing.T, mta interface {
	DialFrom(string) (*mx.Session, error)
}, client, subject string, to ...string) (offered bool, err error) {
	t.Helper()
	session, err := mta.DialFrom(client)
	must(t, err)
	defer session.Close()
	must(t, session.UseTLS())
	if len(to) == 0 {
		to = []string{"root@mx.example"}
	}
	err = session.Deliver(mx.Message{From: "alice@client.example", To: to, Subject: subject})
	session.Quit()
	return session.Offered, err
}

// verdicts are the last verdict and its source on each message, by queue id, in the order in which
// they came.
func verdicts(t *testing.T, d *mx.Daemon, messages int) (all []mx.Event) {
	t.Helper()
	waitUntil(t, func() bool {
		events, err := d.Events()
		must(t, err)
		all = nil
		for _, e := range events {
			i := slices.IndexFunc(all, func(o mx.Event) bool { return o.QueueID == e.QueueID })
			switch {
			case e.QueueID == "":
			case i < 0:
				all = append(all, e)
			default:
				all[i].Verdict = e.Verdict
			}
		}
		settled := 0
		for _, e := range all {
			if e.Verdict.Class != "none" {
				settled++
			}
		}
		return settled == messages
	})
	return all
}

// TestSendmail connects a real Sendmail by the lines that setup prints: STARTTLS is not offered to
// a client whose mail a filter discards, the milter hears what filters say, and the log tells the
// rest.
func TestSendmail(t *testing.T) {
	t.Parallel()
	s, d := besideSendmail(t, "")
	const bad, good = "127.10.0.4", "127.10.0.5"
	for _, subject := range []string{"discard one", "discard two", "hold", "spam"} {
		if _, err := sends(t, s, bad, subject); err != nil {
			t.Errorf("%s: %v", subject, err)
		}
	}
	if offered, err := sends(t, s, good, "hello"); !offered || err != nil {
		t.Errorf("an unknown client: offered %v, %v", offered, err)
	}
	if _, err := sends(t, s, good, "hello", "root@elsewhere.example"); err == nil {
		t.Error("it relays")
	}
	all := verdicts(t, d, 6)
	for i, want := range []struct{ class, source string }{
		{"spam", "milter-discard"}, {"spam", "milter-discard"}, {"spam", "milter-hold"}, {"spam", "header"}, {"ham", "header"}, {"spam", "relay"},
	} {
		if got := all[i]; got.Verdict.Class != want.class || got.Verdict.Source != want.source {
			t.Errorf("message %d: %+v, want %+v", i, got.Verdict, want)
		}
	}
	if e := all[0]; e.STARTTLS != "offered" || e.TLS == nil || e.TLS.Version != "TLSv1.3" || e.Client.Name != "unknown" {
		t.Errorf("%+v", e)
	}
	if offered, err := sends(t, s, bad, "spam"); offered || err != nil {
		t.Errorf("a bad client: offered %v, %v", offered, err)
	}
	session, err := s.DialUser(bad)
	must(t, err)
	if !session.Offered {
		t.Error("STARTTLS is withheld at the port of the host's own users")
	}
	session.Close()
	session, err = s.DialFrom(bad)
	must(t, err)
	if code, err := session.ForceTLS(); code != 503 {
		t.Errorf("STARTTLS that is not offered: %d, %v", code, err)
	}
	session.Close()

	tooSoon(t, s, d, "127.10.0.6")
	overIPv6(t, s, d)
	withCertificates(t, s, d)

	// A daemon that hangs: Sendmail puts mail off, as long as it hangs.
	must(t, d.Signal(syscall.SIGSTOP))
	began := time.Now()
	if _, err := s.DialFrom(good); err == nil || !strings.Contains(err.Error(), "451") {
		t.Errorf("the daemon hangs: %v; setup says 451", err)
	}
	t.Logf("the daemon hangs: 451 after %v", time.Since(began).Round(time.Second/10))
	must(t, d.Signal(syscall.SIGCONT))
	if offered, err := sends(t, s, good, "hello"); !offered || err != nil {
		t.Errorf("it goes on: offered %v, %v", offered, err)
	}
	d.Kill()
	began = time.Now()
	if offered, err := sends(t, s, bad, "hello"); !offered || err != nil {
		t.Errorf("the daemon is away: offered %v, %v", offered, err)
	}
	t.Logf("the daemon is away: STARTTLS offered and mail taken, in %v", time.Since(began).Round(time.Millisecond))
	must(t, d.Start())
	if offered, err := sends(t, s, bad, "hello"); offered || err != nil {
		t.Errorf("it is there again: offered %v, %v", offered, err)
	}
	out, _ := d.Command("check", "--live-address", fmt.Sprintf("127.0.0.1:%d", s.Port))
	for _, want := range []string{"live: 127.0.0.1:", "live: the milter heard it", "live: the table was asked, and answered offered"} {
		if !strings.Contains(out, want) {
			t.Errorf("check does not say %q:\n%s", want, out)
		}
	}
}

// TestSendmailByList connects a Sendmail that reads a list: a daemon that hangs, or is away,
// refuses nobody, and the list stays in force.
func TestSendmailByList(t *testing.T) {
	t.Parallel()
	s, err := mx.NewSendmail(sendmailDir(t), "")
	must(t, err)
	d, err := mx.NewDaemon(binary, tempDir(t), "", "[policy]\nexempt = []\n[verdict]\nlog_file = '"+s.LogFile()+"'\n")
	must(t, err)
	list := filepath.Join(s.Dir, "withheld")
	lines, status := d.Command("setup", "sendmail", "--list", list, "--milter.users", strconv.Itoa(s.UserPort))
	if status != 0 {
		t.Fatalf("setup: %d: %s", status, lines)
	}
	must(t, s.Configure(lines))
	startBeside(t, s, d)
	const bad, other = "127.10.0.4", "127.10.0.5"
	listed := func() {
		t.Helper()
		if out, status := d.Command("export", "--format", "texthash", "--output", list); status != 0 {
			t.Fatalf("export: %d: %s", status, out)
		}
	}
	holds := func(when string, want bool) {
		t.Helper()
		for client, want := range map[string]bool{bad: want, other: true} {
			began := time.Now()
			offered, err := sends(t, s, client, "hello")
			if offered != want || err != nil {
				t.Errorf("%s: %s offered %v, want %v; %v", when, client, offered, want, err)
			}
			t.Logf("%s: %v", when, time.Since(began).Round(time.Second/10))
		}
	}
	holds("there is no list yet", true)
	listed()
	holds("nothing is listed", true)
	if out, status := d.Command("deny", bad); status != 0 {
		t.Fatalf("deny: %d: %s", status, out)
	}
	listed()
	holds("one is listed", false)
	session, err := s.DialUser(bad)
	must(t, err)
	if !session.Offered {
		t.Error("STARTTLS is withheld at the port of the host's own users")
	}
	session.Close()
	must(t, d.Signal(syscall.SIGSTOP))
	holds("the daemon hangs", false)
	must(t, d.Signal(syscall.SIGCONT))
	d.Kill()
	holds("the daemon is away", false)
	must(t, d.Start())
	d.Command("allow", bad)
	listed()
	holds("it is listed no more", true)
}

// tooSoon has a client of a Sendmail with FEATURE(greet_pause) speak before the greeting: it is
// refused, and the log tells.
func tooSoon(t *testing.T, s *mx.Sendmail, d *mx.Daemon, client string) {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}}
	c, err := dialer.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.Port))
	must(t, err)
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(c, "EHLO client.example\r\nMAIL FROM:<a@client.example>\r\nQUIT\r\n")
	replies, _ := io.ReadAll(c)
	waitUntil(t, func() bool {
		events, err := d.Events()
		must(t, err)
		return slices.ContainsFunc(events, func(e mx.Event) bool { return e.Client.Addr == client && e.Verdict.Source == "pregreet" })
	})
	if !strings.HasPrefix(string(replies), "554 ") {
		t.Errorf("it was told %q", replies)
	}
}

// overIPv6 has a client denied and allowed that Sendmail calls IPv6:fd00:0:0:0:0:0:2525:7. Its
// address is one of the loopback interface for as long: ::1 is always exempt.
func overIPv6(t *testing.T, s *mx.Sendmail, d *mx.Daemon) {
	t.Helper()
	const client = "fd00::2525:7"
	if out, err := exec.Command("ip", "-6", "addr", "add", client+"/128", "dev", "lo", "nodad").CombinedOutput(); err != nil {
		t.Fatalf("ip addr add: %v: %s", err, out)
	}
	defer exec.Command("ip", "-6", "addr", "del", client+"/128", "dev", "lo").Run()
	for _, c := range []struct {
		verb string
		want bool
	}{{"deny", false}, {"allow", true}} {
		if out, status := d.Command(c.verb, client); status != 0 {
			t.Fatalf("%s: %d: %s", c.verb, status, out)
		}
		if offered, err := sends(t, s, client, "hello"); offered != c.want || err != nil {
			t.Errorf("%s %s: offered %v, %v", c.verb, client, offered, err)
		}
	}
	waitUntil(t, func() bool {
		events, err := d.Events()
		must(t, err)
		own := slices.DeleteFunc(events, func(e mx.Event) bool { return e.Client.Addr != client || e.Event != "message" })
		return len(own) == 2
	})
}

// withCertificates has clients send with a certificate that Sendmail trusts, and with one that says
// the same and that it does not: only the former names anybody.
func withCertificates(t *testing.T, s *mx.Sendmail, d *mx.Daemon) {
	t.Helper()
	trusted, err := os.ReadFile(s.Chain())
	must(t, err)
	forged, err := mx.SelfSigned("mx.example")
	must(t, err)
	for client, c := range map[string]struct{ chain, want string }{
		"127.10.0.7": {string(trusted), "mx.example"}, "127.10.0.8": {forged, ""},
	} {
		certificate, err := tls.X509KeyPair([]byte(c.chain), []byte(c.chain))
		must(t, err)
		session, err := s.DialFrom(client)
		must(t, err)
		must(t, session.StartTLS(&tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{certificate}}))
		must(t, session.Deliver(mx.Message{From: "alice@client.example", To: []string{"root@mx.example"}, Subject: "hello"}))
		session.Quit()
		var got *mx.Event
		waitUntil(t, func() bool {
			events, err := d.Events()
			must(t, err)
			for i, e := range events {
				if e.Client.Addr == client && e.Event == "message" {
					got = &events[i]
				}
			}
			return got != nil
		})
		if got.TLS == nil || !strings.HasSuffix(got.TLS.CertSubject, c.want) || c.want == "" && got.TLS.CertSubject != "" {
			t.Errorf("a certificate of %q: %+v", c.want, got.TLS)
		}
	}
	if log := s.Log(); !strings.Contains(log, "verify=OK") || !strings.Contains(log, "verify=FAIL") {
		t.Errorf("Sendmail has not verified both:\n%s", log)
	}
}

// TestRulesOfAnOperatorStayInForce: rules of LOCAL_SRV_FEATURES behind those that setup prints see
// the client's name as before, and the listeners may be of IPv6.
func TestRulesOfAnOperatorStayInForce(t *testing.T) {
	t.Parallel()
	s, err := mx.NewSendmail(sendmailDir(t), "")
	must(t, err)
	d, err := mx.NewDaemon(binary, tempDir(t), "", "[policy]\nexempt = []\n")
	must(t, err)
	config, err := os.ReadFile(d.Config())
	must(t, err)
	must(t, os.WriteFile(d.Config(), []byte(strings.NewReplacer("socketmap = 'inet:127.0.0.1:", "socketmap = 'inet:[::1]:", `socketmap = "inet:127.0.0.1:`, `socketmap = "inet:[::1]:`).Replace(string(config))), 0o644))
	lines, status := d.Command("setup", "sendmail")
	if status != 0 || !strings.Contains(lines, "Kehlogate socket -t -d2 inet6:") {
		t.Fatalf("setup: %d: %s", status, lines)
	}
	before, notes, _ := strings.Cut(lines, "dnl 3.")
	must(t, s.Configure(before+"R$*.partner.example\t\t$# V\nR<?> $*.slow.example\t\t$# P\ndnl"+notes))
	must(t, d.Start())
	t.Cleanup(func() { d.Stop() })
	d.Command("deny", "192.0.2.7", "2001:db8::7")
	for _, c := range []struct{ name, addr, port, want string }{
		{"mail.partner.example", "192.0.2.8", "25", "$# V"},
		{"mail.other.example", "192.0.2.8", "25", "mail . other . example"},
		{"mail.partner.example", "192.0.2.7", "25", "$# S"},
		{"mail.partner.example", "192.0.2.7", "587", "$# V"},
		{"mail.other.example", "192.0.2.7", "465", "mail . other . example"},
		{"mail.other.example", "IPv6:2001:db8::7", "25", "$# S"},
		{"mail.other.example", "IPv6:2001:db8::8", "25", "mail . other . example"},
	} {
		got, err := s.Rules("srv_features", c.name, ".D{client_addr}"+c.addr, ".D{client_name}"+c.name, ".D{daemon_port}"+c.port)
		if must(t, err); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}
