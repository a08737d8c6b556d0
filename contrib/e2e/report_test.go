package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/ehlogate/ehlogate/contrib/e2e/filters"
	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
	"github.com/ehlogate/ehlogate/contrib/e2e/redisd"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/ledger"
)

// denied is a client from which STARTTLS is withheld.
const denied = "203.0.113.66"

// reporting is a cluster of exchangers of which reports are asked, with all that clients need.
type reporting struct {
	t           *testing.T
	nodes       []*exchanger
	redis       *redisd.Server
	key         *rsa.PrivateKey
	certificate tls.Certificate
	// next makes client addresses.
	next int
}

// newReporting starts two exchangers on one Redis: each with certificates of both kinds, a client
// CA, and an opendkim.
func newReporting(t *testing.T) *reporting {
	r := &reporting{t: t}
	var err error
	r.key, err = rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	public, err := x509.MarshalPKIXPublicKey(r.key.Public())
	must(t, err)
	text := base64.StdEncoding.EncodeToString(public)
	d, err := filters.StartDNS(tempDir(t), fmt.Sprintf(`s1._domainkey.signer.example. 60 IN TXT "v=DKIM1; k=rsa; p=%s" "%s"`, text[:200], text[200:]))
	must(t, err)
	t.Cleanup(d.Stop)
	o, err := filters.StartOpenDKIM(tempDir(t), d)
	must(t, err)
	t.Cleanup(o.Stop)
	client, err := mx.SelfSigned("partner.example")
	must(t, err)
	r.certificate, err = tls.X509KeyPair([]byte(client), []byte(client))
	must(t, err)
	ofECDSA, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	ecdsaChain, err := mx.SelfSignedBy("mx.example", ofECDSA)
	must(t, err)
	rsaChain, err := mx.SelfSignedBy("mx.example", r.key)
	must(t, err)
	r.redis = redisWithFile(t)
	for i := range 2 {
		x := prepareOn(t, "redis://"+r.redis.Addr(), "")
		must(t, x.daemon.Configure(fmt.Sprintf("[verdict]\nlog_file = '%s'\nauthserv_id = 'mx.example'\n[log]\nnode = 'mx%d'\n", filepath.Join(x.Dir, "mail.log"), i+1)))
		var files []string
		for name, content := range map[string]string{"rsa.pem": rsaChain, "ecdsa.pem": ecdsaChain, "clients.pem": client} {
			path := filepath.Join(x.Dir, name)
			must(t, os.WriteFile(path, []byte(content), 0o600))
			if name != "clients.pem" {
				files = append(files, path)
			}
		}
		must(t, x.Set("smtpd_milters = "+o.Milter()+", "+x.filter.Addr(), "smtpd_tls_chain_files = "+strings.Join(files, ", "), "smtpd_tls_ask_ccert = yes",
			"smtpd_tls_CAfile = "+filepath.Join(x.Dir, "clients.pem"), "smtpd_tls_mandatory_protocols = >=TLSv1", "smtpd_tls_protocols = >=TLSv1.2"))
		x.apply()
		x.run()
		r.nodes = append(r.nodes, x)
	}
	r.nodes[0].command("deny", denied)
	r.nodes[0].command("deny", "203.0.113.67")
	time.Sleep(2 * time.Second)
	return r
}

// client is an address that nobody has had yet, in a network of few.
func (r *reporting) client() string {
	r.next++
	return fmt.Sprintf("198.51.%d.%d", r.next/8, 1+r.next%8)
}

// sending is a session of a client, and what a report has of it.
type sending struct {
	name    string
	from    string
	tls     *tls.Config
	subject string
	signed  bool
	// handshake is "fail" for a client that breaks it off, mail says whether there is any.
	fails, mails bool
	// count is what it adds to a report, beside a session.
	count func(w *ledger.Report)
}

func versions(version uint16, suites ...uint16) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version, CipherSuites: suites}
}

// sessions are one session of each kind.
func (r *reporting) sessions() []sending {
	withCertificate := versions(tls.VersionTLS13)
	withCertificate.Certificates = []tls.Certificate{r.certificate}
	return []sending{
		{"spam over TLS 1.3", r.client(), versions(tls.VersionTLS13), "spam", false, false, true, nil},
		{"ham over TLS 1.3", r.client(), versions(tls.VersionTLS13), "hello", false, false, true, nil},
		{"spam over TLS 1.2, RSA", r.client(), versions(tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256), "spam", false, false, true, nil},
		{"ham over TLS 1.2, ECDSA", r.client(), versions(tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256), "hello", false, false, true, nil},
		{"ham in the clear", r.client(), nil, "hello", false, false, true, nil},
		{"spam in the clear", r.client(), nil, "spam", false, false, true, nil},
		{"no verdict", r.client(), nil, "mute", false, false, true, nil},
		{"spam, withheld", denied, versions(tls.VersionTLS13), "spam", false, false, true, nil},
		{"left, withheld", "203.0.113.67", versions(tls.VersionTLS13), "", false, false, false, nil},
		{"a failed handshake", r.client(), nil, "", false, true, false, nil},
		{"only EHLO", r.client(), nil, "", false, false, false, nil},
		{"ham with a client certificate", r.client(), withCertificate, "hello", false, false, true, nil},
		{"spam signed with DKIM", r.client(), versions(tls.VersionTLS13), "spam", true, false, true, nil},
	}
}

func (r *reporting) play(x *exchanger, s sending) error {
	c, err := x.Dial(s.from)
	if err != nil {
		return err
	}
	defer c.Close()
	switch {
	case s.fails:
		if code, err := c.ForceTLS(); err != nil || code != 220 {
			return fmt.Errorf("STARTTLS: %d %w", code, err)
		}
		fmt.Fprint(c.Text.W, "this is no client hello\r\n")
		c.Text.W.Flush()
		c.Text.R.ReadByte()
		return nil
	case s.tls != nil && c.Offered:
		if err := c.StartTLS(s.tls); err != nil {
			return err
		}
	}
	if s.mails {
		if err := c.Deliver(r.message(s)); err != nil {
			return err
		}
	}
	return c.Quit()
}

func (r *reporting) message(s sending) mx.Message {
	m := message(s.subject)
	if !s.signed {
		return m
	}
	var out bytes.Buffer
	raw := "From: <alice@sender.example>\r\nTo: <bob@mx.example>\r\nSubject: " + s.subject + "\r\n\r\nHello\r\n"
	must(r.t, dkim.Sign(&out, strings.NewReader(raw), &dkim.SignOptions{Domain: "signer.example", Selector: "s1", Signer: r.key, HeaderKeys: []string{"From", "To", "Subject"}}))
	header, _, _ := strings.Cut(out.String(), "\r\nFrom: ")
	m.Headers = []string{header}
	return m
}

// report asks a node for a report.
func (r *reporting) report(x *exchanger, args ...string) *ledger.Report {
	r.t.Helper()
	var got ledger.Report
	out := x.command(append([]string{"report", "--json", "--since", "3h"}, args...)...)
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		r.t.Fatalf("%v: %s", err, out)
	}
	return &got
}

// reported are the figures of a report that must be what was sent.
type reported struct {
	Messages   map[policy.Class]ledger.Transport
	STARTTLS   map[policy.Answer]int64
	TLS        map[string]int64
	Handshakes ledger.Handshakes
	Versions   map[string]ledger.Classed
	Ciphers    map[string]ledger.Classed
	Exchanges  map[string]ledger.Classed
	Sessions   int64
	Domain     map[string][2]int64
	DKIM       map[string][2]int64
	Certs      map[string][2]int64
}

func reportedBy(r *ledger.Report) reported {
	named := func(kind ledger.Kind) map[string][2]int64 {
		all := map[string][2]int64{}
		for _, row := range r.Top[kind] {
			all[row.Name] = [2]int64{row.Spam.Sum(), row.Ham.Sum()}
		}
		return all
	}
	h := r.Handshakes
	h.SavedSeconds, h.CostMilliseconds = 0, 0
	return reported{r.Messages, r.STARTTLS, r.TLS, h, r.Versions, r.Ciphers, r.Exchanges, r.Sessions, named(ledger.ByDomain), named(ledger.ByDKIM), named(ledger.ByCertificate)}
}

// sent is what one round of sessions comes to, times n.
func sent(n int64) reported {
	return reported{
		Messages:   map[policy.Class]ledger.Transport{policy.Spam: {TLS: 3 * n, Plain: 2 * n}, policy.Ham: {TLS: 3 * n, Plain: n}, policy.None: {Plain: n}},
		STARTTLS:   map[policy.Answer]int64{policy.Offered: 11 * n, policy.Withheld: 2 * n, policy.Unasked: 0},
		TLS:        map[string]int64{"none": 7 * n, "TLSv1.3": 4 * n, "TLSv1.2": 2 * n},
		Handshakes: ledger.Handshakes{Done: 6 * n, Avoided: 2 * n, Failed: n, Left: n},
		Versions:   map[string]ledger.Classed{"none": {Spam: 2 * n, Ham: n, None: n}, "TLSv1.3": {Spam: 2 * n, Ham: 2 * n}, "TLSv1.2": {Spam: n, Ham: n}},
		Ciphers:    map[string]ledger.Classed{"AES-GCM": {Spam: 3 * n, Ham: 2 * n}, "CHACHA20": {Ham: n}},
		Exchanges:  map[string]ledger.Classed{"TLSv1.3": {Spam: 2 * n, Ham: 2 * n}, "ECDHE": {Spam: n, Ham: n}},
		Sessions:   13 * n,
		Domain:     map[string][2]int64{"sender.example": {5 * n, 4 * n}},
		DKIM:       map[string][2]int64{"signer.example": {n, 0}},
		Certs:      map[string][2]int64{},
	}
}

// await waits until a node's report has certain figures.
func (r *reporting) await(x *exchanger, want reported, args ...string) {
	r.t.Helper()
	var got reported
	for range 40 {
		if got = reportedBy(r.report(x, args...)); reflect.DeepEqual(got, want) {
			return
		}
		time.Sleep(time.Second)
	}
	r.t.Errorf("the report has\n     %+v\nwant %+v\n%s", got, want, x.Log())
}

// TestTheReportEqualsWhatWasSent plays a session of each kind at both nodes of a cluster, and holds
// the reports of both against what was sent: in every form, and after both daemons were killed.
func TestTheReportEqualsWhatWasSent(t *testing.T) {
	t.Parallel()
	r := newReporting(t)
	for _, x := range r.nodes {
		for _, s := range r.sessions() {
			if err := r.play(x, s); err != nil {
				t.Fatalf("%s: %v\n%s", s.name, err, x.Log())
			}
		}
	}
	both := sent(2)
	for _, x := range r.nodes {
		r.await(x, both)
	}
	t.Run("of one node", func(t *testing.T) {
		for _, x := range r.nodes {
			r.await(x, sent(1), "--node", "mx2")
		}
		if out, status := r.nodes[0].daemon.Command("report", "--node", "mx3"); status == 0 || !strings.Contains(out, `no node is called "mx3"; there are mx1, mx2`) {
			t.Errorf("of a node that there is not: %d: %s", status, out)
		}
	})
	t.Run("after kill -9", func(t *testing.T) {
		for _, x := range r.nodes {
			x.daemon.Kill()
		}
		for _, x := range r.nodes {
			must(t, x.daemon.Start())
		}
		for _, x := range r.nodes {
			r.await(x, both)
		}
	})
	t.Run("from the event logs", func(t *testing.T) {
		var files []string
		for _, x := range r.nodes {
			files = append(files, "--events", filepath.Join(x.daemon.Dir, "data", "events.ndjson"))
		}
		r.await(r.nodes[0], both, files...)
	})
	t.Run("after Redis has lost it all", func(t *testing.T) {
		_, err := r.redis.Do("FLUSHALL")
		must(t, err)
		// Nobody sends anything meanwhile.
		for _, x := range r.nodes {
			r.await(x, both)
		}
	})
	t.Run("after a node has lost its counts", func(t *testing.T) {
		d := r.nodes[1].daemon
		must(t, d.Stop())
		must(t, os.Remove(filepath.Join(d.Dir, "data", "ledger.db")))
		must(t, d.Start())
		for _, x := range r.nodes {
			r.await(x, both)
		}
	})
	t.Run("as CSV", func(t *testing.T) {
		out := r.nodes[0].command("report", "--csv", "--by", "hour", "--since", "3h")
		rows, err := csv.NewReader(strings.NewReader(out)).ReadAll()
		must(t, err)
		sums := map[string]int64{}
		for _, row := range rows[1:] {
			for i, cell := range row {
				n, _ := strconv.ParseInt(cell, 10, 64)
				sums[rows[0][i]] += n
			}
		}
		for name, want := range map[string]int64{"spam_tls": 6, "spam_plain": 4, "ham_tls": 6, "ham_plain": 2, "none": 2, "starttls_withheld": 4, "handshakes_failed": 2, "left": 2} {
			if sums[name] != want {
				t.Errorf("%s is %d; want %d\n%s", name, sums[name], want, out)
			}
		}
	})
	t.Run("as text", func(t *testing.T) {
		out := r.nodes[1].command("report", "--since", "3h")
		for _, want := range []string{
			"spam               6             4", "ham                6             2", "26 sessions", "offered in 22 and withheld in 4", "12 TLS handshakes; at most 4 avoided",
			"2 handshakes failed; 2 sessions left", "signer.example", "nodes mx1, mx2",
		} {
			// Sentences are in lines of 80 columns.
			if !strings.Contains(out, want) && !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
	})
	t.Run("as a page, and on the page", func(t *testing.T) {
		out := r.nodes[0].command("report", "--html", "-", "--since", "3h")
		answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", r.nodes[1].daemon.HTTP))
		must(t, err)
		defer answer.Body.Close()
		shown, err := io.ReadAll(answer.Body)
		must(t, err)
		for what, text := range map[string]string{"the report's page": out, "the daemon's page": string(shown)} {
			for _, want := range []string{"<b>60.0 %</b>of the spam came over TLS <small>6 of 10 messages", "<b>50.0 %</b>of what came over TLS was spam", "<b>4</b>handshakes avoided", "26 sessions", "sender.example"} {
				if !strings.Contains(text, want) {
					t.Errorf("%s has no %q\n%s", what, want, text)
				}
			}
		}
	})
	t.Run("by who sent most", func(t *testing.T) {
		out := r.nodes[0].command("top", "--by", "address", "--json", "-n", "1")
		var row ledger.Row
		must(t, json.Unmarshal([]byte(out), &row))
		if row.Name != denied || row.Spam.Plain != 2 || row.Withheld != 2 {
			t.Errorf("%s", out)
		}
		if out := r.nodes[0].command("top", "--by", "network", "--measure", "broken-tls"); !strings.Contains(out, "FAILED") {
			t.Errorf("%s", out)
		}
	})
	t.Run("in the metrics of both nodes", func(t *testing.T) {
		for i, x := range r.nodes {
			// They were killed, and what they had counted before is counted no more.
			must(t, r.play(x, r.sessions()[0]))
			must(t, r.play(x, r.sessions()[9]))
			for name, want := range map[string]float64{`ehlogate_heard_messages_total{class="spam",tls="yes"}`: 1, `ehlogate_heard_handshakes_total{result="failed"}`: 1, `ehlogate_heard_sessions_total{starttls="offered",tls="yes"}`: 1} {
				var got float64
				for range 20 {
					var err error
					if got, err = x.daemon.Metric(name); got == want {
						break
					}
					must(t, err)
					time.Sleep(500 * time.Millisecond)
				}
				if got != want {
					t.Errorf("node %d: %s is %v; want %v", i, name, got, want)
				}
			}
		}
	})
	t.Run("at once, of both nodes", func(t *testing.T) {
		lines := make(chan string, 1)
		go func() {
			out, _ := r.nodes[0].daemon.Command("tail", "--spam", "-n", "2")
			lines <- out
		}()
		// The other node learns within seconds that somebody watches.
		time.Sleep(4 * time.Second)
		for _, x := range r.nodes {
			must(t, r.play(x, r.sessions()[5]))
		}
		select {
		case out := <-lines:
			if !strings.Contains(out, " mx1 ") || !strings.Contains(out, " mx2 ") || strings.Count(out, "\n") != 1+2 {
				t.Errorf("tail shows\n%s", out)
			}
		case <-time.After(20 * time.Second):
			t.Error("tail shows nothing")
		}
	})
}
