package e2e

import (
	"fmt"
	"math"
	"net/smtp"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/filters"
	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
)

// feedToken is the name of the file from which Exim reads the token.
const feedToken = "feed-token"

// besideExim is an Exim with a real SpamAssassin and the daemon, connected by the lines that setup
// prints: all that are not comments, and the ACL with its marks taken off. The settings are added
// to the daemon's; LOG in them is Exim's log.
func besideExim(t *testing.T, settings string) (*mx.Exim, *mx.Daemon) {
	t.Helper()
	sa, err := filters.StartSpamAssassin(tempDir(t), 15)
	must(t, err)
	t.Cleanup(sa.Stop)
	e, err := mx.NewExim(tempDir(t))
	must(t, err)
	d, err := mx.NewDaemon(binary, tempDir(t), "", "[policy]\nexempt = []\n"+strings.ReplaceAll(settings, "LOG", e.LogFile()))
	must(t, err)
	token, err := d.FeedToken()
	must(t, err)
	// Exim's user has to be able to read the token.
	readable := filepath.Join(e.Dir, feedToken)
	must(t, os.WriteFile(readable, []byte(token), 0o644))
	lines, status := d.Command("setup", "exim", "--debian=false", "--required-score", "5", "--http.feed_token_file", readable, "--milter.users", strconv.Itoa(e.UserPort))
	if status != 0 {
		t.Fatalf("setup: %d: %s", status, lines)
	}
	var section, acl strings.Builder
	fmt.Fprintf(&section, "spamd_address = 127.0.0.1 %d\n", sa.Spamd)
	main, inACL, _ := strings.Cut(lines, "# and in the ACL")
	for line := range strings.Lines(main) {
		if !strings.HasPrefix(line, "#") {
			section.WriteString(line)
		}
	}
	for line := range strings.Lines(inACL) {
		line, _ = strings.CutPrefix(line, "#")
		if strings.HasPrefix(line, "  ") {
			acl.WriteString(line)
		}
	}
	must(t, e.Configure(section.String(), acl.String()+"  deny message = This message scored $spam_score spam points\n    condition = ${if >{$spam_score_int}{80}}\n"))
	startBeside(t, e, d)
	return e, d
}

// TestExim connects a real Exim by the lines that setup prints: the log tells what came in and what
// was refused, the ACL what SpamAssassin said, and STARTTLS is not offered to a client that sends
// spam.
func TestExim(t *testing.T) {
	t.Parallel()
	e, d := besideExim(t, "[verdict]\nlog_file = 'LOG'\n")
	send := func(client, subject string, to ...string) (offered bool, err error) {
		t.Helper()
		return sends(t, e, client, subject, to...)
	}
	const bad, good, middling = "127.10.0.4", "127.10.0.5", "127.10.0.6"
	if offered, err := send(good, "hello"); !offered || err != nil {
		t.Errorf("an unknown client: offered %v, %v", offered, err)
	}
	if _, err := send(good, "hello", "root@elsewhere.example"); err == nil {
		t.Error("it relays")
	}
	if _, err := send(bad, "score9"); err == nil {
		t.Error("spam is taken")
	}
	if _, err := send(bad, "score9 again"); err == nil {
		t.Error("spam is taken")
	}
	// Spam that is just over SpamAssassin's limit, whose text tries to pass for its report.
	session, err := e.DialFrom(middling)
	must(t, err)
	must(t, session.UseTLS())
	must(t, session.Deliver(mx.Message{From: "alice@client.example", To: []string{"root@mx.example"}, Subject: "score3", Body: "Content analysis details: (9.0 points, 9999.0 required)"}))
	session.Quit()
	var events []mx.Event
	waitUntil(t, func() bool {
		var err error
		events, err = d.Events()
		must(t, err)
		return len(events) >= 5
	})
	find := func(client, source string) (found []mx.Event) {
		for _, e := range events {
			if e.Client.Addr == client && e.Verdict.Source == source {
				found = append(found, e)
			}
		}
		return found
	}
	if got := find(good, "feed"); len(got) != 1 || got[0].Verdict.Class != "ham" || got[0].TLS == nil || got[0].TLS.Version != "TLSv1.3" || got[0].STARTTLS != "offered" || got[0].Outcome != "accepted" {
		t.Errorf("the message that was taken: %+v", got)
	}
	if got := find(good, "relay"); len(got) != 1 || got[0].Verdict.Class != "spam" {
		t.Errorf("relaying: %+v", got)
	}
	if got := find(bad, "feed"); len(got) != 2 || got[0].Verdict.Class != "spam" || got[0].Outcome != "rejected" || got[0].TLS == nil {
		t.Errorf("spam that was refused: %+v", got)
	}
	// Spam counts half at the limit, which is 5, and whole at twice that.
	if got := find(middling, "feed"); len(got) != 1 || got[0].Verdict.Class != "spam" || math.Abs(got[0].Verdict.Weight-got[0].Verdict.Score/10) > 0.01 {
		t.Errorf("spam just over the limit: %+v", got)
	}
	if len(events) != 5 {
		t.Errorf("%d events of 5 messages: %+v", len(events), events)
	}
	if offered, _ := send(bad, "score9"); offered {
		t.Error("STARTTLS is offered to a bad client")
	}
	session, err = e.DialUser(bad)
	must(t, err)
	if !session.Offered {
		t.Error("STARTTLS is withheld at the port of the host's own users")
	}
	session.Close()
	session, err = e.DialFrom(bad)
	must(t, err)
	if code, err := session.ForceTLS(); code != 503 && code != 554 && code != 454 {
		t.Errorf("STARTTLS that is not offered: %d, %v", code, err)
	}
	session.Close()

	for what, s := range map[string]syscall.Signal{"hangs": syscall.SIGSTOP, "is away": syscall.SIGKILL} {
		must(t, d.Signal(s))
		began := time.Now()
		if offered, err := send(good, "hello"); !offered || err != nil {
			t.Errorf("the daemon %s: offered %v, %v", what, offered, err)
		}
		t.Logf("the daemon %s: STARTTLS offered and mail taken, in %v", what, time.Since(began).Round(time.Second/10))
		if s == syscall.SIGSTOP {
			must(t, d.Signal(syscall.SIGCONT))
		} else {
			d.Kill()
			must(t, d.Start())
		}
	}
	if offered, _ := send(bad, "score9"); offered {
		t.Error("STARTTLS is offered to a bad client after a restart")
	}
}

// TestEximByPostsAlone: where Exim's log is not followed, its ACL tells how a message came in, too.
func TestEximByPostsAlone(t *testing.T) {
	t.Parallel()
	e, d := besideExim(t, "")
	const client, withheld = "127.10.0.5", "127.10.0.6"
	d.Command("deny", withheld)
	for _, addr := range []string{client, withheld} {
		if _, err := sends(t, e, addr, "hello"); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
	for _, m := range verdicts(t, d, 2) {
		over := m.TLS != nil && m.TLS.Version == "TLSv1.3" && m.TLS.Cipher != "" && m.TLS.Bits > 0
		if m.Client.Addr == client && !over || m.Client.Addr == withheld && (m.TLS != nil || !m.InClear) {
			t.Errorf("%+v, over %+v", m, m.TLS)
		}
	}
	// A token that cannot be read costs verdicts, and holds up no mail.
	must(t, os.Remove(filepath.Join(e.Dir, feedToken)))
	if _, err := sends(t, e, client, "hello"); err != nil {
		t.Errorf("without a token: %v", err)
	}
}

// TestEximSaysNothingOfUsers: what users send who have logged in, or at a port of theirs, is
// nothing that is said of their addresses, whether the log is followed or not.
func TestEximSaysNothingOfUsers(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]string{"by posts alone": "", "with the log": "[verdict]\nlog_file = 'LOG'\n"} {
		t.Run(name, func(t *testing.T) {
			e, d := besideExim(t, settings)
			const user, atTheirPort, stranger = "127.10.0.7", "127.10.0.8", "127.10.0.9"
			for client, dial := range map[string]func(string) (*mx.Session, error){user: e.DialFrom, atTheirPort: e.DialUser, stranger: e.DialFrom} {
				s, err := dial(client)
				must(t, err)
				must(t, s.UseTLS())
				if client != stranger {
					must(t, s.Auth(smtp.PlainAuth("", "bob", "secret", "mx.example")))
				}
				// SpamAssassin is not asked about users here.
				if err := s.Deliver(mx.Message{From: "bob@mx.example", To: []string{"root@mx.example"}, Subject: "score9"}); (err != nil) != (client == stranger) {
					t.Errorf("%s: %v", client, err)
				}
				s.Quit()
			}
			waitUntil(t, func() bool {
				l, err := d.Lookup(stranger)
				must(t, err)
				return l.Score > 0
			})
			for _, client := range []string{user, atTheirPort} {
				if out, _ := d.Command("explain", client); !strings.Contains(out, "none: the client is a stranger") {
					t.Errorf("%s: %s", client, out)
				}
			}
		})
	}
}

// TestEximOfDebian puts the lines that setup prints for Debian where it says: Debian's own script
// makes a configuration of them, split or not, and Exim takes it.
func TestEximOfDebian(t *testing.T) {
	t.Parallel()
	e, err := mx.NewExim(tempDir(t))
	must(t, err)
	d, err := mx.NewDaemon(binary, tempDir(t), "", "")
	must(t, err)
	lines, status := d.Command("setup", "exim", "--debian")
	if status != 0 {
		t.Fatalf("setup: %d: %s", status, lines)
	}
	acl := filepath.Join(e.Dir, "acl")
	var statements string
	for line := range strings.Lines(lines) {
		if strings.HasPrefix(line, "#  ") {
			statements += strings.TrimPrefix(line, "#")
		}
	}
	_, statements, _ = strings.Cut(statements, "  log_file = \"/var/log/exim4/mainlog\"\n")
	must(t, os.WriteFile(acl, []byte(statements), 0o644))
	for _, split := range []bool{true, false} {
		out, err := e.Debians(split, "MAIN_LOG_SELECTOR = +tls_sni\n"+lines+"MAIN_TLS_ENABLE = true\nCHECK_DATA_LOCAL_ACL_FILE = "+acl+"\n", "tls_advertise_hosts", "log_selector")
		if err != nil {
			t.Errorf("split %v: %v\nthe ACL:\n%s", split, err, statements)
			continue
		}
		for _, want := range []string{"tls_advertise_hosts = ${if inlist{$received_port}{587:465}{*}", "readsocket{inet:127.0.0.1:", "+tls_cipher", "+smtp_syntax_error", "+tls_sni"} {
			if !strings.Contains(out, want) {
				t.Errorf("split %v: no %s in\n%s", split, want, out)
			}
		}
	}
}
