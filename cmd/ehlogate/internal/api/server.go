package api

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/intake"
	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
	"github.com/ehlogate/ehlogate/policy/table"
)

// Store is what the API changes and lists.
type Store interface {
	SetOverride(policy.Override) error
	Overrides() []policy.Override
	Exceptions() []policy.Exception
	Forget(n netip.Prefix, keysOf func(netip.Addr) policy.Keys) (int, error)
	Each(func(policy.Record) error) error
	SetException(policy.Exception) error
	LiftOverride(netip.Prefix) (lifted bool, err error)
	// ID names the store, for dumps of it.
	ID() string
	Restore(records []policy.Record, networkOf func(netip.Prefix) netip.Prefix) error
	Load(dump string, chunk uint64, records []policy.Record, networkOf func(netip.Prefix) netip.Prefix) (fresh bool, err error)
}

// Server serves the API. Its fields are set before Handler.
type Server struct {
	Judge *policy.Judge
	Store Store
	Now   func() time.Time
	// Token is what writing needs; empty means nothing is needed.
	Token   string
	Metrics http.Handler
	Heard   func() intake.Heard
	// Thresholds are those of rspamd, for what it posts.
	Thresholds func() verdict.Thresholds
	// Feed takes what other programs post, and returns at once; nil where they may not.
	Feed func(policy.Signal)
	// Malformed is called for a post that cannot be read.
	Malformed func()
	// Forgot is called when the evidence of a network was dropped.
	Forgot func(netip.Prefix)
	// Status is how the daemon stands; Reload reads its configuration again.
	Status func() Status
	Reload func() (Reloaded, error)
	// Learn takes the reports of people.
	Learn func([]Report) ([]Learnt, error)
}

// maxBody bounds a request's body in bytes, maxChunk one that is a chunk of a dump, which takes
// some 60 KiB.
const maxBody, maxChunk = 64 << 10, 256 << 10

// healthy is what /healthz says.
const healthy = "ok"

// Handler routes the API.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, healthy) })
	mux.Handle("GET /metrics", s.Metrics)
	mux.HandleFunc("GET /api/v1/lookup", func(w http.ResponseWriter, r *http.Request) {
		s.address(w, r, func(addr netip.Addr) any { return s.lookup(addr) })
	})
	mux.HandleFunc("GET /api/v1/explain", func(w http.ResponseWriter, r *http.Request) {
		s.address(w, r, func(addr netip.Addr) any { return s.explain(addr) })
	})
	mux.HandleFunc("GET /api/v1/overrides", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, append([]policy.Override{}, s.Store.Overrides()...))
	})
	mux.HandleFunc("GET /api/v1/marks", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, s.exceptions()) })
	mux.HandleFunc("GET /api/v1/export", s.export)
	mux.HandleFunc("GET /api/v1/heard", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, s.Heard()) })
	mux.HandleFunc("GET /api/v1/status", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, s.status()) })
	mux.HandleFunc("GET /api/v1/top", s.top)
	mux.HandleFunc("GET /api/v1/dump", s.dump)
	if s.Feed != nil {
		mux.HandleFunc("POST /feed/rspamd", s.local(maxFeed, s.feed(func(body []byte, now time.Time) (policy.Signal, error) { return s.Thresholds().Rspamd(body, now) })))
		mux.HandleFunc("POST /feed/verdict", s.local(maxFeed, s.feed(verdict.Feed)))
	}
	mux.HandleFunc("POST /api/v1/learn", s.authorized(maxChunk, s.learn))
	mux.HandleFunc("POST /api/v1/load", s.authorized(maxChunk, s.load))
	mux.HandleFunc("POST /api/v1/change", s.authorized(maxBody, s.change))
	mux.HandleFunc("POST /api/v1/reload", s.authorized(maxBody, s.reload))
	return mux
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

func refuse(w http.ResponseWriter, status int, err error) { reply(w, status, fault{err.Error()}) }

// address answers a question about ?addr=ADDRESS.
func (s *Server) address(w http.ResponseWriter, r *http.Request, answer func(netip.Addr) any) {
	addr, err := policy.ParseAddr(r.URL.Query().Get("addr"))
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	reply(w, http.StatusOK, answer(addr))
}

func (s *Server) lookup(addr netip.Addr) Lookup { return lookupOf(s.Judge.Decide(addr)) }

func lookupOf(d policy.Decision) Lookup {
	return Lookup{
		Addr: d.Addr.String(), Host: d.Host.String(), Network: d.Network.String(), Score: round(d.Score),
		Tier: d.Tier.String(), STARTTLS: d.Verb(), Why: d.Why(),
	}
}

func (s *Server) explain(addr netip.Addr) Explanation {
	d, known := s.Judge.Explain(addr)
	p, now := *s.Judge.Policy(), s.Now()
	e := Explanation{
		Lookup: lookupOf(d), Mode: d.Mode,
		Own: Own{
			Spam: round(d.Own.Spam), Ham: round(d.Own.Ham), Since: known.Host.Since(), LogOdds: round(d.Own.LogOdds),
			Cap: p.Params.Cap, HalfLife: d.Own.SpamHalfLife.Round(time.Minute).String(), HamHalfLife: p.Params.HamHalfLife.String(),
		},
		Expected: Expected{
			Prior: p.Params.Prior, ASN: d.ASN, AS: weights(d.Expected.AS), Start: round(d.Expected.Start),
			Neighbours: weights(d.Expected.Neighbours), Share: round(d.Expected.Share), LogOdds: round(d.Expected.LogOdds),
		},
		Stored: known.Host.Tier.String(), Thresholds: p.Thresholds, Rule: d.Rule, Exempt: d.Rule == policy.RuleExempt, Override: d.Override, Exception: d.Exception, Modes: map[policy.Mode]string{},
	}
	if o := known.Override; e.Exempt && o != nil && !o.Ended(now) {
		// It is there, and has no effect.
		e.Override = o
	}
	e.Entered, e.EnteredAt = known.Host.Entered()
	e.EnteredAt = round(e.EnteredAt)
	what := p.WhatIf(addr, known, now)
	e.WhatIf = WhatIf{Ham: what.Ham, Spam: what.Spam, WaitSeconds: int(what.Wait.Seconds())}
	for _, m := range policy.Modes {
		p.Mode = m
		e.Modes[m] = p.Decide(addr, known, now).Verb()
	}
	return e
}

// exceptions are the exceptions that hold.
func (s *Server) exceptions() []policy.Exception {
	return slices.DeleteFunc(append([]policy.Exception{}, s.Store.Exceptions()...), func(x policy.Exception) bool { return x.Ended(s.Now()) })
}

func weights(m reputation.Mass) Weights { return Weights{round(m.Spam), round(m.Ham)} }

// round keeps two decimals, which is more than the evidence is worth.
func round(v float64) float64 { return math.Round(v*100) / 100 }

// authorized lets a request through that has the token, with a body of so many bytes at most. A
// browser cannot send that header for another site's page.
func (s *Server) authorized(most int64, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if s.Token != "" && subtle.ConstantTimeCompare([]byte(token), []byte(s.Token)) != 1 {
			refuse(w, http.StatusUnauthorized, errors.New("writing needs the token in http.token_file; run the command as a user who can read it, with the daemon's --config"))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, most)
		next(w, r)
	}
}

// overrideOn is the override on exactly a network that holds, or nil.
func (s *Server) overrideOn(n netip.Prefix) *policy.Override {
	for _, o := range s.Store.Overrides() {
		if o.Network == n && !o.Ended(s.Now()) {
			return &o
		}
	}
	return nil
}

func (s *Server) change(w http.ResponseWriter, r *http.Request) {
	var c Change
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&c); err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("body: %w", err))
		return
	}
	n, err := config.ParseNetwork(c.Network)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	override := policy.Override{Network: n, Allow: c.Verb == "allow", Note: c.Note, Set: s.Now().UTC()}
	if c.For != "" {
		d, err := config.ParseDuration(c.For)
		if err != nil || d <= 0 {
			refuse(w, http.StatusBadRequest, fmt.Errorf("for: %q is not a duration above zero; want such as 24h or 7d", c.For))
			return
		}
		override.Until = override.Set.Add(d)
	}
	done := Changed{Network: n.String()}
	if c.Verb == "deny" {
		done.Exempt = s.exempt(n)
	}
	switch c.Verb {
	case "allow", "deny":
		done.Override, done.Replaced = &override, s.overrideOn(n)
		err = s.Store.SetOverride(override)
	case "forget":
		done.Removed, err = s.forget(n)
	case "lift":
		var lifted bool
		if lifted, err = s.Store.LiftOverride(n); lifted {
			done.Removed = 1
		}
	default:
		refuse(w, http.StatusBadRequest, fmt.Errorf("verb: %q is not allowed; want allow, deny or forget, or lift", c.Verb))
		return
	}
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	reply(w, http.StatusOK, done)
}

// exempt are the exempt networks that a network lies in, or that lie in it.
func (s *Server) exempt(n netip.Prefix) (all []string) {
	for _, e := range s.Judge.Policy().Exempted() {
		switch {
		case e.Overlaps(n) && e.Bits() <= n.Bits():
			return []string{e.String()}
		case e.Overlaps(n) && !slices.Contains(all, e.String()):
			all = append(all, e.String())
		}
	}
	return all
}

// forget removes what is known of a network. A single address stands for its host, which is a /64
// in IPv6, and the override is on the address or the host.
func (s *Server) forget(n netip.Prefix) (int, error) {
	keysOf := s.Judge.Policy().Keys
	networks := []netip.Prefix{n}
	if host := keysOf(n.Addr()).Host; n.IsSingleIP() && n != host {
		networks = append(networks, host)
	}
	removed := 0
	for _, n := range networks {
		more, err := s.Store.Forget(n, keysOf)
		removed += more
		if err != nil {
			return removed, err
		}
		s.Forgot(n)
	}
	return removed, nil
}

// export writes the cidr table of what would be withheld now; see table.WriteCIDR.
func (s *Server) export(w http.ResponseWriter, r *http.Request) {
	if f := r.URL.Query().Get("format"); f != "cidr" {
		refuse(w, http.StatusBadRequest, fmt.Errorf("format: %q is not allowed; want cidr", f))
		return
	}
	// Keyed by network, so that a host with an override of its own appears once, with what it is
	// really told.
	entries := map[netip.Prefix]string{}
	p := s.Judge.Policy()
	add := func(n netip.Prefix, always bool) {
		if d := s.Judge.Decide(n.Addr()); always || d.Keywords() != "" {
			entries[n] = d.Keywords()
		}
	}
	err := s.Store.Each(func(r policy.Record) error {
		if r.ASN == 0 && p.Keys(r.Network.Addr()).Host == r.Network {
			add(r.Network, false)
		}
		return nil
	})
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	for _, n := range p.Exempt {
		add(n, true)
	}
	for _, o := range s.Store.Overrides() {
		if !o.Ended(s.Now()) {
			add(o.Network, true)
		}
	}
	for _, x := range s.exceptions() {
		add(x.Network, true)
	}
	var list []table.Entry
	for n := range maps.Keys(entries) {
		list = append(list, table.Entry{Network: n, Keywords: entries[n]})
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	table.WriteCIDR(w, list)
}
