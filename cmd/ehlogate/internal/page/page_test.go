package page

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/eventlog"
	"github.com/ehlogate/ehlogate/policy/ledger"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

const token = "a token of these tests"

// site is the page of a daemon that has counted some messages of a client.
type site struct {
	*httptest.Server
	t       *testing.T
	changes []api.Change
	client  http.Client
	log     bytes.Buffer
}

func newSite(t *testing.T, e *ledger.Entry) *site {
	l, err := ledger.Open(ledger.Options{Now: func() time.Time { return noon }, Network: func(a netip.Addr) netip.Prefix { n, _ := a.Prefix(24); return n }})
	if err != nil {
		t.Fatal(err)
	}
	l.Count(e, false)
	s := &site{t: t}
	server := &Server{
		Log:    slog.New(slog.NewTextHandler(&s.log, nil)),
		Status: func() api.Status { return api.Status{Node: "mx1"} },
		Report: func(ctx context.Context, since, until time.Time, v ledger.View) (*ledger.Report, error) {
			b, err := l.Read(ctx, since, until.Add(time.Second))
			if err != nil {
				return nil, err
			}
			return b.Report(v), nil
		},
		Explain: func(a netip.Addr) api.Explanation {
			return api.Explanation{Lookup: api.Lookup{Addr: a.String(), STARTTLS: "offer"}}
		},
		Change: func(c api.Change) (api.Changed, error) {
			s.changes = append(s.changes, c)
			return api.Changed{Network: c.Network}, nil
		},
		Recent: func(addr string) ([]eventlog.Event, error) {
			o := &policy.Observation{Message: policy.Message{Time: noon, Client: policy.Client{Addr: e.Addr}}, HELO: `<script>alert("HELO")</script>`}
			return []eventlog.Event{*eventlog.Of(o, "mx1")}, nil
		},
		Token: func(given string) bool { return given == token },
		Now:   func() time.Time { return noon },
	}
	mux := http.NewServeMux()
	server.Register(mux)
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return s
}

// ask sends a request with a cookie and returns the answer with its body.
func (s *site) ask(method, path, cookie string, form url.Values) (*http.Response, string) {
	s.t.Helper()
	r, err := http.NewRequest(method, s.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if cookie != "" {
		r.Header.Set("Cookie", cookie)
	}
	answer, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer, string(body)
}

// login logs in and returns the cookie, and the secret of the forms.
func (s *site) login() (cookie, csrf string) {
	s.t.Helper()
	answer, _ := s.ask("POST", "/login", "", url.Values{"token": {token}})
	set := answer.Header.Get("Set-Cookie")
	cookie, _, _ = strings.Cut(set, ";")
	for _, want := range []string{"HttpOnly", "SameSite=Strict"} {
		if !strings.Contains(set, want) {
			s.t.Errorf("the cookie is %q, without %s", set, want)
		}
	}
	_, body := s.ask("GET", "/client?q=192.0.2.7", cookie, nil)
	_, rest, _ := strings.Cut(body, `name="csrf" value="`)
	csrf, _, _ = strings.Cut(rest, `"`)
	return cookie, csrf
}

func entry() *ledger.Entry {
	return &ledger.Entry{Time: noon, Addr: netip.MustParseAddr("192.0.2.7"), Message: true, Session: true, Verdict: policy.Verdict{Class: policy.Spam}, Facts: policy.Facts{FromDomain: "sender.example", STARTTLS: policy.Offered}}
}

// TestWhatClientsSendIsText: markup in a domain, a certificate or a search is shown as it is.
func TestWhatClientsSendIsText(t *testing.T) {
	e := entry()
	const markup = `<script>alert(1)</script>"'.example`
	e.FromDomain, e.Auth = markup, policy.Auth{DKIM: "pass", DKIMDomain: markup}
	e.TLS = &policy.TLS{Version: markup, Cipher: markup, CertSubject: markup}
	s := newSite(t, e)
	for _, path := range []string{"/", "/client?q=" + url.QueryEscape(markup), "/client?q=" + url.QueryEscape(`<img src=x onerror=alert(1)>`)} {
		answer, body := s.ask("GET", path, "", nil)
		if strings.Contains(body, "<script>alert") || strings.Contains(body, "<img") {
			t.Errorf("%s has markup of a client", path)
		}
		if path != "/" && !strings.Contains(body, "&lt;") {
			t.Errorf("%s does not show what was asked for", path)
		}
		if got := answer.Header.Get("Content-Security-Policy"); !strings.Contains(got, "default-src 'none'") || strings.Contains(got, "unsafe") {
			t.Errorf("%s: Content-Security-Policy is %q", path, got)
		}
	}
}

// TestSessionsAreShownToWhoHasLoggedIn, with the HELO as text.
func TestSessionsAreShownToWhoHasLoggedIn(t *testing.T) {
	s := newSite(t, entry())
	if _, body := s.ask("GET", "/client?q=192.0.2.7", "", nil); strings.Contains(body, "HELO") {
		t.Error("sessions are shown to everybody")
	}
	cookie, _ := s.login()
	_, body := s.ask("GET", "/client?q=192.0.2.7", cookie, nil)
	if !strings.Contains(body, "&lt;script&gt;alert(&#34;HELO&#34;)&lt;/script&gt;") || strings.Contains(body, "<script>alert") {
		t.Errorf("the HELO is not shown as text:\n%s", body)
	}
}

// TestChangesNeedALoginAndTheSecretOfItsForms.
func TestChangesNeedALoginAndTheSecretOfItsForms(t *testing.T) {
	s := newSite(t, entry())
	form := url.Values{"verb": {"deny"}, "network": {"192.0.2.7"}, "note": {"drones"}, "for": {"7d"}}
	cookie, csrf := s.login()
	if csrf == "" {
		t.Fatal("the form has no secret")
	}
	for name, c := range map[string]struct{ cookie, csrf string }{
		"nobody": {}, "a cookie alone": {cookie, ""}, "a guessed secret": {cookie, "A"}, "another cookie": {"ehlogate=AAAA", csrf},
	} {
		form.Set("csrf", c.csrf)
		if answer, _ := s.ask("POST", "/change", c.cookie, form); answer.StatusCode != http.StatusForbidden || len(s.changes) > 0 {
			t.Errorf("%s: status %d, changes %v", name, answer.StatusCode, s.changes)
		}
	}
	form.Set("csrf", csrf)
	answer, _ := s.ask("POST", "/change", cookie, form)
	if answer.StatusCode != http.StatusSeeOther || answer.Header.Get("Location") != "client?q=192.0.2.7" || len(s.changes) != 1 || s.changes[0] != (api.Change{Verb: "deny", Network: "192.0.2.7", Note: "drones", For: "7d", By: "page"}) {
		t.Errorf("status %d to %q, changes %v", answer.StatusCode, answer.Header.Get("Location"), s.changes)
	}
	s.ask("POST", "/logout", cookie, url.Values{"csrf": {csrf}})
	if answer, _ := s.ask("POST", "/change", cookie, form); answer.StatusCode != http.StatusForbidden {
		t.Errorf("after the logout: status %d", answer.StatusCode)
	}
}

// TestANetworkIsANetwork: its page has what its hosts sent, and the form is about all of it; but a
// form changes no more than one network can have.
func TestANetworkIsANetwork(t *testing.T) {
	s := newSite(t, entry())
	cookie, csrf := s.login()
	_, body := s.ask("GET", "/client?q=192.0.2.0%2F24", cookie, nil)
	if !strings.Contains(body, `value="192.0.2.0/24"`) || !strings.Contains(body, "1 in the clear") {
		t.Errorf("the page of a network is\n%s", body)
	}
	for _, all := range []string{"0.0.0.0/0", "10.0.0.0/8", "::/0"} {
		s.ask("POST", "/change", cookie, url.Values{"verb": {"deny"}, "network": {all}, "csrf": {csrf}})
	}
	if len(s.changes) > 0 {
		t.Errorf("changed: %v", s.changes)
	}
}

// TestWrongLoginsKeepNobodyOut: whoever has the token gets in, and the log says that tokens are
// tried.
func TestWrongLoginsKeepNobodyOut(t *testing.T) {
	s := newSite(t, entry())
	for range 50 {
		if answer, body := s.ask("POST", "/login", "", url.Values{"token": {"guess"}}); answer.StatusCode != http.StatusForbidden || !strings.Contains(body, "That is not the token.") {
			t.Fatalf("status %d: %s", answer.StatusCode, body)
		}
	}
	s.login()
	if got := strings.Count(s.log.String(), "a login with a wrong token was refused"); got != 1 {
		t.Errorf("said %d times: %s", got, &s.log)
	}
}

// TestVolumeHasAUnitThatSuits a small site as a large one.
func TestVolumeHasAUnitThatSuits(t *testing.T) {
	for n, want := range map[int64]string{0: "0 messages a day", 30: "30 messages a day", 480: "20 messages an hour", 144_000: "100 messages a minute", 8_640_000: "100 messages a second"} {
		r := &ledger.Report{Messages: map[policy.Class]ledger.Transport{policy.Ham: {Plain: n}}}
		if got := volume(r); got != want {
			t.Errorf("%d in a day: %q; want %q", n, got, want)
		}
	}
}
