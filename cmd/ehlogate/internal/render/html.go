package render

import (
	"embed"
	"html/template"
	"io"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/ledger"
)

//go:embed style.css report.html
var files embed.FS

// Style is the style of all pages.
func Style() []byte {
	b, err := files.ReadFile("style.css")
	if err != nil {
		panic(err) // it is embedded
	}
	return b
}

// Functions are what templates draw with.
var Functions = template.FuncMap{
	"count": Count, "count2": func(n uint64) string { return Count(int64(n)) }, "percent": Percent, "duration": duration, "messages": Messages, "legend": Legend, "table": Table,
	"time": func(t time.Time) string { return t.Local().Format("2006-01-02 15:04") },
	"zone": func(t time.Time) string { return t.Local().Format("MST") },
	"of":   func(m map[policy.Class]ledger.Transport, class policy.Class) ledger.Transport { return m[class] },
	"sum":  func(t ledger.Transport) int64 { return t.Sum() },
}

var reportPage = template.Must(template.New("report.html").Funcs(Functions).ParseFS(files, "report.html"))

// HTML writes a report as one page with charts, which needs nothing else.
func HTML(w io.Writer, r *ledger.Report) error {
	return reportPage.Execute(w, struct {
		*ledger.Report
		Style  template.CSS
		Tables []string
	}{r, template.CSS(Style()), filled(r, []string{"tls", "cipher", "source", "tier", "outcome", "network", "address", "asn", "domain", "dkim", "spf", "certificate"})})
}

// filled are those tables in which there is something.
func filled(r *ledger.Report, names []string) (some []string) {
	for _, by := range names {
		if len(byTables[by](r).rows) > 0 {
			some = append(some, by)
		}
	}
	return some
}
