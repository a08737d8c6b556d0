package api

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/eventlog"
	"github.com/ehlogate/ehlogate/policy/store"
)

const token, feedToken = "0123456789abcdef", "fedcba9876543210"

func newServer(t testing.TB) *Server {
	t.Helper()
	inForce := policy.NewInForce(policy.New(policy.Default()), time.Now)
	kept, err := store.Open(t.TempDir(), store.Options{Layout: policy.Default().Layout, Tier: inForce.Tier, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kept.Close() })
	judge := policy.NewJudge(inForce, kept)
	return &Server{Judge: judge, Store: kept, Now: time.Now, Thresholds: func() verdict.Thresholds { return verdict.DefaultThresholds }, Token: &Token{value: token, looked: time.Now().Add(time.Hour)}, FeedToken: &Token{value: feedToken, looked: time.Now().Add(time.Hour)}, LocalFeed: func() bool { return false }, Strangers: func() {}, Unread: func([]string) {}, KnowsClientOf: func(string) bool { return false }, Metrics: http.NotFoundHandler(), Forgot: func(netip.Prefix) {}, Changed: func(netip.Prefix, eventlog.Change) {}, Status: func() Status { return Status{} }}
}

func client(t *testing.T, at, token string) *Client {
	t.Helper()
	c, err := NewClient(at, token)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWritingNeedsTheToken(t *testing.T) {
	s := httptest.NewServer(newServer(t).Handler())
	defer s.Close()
	deny := Change{Verb: "deny", Network: "192.0.2.0/24", Note: "ticket 7"}
	for _, wrong := range []string{"", "another token than that"} {
		c := client(t, s.URL, wrong)
		if _, err := c.Change(t.Context(), deny); err == nil || !strings.Contains(err.Error(), "http.token_file") {
			t.Errorf("with token %q: %v", wrong, err)
		}
		if _, err := c.Lookup(t.Context(), "192.0.2.7"); err != nil {
			t.Errorf("reading with token %q: %v", wrong, err)
		}
	}
	c := client(t, s.URL, token)
	if _, err := c.Change(t.Context(), deny); err != nil {
		t.Fatal(err)
	}
	if all, err := c.Overrides(t.Context()); err != nil || len(all) != 1 || all[0].Note != "ticket 7" {
		t.Errorf("overrides %+v, %v", all, err)
	}
	if l, err := c.Lookup(t.Context(), "ipv6:::FFFF:192.0.2.7"); err != nil || l.STARTTLS != "withhold" || l.Addr != "192.0.2.7" {
		t.Errorf("%+v, %v", l, err)
	}
	var table strings.Builder
	if err := c.Export(t.Context(), "cidr", &table); err != nil || !strings.Contains(table.String(), "192.0.2.0/24\tstarttls, silent-discard\n") {
		t.Errorf("export %q, %v", table.String(), err)
	}
	if done, err := c.Change(t.Context(), Change{Verb: "forget", Network: "192.0.2.0/24"}); err != nil || done.Removed != 1 {
		t.Errorf("forget %+v, %v", done, err)
	}
}

func TestAUnixSocketNeedsNoToken(t *testing.T) {
	server := newServer(t)
	server.Unix = true
	path := filepath.Join(t.TempDir(), "http.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go http.Serve(l, server.Handler())
	defer l.Close()
	c := client(t, "unix:"+path, "")
	if _, err := c.Change(t.Context(), Change{Verb: "allow", Network: "192.0.2.7"}); err != nil {
		t.Fatal(err)
	}
	if e, err := c.Explain(t.Context(), "192.0.2.7"); err != nil || e.Override == nil || !e.Override.Allow || e.Override.Network != netip.MustParsePrefix("192.0.2.7/32") {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestBadRequestsSayWhatIsWrong(t *testing.T) {
	handler := newServer(t).Handler()
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/api/v1/lookup?addr=mail.example", "", 400, "is not an IP address"},
		{"GET", "/api/v1/explain", "", 400, "is not an IP address"},
		{"GET", "/api/v1/export?format=hash", "", 400, "want cidr, texthash, list"},
		{"POST", "/api/v1/change", "{", 400, "body"},
		{"POST", "/api/v1/change", `{"verb":"deny","network":"192.0.2.7","extra":1}`, 400, "extra"},
		{"POST", "/api/v1/change", `{"verb":"ban","network":"192.0.2.7"}`, 400, "want allow, deny or forget"},
		{"POST", "/api/v1/change", `{"verb":"deny","network":"192.0.2.7/24"}`, 400, "did you mean 192.0.2.0/24?"},
		{"POST", "/api/v1/change", `{"verb":"deny","network":"192.0.2.7","for":"-1h"}`, 400, "of a second or more"},
		{"POST", "/api/v1/change", `{"note":"` + strings.Repeat("x", 100_000) + `"}`, 400, "too large"},
	} {
		r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s %s: %d %s, want %d with %q", c.method, c.path, w.Code, w.Body, c.status, c.want)
		}
	}
}

func TestTokenFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api-token")
	made, err := EnsureToken(path)
	if err != nil || len(made) < minToken {
		t.Fatalf("made %q, %v", made, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if again, err := EnsureToken(path); err != nil || again != made {
		t.Errorf("read %q, %v, want %q", again, err, made)
	}
	if err := os.WriteFile(path, []byte("short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureToken(path); err == nil || !strings.Contains(err.Error(), "5 characters") {
		t.Errorf("a short token: %v", err)
	}
}

// TestATokenIsChangedByItsFile: the new one holds, and the old one no more.
func TestATokenIsChangedByItsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api-token")
	token, err := OpenToken(path)
	if err != nil {
		t.Fatal(err)
	}
	old := token.value
	for _, c := range []struct {
		content string
		want    string
	}{{"a new token of these tests", "a new token of these tests"}, {"short", "a new token of these tests"}, {"another token of these tests", "another token of these tests"}} {
		os.Remove(path)
		if err := os.WriteFile(path, []byte(c.content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		token.looked = time.Time{}
		if !token.Is(c.want) || token.Is(old) || token.Is("") {
			t.Errorf("with %q in the file, %q is not the token, or the old one still is", c.content, c.want)
		}
	}
	os.Remove(path)
	token.Look()
	made, err := ReadToken(path)
	if err != nil || !token.Is(made) || token.Is("another token of these tests") {
		t.Errorf("after its file was removed, %q, %v, is not the token, or the old one still is", made, err)
	}
	os.RemoveAll(filepath.Dir(path))
	token.Look()
	if !token.Is(made) {
		t.Error("where no new one can be made, the token is gone")
	}
	if (*Token)(nil).Is("") {
		t.Error("no token is any token")
	}
}

func TestADaemonThatIsAway(t *testing.T) {
	if err := client(t, "unix:/nonexistent.sock", "").Health(context.Background()); !errors.Is(err, ErrAway) {
		t.Errorf("%v", err)
	}
}

// TestTheTokenIsSentToTheDaemonOnly: another user of this host can listen at the daemon's port
// while that is down.
func TestTheTokenIsSentToTheDaemonOnly(t *testing.T) {
	s := httptest.NewServer(newServer(t).Handler())
	defer s.Close()
	file := filepath.Join(t.TempDir(), "api-token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "localhost"} {
		at := strings.Replace(s.URL, "127.0.0.1", host, 1)
		c := client(t, at, token)
		c.OnlyTo(file)
		if _, err := c.Change(t.Context(), Change{Verb: "deny", Network: "192.0.2.7"}); err != nil {
			t.Errorf("to the daemon at %s: %v", host, err)
		}
		// As if root had nothing to do with it: what listens there is this test's.
		c.owners = []int{os.Getuid() + 4711}
		if _, err := c.Lookup(t.Context(), "192.0.2.7"); err == nil || !strings.Contains(err.Error(), "the token was not sent") {
			t.Errorf("to a stranger at %s: %v", host, err)
		}
	}
}

// TestAChangeSaysWhatBecomesOfIt: who set it and where, and that a table that was made before lacks
// it.
func TestAChangeSaysWhatBecomesOfIt(t *testing.T) {
	s := newServer(t)
	s.Node = "mx1"
	deny := Change{Verb: "deny", Network: "192.0.2.7", By: "root"}
	done, err := s.Apply(deny)
	if err != nil || done.Override.By != "root@mx1" || !done.Exported.IsZero() {
		t.Errorf("%+v, %v", done, err)
	}
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	if err := client(t, server.URL, token).Export(t.Context(), "cidr", io.Discard); err != nil {
		t.Fatal(err)
	}
	if done, err = s.Apply(deny); err != nil || time.Since(done.Exported) > time.Minute {
		t.Errorf("after an export: %+v, %v", done, err)
	}
}
