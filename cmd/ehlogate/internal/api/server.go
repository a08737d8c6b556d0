package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/intake"
	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/eventlog"
	"github.com/ehlogate/ehlogate/policy/ledger"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

// Store is what the API changes and lists.
type Store interface {
	SetOverride(policy.Override) error
	ChangeOverrides(set []policy.Override, lift []netip.Prefix) error
	Overrides() []policy.Override
	Exceptions() []policy.Exception
	Forget(n netip.Prefix, keysOf func(netip.Addr) policy.Keys) (int, error)
	Each(func(policy.Record) error) error
	SetException(x policy.Exception, gone ...policy.Exception) error
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
	// Unix says that the listener is a unix socket, whose permissions decide who may do what.
	Unix bool
	// Token is what lets do all, FeedToken what lets post verdicts. LocalFeed reports whether
	// programs on this host may do that without one, and Strangers is called for a post that may
	// not.
	Token, FeedToken *Token
	LocalFeed        func() bool
	Strangers        func()
	// Names are names by which the daemon is called, besides its host's own.
	Names   func() []string
	Metrics http.Handler
	Heard   func() intake.Heard
	// Thresholds are those of rspamd, for what it posts.
	Thresholds func() verdict.Thresholds
	// Feed takes what other programs post, and returns at once; nil where they may not.
	Feed func(policy.Signal)
	// KnowsClientOf reports whether it is known who sent the message of a queue id.
	KnowsClientOf func(queueID string) bool
	// Malformed is called for a post that cannot be read.
	Malformed func()
	// Unread is called with the keys of a post that mean nothing, if any.
	Unread func(keys []string)
	// Forgot is called when the evidence of a network was dropped.
	Forgot func(netip.Prefix)
	// Changed is called when the overrides on a network were changed, or its evidence dropped.
	Changed func(netip.Prefix, eventlog.Change)
	// Node is the name of this host in the cluster.
	Node string
	// Status is how the daemon stands; Reload reads its configuration again.
	Status func() Status
	Reload func() (Reloaded, error)
	// Report draws up a report of what was counted.
	Report func(ctx context.Context, since, until time.Time, v ledger.View) (*ledger.Report, error)
	// Watch shows the lines of the event logs of all nodes as they are written; nil where it
	// cannot.
	Watch func(ctx context.Context, show func(line []byte) error) error
	// Page adds the paths of the page for browsers; nil for none.
	Page func(*http.ServeMux)
	// Learn takes the reports of people.
	Learn func([]Report) ([]Learnt, error)

	// streaming is held by a dump or an export, walking by what else goes through all records.
	streaming, walking sync.Mutex
	tiers              tierCounts
	// exported is when a static table was last made, nil where none was since the start.
	exported atomic.Pointer[time.Time]
}

// maxBody bounds a request's body in bytes, maxChunk one that is a chunk of a dump, which takes
// some 60 KiB, and maxChanges one of many changes of overrides.
const maxBody, maxChunk, maxChanges = 64 << 10, 256 << 10, 8 << 20

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
		s.address(w, r, func(addr netip.Addr) any { return s.Explain(addr) })
	})
	mux.HandleFunc("GET /api/v1/overrides", func(w http.ResponseWriter, _ *http.Request) {
		if !s.overridesKnown() {
			refuse(w, http.StatusServiceUnavailable, errors.New("the overrides are not known: Redis has not answered since the daemon's start"))
			return
		}
		reply(w, http.StatusOK, append([]policy.Override{}, s.Store.Overrides()...))
	})
	mux.HandleFunc("GET /api/v1/marks", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, s.exceptions()) })
	mux.HandleFunc("GET /api/v1/export", s.authorized(s.oneAtATime(s.export)))
	mux.HandleFunc("GET /api/v1/heard", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, s.Heard()) })
	mux.HandleFunc("GET /api/v1/status", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, s.Whole()) })
	mux.HandleFunc("GET /api/v1/top", s.top)
	mux.HandleFunc("GET /api/v1/report", s.report)
	mux.HandleFunc("GET /api/v1/tail", s.authorized(s.tail))
	mux.HandleFunc("GET /api/v1/dump", s.authorized(s.oneAtATime(s.dump)))
	if s.Feed != nil {
		mux.HandleFunc("POST /feed/rspamd", s.feeding(body(maxFeed, s.feed(func(body []byte, now time.Time) (policy.Signal, error) { return s.Thresholds().Rspamd(body, now) }, nil))))
		mux.HandleFunc("POST /feed/verdict", s.feeding(body(maxFeed, s.feed(verdict.Feed, verdict.FeedUnread))))
	}
	mux.HandleFunc("POST /api/v1/learn", s.authorized(body(maxChunk, s.learn)))
	mux.HandleFunc("POST /api/v1/load", s.authorized(body(maxChunk, s.load)))
	mux.HandleFunc("POST /api/v1/change", s.authorized(body(maxBody, s.change)))
	mux.HandleFunc("POST /api/v1/changes", s.authorized(body(maxChanges, s.changes)))
	mux.HandleFunc("POST /api/v1/reload", s.authorized(s.reload))
	for name, h := range map[string]http.HandlerFunc{"": pprof.Index, "cmdline": pprof.Cmdline, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace} {
		mux.HandleFunc("GET /debug/pprof/"+name, s.authorized(h))
	}
	if s.Page != nil {
		s.Page(mux)
	}
	return s.protect(mux)
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
	if shared, ok := s.Store.(interface{ Refresh(policy.Keys) }); ok {
		shared.Refresh(s.Judge.Policy().Keys(addr))
	}
	reply(w, http.StatusOK, answer(addr))
}

func (s *Server) lookup(addr netip.Addr) Lookup { return lookupOf(s.Judge.Decide(addr)) }

func lookupOf(d policy.Decision) Lookup {
	l := Lookup{
		Addr: d.Addr.String(), Host: d.Host.String(), Network: d.Network.String(), Score: round(d.Score),
		Tier: d.Tier.String(), STARTTLS: d.Verb(), Why: d.Why(), Stage: d.Stage,
	}
	if d.Action != policy.ActNone {
		l.Action = d.Action
	}
	return l
}

// Explain explains an address term by term.
func (s *Server) Explain(addr netip.Addr) Explanation {
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
	if decoder.More() {
		refuse(w, http.StatusBadRequest, errors.New("body: there is something after the change"))
		return
	}
	done, err := s.Apply(c)
	switch {
	case errors.As(err, new(misused)):
		refuse(w, http.StatusBadRequest, err)
	case err != nil:
		refuse(w, http.StatusInternalServerError, err)
	default:
		reply(w, http.StatusOK, done)
	}
}

// misused marks an error as the caller's.
type misused struct{ error }

// override is the override that a change makes, or lifts.
func (s *Server) override(c Change) (o policy.Override, err error) {
	for name, text := range map[string]string{"note": c.Note, "by": c.By, "list": c.List} {
		if text != policy.Printable(text) || len(text) > policy.MostNote {
			return o, misused{fmt.Errorf("%s: it may have %d bytes, all on one line and printable", name, policy.MostNote)}
		}
	}
	n, err := config.ParseNetwork(c.Network)
	if err != nil {
		return o, misused{err}
	}
	o = policy.Override{Network: n, Allow: c.Verb == "allow", Note: c.Note, By: c.By, List: c.List, Set: s.Now().UTC()}
	if c.By != "" && s.Node != "" {
		o.By += "@" + s.Node
	}
	if c.For != "" {
		d, err := config.ParseDuration(c.For)
		if err != nil || d < time.Second {
			return o, misused{fmt.Errorf("for: %q is not a duration of a second or more; expected something like 24h or 7d", c.For)}
		}
		o.Until = o.Set.Add(d)
	}
	if !c.Until.IsZero() {
		if o.Until = c.Until.UTC(); c.For != "" || !o.Until.After(o.Set) {
			return o, misused{fmt.Errorf("until: %s is over, or is said beside for", o.Until.Format(time.RFC3339))}
		}
	}
	return o, nil
}

// changes makes many changes of overrides at once.
func (s *Server) changes(w http.ResponseWriter, r *http.Request) {
	var all []Change
	if err := json.NewDecoder(r.Body).Decode(&all); err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("body: %w", err))
		return
	}
	var of, set []policy.Override
	var lift []netip.Prefix
	for i, c := range all {
		o, err := s.override(c)
		if err == nil && c.Verb != "allow" && c.Verb != "deny" && c.Verb != "lift" {
			err = fmt.Errorf("verb: %q is not allowed; want allow, deny or lift", c.Verb)
		}
		if err != nil {
			refuse(w, http.StatusBadRequest, fmt.Errorf("change %d: %w", i+1, err))
			return
		}
		if of = append(of, o); c.Verb == "lift" {
			lift = append(lift, o.Network)
		} else {
			set = append(set, o)
		}
	}
	if len(all) > 0 {
		if err := s.Store.ChangeOverrides(set, lift); err != nil {
			refuse(w, http.StatusInternalServerError, err)
			return
		}
	}
	for i, c := range all {
		s.Changed(of[i].Network, eventlog.Change{Verb: c.Verb, By: c.By, Note: c.Note, List: c.List, Until: of[i].Until})
	}
	reply(w, http.StatusOK, struct {
		Changes int `json:"changes"`
	}{len(all)})
}

// Apply makes a change.
func (s *Server) Apply(c Change) (done Changed, err error) {
	override, err := s.override(c)
	if err != nil {
		return done, err
	}
	n := override.Network
	done = Changed{Network: n.String()}
	if at := s.exported.Load(); at != nil {
		done.Exported = *at
	}
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
		err = misused{fmt.Errorf("verb: %q is not allowed; want allow, deny or forget, or lift", c.Verb)}
	}
	if err == nil {
		s.Changed(n, eventlog.Change{Verb: c.Verb, By: c.By, Note: c.Note, List: c.List, Until: override.Until})
	}
	return done, err
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
