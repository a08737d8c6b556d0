package render

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/ledger"
)

// series is one of the stacked parts of a chart's columns.
type series struct {
	// name is in the legend, class is the style's.
	name, class string
	of          func(*ledger.Point) int64
}

// messageSeries are messages by class and transport, the lowest part of a column first. Those of
// which the transport is not known are there where there are any: a milter always knows.
func messageSeries(r *ledger.Report) (all []series) {
	all = []series{
		{"spam over TLS", "spam-tls", func(p *ledger.Point) int64 { return p.Messages[policy.Spam].TLS }},
		{"spam in the clear", "spam-plain", func(p *ledger.Point) int64 { return p.Messages[policy.Spam].Plain }},
	}
	if r.Messages[policy.Spam].Unknown > 0 {
		all = append(all, series{"spam, transport unknown", "spam-unknown", func(p *ledger.Point) int64 { return p.Messages[policy.Spam].Unknown }})
	}
	all = append(all,
		series{"ham over TLS", "ham-tls", func(p *ledger.Point) int64 { return p.Messages[policy.Ham].TLS }},
		series{"ham in the clear", "ham-plain", func(p *ledger.Point) int64 { return p.Messages[policy.Ham].Plain }},
	)
	if r.Messages[policy.Ham].Unknown > 0 {
		all = append(all, series{"ham, transport unknown", "ham-unknown", func(p *ledger.Point) int64 { return p.Messages[policy.Ham].Unknown }})
	}
	return all
}

// The measures of a chart, in its own units; the page scales it.
const (
	chartWidth, chartHeight             = 720, 220
	chartLeft, chartBottom, chartTop    = 64, 24, 12
	mostLabels, labelRoom               = 8, 60
	plotWidthOfChart, plotHeightOfChart = chartWidth - chartLeft - 4, chartHeight - chartBottom - chartTop
)

// Messages draws the course of messages as stacked columns, in SVG without styles or scripts of its
// own.
func Messages(r *ledger.Report, title string) template.HTML {
	return columns(r, title, messageSeries(r))
}

func columns(r *ledger.Report, title string, parts []series) template.HTML {
	var most int64 = 1
	for i := range r.Series {
		var sum int64
		for _, s := range parts {
			sum += s.of(&r.Series[i])
		}
		most = max(most, sum)
	}
	top := niceCeiling(most)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="chart" viewBox="0 0 %d %d" role="img" aria-label="%s">`, chartWidth, chartHeight, html.EscapeString(title+": "+summary(r)))
	for _, tick := range []int64{0, top / 2, top} {
		y := yOf(tick, top)
		fmt.Fprintf(&b, `<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/><text class="tick" x="%d" y="%.1f" text-anchor="end">%s</text>`, chartLeft, chartWidth-4, y, y, chartLeft-6, y+4, Count(tick))
	}
	width := float64(plotWidthOfChart) / float64(max(1, len(r.Series)))
	every := labelEvery(len(r.Series), r.StepSeconds)
	for i := range r.Series {
		p := &r.Series[i]
		x, y := chartLeft+float64(i)*width, yOf(0, top)
		b.WriteString("<g>")
		fmt.Fprintf(&b, "<title>%s</title>", html.EscapeString(pointText(p, parts, r.StepSeconds)))
		// What can be pointed at, where there is no column.
		fmt.Fprintf(&b, `<rect class="bare" x="%.1f" y="%d" width="%.1f" height="%d"/>`, x, chartTop, width, plotHeightOfChart)
		for _, s := range parts {
			n := s.of(p)
			if n <= 0 {
				continue
			}
			height := float64(n) / float64(top) * plotHeightOfChart
			y -= height
			fmt.Fprintf(&b, `<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, s.class, x+width*0.1, y, width*0.8, height)
		}
		b.WriteString("</g>")
		if i%every == 0 && x < chartWidth-labelRoom {
			fmt.Fprintf(&b, `<text class="tick" x="%.1f" y="%d">%s</text>`, x, chartHeight-6, html.EscapeString(label(p.At, r.StepSeconds, len(r.Series))))
		}
	}
	b.WriteString("</svg>")
	return template.HTML(b.String())
}

// labelEvery is at how many steps of so many seconds an axis has a label: whole days where labels
// are days.
func labelEvery(steps int, step int64) int {
	every := max(1, (steps+mostLabels-1)/mostLabels)
	if perDay := int(86400 / max(step, 1)); perDay > 1 && int64(steps)*step > 2*86400 {
		every = (every + perDay - 1) / perDay * perDay
	}
	return every
}

func yOf(n, top int64) float64 {
	return chartTop + plotHeightOfChart*(1-float64(n)/float64(top))
}

// niceCeiling is the next number of one digit and noughts that is even, or twice that.
func niceCeiling(n int64) int64 {
	power := int64(math.Pow10(int(math.Log10(float64(n)))))
	for _, factor := range []int64{2, 4, 6, 10, 20} {
		if c := factor * power; c >= n {
			return c
		}
	}
	return n
}

func label(at time.Time, step int64, steps int) string {
	switch {
	case step < 86400 && int64(steps)*step <= 86400*2:
		return at.Format("15:04")
	case step <= 86400:
		return at.Format("Mon 2 Jan")
	}
	return at.Format("2 Jan 06")
}

func pointText(p *ledger.Point, parts []series, step int64) string {
	text := timeText(p.At, step)
	for i, s := range parts {
		sep := ", "
		if i == 0 {
			sep = ": "
		}
		text += sep + Count(s.of(p)) + " " + s.name
	}
	return text
}

// summary is a chart in a sentence, for who does not see it.
func summary(r *ledger.Report) string {
	m := r.Messages
	text := fmt.Sprintf("%s spam over TLS, %s in the clear; %s ham over TLS, %s in the clear", Count(m[policy.Spam].TLS), Count(m[policy.Spam].Plain), Count(m[policy.Ham].TLS), Count(m[policy.Ham].Plain))
	if spam, ham := m[policy.Spam].Unknown, m[policy.Ham].Unknown; spam+ham > 0 {
		text += fmt.Sprintf("; %s spam and %s ham of which that is not known", Count(spam), Count(ham))
	}
	return text
}

// Legend is the legend of the chart of a report's messages.
func Legend(r *ledger.Report) template.HTML {
	var b strings.Builder
	b.WriteString(`<ul class="legend">`)
	for _, s := range messageSeries(r) {
		fmt.Fprintf(&b, `<li><svg viewBox="0 0 10 10" aria-hidden="true"><rect class="%s" width="10" height="10"/></svg> %s</li>`, s.class, s.name)
	}
	b.WriteString("</ul>")
	return template.HTML(b.String())
}

// Table draws one of a report's tables.
func Table(r *ledger.Report, by string) template.HTML {
	t := byTables[by](r).short()
	return t.html(r.StepSeconds, nil, t.title)
}

// Linked is Table with a link at each name, for below a heading that says what it is.
func Linked(r *ledger.Report, by string, href func(name string) string) template.HTML {
	return byTables[by](r).short().html(r.StepSeconds, href, "")
}

func (t table) html(step int64, href func(string) string, caption string) template.HTML {
	if len(t.rows) == 0 {
		return template.HTML("<p>None.</p>")
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<div class="scroll" role="region" tabindex="0" aria-label="%s"><table>`, html.EscapeString(t.title))
	if caption != "" {
		fmt.Fprintf(&b, "<caption>%s</caption>", html.EscapeString(caption))
	}
	b.WriteString("<thead><tr>")
	for _, c := range t.head {
		fmt.Fprintf(&b, `<th scope="col">%s</th>`, html.EscapeString(sentence(c.name)))
	}
	b.WriteString("</tr></thead><tbody>")
	for _, row := range t.rows {
		b.WriteString("<tr>")
		for i, cell := range row {
			text := html.EscapeString(forPeople(cell, step))
			if i > 0 {
				fmt.Fprintf(&b, "<td>%s</td>", text)
				continue
			}
			if name, ok := cell.(string); ok && href != nil {
				text = fmt.Sprintf(`<a href="%s">%s</a>`, html.EscapeString(href(name)), text)
			}
			fmt.Fprintf(&b, `<th scope="row">%s</th>`, text)
		}
		b.WriteString("</tr>")
	}
	b.WriteString("</tbody></table></div>")
	for _, note := range t.notes {
		fmt.Fprintf(&b, "<p>%s</p>", html.EscapeString(note))
	}
	return template.HTML(b.String())
}

// sentence is a heading of a table as a page has it: "Spam over TLS" of "SPAM OVER TLS".
func sentence(name string) string {
	words := strings.Fields(name)
	for i, w := range words {
		if w != "TLS" && w != "AS" {
			words[i] = strings.ToLower(w)
		}
	}
	s := strings.Join(words, " ")
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
