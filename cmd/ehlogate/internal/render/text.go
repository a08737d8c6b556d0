package render

import (
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/guptarohit/asciigraph"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/ledger"
)

// Text writes a report for a terminal or a mail that is so many columns wide, with plots if there
// may be other characters than ASCII: all of it, or one table.
func Text(w io.Writer, r *ledger.Report, by string, width int, utf8 bool) error {
	t := text{w: w, step: r.StepSeconds, width: width, utf8: utf8}
	t.line("TLS and spam, %s to %s%s", r.Since.In(zone(r)).Format("2006-01-02 15:04"), r.Until.In(zone(r)).Format("2006-01-02 15:04 MST"), nodesText(r.Nodes))
	if by != "" {
		t.line("")
		t.notes(r)
		t.table(byTables[by](r).short())
		return t.err
	}
	t.headline(r)
	t.notes(r)
	for _, w := range r.Waves {
		t.say("WAVE: %s.", w.Text())
	}
	if len(r.Waves)+len(r.Notes) > 0 {
		t.line("")
	}
	t.plot(r)
	if n := len(r.Series); n > 0 && n <= mostCourse {
		t.table(course(r).short())
	}
	for _, by := range []string{"tls", "cipher", "source", "tier", "network", "asn", "domain"} {
		if table := byTables[by](r).short(); len(table.rows) > 0 {
			t.table(table)
		}
	}
	t.authenticated(r)
	t.requireTLS(r)
	return t.err
}

// notes say what the figures lack.
func (t *text) notes(r *ledger.Report) {
	for _, n := range r.Notes {
		t.say("NOTE: %s.", n)
	}
}

// mostCourse is how many steps of the course are listed beside its plot.
const mostCourse = 31

// zone is that of the report's own times: the daemon's.
func zone(r *ledger.Report) *time.Location {
	if len(r.Series) > 0 {
		return r.Series[0].At.Location()
	}
	return time.Local
}

func nodesText(nodes []ledger.Node) string {
	switch len(nodes) {
	case 0:
		return ""
	case 1:
		return ", node " + nodes[0].Name
	}
	var names []string
	for _, n := range nodes {
		names = append(names, n.Name)
	}
	return ", nodes " + strings.Join(names, ", ")
}

// text writes lines until one cannot be written.
type text struct {
	w     io.Writer
	step  int64
	width int
	// utf8 says that there may be other characters than ASCII.
	utf8 bool
	err  error
}

func (t *text) line(format string, args ...any) {
	if t.err == nil {
		_, t.err = fmt.Fprintf(t.w, format+"\n", args...)
	}
}

// say writes a sentence, in lines of the width that there is.
func (t *text) say(format string, args ...any) {
	for _, line := range Wrap(fmt.Sprintf(format, args...), t.width) {
		t.line("%s", line)
	}
}

// Wrap is a text in lines of a width, in one where there is none.
func Wrap(text string, width int) []string {
	if width <= 0 {
		return []string{text}
	}
	lines := []string{""}
	for word := range strings.FieldsSeq(text) {
		last := &lines[len(lines)-1]
		switch {
		case *last == "":
			*last = word
		case utf8.RuneCountInString(*last)+1+utf8.RuneCountInString(word) > width:
			lines = append(lines, word)
		default:
			*last += " " + word
		}
	}
	return lines
}

// headline says in a few lines what there is to know.
func (t *text) headline(r *ledger.Report) {
	m, s, h := r.Messages, r.Shares, r.Handshakes
	t.line("")
	if r.Sessions == 0 && r.AllMessages() == 0 {
		t.say("Nothing was heard in this time.")
		return
	}
	t.table(table{head: []column{{"MESSAGES", ""}, {"OVER TLS", ""}, {"IN THE CLEAR", ""}, {"SHARE OVER TLS", ""}, {"UNKNOWN", ""}}, rows: [][]any{
		{"spam", m[policy.Spam].TLS, m[policy.Spam].Plain, s.SpamOverTLS, m[policy.Spam].Unknown},
		{"ham", m[policy.Ham].TLS, m[policy.Ham].Plain, s.HamOverTLS, m[policy.Ham].Unknown},
		{"no verdict", m[policy.None].TLS, m[policy.None].Plain, ledger.Share(m[policy.None].TLS, m[policy.None].TLS+m[policy.None].Plain), m[policy.None].Unknown},
	}}.short())
	unknown := m[policy.Spam].Unknown + m[policy.Ham].Unknown + m[policy.None].Unknown
	if unknown > 0 && r.Sessions > 0 {
		t.say("UNKNOWN are messages whose sessions no milter heard, and of which nothing else says whether they came over TLS.")
	}
	if s.TLSThatIsSpam != nil || s.PlainThatIsSpam != nil || unknown == 0 {
		t.say("%s.", spamText(s))
	}
	clients := "about " + counted(int64(r.Clients.All), "client") + ", counted in whole " + wholeUnit(r)
	if r.Sessions == 0 {
		t.say("The MTA's log and what was posted tell of these messages, of %s. Since no milter heard their sessions, it is not known how often STARTTLS was offered or withheld, nor what that saved.", clients)
		if h.Failed > 0 {
			t.say("%s failed.", counted(h.Failed, "handshake"))
		}
	} else {
		unasked := ""
		if n := r.STARTTLS[policy.Unasked]; n > 0 {
			unasked = "; in " + Count(n) + " the MTA did not ask"
		}
		t.say("%s: STARTTLS was offered in %s and withheld in %s (%s)%s. They are of %s.", counted(r.Sessions, "session"),
			Count(r.STARTTLS[policy.Offered]), Count(r.STARTTLS[policy.Withheld]), Percent(s.Withheld), unasked, clients)
		avoided := ""
		if h.Avoided > 0 {
			avoided = fmt.Sprintf("; at most %s avoided, worth up to %s of processor time at %g ms each", Count(h.Avoided), duration(h.SavedSeconds), h.CostMilliseconds)
		}
		t.say("%s%s.", counted(h.Done, "TLS handshake"), avoided)
		t.say("%s failed; %s for want of STARTTLS.", counted(h.Failed, "handshake"), counted(h.Left, "session left", "sessions left"))
	}
	if r.Own != (ledger.OwnCounts{}) {
		t.say("Beside these, %s of own users.", counted(r.Own.Messages, "message"))
	}
	t.line("")
}

// spamText says how much of what came over TLS, and in the clear, is spam, as far as anything came.
func spamText(s ledger.Shares) string {
	switch {
	case s.TLSThatIsSpam == nil && s.PlainThatIsSpam == nil:
		return "Nothing had a verdict, over TLS or in the clear"
	case s.TLSThatIsSpam == nil:
		return "Nothing with a verdict came over TLS; spam is " + Percent(s.PlainThatIsSpam) + " of what came in the clear"
	case s.PlainThatIsSpam == nil:
		return "Spam is " + Percent(s.TLSThatIsSpam) + " of what came over TLS; nothing with a verdict came in the clear"
	}
	return "Spam is " + Percent(s.TLSThatIsSpam) + " of what came over TLS, and " + Percent(s.PlainThatIsSpam) + " of what came in the clear"
}

// wholeUnit is the unit of time of which clients are counted.
func wholeUnit(r *ledger.Report) string {
	if r.Until.Sub(r.Since) > 2*aDay {
		return "days (UTC)"
	}
	return "hours"
}

const aDay = 24 * time.Hour

// counted is a number of things.
func counted(n int64, one string, several ...string) string {
	many := one + "s"
	if len(several) > 0 {
		many = several[0]
	}
	if n == 1 {
		many = one
	}
	return Count(n) + " " + many
}

// duration is so many seconds, in a unit that suits.
func duration(seconds float64) string {
	switch {
	case seconds < 0.1:
		return fmt.Sprintf("%.1f ms", seconds*1000)
	case seconds < 1:
		return fmt.Sprintf("%.0f ms", seconds*1000)
	case seconds < 120:
		return fmt.Sprintf("%.1f s", seconds)
	case seconds < 7200:
		return fmt.Sprintf("%.0f minutes", seconds/60)
	}
	return fmt.Sprintf("%.1f hours", seconds/3600)
}

const (
	// plotHeight is how many lines a plot has, fewest of what a plot is worth.
	plotHeight, fewest = 8, 4
	// plotMargin is what a plot needs beside its curve.
	plotMargin = 12
)

// plot draws the course of spam over TLS and in the clear.
func (t *text) plot(r *ledger.Report) {
	if len(r.Series) < fewest {
		return
	}
	var tls, plain []float64
	for _, p := range r.Series {
		tls, plain = append(tls, float64(p.Messages[policy.Spam].TLS)), append(plain, float64(p.Messages[policy.Spam].Plain))
	}
	most := 0.0
	for i := range tls {
		most = math.Max(most, math.Max(tls[i], plain[i]))
	}
	if most == 0 || !t.utf8 {
		return
	}
	width := max(20, t.width-plotMargin)
	lines, top := axis(most)
	for _, curve := range []struct {
		what   string
		values []float64
	}{{"Spam over TLS", tls}, {"Spam in the clear", plain}} {
		t.line("%s, messages by %s, from %s to %s", curve.what, stepName(r.StepSeconds), timeText(r.Series[0].At, r.StepSeconds), timeText(r.Series[len(r.Series)-1].At, r.StepSeconds))
		t.line("%s", asciigraph.Plot(curve.values, asciigraph.Height(lines), asciigraph.Width(width), asciigraph.LowerBound(0), asciigraph.UpperBound(top), asciigraph.Precision(0)))
		t.line("")
	}
}

// axis is how many lines an axis up to a count has, all of them at whole numbers, and where it
// ends.
func axis(most float64) (lines int, top float64) {
	for step := 1.0; ; step *= 10 {
		for _, s := range []float64{step, 2 * step, 5 * step} {
			if n := math.Ceil(most / s); n <= plotHeight {
				return int(n), n * s
			}
		}
	}
}

// authenticated says how good authenticated mail is: that somebody can be named says nothing.
func (t *text) authenticated(r *ledger.Report) {
	table := table{title: "Authenticated is not good: messages by what authenticated them", head: []column{{"BY", ""}, {"SPAM", ""}, {"HAM", ""}, {"SPAM SHARE", ""}}}
	for _, k := range []struct {
		kind ledger.Kind
		name string
	}{{ledger.ByDKIM, "DKIM"}, {ledger.BySPF, "SPF"}, {ledger.ByCertificate, "client certificate"}} {
		if c := r.Authenticated[k.kind]; c.Sum() > 0 {
			table.rows = append(table.rows, []any{k.name, c.Spam, c.Ham, ledger.Share(c.Spam, c.Spam+c.Ham)})
		}
	}
	if len(table.rows) == 0 {
		return
	}
	t.table(table)
	for _, by := range []string{"dkim", "spf", "certificate"} {
		if table := byTables[by](r).short(); len(table.rows) > 0 {
			t.table(table)
		}
	}
}

// RequireTLS writes what would be lost if TLS were required.
func RequireTLS(w io.Writer, r *ledger.Report) error {
	t := text{w: w, step: r.StepSeconds}
	t.line("If TLS were required, %s to %s", r.Since.In(zone(r)).Format("2006-01-02 15:04"), r.Until.In(zone(r)).Format("2006-01-02 15:04 MST"))
	t.line("")
	t.requireTLS(r)
	if rows := r.RequireTLS.Clients; len(rows) > 0 {
		t.table(losses("Clients that would be lost, those with most ham first", "ADDRESS", rows))
	}
	return t.err
}

func (t *text) requireTLS(r *ledger.Report) {
	q := r.RequireTLS
	if unknown := r.Messages[policy.Ham].Unknown; q.Ham == 0 && unknown > 0 {
		t.say("Of %s of ham it is not known whether they came over TLS, so nothing can be said of what requiring TLS would lose.", counted(unknown, "message"))
		return
	}
	if q.Ham == 0 {
		t.say("No ham was heard in this time, so nothing can be said of what requiring TLS would lose.")
		return
	}
	t.say("Of %s of ham, %s came in the clear (%s), and %s over TLS older than 1.2: requiring TLS would lose %s of the ham, requiring TLS 1.2 %s.",
		counted(q.Ham, "message"), Count(q.Plain), Percent(q.PlainShare), Count(q.Old), Percent(q.PlainShare), Percent(q.OldShare))
	if q.Withheld > 0 {
		t.say("Another %s of ham came in the clear because STARTTLS was withheld: that says nothing of their senders.", counted(q.Withheld, "message"))
	}
	t.line("")
	if len(q.Senders) > 0 {
		t.table(losses("Senders that would be lost, those with most ham first", "DOMAIN", q.Senders))
	}
}

func losses(title, name string, rows []ledger.Row) table {
	t := table{title: title, head: []column{{name, strings.ToLower(name)}, {"HAM IN CLEAR", "ham_plain"}, {"OVER OLD TLS", "ham_old_tls"}, {"OVER TLS 1.2 OR NEWER", "ham_tls_1_2"}}}
	for _, r := range rows {
		label := r.Name
		t.rows = append(t.rows, []any{label, r.Ham.Plain, r.OldHam, r.Ham.TLS - r.OldHam})
	}
	return t
}

// expendable are the columns that go first where a table is too wide, and mostCell is how long a
// cell may be.
var expendable = []string{"NO VERDICT", "SPAM SHARE", "TLS THAT IS SPAM", "LEFT", "UNKNOWN USERS", "FAILED", "WITHHELD"}

const mostCell = 44

func clipped(s string) string {
	if utf8.RuneCountInString(s) <= mostCell {
		return s
	}
	return string([]rune(s)[:mostCell-3]) + "..."
}

// table writes a table: names to the left, numbers to the right.
func (t *text) table(tab table) {
	var dropped []string
	if t.width > 0 && tab.widest(t.step) > t.width {
		tab = tab.filled(nil)
	}
	for _, name := range expendable {
		if t.width == 0 || tab.widest(t.step) <= t.width {
			break
		}
		if tab.has(name) {
			tab, dropped = tab.without(name), append(dropped, strings.ToLower(name))
		}
	}
	if tab.title != "" {
		t.line("%s", tab.title)
	}
	cells := make([][]string, 0, len(tab.rows)+1)
	var head []string
	for _, c := range tab.head {
		head = append(head, c.name)
	}
	cells = append(cells, head)
	for _, row := range tab.rows {
		var line []string
		for _, cell := range row {
			line = append(line, clipped(forPeople(cell, t.step)))
		}
		cells = append(cells, line)
	}
	widths := make([]int, len(head))
	for _, line := range cells {
		for i, c := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for _, line := range cells {
		var b strings.Builder
		for i, c := range line {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			switch {
			case i == 0:
				b.WriteString(c + pad)
			default:
				b.WriteString("  " + pad + c)
			}
		}
		t.line("%s", strings.TrimRight(b.String(), " "))
	}
	if len(tab.rows) == 0 {
		t.line("(none)")
	}
	for _, note := range tab.notes {
		t.say("%s", note)
	}
	if len(dropped) > 0 {
		t.say("Not shown, as the line is too short: %s.", strings.Join(dropped, ", "))
	}
	t.line("")
}

// CSV writes a table of a report as RFC 4180 has it: its course unless another one is named.
func CSV(w io.Writer, r *ledger.Report, by string) error {
	if by == "" {
		by = "day"
	}
	t := byTables[by](r)
	out := csv.NewWriter(w)
	var head []string
	for _, c := range t.head {
		head = append(head, c.csv)
	}
	out.Write(head)
	for _, row := range t.rows {
		var line []string
		for _, cell := range row {
			line = append(line, forPrograms(cell))
		}
		out.Write(line)
	}
	out.Flush()
	return out.Error()
}
