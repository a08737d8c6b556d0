package api

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy/ledger"
)

// TestReportsAreBounded: whoever may read cannot have a report made that takes the daemon's memory
// or time.
func TestReportsAreBounded(t *testing.T) {
	now := time.Now()
	good := Reporting{Since: now.Add(-7 * 24 * time.Hour), Until: now, Step: time.Hour, Top: 10, Measure: "spam"}
	form, err := url.ParseQuery(good.query())
	if err != nil {
		t.Fatal(err)
	}
	if q, err := parseReporting(form); err != nil || q.Step != time.Hour || q.Until.Sub(q.Since) < 7*24*time.Hour {
		t.Fatalf("%+v, %v", q, err)
	}
	for _, c := range []struct{ key, value, want string }{
		{"until", "9999-12-31T00:00:00Z", "future"}, {"step", "1000000", "step"}, {"step", "1", "step"}, {"step", "-60", "step"},
		{"top", "100000", "top"}, {"top", "-1", "top"}, {"measure", "size", "measure"}, {"since", "yesterday", "RFC 3339"}, {"since", now.Add(time.Hour).UTC().Format(time.RFC3339), "before"},
	} {
		bad, _ := url.ParseQuery(good.query())
		bad.Set(c.key, c.value)
		if _, err := parseReporting(bad); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%s: %v; want an error about %q", c.key, c.value, err, c.want)
		}
	}
	form.Set("since", "0001-01-01T00:00:00Z")
	form.Set("step", "86400")
	if q, err := parseReporting(form); err != nil || q.Until.Sub(q.Since) > ledger.KeptFor+2*time.Hour {
		t.Errorf("since the beginning of time: %+v, %v", q, err)
	}
	form.Set("step", "300")
	if _, err := parseReporting(form); err == nil {
		t.Error("a report of a year has steps of five minutes")
	}
}
