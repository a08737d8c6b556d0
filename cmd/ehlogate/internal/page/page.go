// Package page is what a browser gets: the course of TLS and spam at a glance, an address looked up
// and explained, and the operator's allow, deny and forget.
//
// It is made on the server, and reads without script. All its links are relative, so that it works
// behind a reverse proxy below any path. What clients sent is escaped by html/template.
package page

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/render"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/eventlog"
	"github.com/ehlogate/ehlogate/policy/ledger"
	"golang.org/x/time/rate"
)

//go:embed assets
var assets embed.FS

var pages = template.Must(template.New("").Funcs(render.Functions).Funcs(template.FuncMap{
	"linked": func(r *ledger.Report, by string) template.HTML { return render.Linked(r, by, clientLink) },
}).ParseFS(assets, "assets/*.html"))

// Server serves the page. Its fields are set before Register.
type Server struct {
	Log     *slog.Logger
	Status  func() api.Status
	Report  func(ctx context.Context, since, until time.Time, v ledger.View) (*ledger.Report, error)
	Explain func(netip.Addr) api.Explanation
	Change  func(api.Change) (api.Changed, error)
	// Recent are the last events of an address, the newest first.
	Recent func(addr string) ([]eventlog.Event, error)
	// Token reports whether a token lets do all; Open says that everybody who can connect may.
	Token func(string) bool
	Open  bool
	Now   func() time.Time

	sessions sessions
	cached   cached
}

// cached are the reports of the overview, which are drawn up once in a while however many look.
type cached struct {
	sync.Mutex
	at          time.Time
	today, week *ledger.Report
	err         error
}

// fresh is for how long the reports of the overview are shown again.
const fresh = 5 * time.Second

// top is how many networks and domains are named.
const top = 10

// Register adds the page's paths to those of the API.
func (s *Server) Register(mux *http.ServeMux) {
	s.sessions.wrong = rate.Sometimes{Interval: time.Minute}
	mux.HandleFunc("GET /{$}", s.overview)
	mux.HandleFunc("GET /client", s.client)
	mux.HandleFunc("POST /change", s.change)
	mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) {
		s.show(w, r, http.StatusOK, "login.html", &view{Title: "Log in"})
	})
	mux.HandleFunc("POST /login", s.login)
	mux.HandleFunc("POST /logout", s.logout)
	mux.HandleFunc("GET /assets/style.css", asset("text/css; charset=utf-8", render.Style()))
	script, err := assets.ReadFile("assets/page.js")
	if err != nil {
		panic(err) // it is embedded
	}
	mux.HandleFunc("GET /assets/page.js", asset("text/javascript; charset=utf-8", script))
}

func asset(kind string, content []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Cache-Control", "max-age=3600")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Write(content)
	}
}

// view is what the templates show.
type view struct {
	Title, Query string
	Status       api.Status
	// Open says that everybody may change, CSRF is the secret of a session that may.
	Open        bool
	CSRF        string
	Fault, Done string

	Today, Week *ledger.Report
	Volume      string
	Tiers       []string
	Nodes       []node

	Client  *api.Explanation
	Drawing template.HTML
	WhatIf  string
	Recent  []recent
	// Domain is the domain, network or autonomous system that was asked for, Network that of an
	// override on it.
	Domain, Network string
	Found           []found
	Most            int
}

// May reports whether the page's user may change anything.
func (v *view) May() bool { return v.Open || v.CSRF != "" }

// recent is a session or message of a client.
type recent struct {
	Time                                   time.Time
	HELO, Used, Verdict, Reason, From, End string
}

// node is a node of the cluster, and how it is.
type node struct{ Name, Health string }

// found is what a tally has of a domain.
type found struct {
	What string
	ledger.Row
}

// security are the headers of all pages: nothing is loaded from elsewhere, nothing inline runs, and
// no other page can frame them.
const security = "default-src 'none'; style-src 'self'; script-src 'self'; img-src data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

func (s *Server) show(w http.ResponseWriter, r *http.Request, status int, name string, v *view) {
	v.Status, v.Open, v.CSRF = s.Status(), s.Open, s.sessions.csrf(r, s.Now())
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, name, v); err != nil {
		http.Error(w, "the page cannot be made: "+err.Error(), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", security)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(b.Bytes())
}

func (s *Server) overview(w http.ResponseWriter, r *http.Request) {
	v := &view{Title: "ehlogate", Tiers: []string{"good", "unknown", "suspect", "bad"}}
	today, week, err := s.reports(r.Context())
	if err != nil {
		v.Fault = err.Error()
	} else {
		v.Today, v.Week, v.Volume = today, week, volume(today)
		for _, n := range week.Nodes {
			v.Nodes = append(v.Nodes, node{n.Name, health(s.Now().Sub(n.Time))})
		}
	}
	s.show(w, r, http.StatusOK, "overview.html", v)
}

// reports are those of the overview.
func (s *Server) reports(ctx context.Context) (today, week *ledger.Report, err error) {
	c := &s.cached
	c.Lock()
	defer c.Unlock()
	now := s.Now()
	if age := now.Sub(c.at); age >= 0 && age < fresh {
		return c.today, c.week, c.err
	}
	view := ledger.View{Location: time.Local, Top: top, Measure: ledger.Measures["spam"], Step: time.Hour}
	c.at = now
	if c.today, c.err = s.Report(ctx, now.Add(-24*time.Hour), now, view); c.err == nil {
		view.Step = 6 * time.Hour
		c.week, c.err = s.Report(ctx, now.Add(-7*24*time.Hour), now, view)
	}
	if c.err != nil {
		// The next one asks again.
		c.at = time.Time{}
	}
	return c.today, c.week, c.err
}

// volume is how much was heard in a day, in a unit that suits.
func volume(r *ledger.Report) string {
	n := r.AllMessages()
	switch perDay := float64(n); {
	case perDay < 48:
		return render.Count(n) + " messages a day"
	case perDay < 24*600:
		return fmt.Sprintf("%.0f messages an hour", perDay/24)
	case perDay < 24*3600*2:
		return fmt.Sprintf("%.0f messages a minute", perDay/24/60)
	default:
		return fmt.Sprintf("%.0f messages a second", perDay/24/3600)
	}
}

// late is from when on a node that has published nothing is said to be away.
const late = 15 * time.Minute

func health(age time.Duration) string {
	if age > late {
		return "has published nothing for " + config.FormatDuration(age.Round(time.Minute))
	}
	return "published within the last minutes"
}

func clientLink(name string) string { return "client?q=" + url.QueryEscape(name) }

// client shows what is known of an address or a domain.
func (s *Server) client(w http.ResponseWriter, r *http.Request) {
	q := strings.TrimSpace(r.URL.Query().Get("q"))
	v := &view{Title: "ehlogate: " + policy.Printable(q), Query: q, Done: s.sessions.notice(r, s.Now())}
	addr, err := policy.ParseAddr(q)
	n, noNetwork := config.ParseNetwork(q)
	if noNetwork == nil && n.IsSingleIP() {
		addr, err = n.Addr(), nil
	}
	status := http.StatusOK
	switch {
	case err == nil:
		v.Network = addr.String()
		e := s.Explain(addr)
		v.Client, v.Drawing, v.WhatIf = &e, render.Explanation(&e), render.WhatIf(&e)
		if s.Open || s.sessions.csrf(r, s.Now()) != "" {
			v.Recent, v.Fault = s.recent(e.Addr)
		}
		if err := s.tallied(r.Context(), v, ledger.ByAddress, addr.String()); err != nil {
			v.Fault = err.Error()
		}
	case noNetwork == nil:
		v.Network, v.Domain = n.String(), n.String()
		if err := s.tallied(r.Context(), v, ledger.ByNetwork, n.String()); err != nil {
			status, v.Fault = http.StatusServiceUnavailable, err.Error()
		}
	case system.MatchString(q):
		v.Domain = strings.ToUpper(q)
		if err := s.tallied(r.Context(), v, ledger.ByASN, v.Domain); err != nil {
			status, v.Fault = http.StatusServiceUnavailable, err.Error()
		}
	case !strings.Contains(q, ".") || len(q) > 253:
		status, v.Fault = http.StatusBadRequest, fmt.Sprintf("%q is neither an address, nor a network, an AS or a domain.", policy.Printable(q[:min(len(q), 100)]))
	default:
		v.Domain = strings.ToLower(q)
		if err := s.tallied(r.Context(), v, ledger.ByDomain, v.Domain); err != nil {
			status, v.Fault = http.StatusServiceUnavailable, err.Error()
		}
	}
	s.show(w, r, status, "client.html", v)
}

// recent are the last sessions and messages of an address, or why they cannot be had.
func (s *Server) recent(addr string) (all []recent, fault string) {
	events, err := s.Recent(addr)
	if err != nil {
		return nil, "The event log cannot be read: " + err.Error()
	}
	for i := range events {
		e := &events[i]
		if e.Heard == nil {
			continue
		}
		used := "in the clear"
		switch {
		case e.TLS != nil:
			used = e.TLS.Version
		case e.STARTTLS == policy.Withheld:
			used = "withheld"
		}
		all = append(all, recent{e.Time.Time, e.HELO, used, string(e.Verdict.Class), e.Verdict.Reason, e.FromDomain, string(e.Outcome)})
	}
	return all, ""
}

// system is the name of an autonomous system.
var system = regexp.MustCompile(`^(?i)AS[0-9]{1,10}$`)

// tallies are the kinds under which a name of a kind can be tallied, and what each is called.
var tallies = map[ledger.Kind][]struct {
	kind ledger.Kind
	what string
}{
	ledger.ByAddress: {{ledger.ByAddress, "What it sent"}},
	ledger.ByNetwork: {{ledger.ByNetwork, "What its hosts sent"}},
	ledger.ByASN:     {{ledger.ByASN, "What its hosts sent"}},
	ledger.ByDomain: {
		{ledger.ByDomain, "As the sender's domain in the envelope"},
		{ledger.ByDKIM, "With a DKIM signature of it that passed"},
		{ledger.BySPF, "With SPF of it that passed"},
	},
}

// tallied finds what was counted under a name in the last week.
func (s *Server) tallied(ctx context.Context, v *view, kind ledger.Kind, name string) error {
	now := s.Now()
	report, err := s.Report(ctx, now.Add(-7*24*time.Hour), now, ledger.View{Top: api.MostRows * 7 * 24, Measure: ledger.Measures["volume"]})
	if err != nil {
		return err
	}
	v.Most = ledger.MostTallied
	for _, k := range tallies[kind] {
		rows := report.Top[k.kind]
		if i := slices.IndexFunc(rows, func(row ledger.Row) bool { return strings.EqualFold(row.Name, name) }); i >= 0 {
			v.Found = append(v.Found, found{k.what, rows[i]})
		}
	}
	return nil
}

// change makes a change for a user who may, and shows the client again.
func (s *Server) change(w http.ResponseWriter, r *http.Request) {
	if !s.mayPost(w, r) {
		return
	}
	c := api.Change{Verb: r.PostFormValue("verb"), Network: strings.TrimSpace(r.PostFormValue("network")), Note: r.PostFormValue("note"), For: r.PostFormValue("for")}
	if err := large(c); err != nil {
		s.sessions.say(r, "Not done: "+err.Error(), s.Now())
		see(w, clientLink(c.Network))
		return
	}
	c.By = "page"
	done, err := s.Change(c)
	text := fmt.Sprintf("Done: %s %s.", c.Verb, done.Network)
	if len(done.Exempt) > 0 {
		text += " Without effect in " + strings.Join(done.Exempt, ", ") + ", which is exempt."
	}
	if err != nil {
		text = "Not done: " + err.Error()
	}
	s.sessions.say(r, text, s.Now())
	see(w, clientLink(cmp.Or(done.Network, c.Network)))
}

// large refuses a change of more addresses than anybody means.
func large(c api.Change) error {
	n, err := config.ParseNetwork(c.Network)
	if err == nil && config.Oversized(n) {
		return fmt.Errorf("%s is larger than any one network; if that is meant: ehlogate %s %s --yes", n, c.Verb, n)
	}
	return nil
}

// see sends the browser to another page, by a path relative to this one: which path that is, only a
// reverse proxy knows.
func see(w http.ResponseWriter, path string) {
	w.Header().Set("Location", path)
	w.WriteHeader(http.StatusSeeOther)
}
