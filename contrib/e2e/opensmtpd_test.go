package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
)

// TestOpenSMTPD connects a real OpenSMTPD by the lines that setup prints, with a file that export
// writes: a client in it has EHLO refused, says HELO and delivers its mail in the clear; the others
// are offered STARTTLS, whether the daemon runs or not.
func TestOpenSMTPD(t *testing.T) {
	t.Parallel()
	o, err := mx.NewOpenSMTPD(tempDir(t))
	must(t, err)
	d, err := mx.NewDaemon(binary, tempDir(t), "", "[policy]\nmode = 'protect'\nexempt = []\n[verdict]\nlocal_feed = true\n")
	must(t, err)
	lines, status := d.Command("setup", "opensmtpd")
	if status != 0 {
		t.Fatalf("setup: %d: %s", status, lines)
	}
	const documented = "/etc/mail/ehlogate-withheld"
	file := filepath.Join(o.Dir, "withheld")
	if !strings.Contains(lines, "ehlogate export --format list --output "+documented) {
		t.Errorf("it does not say how to write the file: %s", lines)
	}
	must(t, o.Configure(strings.ReplaceAll(lines, documented, file), `filter "ehlogate"`))
	must(t, d.Start())
	export := func() {
		t.Helper()
		if out, status := d.Command("export", "--format", "list", "--output", file); status != 0 {
			t.Fatalf("export: %d: %s", status, out)
		}
	}
	// Nobody is in it yet.
	export()
	must(t, d.Stop())
	startBeside(t, o, d)

	const denied, spams, good = "127.10.0.4", "127.10.0.5", "127.10.0.6"
	update := func() {
		t.Helper()
		export()
		must(t, o.UpdateTable("ehlogate"))
	}
	expect := func(client string, want bool) {
		t.Helper()
		session, err := o.DialFrom(client)
		must(t, err)
		defer session.Close()
		if session.Offered != want {
			t.Errorf("%s: STARTTLS offered: %v, want %v", client, session.Offered, want)
		}
		must(t, session.Deliver(mx.Message{From: "alice@client.example", To: []string{"bob@mx.example"}, Subject: "hello"}))
	}
	for _, client := range []string{denied, spams, good} {
		expect(client, true)
	}
	d.Command("deny", denied)
	for n := range 5 {
		r, err := http.Post(fmt.Sprintf("http://127.0.0.1:%d/feed/verdict", d.HTTP), "application/json", strings.NewReader(fmt.Sprintf(`{"ip":"%s","qid":"%d","action":"reject"}`, spams, n)))
		must(t, err)
		r.Body.Close()
	}
	waitUntil(t, func() bool {
		l, err := d.Lookup(spams)
		return err == nil && l.Tier == "bad"
	})
	update()
	expect(denied, false)
	expect(spams, false)
	expect(good, true)

	session, err := o.DialFrom(denied)
	must(t, err)
	if code, err := session.ForceTLS(); code != 220 || err != nil {
		t.Errorf("STARTTLS after HELO: %d, %v; the documents say that it is taken", code, err)
	}
	session.Close()
	deliversTo(t, o, denied)

	must(t, d.Stop())
	expect(denied, false)
	expect(good, true)
	must(t, d.Start())
	d.Command("forget", denied)
	update()
	expect(denied, true)
}

// deliversTo has a real Postfix, as a client of an address, send a message to an OpenSMTPD that
// refuses its EHLO.
func deliversTo(t *testing.T, o *mx.OpenSMTPD, client string) {
	t.Helper()
	p, err := mx.NewPostfix(tempDir(t))
	must(t, err)
	must(t, p.Set(fmt.Sprintf("relayhost = [127.0.0.1]:%d", o.Port), "smtp_bind_address = "+client, "smtp_tls_security_level = may",
		"mydestination =", "relay_domains = mx.example", "relay_recipient_maps =", "relay_transport = smtp"))
	must(t, p.Start())
	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			t.Logf("Postfix:\n%s", p.Log())
		}
	})
	if _, err := sends(t, p, "127.0.0.1", "from a queue", "bob@mx.example"); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, func() bool { return strings.Contains(p.Log(), "status=") })
	if log := p.Log(); !strings.Contains(log, "status=sent") {
		t.Errorf("Postfix does not deliver to it:\n%s", log)
	}
}
