// Package render draws reports: as text for a terminal or a mail, as CSV, and as a page with
// charts.
package render

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/ledger"
)

// table is a table of a report. A cell has a number as it is counted, or text.
type table struct {
	title string
	// notes say what the table has, where its title and its head do not.
	notes []string
	head  []column
	rows  [][]any
}

// column is a column of a table: its name for people, and the one in CSV.
type column struct{ name, csv string }

// byTables makes each table that a report has.
var byTables = map[string]func(r *ledger.Report) table{
	"hour": course, "day": course,
	"tls": func(r *ledger.Report) table {
		return classes("Messages by version of TLS", "VERSION", r.Versions, ledger.Versions)
	},
	"cipher": func(r *ledger.Report) table {
		return classes("Messages over TLS by cipher", "CIPHER", r.Ciphers, ledger.Ciphers)
	},
	"key-exchange": func(r *ledger.Report) table {
		return classes("Messages over TLS by key exchange", "KEY EXCHANGE", r.Exchanges, ledger.Exchanges)
	},
	"source": func(r *ledger.Report) table {
		return classes("Messages by source of the verdict", "SOURCE", r.Sources, ledger.Sources)
	},
	"tier": func(r *ledger.Report) table {
		return classes("Messages by tier of the client", "TIER", r.Tiers, ledger.Tiers)
	},
	"outcome": func(r *ledger.Report) table {
		return classes("Messages by outcome", "OUTCOME", r.Outcomes, ledger.Outcomes)
	},
	"starttls": func(r *ledger.Report) table {
		return classes("Messages by what the client was offered", "STARTTLS", r.Answers, ledger.Answers)
	},
	"address": func(r *ledger.Report) table { return named("Clients", "ADDRESS", r.Top[ledger.ByAddress]) },
	"network": func(r *ledger.Report) table { return named("Networks", "NETWORK", r.Top[ledger.ByNetwork]) },
	"asn":     func(r *ledger.Report) table { return named("Autonomous systems", "AS", r.Top[ledger.ByASN]) },
	"domain":  func(r *ledger.Report) table { return named("Envelope domains", "DOMAIN", r.Top[ledger.ByDomain]) },
	"dkim": func(r *ledger.Report) table {
		return named("Domains whose DKIM signature passed", "DOMAIN", r.Top[ledger.ByDKIM])
	},
	"spf": func(r *ledger.Report) table { return named("Domains whose SPF passed", "DOMAIN", r.Top[ledger.BySPF]) },
	"certificate": func(r *ledger.Report) table {
		return named("Client certificates that the MTA trusts", "SUBJECT", r.Top[ledger.ByCertificate])
	},
}

// Tables are the names of all tables.
func Tables() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(byTables)), func(by string) bool { return by == "require-tls" })
}

var messageColumns = []column{
	{"SPAM TLS", "spam_tls"}, {"SPAM CLEAR", "spam_plain"}, {"SPAM UNKNOWN", "spam_unknown"},
	{"HAM TLS", "ham_tls"}, {"HAM CLEAR", "ham_plain"}, {"HAM UNKNOWN", "ham_unknown"}, {"NO VERDICT", "none"},
}

// lasting are the columns that stay where there is nothing in them.
var lasting = []string{"OVER TLS", "IN THE CLEAR", "SHARE OVER TLS", "SPAM TLS", "SPAM CLEAR", "HAM TLS", "HAM CLEAR"}

func messageCells(m map[policy.Class]ledger.Transport) []any {
	spam, ham := m[policy.Spam], m[policy.Ham]
	return []any{spam.TLS, spam.Plain, spam.Unknown, ham.TLS, ham.Plain, ham.Unknown, m[policy.None].Sum()}
}

// course is a report's course.
func course(r *ledger.Report) table {
	t := table{title: "Course, by " + stepName(r.StepSeconds), head: append([]column{{"TIME", "time"}}, messageColumns...)}
	t.head = append(t.head, column{"TLS THAT IS SPAM", "tls_that_is_spam"}, column{"WITHHELD", "starttls_withheld"}, column{"FAILED", "handshakes_failed"}, column{"LEFT", "left"})
	if r.Handshakes.Left > 0 {
		t.notes = append(t.notes, "LEFT are sessions that ended for want of STARTTLS.")
	}
	if r.Handshakes.Failed > 0 {
		t.notes = append(t.notes, "FAILED are TLS handshakes.")
	}
	for _, p := range r.Series {
		cells := append([]any{p.At}, messageCells(p.Messages)...)
		t.rows = append(t.rows, append(cells, p.Shares.TLSThatIsSpam, p.STARTTLS[policy.Withheld], p.Handshakes.Failed, p.Handshakes.Left))
	}
	return t
}

func stepName(seconds int64) string {
	switch seconds {
	case 86400:
		return "day"
	case 3600:
		return "hour"
	}
	return fmt.Sprintf("%d minutes", seconds/60)
}

// classes is a table of messages by name and class.
func classes[T ~string](title, name string, all map[T]ledger.Classed, order []T) table {
	t := table{title: title, head: []column{{name, strings.ReplaceAll(strings.ToLower(name), " ", "_")}, {"SPAM", "spam"}, {"HAM", "ham"}, {"NO VERDICT", "none"}, {"SPAM SHARE", "spam_share"}}}
	for _, n := range order {
		if c, ok := all[n]; ok {
			label := string(n)
			if label == "" {
				label = "none"
			}
			t.rows = append(t.rows, []any{label, c.Spam, c.Ham, c.None, ledger.Share(c.Spam, c.Spam+c.Ham)})
		}
	}
	return t
}

// named is a table of who messages came from.
func named(title, name string, rows []ledger.Row) table {
	t := table{title: title, head: append([]column{{name, strings.ToLower(name)}}, messageColumns...)}
	t.head = append(t.head, column{"SPAM SHARE", "spam_share"}, column{"WITHHELD", "starttls_withheld"}, column{"FAILED", "handshakes_failed"}, column{"UNKNOWN USERS", "unknown_users"}, column{"WRITE TO", "contact"})
	for _, r := range rows {
		cells := append([]any{r.Name}, messageCells(map[policy.Class]ledger.Transport{policy.Spam: r.Spam, policy.Ham: r.Ham, policy.None: r.None})...)
		t.rows = append(t.rows, append(cells, ledger.Share(r.Spam.Sum(), r.Spam.Sum()+r.Ham.Sum()), r.Withheld, r.Failed, r.UnknownUsers, r.Contact))
	}
	if slices.ContainsFunc(rows, func(r ledger.Row) bool { return r.Missed > 0 }) {
		t.notes = append(t.notes, "Figures are at least what is shown: there were more names than are tallied.")
	}
	return t
}

// short leaves out the columns in which there is nothing, but for those of lasting.
func (t table) short() table { return t.filled(lasting) }

// filled leaves out the columns in which there is nothing, but for some.
func (t table) filled(but []string) table {
	keep := make([]bool, len(t.head))
	for i := range t.head {
		keep[i] = i == 0 || slices.Contains(but, t.head[i].name)
		for _, row := range t.rows {
			switch v := row[i].(type) {
			case int64:
				keep[i] = keep[i] || v != 0
			case *float64:
				keep[i] = keep[i] || v != nil
			case string:
				keep[i] = keep[i] || v != ""
			default:
				keep[i] = true
			}
		}
	}
	less := table{title: t.title, notes: t.notes}
	pick := func(n int, take func(i int)) {
		for i := range n {
			if keep[i] {
				take(i)
			}
		}
	}
	pick(len(t.head), func(i int) { less.head = append(less.head, t.head[i]) })
	for _, row := range t.rows {
		var cells []any
		pick(len(row), func(i int) { cells = append(cells, row[i]) })
		less.rows = append(less.rows, cells)
	}
	return less
}

// has reports whether a table has a column.
func (t table) has(name string) bool {
	return slices.ContainsFunc(t.head, func(c column) bool { return c.name == name })
}

// without is a table less a column.
func (t table) without(name string) table {
	at := slices.IndexFunc(t.head, func(c column) bool { return c.name == name })
	if at < 0 {
		return t
	}
	less := t
	less.head, less.rows = slices.Delete(slices.Clone(t.head), at, at+1), nil
	for _, row := range t.rows {
		less.rows = append(less.rows, slices.Delete(slices.Clone(row), at, at+1))
	}
	return less
}

// widest is how many columns of a terminal a table takes.
func (t table) widest(step int64) (sum int) {
	for i, c := range t.head {
		most := len(c.name)
		for _, row := range t.rows {
			most = max(most, len(clipped(forPeople(row[i], step))))
		}
		sum += most + 2
	}
	return sum - 2
}

// forPeople is a cell as people read it.
func forPeople(cell any, step int64) string {
	switch v := cell.(type) {
	case int64:
		return Count(v)
	case *float64:
		return Percent(v)
	case time.Time:
		return timeText(v, step)
	case string:
		return v
	}
	return fmt.Sprint(cell)
}

// forPrograms is a cell as programs read it.
func forPrograms(cell any) string {
	switch v := cell.(type) {
	case *float64:
		if v == nil {
			return ""
		}
		return strconv.FormatFloat(*v, 'f', 4, 64)
	case time.Time:
		return v.Format(time.RFC3339)
	case string:
		return harmless(v)
	}
	return fmt.Sprint(cell)
}

// harmless keeps a spreadsheet from taking what a client sent for a formula.
func harmless(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}

func timeText(t time.Time, step int64) string {
	if step >= 86400 {
		return t.Format("Mon 2006-01-02")
	}
	return t.Format("2006-01-02 15:04")
}

// Count is a number with its thousands apart.
func Count(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Percent is a share in hundredths, "-" of nothing.
func Percent(share *float64) string {
	switch {
	case share == nil:
		return "-"
	case *share > 0 && *share < 0.001:
		return "< 0.1 %"
	}
	return strconv.FormatFloat(100**share, 'f', 1, 64) + " %"
}
