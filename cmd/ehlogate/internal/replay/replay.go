// Package replay runs a policy over a trace in the trace's own time: what would have been decided,
// and learnt, had it been in force.
package replay

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/eventlog"
	"github.com/ehlogate/ehlogate/policy/store"
)

// expireEvery is how often, in the trace's time, what counts no more is dropped from memory.
const expireEvery = 6 * time.Hour

// Summary is what a replay saw and decided.
type Summary struct {
	Mode policy.Mode `json:"mode"`
	// Rows counts all rows, Connections those that were decided: the first of each session.
	// Corrections replace an earlier row's verdict, Orphans are those of them whose row was not in
	// the trace.
	Rows        int `json:"rows"`
	Connections int `json:"connections"`
	Corrections int `json:"corrections"`
	Orphans     int `json:"orphans"`
	// OutOfOrder counts rows that are older than one before them, Back is by how much at most, in
	// seconds.
	OutOfOrder int     `json:"out_of_order"`
	Back       float64 `json:"back_seconds"`
	// NoAddress counts connections whose client the MTA did not know: they are always offered.
	NoAddress int       `json:"no_address"`
	First     time.Time `json:"first,omitzero"`
	Last      time.Time `json:"last,omitzero"`
	// Verdicts is the change by verdict.
	Verdicts map[policy.Class]Change `json:"verdicts"`
	// Clients are those for whom most changes, at most ten.
	Clients []Client `json:"clients,omitempty"`
}

// Change counts connections by what they were told then and what they are told now.
type Change struct {
	Connections int `json:"connections"`
	// TLS counts those over TLS, and TLSNow those of them that are still offered it.
	TLS    int `json:"tls"`
	TLSNow int `json:"tls_now"`
	// Unasked counts those whose answer then is not known.
	Unasked       int `json:"unasked"`
	WithheldThen  int `json:"withheld_then"`
	WithheldNow   int `json:"withheld_now"`
	NewlyWithheld int `json:"newly_withheld"`
	NewlyOffered  int `json:"newly_offered"`
}

// Client is how a client's answers change.
type Client struct {
	Addr          netip.Addr `json:"addr"`
	NewlyWithheld int        `json:"newly_withheld"`
	NewlyOffered  int        `json:"newly_offered"`
	Spam          int        `json:"spam"`
	Ham           int        `json:"ham"`
}

const mostClients = 10

// Options are what a replay does beside judging.
type Options struct {
	// Decisions gets a line {"id":N,"starttls":"offer|withhold"} for each connection, unless it is
	// nil.
	Decisions io.Writer
	// Against compares with what was decided then; every row must say it.
	Against bool
}

type run struct {
	opts        Options
	summary     Summary
	now         time.Time
	judge       *policy.Judge
	store       *store.Memory
	expired     time.Time
	out         *bufio.Writer
	sessions    map[string]struct{}
	corrections *eventlog.Corrections
	clients     map[netip.Addr]*Client
}

// Run replays a trace under a policy.
func Run(trace io.Reader, p *policy.Policy, opts Options) (*Summary, error) {
	r := &run{
		opts: opts, sessions: map[string]struct{}{}, corrections: eventlog.NewCorrections(),
		clients: map[netip.Addr]*Client{}, summary: Summary{Mode: p.Mode, Verdicts: map[policy.Class]Change{}},
	}
	inForce := policy.NewInForce(p, func() time.Time { return r.now })
	// Rows may be out of order: the latest one shows how far the trace's clock had come.
	r.store = store.NewMemory(inForce.Tier, func() time.Time { return r.summary.Last })
	r.judge = policy.NewJudge(inForce, r.store)
	if opts.Decisions != nil {
		r.out = bufio.NewWriterSize(opts.Decisions, 1<<16)
	}
	for row, err := range eventlog.Rows(trace) {
		if err != nil {
			return nil, err
		}
		if err := r.row(&row); err != nil {
			return nil, fmt.Errorf("line %d: %w", row.Line, err)
		}
	}
	r.summary.Orphans += r.corrections.Waiting()
	r.summary.Clients = r.changed()
	if r.out != nil {
		if err := r.out.Flush(); err != nil {
			return nil, fmt.Errorf("decisions: %w", err)
		}
	}
	return &r.summary, nil
}

// row judges a row at its own time, then learns from it.
func (r *run) row(row *eventlog.Row) error {
	r.tick(row.Time)
	if row.Correction {
		r.corrected(row)
		return nil
	}
	if row.CorrectionOf != 0 {
		r.correct(row)
		return nil
	}
	if row.Session != "" {
		_, again := r.sessions[row.Session]
		r.sessions[row.Session] = struct{}{}
		if again {
			r.learn(row)
			return nil
		}
	}
	var d policy.Decision
	if row.Addr.IsValid() {
		d = r.judge.Decide(row.Addr)
	} else {
		r.summary.NoAddress++
	}
	r.summary.Connections++
	if r.out != nil {
		if _, err := fmt.Fprintf(r.out, `{"id":%d,"starttls":"%s"}`+"\n", row.ID, d.Verb()); err != nil {
			return fmt.Errorf("decisions: %w", err)
		}
	}
	if err := r.count(row, d.Withhold); err != nil {
		return err
	}
	r.learn(row)
	return nil
}

// tick moves the clock to a row's time, back, too, if that is what the trace says.
func (r *run) tick(at time.Time) {
	s := &r.summary
	s.Rows++
	if s.First.IsZero() {
		s.First, s.Last, r.expired = at, at, at
	}
	if back := s.Last.Sub(at); back > 0 {
		s.OutOfOrder++
		s.Back = max(s.Back, back.Seconds())
		if at.Before(s.First) {
			s.First = at
		}
	} else {
		s.Last = at
	}
	r.now = at
	if s.Last.Sub(r.expired) >= expireEvery {
		r.expired = s.Last
		r.store.Expire(s.Last)
	}
}

func (r *run) learn(row *eventlog.Row) {
	m := row.Message()
	r.judge.Learn(&m)
	if c, ok := r.corrections.Row(row); ok {
		r.judge.Correct(&c)
	}
}

// correct takes an earlier row's verdict back; one that comes before its row waits for it.
func (r *run) correct(row *eventlog.Row) {
	r.summary.Corrections++
	if c, ok := r.corrections.Correct(row); ok {
		r.judge.Correct(&c)
	}
}

// corrected takes a correction of the daemon's own, which needs no earlier row. What it corrects
// may lie before the trace.
func (r *run) corrected(row *eventlog.Row) {
	r.summary.Corrections++
	if row.Of.Before(r.summary.First) {
		r.summary.Orphans++
		return
	}
	r.judge.Correct(&policy.Correction{Message: row.Message(), Was: row.Was})
}

// count counts a connection by what it is told now and, with Against, by what that changes.
func (r *run) count(row *eventlog.Row, withheld bool) (err error) {
	c := r.summary.Verdicts[row.Verdict.Class]
	c.Connections++
	if row.TLS {
		c.TLS++
	}
	if row.TLS && !withheld {
		c.TLSNow++
	}
	if withheld {
		c.WithheldNow++
	}
	if r.opts.Against {
		err = r.compare(row, withheld, &c)
	}
	r.summary.Verdicts[row.Verdict.Class] = c
	return err
}

// compare counts what changes for a connection against what it was told then.
func (r *run) compare(row *eventlog.Row, withheld bool, c *Change) error {
	switch row.STARTTLS {
	case policy.Offered:
		if withheld {
			c.NewlyWithheld++
			r.client(row).NewlyWithheld++
		}
	case policy.Withheld:
		c.WithheldThen++
		if !withheld {
			c.NewlyOffered++
			r.client(row).NewlyOffered++
		}
	case policy.Unasked:
		c.Unasked++
	default:
		return errors.New(`no "starttls" to compare with; --against wants the daemon's own event log`)
	}
	return nil
}

// client is the one for whom this row changes something.
func (r *run) client(row *eventlog.Row) *Client {
	c := r.clients[row.Addr]
	if c == nil {
		c = &Client{Addr: row.Addr}
		r.clients[row.Addr] = c
	}
	switch row.Verdict.Class {
	case policy.Spam:
		c.Spam++
	case policy.Ham:
		c.Ham++
	}
	return c
}

// changed are the clients for whom most changes.
func (r *run) changed() []Client {
	var all []Client
	for _, c := range r.clients {
		all = append(all, *c)
	}
	slices.SortFunc(all, func(a, b Client) int {
		return cmp.Or(cmp.Compare(b.NewlyWithheld+b.NewlyOffered, a.NewlyWithheld+a.NewlyOffered), a.Addr.Compare(b.Addr))
	})
	return all[:min(len(all), mostClients)]
}
