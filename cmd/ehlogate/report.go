package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/account"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/contacts"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/render"
	"github.com/ehlogate/ehlogate/policy/eventlog"
	"github.com/ehlogate/ehlogate/policy/ledger"
	"github.com/ehlogate/ehlogate/policy/regular"
)

func reportCommand() *cli.Command {
	return &cli.Command{
		Name: "report", Usage: "tell how much spam came over TLS, since when and from whom, and what was saved", Action: giveReport,
		Description: "The figures are what the daemon has counted, over all nodes of a cluster: by five minutes for a week, by the hour for a\n" +
			"year. With --events they are counted from event logs instead, and no daemon is asked. Mail of the operator's own users\n" +
			"(logged in, or at a service of theirs) is counted apart. Times are of the zone of the daemon's host.",
		Flags: []cli.Flag{
			apiFlag, &cli.BoolFlag{Name: "json", Usage: "print JSON"},
			&cli.StringFlag{Name: "since", Usage: "how long ago, such as 1h or 7d, or a `TIME`: 2026-11-24 or RFC 3339", Value: "7d"},
			&cli.StringFlag{Name: "until", Usage: "`TIME` until which it goes (default now)"},
			&cli.StringFlag{Name: "by", Usage: "one table only, `WHAT` it is by: " + strings.Join(render.Tables(), ", ")},
			&cli.IntFlag{Name: "top", Usage: "`NUMBER` of networks, domains and so on that are named", Value: 10},
			&cli.StringFlag{Name: "measure", Usage: "`WHAT` they are ordered by: " + strings.Join(measures(), ", "), Value: "spam"},
			&cli.StringFlag{Name: "node", Usage: "only what the node called `NAME` has counted, log.node in its configuration"},
			&cli.BoolFlag{Name: "require-tls", Usage: "tell what ham would be lost if TLS, or TLS 1.2, were required"},
			&cli.BoolFlag{Name: "csv", Usage: "print the table as CSV (RFC 4180)"},
			&cli.StringFlag{Name: "html", Usage: "write a page with charts to `FILE`; - is standard output"},
			&cli.StringSliceFlag{Name: "events", Usage: "count from the event log in `FILE`, compressed with gzip or zstd or not; may be given again, and the arguments are files, too"},
		},
	}
}

func measures() []string {
	var names []string
	for name := range ledger.Measures {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// giveReport prints a report.
func giveReport(c *cli.Context) error {
	q, err := reportingOf(c)
	if err != nil {
		return err
	}
	by := c.String("by")
	if by != "" && !slices.Contains(render.Tables(), by) {
		return misuseOf("--by: %q is none of %s", by, strings.Join(render.Tables(), ", "))
	}
	if c.IsSet("html") && c.String("html") == "" {
		return misuseOf("--html needs the name of a file; - is standard output")
	}
	forms := 0
	for _, f := range []bool{c.Bool("json"), c.Bool("csv"), c.IsSet("html")} {
		if f {
			forms++
		}
	}
	if forms > 1 {
		return misuseOf("--json, --csv and --html: choose one")
	}
	if forms > 0 && by != "" && !c.Bool("csv") {
		return misuseOf("--by is for text and --csv; --json and --html have all tables")
	}
	if c.Bool("require-tls") {
		if by != "" || c.IsSet("html") {
			return misuseOf("--require-tls is a table of its own: leave --by and --html out")
		}
		by = "require-tls"
	}
	r, err := drawUp(c, q)
	if r == nil {
		return err
	}
	return errors.Join(err, present(c, r, by))
}

// present prints a report in the form that is asked for.
func present(c *cli.Context, r *ledger.Report, by string) error {
	out := bufio.NewWriter(c.App.Writer)
	var err error
	switch {
	case c.Bool("json") && c.Bool("require-tls"):
		err = json.NewEncoder(out).Encode(r.RequireTLS)
	case c.Bool("json"):
		err = json.NewEncoder(out).Encode(r)
	case c.Bool("csv"):
		err = render.CSV(out, r, by)
	case c.IsSet("html"):
		return writePage(c, r)
	case c.Bool("require-tls"):
		err = render.RequireTLS(out, r)
	default:
		err = render.Text(out, r, by, widthOf(c.App.Writer), unicode())
	}
	if err != nil {
		return err
	}
	return out.Flush()
}

func writePage(c *cli.Context, r *ledger.Report) error {
	name := c.String("html")
	if name == "-" {
		return render.HTML(c.App.Writer, r)
	}
	// An older page goes, and nothing else does: a name that was mistyped could be the event log's.
	before, err := regular.ReadFile(name, 512)
	if err == nil && !bytes.Contains(before, []byte(`<meta name="generator" content="ehlogate">`)) {
		return misuseOf("%s is a file of another kind; name one that does not exist, or an older report", name)
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return misused{err}
	}
	var page bytes.Buffer
	if err := render.HTML(&page, r); err != nil {
		return err
	}
	if err := regular.Replace(name, page.Bytes(), 0o644); err != nil {
		return misused{err}
	}
	if isTerminal(c.App.Writer) {
		// Not where cron would send it by mail.
		_, err = fmt.Fprintf(c.App.Writer, "wrote %s, a page for a browser that needs nothing else\n", name)
		return err
	}
	return nil
}

// reportingOf reads what a report is asked for.
func reportingOf(c *cli.Context) (q api.Reporting, err error) {
	now := time.Now()
	q = api.Reporting{Until: now, Top: c.Int("top"), Measure: c.String("measure"), Node: c.String("node")}
	if q.Top < 0 || q.Top > api.MostRows {
		return q, misuseOf("--top: %d is out of range; want 0 to %d", q.Top, api.MostRows)
	}
	if ledger.Measures[q.Measure] == nil {
		return q, misuseOf("--measure: %q is none of %s", q.Measure, strings.Join(measures(), ", "))
	}
	if s := c.String("until"); s != "" {
		if q.Until, err = timeOf(s, now); err != nil {
			return q, misuseOf("--until: %w", err)
		}
	}
	if q.Since, err = timeOf(c.String("since"), now); err != nil {
		return q, misuseOf("--since: %w", err)
	}
	if !q.Since.Before(q.Until) {
		return q, misuseOf("--since: %s is not before %s", q.Since.Format(time.DateTime), q.Until.Format(time.DateTime))
	}
	q.Step = stepOf(c.String("by"), q.Until.Sub(q.Since))
	return q, nil
}

// timeOf reads a time, or how long ago it was.
func timeOf(s string, now time.Time) (time.Time, error) {
	if d, err := config.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	} else if strings.HasPrefix(s, "-") {
		return now, fmt.Errorf("%q is negative; want how long ago it was, such as 12h or 7d", s)
	}
	today := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, now.Location())
	switch years, ok := strings.CutSuffix(s, "y"); {
	case s == "today":
		return today, nil
	case s == "yesterday":
		return today.AddDate(0, 0, -1), nil
	case ok:
		if n, err := strconv.Atoi(years); err == nil && n > 0 && n < 100 {
			return now.AddDate(-n, 0, 0), nil
		}
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return now, fmt.Errorf("%q is neither a duration nor a time; expected something like 12h, 7d, 4w, 1y, yesterday, 2026-11-24 or 2026-11-24T13:00:00Z", s)
}

// stepOf is the width of a step of the course: what is asked for, else what makes some dozens.
func stepOf(by string, long time.Duration) time.Duration {
	switch {
	case by == "day", by == "" && long > 3*24*time.Hour:
		return 24 * time.Hour
	case by == "hour", by == "" && long > 4*time.Hour, long > 26*time.Hour:
		return time.Hour
	}
	return 5 * time.Minute
}

// drawUp asks the daemon for a report, or draws it up from event logs.
func drawUp(c *cli.Context, q api.Reporting) (*ledger.Report, error) {
	files := append(c.StringSlice("events"), c.Args().Slice()...)
	if len(c.StringSlice("events")) == 0 {
		if err := noArguments(c, "report without --events"); err != nil {
			return nil, err
		}
		daemon, err := client(c)
		if err != nil {
			return nil, err
		}
		return daemon.Report(c.Context, q)
	}
	cfg, err := loadConfig(c)
	if err != nil {
		return nil, err
	}
	p, err := policyFor(cfg)
	if err != nil {
		return nil, misused{err}
	}
	l, err := ledger.Open(ledger.Options{Network: func(a netip.Addr) netip.Prefix { return p.Keys(a).Network }})
	if err != nil {
		return nil, err
	}
	unread, err := countFiles(c, l, files, q)
	if err != nil {
		return nil, err
	}
	book, err := l.Read(c.Context, q.Since, q.Until)
	if err != nil {
		return nil, err
	}
	book.Since = q.Since
	r := book.Report(ledger.View{Step: max(q.Step, time.Hour), Location: time.Local, Top: q.Top, Measure: ledger.Measures[q.Measure], HandshakeCost: cfg.Report.Handshake})
	r.Waves = ledger.WavesIn(ledger.Waves(book.Slots), q.Since, q.Until)
	known := contacts.Open(cfg.Report.Contacts, nil)
	if known != nil && known.Fault != nil {
		fmt.Fprintf(c.App.ErrWriter, "ehlogate: report.contacts: %v\n", known.Fault)
	}
	r.WriteTo(known.Of)
	return r, unread
}

// unicode reports whether the locale has other characters than ASCII: cron(8) sets none.
func unicode() bool {
	locale := cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_CTYPE"), os.Getenv("LANG"))
	return strings.Contains(strings.ReplaceAll(strings.ToLower(locale), "-", ""), "utf8")
}

// countFiles counts event logs, each once. unread are those that cannot be read, or not to their
// end: the rest is counted all the same, if there is any.
func countFiles(c *cli.Context, l *ledger.Ledger, files []string, q api.Reporting) (unread, err error) {
	var seen []os.FileInfo
	counted := 0
	for _, name := range files {
		info, err := os.Stat(name)
		switch {
		case err != nil:
			// Opening it says why, unless it is standard input.
		case info.IsDir():
			unread = errors.Join(unread, misuseOf("%s is a directory; name the files in it", name))
			continue
		case slices.ContainsFunc(seen, func(s os.FileInfo) bool { return os.SameFile(s, info) }):
			fmt.Fprintf(c.App.ErrWriter, "ehlogate: %s was counted already, and is left out\n", name)
			continue
		default:
			seen = append(seen, info)
		}
		err = countFile(c, l, name, q)
		if c.Context.Err() != nil {
			return nil, c.Context.Err()
		}
		if unread = errors.Join(unread, err); err == nil || errors.As(err, new(cut)) {
			counted++
		}
	}
	if counted == 0 {
		return nil, unread
	}
	return unread, nil
}

// cut is an event log that cannot be read on.
type cut struct{ error }

func (c cut) Unwrap() error { return c.error }

// countFile counts what an event log has of the time that is asked for.
func countFile(c *cli.Context, l *ledger.Ledger, name string, q api.Reporting) error {
	in, size, err := openTrace(name)
	if errors.As(err, new(*os.PathError)) {
		return misused{err}
	} else if err != nil {
		return misused{fmt.Errorf("%s: %w", name, err)}
	}
	defer in.Close()
	bar := progress(c.App.ErrWriter, "report", size, progressbar.OptionShowBytes(true))
	defer bar.Close()
	counted, err := countEvents(c.Context, l, io.TeeReader(in, bar), q)
	if err != nil {
		return cut{fmt.Errorf("%s: %w; what comes after is not counted", name, err)}
	}
	if counted.outside > 0 && counted.outside == counted.lines-counted.none {
		fmt.Fprintf(c.App.ErrWriter, "ehlogate: %s: all %d events are of another time%s than is asked for\n", name, counted.outside, orNode(q))
	}
	if counted.none > 0 && counted.none == counted.lines {
		return misuseOf("%s is no event log: line %d: %w", name, counted.first, counted.why)
	}
	if counted.none > 0 {
		fmt.Fprintf(c.App.ErrWriter, "ehlogate: %s: %d of %d lines are no events and are left out, the first is line %d: %v\n", name, counted.none, counted.lines, counted.first, counted.why)
	}
	return nil
}

// orNode says of what else events may be, where a node is asked for.
func orNode(q api.Reporting) string {
	if q.Node == "" {
		return ""
	}
	return " or node"
}

// tallied is what was found in an event log: so many lines, those that are no events, and those
// that are events of another time, or node.
type tallied struct {
	lines, none, outside, first int
	// why is what is wrong with the first.
	why error
}

func countEvents(ctx context.Context, l *ledger.Ledger, in io.Reader, q api.Reporting) (t tallied, err error) {
	for line, err := range eventlog.Events(in) {
		if err != nil {
			return t, err
		}
		if t.lines++; line.Err != nil {
			if t.none++; t.none == 1 {
				t.first, t.why = line.Number, line.Err
			}
			continue
		}
		if at := line.Event.Happened(); !at.Before(q.Since) && at.Before(q.Until) && (q.Node == "" || line.Event.Node == q.Node) {
			account.Count(l, &line.Event)
		} else {
			t.outside++
		}
		if ctx.Err() != nil {
			return t, ctx.Err()
		}
	}
	return t, nil
}
