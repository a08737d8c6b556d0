package api

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/intake"
	"github.com/ehlogate/ehlogate/policy"
)

// post posts a body as a client at an address.
func post(h http.Handler, path, from, token, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.RemoteAddr = from
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestFeedsAreTakenFromThisHostOrWithTheToken(t *testing.T) {
	s := newServer(t)
	var fed []policy.Signal
	malformed := 0
	s.Malformed = func() { malformed++ }
	s.Feed = func(t policy.Signal) { fed = append(fed, t) }
	h := s.Handler()
	const good = `{"ip":"192.0.2.7","qid":"4XyZ","action":"add header","score":9}`
	for _, c := range []struct {
		name, path, from, token, body string
		status                        int
	}{
		{"rspamd on this host", "/feed/rspamd", "127.0.0.1:4711", "", good, http.StatusOK},
		{"another program over IPv6", "/feed/verdict", "[::1]:4711", "", good, http.StatusOK},
		{"another host", "/feed/rspamd", "198.51.100.7:4711", "", good, http.StatusUnauthorized},
		{"another host with the token", "/feed/rspamd", "198.51.100.7:4711", token, good, http.StatusOK},
		{"what is no verdict", "/feed/rspamd", "127.0.0.1:4711", "", `{"ip":"x","action":"reject"}`, http.StatusBadRequest},
		{"too much", "/feed/rspamd", "127.0.0.1:4711", "", `{"ip":"` + strings.Repeat("x", 2*maxFeed), http.StatusBadRequest},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(fed)
			w := post(h, c.path, c.from, c.token, c.body)
			if w.Code != c.status || (len(fed) > before) != (c.status == http.StatusOK) {
				b, _ := io.ReadAll(w.Body)
				t.Errorf("%d, fed %d: %s", w.Code, len(fed)-before, b)
			}
		})
	}
	if malformed != 2 {
		t.Errorf("%d posts counted as malformed, want 2", malformed)
	}
	if w := post(newServer(t).Handler(), "/feed/rspamd", "127.0.0.1:4711", "", good); w.Code != http.StatusNotFound && w.Code != http.StatusMethodNotAllowed {
		t.Errorf("a feed that is switched off answers %d", w.Code)
	}
}

func TestReportsAreChecked(t *testing.T) {
	s := newServer(t)
	var heard []Report
	s.Learn = func(r []Report) (done []Learnt, err error) {
		heard = append(heard, r...)
		return []Learnt{{Status: intake.New, Addr: r[0].Addr}}, nil
	}
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	good := Report{Class: policy.Spam, Source: policy.FromPerson, Addr: netip.MustParseAddr("::ffff:192.0.2.7")}
	if _, err := client(t, server.URL, "").Learn(t.Context(), []Report{good}); err == nil {
		t.Error("learnt without the token")
	}
	c := client(t, server.URL, token)
	if done, err := c.Learn(t.Context(), []Report{good}); err != nil || len(done) != 1 || done[0].Addr.String() != "192.0.2.7" {
		t.Errorf("%+v, %v", done, err)
	}
	for name, change := range map[string]func(*Report){
		"of no class":       func(r *Report) { r.Class = policy.None },
		"of a filter":       func(r *Report) { r.Source = policy.FromHeader },
		"about nobody":      func(r *Report) { r.Addr = netip.Addr{} },
		"of another source": func(r *Report) { r.Source = "gossip" },
	} {
		r := good
		change(&r)
		if _, err := c.Learn(t.Context(), []Report{r}); err == nil || !strings.Contains(err.Error(), "report 1: ") {
			t.Errorf("a report %s: %v", name, err)
		}
	}
	if _, err := c.Learn(t.Context(), make([]Report, mostReports+1)); err == nil {
		t.Error("too many reports at once")
	}
	if len(heard) != 1 {
		t.Errorf("heard %+v", heard)
	}
	var report Report
	if b, err := json.Marshal(good); err != nil || json.Unmarshal(b, &report) != nil || report != good {
		t.Errorf("%+v", report)
	}
}
