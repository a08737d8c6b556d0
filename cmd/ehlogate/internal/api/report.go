package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/ehlogate/ehlogate/policy/ledger"
)

// Reporting is a question for a report.
type Reporting struct {
	Since, Until time.Time
	// Step is the width of a step of the course, Top how many clients, networks and so on are
	// named, by Measure, one of ledger.Measures.
	Step    time.Duration
	Top     int
	Measure string
	// Node is the node whose counts are wanted, empty for all.
	Node string
}

// The most that a report has.
const (
	mostSteps = 400 * 24
	// MostRows is how many of a kind are named at most.
	MostRows = ledger.MostTallied
)

func (q *Reporting) query() string {
	return url.Values{
		"since": {q.Since.UTC().Format(time.RFC3339)}, "until": {q.Until.UTC().Format(time.RFC3339Nano)}, "step": {strconv.Itoa(int(q.Step.Seconds()))},
		"top": {strconv.Itoa(q.Top)}, "measure": {q.Measure}, "node": {q.Node},
	}.Encode()
}

func parseReporting(form url.Values) (q Reporting, err error) {
	step, noStep := strconv.Atoi(form.Get("step"))
	top, noTop := strconv.Atoi(form.Get("top"))
	since, noSince := time.Parse(time.RFC3339, form.Get("since"))
	until, noUntil := time.Parse(time.RFC3339, form.Get("until"))
	if oldest := time.Now().Add(-ledger.KeptFor); since.Before(oldest) {
		// Nothing is kept so long.
		since = oldest.Truncate(time.Hour)
	}
	q = Reporting{Since: since, Until: until, Step: time.Duration(step) * time.Second, Top: top, Measure: form.Get("measure"), Node: form.Get("node")}
	switch {
	case noSince != nil || noUntil != nil:
		return q, errors.New("since, until: want times in RFC 3339")
	case !q.Since.Before(q.Until):
		return q, errors.New("since: it has to be before until")
	case q.Until.After(time.Now().Add(48 * time.Hour)):
		return q, errors.New("until: it is in the future")
	case noStep != nil || q.Step < time.Minute || q.Step > 24*time.Hour || q.Until.Sub(q.Since)/q.Step > mostSteps:
		return q, fmt.Errorf("step: want seconds, 60 to 86400, that cut the time into %d steps at most", mostSteps)
	case noTop != nil || top < 0 || top > MostRows:
		return q, fmt.Errorf("top: want a number from 0 to %d", MostRows)
	case ledger.Measures[q.Measure] == nil:
		return q, fmt.Errorf("measure: %q is none", q.Measure)
	}
	return q, nil
}

func (s *Server) report(w http.ResponseWriter, r *http.Request) {
	q, err := parseReporting(r.URL.Query())
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	report, err := s.Report(r.Context(), q.Since, q.Until, ledger.View{Step: q.Step, Location: time.Local, Top: q.Top, Measure: ledger.Measures[q.Measure], Node: q.Node})
	if errors.Is(err, ledger.ErrNoNode) {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, fmt.Errorf("there is no report: %w", err))
		return
	}
	reply(w, http.StatusOK, report)
}

// Report asks for a report.
func (c *Client) Report(ctx context.Context, q Reporting) (r *ledger.Report, err error) {
	r = new(ledger.Report)
	if err := c.patient().get(ctx, "/api/v1/report?"+q.query(), r); err != nil {
		return nil, err
	}
	return r, nil
}
