package api

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/ledger"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

// Status is how a daemon stands.
type Status struct {
	Version string      `json:"version"`
	Node    string      `json:"node"`
	Started time.Time   `json:"started"`
	Mode    policy.Mode `json:"mode"`
	// Config is the configuration file, empty for none; Events is the event log's path.
	Config string `json:"config"`
	Events string `json:"events"`
	// Listen are the addresses at which the daemon was started to listen, by key, and LogFile the
	// log that it follows: a change of these takes a restart.
	Listen  map[string]string `json:"listen"`
	LogFile string            `json:"log_file"`
	// Warnings are what is wrong as the daemon sees it, with its own rights.
	Warnings []string `json:"warnings"`
	// Notes are what was wrong since the start, and was repaired.
	Notes []string `json:"notes"`
	// TokenFile has the token that writing needs, empty where none is needed.
	TokenFile string `json:"token_file,omitempty"`
	// Anonymized says that the event log has neither names nor whole addresses.
	Anonymized bool `json:"anonymized,omitempty"`
	// Tiers counts the hosts of which something is known, by tier.
	Tiers map[string]int `json:"tiers"`
	// Heard and Withheld are counts since the start.
	Heard    HeardCounts    `json:"heard"`
	Withheld WithheldCounts `json:"withheld"`
	Cost     Cost           `json:"cost"`
	Store    StoreStatus    `json:"store"`
	// Silent are the sources that are configured, and of which nothing was heard although there was
	// mail: header, log, milter, table; Why says more of each.
	Silent []string          `json:"silent_sources"`
	Why    map[string]string `json:"silent_because,omitempty"`
	// Waves are the waves of TLS spam, and of clients from which STARTTLS is withheld, that last.
	Waves []ledger.Wave `json:"waves"`
	// Nodes are those of the cluster, empty where there is none.
	Nodes      []ledger.Node `json:"nodes,omitempty"`
	Overrides  int           `json:"overrides"`
	Exceptions int           `json:"exceptions"`
}

// Counts are counts of what was heard.
type Counts struct {
	// Sessions are those that the milter heard. Messages are those in them, and those of which only
	// the MTA's log or a post told; Told are the latter.
	Sessions uint64 `json:"sessions"`
	Messages uint64 `json:"messages"`
	Told     uint64 `json:"told"`
	TLS      uint64 `json:"tls"`
	Spam     uint64 `json:"spam"`
	Ham      uint64 `json:"ham"`
}

// Less are counts less earlier ones.
func (c Counts) Less(before Counts) Counts {
	return Counts{
		Sessions: c.Sessions - before.Sessions, Messages: c.Messages - before.Messages, Told: c.Told - before.Told,
		TLS: c.TLS - before.TLS, Spam: c.Spam - before.Spam, Ham: c.Ham - before.Ham,
	}
}

// HeardCounts are counts since the start, and of today.
type HeardCounts struct {
	Counts
	Today Counts `json:"today"`
}

// Answers are counts of what the table answered: to Lookups questions, Withheld times to withhold
// STARTTLS, and Would times that a mode other than observe would.
type Answers struct {
	Lookups  uint64 `json:"lookups"`
	Withheld uint64 `json:"withheld"`
	Would    uint64 `json:"would"`
}

// WithheldCounts are answers since the start, and of today.
type WithheldCounts struct {
	Answers
	Today Answers `json:"today"`
}

// Cost is what the daemon has cost since the start, and what that has saved.
type Cost struct {
	// CPUSeconds is its processor time, CPUMilliseconds the same for a session.
	CPUSeconds      float64 `json:"cpu_seconds"`
	CPUMilliseconds float64 `json:"cpu_ms_a_session"`
	// Avoided counts the TLS handshakes that were not offered, and PaysFrom is how many
	// milliseconds of processor time one has to cost the MTA for that to pay; 0 where none was
	// avoided.
	Avoided  uint64  `json:"handshakes_avoided"`
	PaysFrom float64 `json:"pays_from_ms"`
}

// StoreStatus is how the store stands.
type StoreStatus struct {
	Name    string `json:"name"`
	State   string `json:"state"`
	Records int    `json:"records"`
	// Uncounted is why Records, and the hosts by tier, are not known; empty where they are.
	Uncounted string `json:"uncounted,omitempty"`
	// OverridesUnknown says that they have not been read since the start.
	OverridesUnknown bool `json:"overrides_unknown,omitempty"`
	// Sync is store.sync as it is in force, empty for Redis.
	Sync string `json:"sync,omitempty"`
}

// tierCounts are records counted by tier, and when that was.
type tierCounts struct {
	at      time.Time
	tiers   map[string]int
	records int
	err     error
}

// countFor is how long a count is given again: it takes a walk through all records.
const countFor = 5 * time.Second

// count counts the records, and the hosts among them by tier.
func (s *Server) count() tierCounts {
	s.walking.Lock()
	defer s.walking.Unlock()
	if age := s.Now().Sub(s.tiers.at); age >= 0 && age < countFor && s.tiers.records > fewRecords {
		return s.tiers
	}
	c := tierCounts{at: s.Now(), tiers: map[string]int{}}
	for _, t := range []reputation.Tier{reputation.Good, reputation.Unknown, reputation.Suspect, reputation.Bad} {
		c.tiers[t.String()] = 0
	}
	c.err = s.Store.Each(func(r policy.Record) error {
		c.records++
		if s.host(r) {
			c.tiers[r.Evidence.Tier.String()]++
		}
		return nil
	})
	s.tiers = c
	return c
}

// fewRecords are counted anew each time.
const fewRecords = 10_000

// Whole is how the daemon stands, with what the store knows.
func (s *Server) Whole() Status {
	st, c := s.Status(), s.count()
	st.Tiers, st.Store.Records = c.tiers, c.records
	if c.err != nil {
		st.Store.Uncounted = c.err.Error()
		if st.Store.State == "ok" {
			// Nobody has asked it anything since it went away.
			st.Store.State = "does not answer"
		}
	}
	st.Store.OverridesUnknown = !s.overridesKnown()
	st.Overrides, st.Exceptions = len(s.Store.Overrides()), len(s.exceptions())
	return st
}

// overridesKnown reports whether the overrides have been read since the start: they may be in
// Redis, which may be away.
func (s *Server) overridesKnown() bool {
	k, ok := s.Store.(interface{ OverridesKnown() bool })
	return !ok || k.OverridesKnown()
}

// host reports whether a record is of a host.
func (s *Server) host(r policy.Record) bool {
	return r.ASN == 0 && s.Judge.Policy().Keys(r.Network.Addr()).Host == r.Network
}

// MostTop is how many hosts are listed at most.
const MostTop = 1000

// top lists the hosts of the highest scores.
func (s *Server) top(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.URL.Query().Get("n"))
	if err != nil || n < 1 || n > MostTop {
		refuse(w, http.StatusBadRequest, fmt.Errorf("n: want a number from 1 to %d", MostTop))
		return
	}
	s.walking.Lock()
	defer s.walking.Unlock()
	p, now := s.Judge.Policy(), s.Now()
	var worst []policy.Decision
	byScore := func(a, b policy.Decision) int {
		return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(b.Own.Spam, a.Own.Spam), a.Addr.Compare(b.Addr))
	}
	err = s.Store.Each(func(r policy.Record) error {
		if !s.host(r) {
			return nil
		}
		// By its own evidence first: the rest of what is known may be in Redis.
		worst = append(worst, p.Decide(r.Network.Addr(), policy.Known{Host: r.Evidence.Heal(now)}, now))
		if len(worst) >= 2*MostTop {
			slices.SortFunc(worst, byScore)
			worst = worst[:MostTop]
		}
		return nil
	})
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	slices.SortFunc(worst, byScore)
	worst = worst[:min(4*n, len(worst))]
	for i, d := range worst {
		worst[i] = s.Judge.Decide(d.Addr)
	}
	slices.SortFunc(worst, byScore)
	all := []Lookup{}
	for _, d := range worst[:min(n, len(worst))] {
		all = append(all, lookupOf(d))
	}
	reply(w, http.StatusOK, all)
}

func (s *Server) reload(w http.ResponseWriter, _ *http.Request) {
	done, err := s.Reload()
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	reply(w, http.StatusOK, done)
}

// Reloaded is the answer to a reload: the keys that were changed and take a restart, and what is
// wrong all the same.
type Reloaded struct {
	Restart  []string `json:"restart"`
	Warnings []string `json:"warnings"`
}

// Status asks how the daemon stands.
func (c *Client) Status(ctx context.Context) (st Status, err error) {
	// Counting a large store takes its time, but a daemon that hangs says nothing at all.
	if err := c.Health(ctx); err != nil {
		return st, err
	}
	return st, c.patient().get(ctx, "/api/v1/status", &st)
}

// Top asks for the hosts of the highest scores.
func (c *Client) Top(ctx context.Context, n int) (all []Lookup, err error) {
	return all, c.patient().get(ctx, fmt.Sprintf("/api/v1/top?n=%d", n), &all)
}

// Reload has the daemon read its configuration again.
func (c *Client) Reload(ctx context.Context) (r Reloaded, err error) {
	return r, c.do(ctx, http.MethodPost, "/api/v1/reload", nil, decodeInto(&r))
}
