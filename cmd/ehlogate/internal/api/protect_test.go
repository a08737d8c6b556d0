package api

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// request is what somebody sends to the API.
type request struct {
	method, path, from, body string
	header                   map[string]string
}

func (q request) to(h http.Handler) *httptest.ResponseRecorder {
	r := httptest.NewRequest(q.method, q.path, strings.NewReader(q.body))
	r.RemoteAddr, r.Host = q.from, "127.0.0.1:8896"
	r.Header.Set("Content-Type", "application/json")
	for name, value := range q.header {
		if r.Header.Set(name, value); name == "Host" {
			r.Host = value
		}
		if value == "" {
			r.Header.Del(name)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

const (
	here, there = "127.0.0.1:4711", "198.51.100.7:4711"
	spam        = `{"ip":"192.0.2.7","qid":"4XyZ","action":"add header","score":9}`
)

func bearer(token string) map[string]string {
	return map[string]string{"Authorization": "Bearer " + token}
}

// TestWhoMayPostVerdicts: filters with their token, and programs on this host where that is
// configured; no web page, and nobody behind a proxy.
func TestWhoMayPostVerdicts(t *testing.T) {
	with := func(token, name, value string) map[string]string {
		h := bearer(token)
		h[name] = value
		return h
	}
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	r.SetBasicAuth("rspamd", feedToken)
	basic := map[string]string{"Authorization": r.Header.Get("Authorization")}
	for _, c := range []struct {
		name        string
		path, from  string
		header      map[string]string
		local       bool
		status      int
		localStatus int
	}{
		{name: "a program on this host", from: here, status: 401, localStatus: 200},
		{name: "a program on this host, over IPv6", from: "[::1]:4711", status: 401, localStatus: 200},
		{name: "a filter with the filters' token", from: here, header: bearer(feedToken), status: 200, localStatus: 200},
		{name: "a filter with the filters' token as a password", from: here, header: basic, status: 200, localStatus: 200},
		{name: "a filter with the daemon's token", from: there, header: bearer(token), status: 200, localStatus: 200},
		{name: "a filter elsewhere with the filters' token", from: there, header: bearer(feedToken), status: 200, localStatus: 200},
		{name: "somebody elsewhere", from: there, status: 401, localStatus: 401},
		{name: "somebody with another token", from: there, header: bearer("another token than that"), status: 401, localStatus: 401},
		{name: "somebody behind a proxy on this host", from: here, header: map[string]string{"X-Forwarded-For": "198.51.100.7"}, status: 401, localStatus: 401},
		{name: "somebody behind a proxy that writes Forwarded", from: here, header: map[string]string{"Forwarded": "for=198.51.100.7"}, status: 401, localStatus: 401},
		{name: "somebody behind a proxy that writes Via", from: here, header: map[string]string{"Via": "1.1 proxy"}, status: 401, localStatus: 401},
		{name: "a page of another origin", from: here, header: map[string]string{"Origin": "https://evil.example"}, status: 403, localStatus: 403},
		{name: "a page of another origin, by the browser's word", from: here, header: map[string]string{"Sec-Fetch-Site": "cross-site"}, status: 403, localStatus: 403},
		{name: "a page of another origin with the token", from: here, header: with(feedToken, "Origin", "https://evil.example"), status: 403, localStatus: 403},
		{name: "a page whose name was made to point here", from: here, header: map[string]string{"Host": "evil.example:8896"}, status: 421, localStatus: 421},
		{name: "a form", from: here, header: with(feedToken, "Content-Type", "application/x-www-form-urlencoded"), status: 415, localStatus: 415},
		{name: "a text", from: here, header: with(feedToken, "Content-Type", "text/plain"), status: 415, localStatus: 415},
		{name: "what does not say what it is", from: here, header: with(feedToken, "Content-Type", ""), status: 415, localStatus: 415},
		{name: "JSON with a charset", from: here, header: with(feedToken, "Content-Type", "application/json; charset=utf-8"), status: 200, localStatus: 200},
	} {
		for _, local := range []bool{false, true} {
			for _, path := range []string{"/feed/rspamd", "/feed/verdict"} {
				s := newServer(t)
				fed, strangers := 0, 0
				s.Feed = func(policy.Signal) { fed++ }
				s.Malformed = func() {}
				s.Strangers = func() { strangers++ }
				s.LocalFeed = func() bool { return local }
				want := c.status
				if local {
					want = c.localStatus
				}
				w := request{http.MethodPost, path, c.from, spam, c.header}.to(s.Handler())
				if w.Code != want || (fed > 0) != (want == 200) || (strangers > 0) != (want == 401) {
					t.Errorf("%s, %s, local_feed %t: %d, fed %d, strangers %d; want %d\n%s", c.name, path, local, w.Code, fed, strangers, want, w.Body)
				}
			}
		}
	}
}

func TestWhatIsNoVerdictIsRefused(t *testing.T) {
	s := newServer(t)
	malformed := 0
	s.Feed = func(policy.Signal) { t.Error("fed") }
	s.Malformed = func() { malformed++ }
	for _, body := range []string{`{"ip":"x","action":"reject"}`, `{"ip":"` + strings.Repeat("x", 2*maxFeed), "", "[]"} {
		if w := (request{http.MethodPost, "/feed/rspamd", here, body, bearer(feedToken)}).to(s.Handler()); w.Code != http.StatusBadRequest {
			t.Errorf("%.20q: %d", body, w.Code)
		}
	}
	if malformed != 4 {
		t.Errorf("%d counted", malformed)
	}
	off := newServer(t)
	if w := (request{http.MethodPost, "/feed/rspamd", here, spam, bearer(feedToken)}).to(off.Handler()); w.Code != http.StatusNotFound && w.Code != http.StatusMethodNotAllowed {
		t.Errorf("a feed that is switched off answers %d", w.Code)
	}
}

// TestWhatNeedsTheToken has each route: whatever writes, or gives all of it away.
func TestWhatNeedsTheToken(t *testing.T) {
	s := newServer(t)
	s.Feed, s.Malformed = func(policy.Signal) {}, func() {}
	s.Learn = func([]Report) ([]Learnt, error) { return nil, nil }
	s.Reload = func() (Reloaded, error) { return Reloaded{}, nil }
	h := s.Handler()
	for _, c := range []struct {
		method, path, body string
		open               bool
	}{
		{"GET", "/healthz", "", true},
		{"GET", "/api/v1/lookup?addr=192.0.2.7", "", true},
		{"GET", "/api/v1/explain?addr=192.0.2.7", "", true},
		{"GET", "/api/v1/status", "", true},
		{"GET", "/api/v1/top?n=3", "", true},
		{"GET", "/api/v1/overrides", "", true},
		{"GET", "/api/v1/dump", "", false},
		{"GET", "/api/v1/export?format=cidr", "", false},
		{"GET", "/debug/pprof/", "", false},
		{"GET", "/debug/pprof/heap", "", false},
		{"GET", "/debug/pprof/cmdline", "", false},
		{"POST", "/api/v1/change", `{"verb":"deny","network":"192.0.2.7"}`, false},
		{"POST", "/api/v1/changes", `[{"verb":"deny","network":"192.0.2.7"}]`, false},
		{"POST", "/api/v1/learn", `[{"class":"spam","source":"person","queue_id":"4XyZ"}]`, false},
		{"POST", "/api/v1/load?dump=a&chunk=1&layout=" + "IPv4", "", false},
		{"POST", "/api/v1/reload", "", false},
	} {
		for _, h401 := range []map[string]string{nil, bearer(feedToken), bearer("")} {
			w := request{c.method, c.path, here, c.body, h401}.to(h)
			if (w.Code == http.StatusUnauthorized) == c.open {
				t.Errorf("%s %s without the token: %d", c.method, c.path, w.Code)
			}
		}
		if w := (request{c.method, c.path, there, c.body, bearer(token)}).to(h); w.Code == http.StatusUnauthorized || w.Code == http.StatusForbidden {
			t.Errorf("%s %s with the token: %d", c.method, c.path, w.Code)
		}
		for name, value := range map[string]string{"Host": "evil.example", "Origin": "https://evil.example"} {
			w := request{c.method, c.path, here, c.body, map[string]string{name: value}}.to(h)
			if name == "Origin" && c.method == http.MethodGet {
				// The browser does not let the page read the answer.
				continue
			}
			if w.Code != http.StatusForbidden && w.Code != http.StatusMisdirectedRequest {
				t.Errorf("%s %s with %s %s: %d", c.method, c.path, name, value, w.Code)
			}
		}
	}
}

func TestNamesOfTheDaemon(t *testing.T) {
	s := newServer(t)
	s.Names = func() []string { return []string{"metrics.example"} }
	h := s.Handler()
	for host, want := range map[string]int{
		"127.0.0.1:8896": 200, "[::1]:8896": 200, "192.0.2.1": 200, "localhost:8896": 200, "LOCALHOST": 200, "localhost.": 200,
		"metrics.example:8896": 200, "Metrics.Example": 200, "evil.example": 421, "127.0.0.1.evil.example:8896": 421, "": 421,
	} {
		if w := (request{"GET", "/api/v1/overrides", here, "", map[string]string{"Host": host}}).to(h); w.Code != want {
			t.Errorf("host %q: %d, want %d", host, w.Code, want)
		}
	}
}

// TestOneDumpAtATime: a peer that does not read holds up nobody but whoever wants a dump, too.
func TestOneDumpAtATime(t *testing.T) {
	s := newServer(t)
	s.streaming.Lock()
	h := s.Handler()
	for _, path := range []string{"/api/v1/dump", "/api/v1/export?format=cidr"} {
		if w := (request{"GET", path, here, "", bearer(token)}).to(h); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "under way") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	s.streaming.Unlock()
	if w := (request{"GET", "/api/v1/dump", here, "", bearer(token)}).to(h); w.Code != http.StatusOK {
		t.Errorf("%d", w.Code)
	}
}

// TestADumpHoldsNobodyUp has a dump and an export read again and again while clients are looked up.
func TestADumpHoldsNobodyUp(t *testing.T) {
	s := newServer(t)
	const hosts = 50_000
	var last <-chan error
	for i := range hosts {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		last = s.Judge.Learn(&policy.Message{Time: s.Now(), Client: policy.Client{Addr: a}, Mail: true, Verdict: policy.Verdict{Class: policy.Spam, Weight: 3}})
	}
	if err := <-last; err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	c := client(t, server.URL, token)
	done := make(chan error)
	dumped := 0
	go func() {
		var err error
		for range 3 {
			var n lines
			err = errors.Join(err, c.Dump(context.Background(), &n), c.Export(context.Background(), "cidr", &n))
			dumped += int(n)
		}
		done <- err
	}()
	var took []time.Duration
	for i := 0; ; i++ {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			if dumped < 3*hosts {
				t.Errorf("%d lines", dumped)
			}
			slices.Sort(took)
			p99 := took[len(took)*99/100]
			t.Logf("%d lookups meanwhile, p99 %v, at most %v; %d lines", len(took), p99, took[len(took)-1], dumped)
			if p99 > 5*time.Millisecond {
				t.Errorf("lookups take %v (p99)", p99)
			}
			return
		default:
			begun := time.Now()
			s.Judge.Decide(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
			took = append(took, time.Since(begun))
			time.Sleep(50 * time.Microsecond)
		}
	}
}

// lines counts lines that are written to it.
type lines int

func (n *lines) Write(p []byte) (int, error) {
	*n += lines(strings.Count(string(p), "\n"))
	return len(p), nil
}
