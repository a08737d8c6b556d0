package render

import (
	"fmt"
	"html"
	"html/template"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
)

// The drawing of an explanation: log-odds from left to right.
const (
	drawWidth, drawHeight = 720, 150
	mostOdds              = 7.0
)

// Explanation draws how an address comes to its score: its own evidence, what is expected of its
// network, their sum, and the thresholds of the tiers.
func Explanation(e *api.Explanation) template.HTML {
	x := func(odds float64) float64 {
		return drawWidth/2 + min(max(odds, -mostOdds), mostOdds)/mostOdds*(drawWidth/2-20)
	}
	var b strings.Builder
	text := fmt.Sprintf("Score %.2f: own evidence %+.2f, expected of the network %+.2f; good to %g, suspect from %g, bad from %g", e.Score, e.Own.LogOdds, e.Expected.LogOdds, e.Thresholds.Good.Enter, e.Thresholds.Suspect.Enter, e.Thresholds.Bad.Enter)
	fmt.Fprintf(&b, `<svg class="chart" viewBox="0 0 %d %d" role="img" aria-label="%s">`, drawWidth, drawHeight, html.EscapeString(text))
	bar := func(y int, name string, from, to float64) {
		class := "spam-tls"
		if to < from {
			class = "ham-tls"
			from, to = to, from
		}
		fmt.Fprintf(&b, `<rect class="%s" x="%.1f" y="%d" width="%.1f" height="16"/><text class="label" x="4" y="%d">%s</text>`, class, x(from), y, max(1, x(to)-x(from)), y+13, html.EscapeString(name))
	}
	bar(30, "own evidence", 0, e.Own.LogOdds)
	bar(54, "expected", e.Own.LogOdds, e.Own.LogOdds+e.Expected.LogOdds)
	bar(78, "score", 0, e.Score)
	fmt.Fprintf(&b, `<line class="axis" x1="%.1f" x2="%.1f" y1="24" y2="112"/>`, x(0), x(0))
	for _, t := range []struct {
		name string
		at   float64
	}{{"good", e.Thresholds.Good.Enter}, {"suspect", e.Thresholds.Suspect.Enter}, {"bad", e.Thresholds.Bad.Enter}} {
		fmt.Fprintf(&b, `<line class="threshold" x1="%.1f" x2="%.1f" y1="24" y2="112"/>`, x(t.at), x(t.at))
	}
	fmt.Fprintf(&b, `<text class="tick" x="%.1f" y="18" text-anchor="end">good to %g</text>`, x(e.Thresholds.Good.Enter), e.Thresholds.Good.Enter)
	fmt.Fprintf(&b, `<text class="tick" x="%.1f" y="18" text-anchor="start">bad from %g</text>`, x(e.Thresholds.Bad.Enter), e.Thresholds.Bad.Enter)
	fmt.Fprintf(&b, `<text class="tick" x="%.1f" y="130" text-anchor="middle">suspect from %g</text>`, x(e.Thresholds.Suspect.Enter), e.Thresholds.Suspect.Enter)
	fmt.Fprintf(&b, `<text class="tick" x="20" y="146">surely ham</text><text class="tick" x="%d" y="146" text-anchor="end">surely spam</text></svg>`, drawWidth-20)
	return template.HTML(b.String())
}

// MinuteFormat is how a time in UTC is written to the minute.
const MinuteFormat = "2006-01-02 15:04Z"

// WhatIf says what would turn the answer of a mode other than observe.
func WhatIf(e *api.Explanation) string {
	switch {
	case e.Exempt:
		return "only policy.exempt in the configuration"
	case e.Override != nil:
		return "only the operator: ehlogate forget " + e.Override.Network.String() + " --override"
	case e.Exception != nil && !e.Exception.Offers():
		return "nothing until " + e.Exception.Until.UTC().Format(MinuteFormat) + "; or ehlogate forget " + e.Addr
	}
	var ways []string
	if n := e.WhatIf.Ham; n > 0 {
		ways = append(ways, counted(int64(n), "more ham message"))
	}
	if n := e.WhatIf.Spam; n > 0 {
		ways = append(ways, counted(int64(n), "more spam message"))
	}
	if s := e.WhatIf.WaitSeconds; s > 0 {
		ways = append(ways, config.FormatDuration(time.Duration(s)*time.Second)+" without mail")
	}
	if len(ways) == 0 {
		return "no few messages and no wait; allow or deny it"
	}
	return strings.Join(ways, ", or ")
}
