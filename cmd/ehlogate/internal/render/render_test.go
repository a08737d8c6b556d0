package render

import (
	"bytes"
	"encoding/csv"
	"errors"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/ledger"
)

func TestNumbersAreReadable(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1234: "-1,234"} {
		if got := Count(n); got != want {
			t.Errorf("%d is written %q; want %q", n, got, want)
		}
	}
	half, little := 0.5, 0.0001
	for want, share := range map[string]*float64{"-": nil, "50.0 %": &half, "< 0.1 %": &little} {
		if got := Percent(share); got != want {
			t.Errorf("%q; want %q", got, want)
		}
	}
	for n, want := range map[int64]int64{1: 2, 2: 2, 3: 4, 5: 6, 7: 10, 11: 20, 99: 100, 100: 200, 101: 200, 6001: 10_000} {
		if got := niceCeiling(n); got != want {
			t.Errorf("an axis for %d ends at %d; want %d", n, got, want)
		}
	}
}

// reportOf is the report of a message from a domain.
func reportOf(t *testing.T, domain string) *ledger.Report {
	t.Helper()
	return reportOfOne(t, domain, true)
}

// reportOfOne is the same, where a milter heard its session, or none did.
func reportOfOne(t *testing.T, domain string, heard bool) *ledger.Report {
	t.Helper()
	noon := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	l, err := ledger.Open(ledger.Options{Now: func() time.Time { return noon }, Network: func(a netip.Addr) netip.Prefix { n, _ := a.Prefix(24); return n }})
	if err != nil {
		t.Fatal(err)
	}
	l.Count(&ledger.Entry{
		Time: noon, Addr: netip.MustParseAddr("192.0.2.7"), Message: true, Session: heard, Unheard: !heard, Verdict: policy.Verdict{Class: policy.Spam, Source: policy.FromHeader},
		Facts: policy.Facts{STARTTLS: policy.Withheld, FromDomain: domain, Tier: "bad", Outcome: policy.Accepted},
	}, false)
	b, err := l.Read(t.Context(), noon.Add(-4*time.Hour), noon.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return b.Report(ledger.View{Step: time.Hour, Location: time.UTC, Top: 5, Measure: ledger.Measures["spam"], HandshakeCost: time.Millisecond})
}

// TestNoFormulaReachesASpreadsheet: a domain that begins like a formula is text in CSV.
func TestNoFormulaReachesASpreadsheet(t *testing.T) {
	for _, domain := range []string{`=HYPERLINK("http://x.example")`, "+1", "-1", "@x"} {
		var b bytes.Buffer
		if err := CSV(&b, reportOf(t, domain), "domain"); err != nil {
			t.Fatal(err)
		}
		rows, err := csv.NewReader(&b).ReadAll()
		if err != nil || len(rows) != 2 || rows[1][0] != "'"+domain {
			t.Errorf("%q is written %v, %v", domain, rows, err)
		}
	}
}

// TestEveryTableCanBeDrawn in every form.
func TestEveryTableCanBeDrawn(t *testing.T) {
	r := reportOf(t, "<b>sender</b>.example")
	for _, by := range Tables() {
		var text, table bytes.Buffer
		if err := Text(&text, r, by, 80, true); err != nil || text.Len() == 0 {
			t.Errorf("%s as text: %v", by, err)
		}
		if err := CSV(&table, r, by); err != nil {
			t.Errorf("%s as CSV: %v", by, err)
		}
		rows, err := csv.NewReader(&table).ReadAll()
		if err != nil || len(rows) == 0 || slices.Contains(rows[0], "") {
			t.Errorf("%s as CSV: %v, %v", by, rows, err)
		}
	}
	var page bytes.Buffer
	if err := HTML(&page, r); err != nil {
		t.Fatal(err)
	}
	text := page.String()
	for _, never := range []string{"<b>sender", "http://", "https://", "<script"} {
		if strings.Contains(text, never) {
			t.Errorf("the page has %q", never)
		}
	}
	for _, want := range []string{"0 of 1 messages", "&lt;b&gt;sender", "<svg", "1 sessions"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page has no %q", want)
		}
	}
}

// TestChartsShowWhatIsUnknown: where nobody heard how a message came in, its column is as high as
// the others, and the legend says what it is; where all is known, it does not.
func TestChartsShowWhatIsUnknown(t *testing.T) {
	for _, heard := range []bool{true, false} {
		r := reportOfOne(t, "sender.example", heard)
		chart, legend := string(Messages(r, "Messages")), string(Legend(r))
		if got := strings.Contains(chart, `<rect class="spam-unknown"`) && strings.Contains(legend, "spam, transport unknown") && strings.Contains(chart, "1 spam and 0 ham of which that is not known"); got == heard {
			t.Errorf("heard %v: %s\n%s", heard, legend, chart)
		}
		if strings.Contains(legend, "ham, transport unknown") {
			t.Error("the legend has what there is none of")
		}
	}
}

// TestLinesOfAMailAreNotTooLong: a report fits into a mail of cron.
func TestLinesOfAMailAreNotTooLong(t *testing.T) {
	var b bytes.Buffer
	if err := Text(&b, reportOf(t, "sender.example"), "", 80, false); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		// RFC 5322 section 2.1.1 has 78 for what people read.
		if len(line) > 130 {
			t.Errorf("a line of %d bytes: %s", len(line), line)
		}
	}
}

// TestWithoutAMilterNothingIsSaidOfSessions draws the report of a host whose MTA has no milters.
func TestWithoutAMilterNothingIsSaidOfSessions(t *testing.T) {
	r := reportOfOne(t, "sender.example", false)
	var text, page bytes.Buffer
	if err := errors.Join(Text(&text, r, "", 80, true), HTML(&page, r)); err != nil {
		t.Fatal(err)
	}
	for name, drawn := range map[string]string{"text": text.String(), "page": page.String()} {
		if !strings.Contains(drawn, "no milter heard") || strings.Contains(drawn, "0 session") || strings.Contains(drawn, "handshakes avoided") {
			t.Errorf("the %s speaks of sessions:\n%s", name, drawn)
		}
	}
}

// TestAxesAreInWholeNumbers: a few messages are no fractions of one.
func TestAxesAreInWholeNumbers(t *testing.T) {
	for most := 1; most < 5000; most++ {
		lines, top := axis(float64(most))
		step := top / float64(lines)
		if lines < 1 || lines > plotHeight || top < float64(most) || top >= float64(most)+step || step != math.Trunc(step) {
			t.Errorf("an axis up to %d has %d lines and ends at %g", most, lines, top)
		}
	}
}

// TestColumnsThatAreLeftOutAreNamed draws a table that is too wide.
func TestColumnsThatAreLeftOutAreNamed(t *testing.T) {
	r := reportOf(t, "sender.example")
	for width, want := range map[int]bool{0: false, 200: false, 60: false, 40: true} {
		var b bytes.Buffer
		if err := Text(&b, r, "domain", width, true); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(strings.Join(strings.Fields(b.String()), " "), "Not shown, as the line is too short: spam share"); got != want {
			t.Errorf("in %d columns:\n%s", width, b.String())
		}
	}
}
