package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/guptarohit/asciigraph"
	"github.com/schollz/progressbar/v3"
	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/tune"
)

func tuneCommand() *cli.Command {
	return &cli.Command{
		Name: "tune", Usage: "try settings of [reputation] and of tier bad on an event log, and choose one",
		Description: "Every session of the log is judged by what was known before it, as mode protect would, under each of some 300 settings around\n" +
			"those in force. What a message was is what was said of it last: a person's correction, where there is one, else the filter's\n" +
			"verdict. Nothing is asked of a running daemon and nothing is changed.",
		Flags: []cli.Flag{
			traceFlag,
			&cli.StringFlag{Name: "harm", Value: "0.3%", Usage: "the most `PERCENT` of the sessions with ham that may be denied STARTTLS"},
			jsonFlag,
		},
		Action: tuneTrace,
	}
}

// parsePercent reads "0.3%" as 0.003.
func parsePercent(s string) (float64, error) {
	number, ok := strings.CutSuffix(strings.TrimSpace(s), "%")
	v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if !ok || err != nil || !(v >= 0 && v <= 100) {
		return 0, fmt.Errorf(`--harm %q: write a percentage between 0%% and 100%%, such as 0.3%%`, s)
	}
	return v / 100, nil
}

func tuneTrace(c *cli.Context) error {
	name := c.String("trace")
	switch {
	case name == "":
		return misuseOf("tune needs an event log; usage: ehlogate tune --trace FILE [--harm 0.3%%]")
	case c.Args().Present():
		return misuseOf("tune takes no argument %q; usage: ehlogate tune --trace FILE [--harm 0.3%%]", c.Args().First())
	}
	harm, err := parsePercent(c.String("harm"))
	if err != nil {
		return misused{err}
	}
	cfg, err := loadConfig(c)
	if err != nil {
		return err
	}
	p, err := policyFor(cfg)
	if err != nil {
		return misused{err}
	}
	trace, size, err := openTrace(name)
	if err != nil {
		return misused{err}
	}
	defer trace.Close()
	reading := progress(c.App.ErrWriter, "read", size, progressbar.OptionShowBytes(true))
	h, err := tune.Read(io.TeeReader(trace, reading), p)
	reading.Close()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if h.Spam == 0 || h.Ham == 0 {
		return fmt.Errorf("%s: %s of spam and %d of ham: there is nothing to choose by", name, plural(h.Spam, "session"), h.Ham)
	}
	trying := progress(c.App.ErrWriter, "try", -1)
	results, err := tune.Run(c.Context, h, p, func(done, all int) {
		trying.ChangeMax(all)
		trying.Set(done)
	})
	trying.Close()
	if err != nil {
		return err
	}
	chosen, ok := tune.Choose(results, harm)
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(tunedOf(h, results, chosen, ok))
	}
	_, err = io.WriteString(c.App.Writer, tunedText(h, results, harm, chosen, ok))
	return err
}

// tried is a setting and what it would have done, as JSON: shares are between 0 and 1.
type tried struct {
	HalfLife        string  `json:"half_life"`
	NetworkHalfLife string  `json:"network_half_life"`
	Prior           float64 `json:"prior"`
	Enter           float64 `json:"enter"`
	Leave           float64 `json:"leave"`
	Avoided         float64 `json:"avoided"`
	SpamWithheld    float64 `json:"spam_withheld"`
	Harmed          float64 `json:"harmed"`
	HarmedLate      float64 `json:"harmed_second_half"`
}

// tuned is what tune found, as JSON.
type tuned struct {
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	Sessions int       `json:"sessions"`
	Spam     int       `json:"spam"`
	Ham      int       `json:"ham"`
	// Doubtful are sessions that a program took for ham, of hosts or networks that sent mostly
	// spam.
	Doubtful  int   `json:"doubtful"`
	Corrected int   `json:"corrected"`
	InForce   tried `json:"in_force"`
	// Chosen is absent where no setting does as little harm as was asked for.
	Chosen *tried  `json:"chosen,omitempty"`
	Tried  []tried `json:"tried"`
}

func triedOf(r tune.Result) tried {
	return tried{
		HalfLife: config.FormatDuration(r.Params.HalfLife), NetworkHalfLife: config.FormatDuration(r.Params.NetworkHalfLife), Prior: r.Params.Prior,
		Enter: r.Bad.Enter, Leave: math.Round(100*r.Bad.Leave) / 100, Avoided: r.Whole.Avoided(), SpamWithheld: r.Whole.SpamShare(), Harmed: r.Whole.Harm(), HarmedLate: r.Late.Harm(),
	}
}

func tunedOf(h *tune.History, results []tune.Result, chosen tune.Result, ok bool) tuned {
	t := tuned{First: h.First, Last: h.Last, Sessions: h.Sessions, Spam: h.Spam, Ham: h.Ham, Doubtful: h.Doubtful, Corrected: h.Corrected, InForce: triedOf(results[0])}
	if ok {
		c := triedOf(chosen)
		t.Chosen = &c
	}
	for _, r := range results {
		t.Tried = append(t.Tried, triedOf(r))
	}
	return t
}

// tunedText is a table of the settings that avoid most for their harm, their curve, and the setting
// that was chosen.
func tunedText(h *tune.History, results []tune.Result, harm float64, chosen tune.Result, ok bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "tried %d settings on %s, %s to %s: %d of spam, %d of ham, %s corrected\n\n", len(results), plural(h.Sessions, "session"),
		h.First.UTC().Format(minuteFormat), h.Last.UTC().Format(minuteFormat), h.Spam, h.Ham, plural(h.Corrected, "verdict"))
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "HALF_LIFE\tNETWORK_HALF_LIFE\tPRIOR\tBAD ENTERED AT\tSPAM AVOIDED\tHAM HARMED\tIN THE SECOND HALF\t")
	best := tune.Best(results)
	row := func(r tune.Result, what string) {
		t := triedOf(r)
		fmt.Fprintf(w, "%s\t%s\t%g\t%g\t%.1f %%\t%.2f %%\t%.2f %%\t%s\n", t.HalfLife, t.NetworkHalfLife, t.Prior, t.Enter, 100*t.Avoided, 100*t.Harmed, 100*t.HarmedLate, what)
	}
	row(results[0], "in force")
	for _, r := range thinned(best, 3*max(harm, results[0].Whole.Harm())) {
		if r.Setting != chosen.Setting {
			row(r, "")
		}
	}
	if ok && chosen.Setting != results[0].Setting {
		row(chosen, "chosen")
	}
	w.Flush()
	of := "spam over TLS"
	if results[0].Whole.TLS == 0 {
		of = "spam, none of which was over TLS,"
	}
	fmt.Fprintf(&b, "\nSpam avoided: the share of the %s that would not have been offered it. Ham harmed: the share of the\n"+
		"sessions with ham that would have been denied STARTTLS.", of)
	if h.Doubtful > 0 {
		fmt.Fprintf(&b, " Left out of it: %s taken for ham of hosts or networks\n"+
			"that sent mostly spam, which may be spam that the filter missed; \"ehlogate learn ham\" settles it.", plural(h.Doubtful, "session"))
	}
	fmt.Fprintf(&b, "\n\n%s\n\n", tradeOff(best, harm))
	if !ok {
		fmt.Fprintf(&b, "No setting harms %.4g %% of the ham or less; the least is %.4g %%.\n", 100*harm, 100*best[0].Whole.Harm())
		return b.String()
	}
	if chosen.Setting == results[0].Setting {
		fmt.Fprintf(&b, "Nothing avoids more at %.4g %% of harm than the setting in force.\n", 100*harm)
		return b.String()
	}
	fmt.Fprintf(&b, "For %.4g %% of harm or less, which is %s of ham here, put this in the place of what the configuration says:\n\n%s",
		100*harm, plural(int(harm*float64(h.Ham)), "session"), chosenTOML(results[0], chosen))
	if h.Spam < enoughToTune || h.Ham < enoughToTune {
		fmt.Fprintf(&b, "\nThis is chosen by %s of spam and %d of ham, which is too few: wait for more.\n", plural(h.Spam, "session"), h.Ham)
	}
	return b.String()
}

// thinned are a dozen at most of the results up to a share of harm, an even step of what they avoid
// apart.
func thinned(best []tune.Result, most float64) (some []tune.Result) {
	last := slices.IndexFunc(best, func(r tune.Result) bool { return r.Whole.Harm() > most })
	if last >= 0 {
		best = best[:max(last, 1)]
	}
	step := (best[len(best)-1].Whole.Avoided() - best[0].Whole.Avoided()) / 10
	for _, r := range best {
		if len(some) == 0 || r.Whole.Avoided() >= some[len(some)-1].Whole.Avoided()+step {
			some = append(some, r)
		}
	}
	return some
}

// enoughToTune is how many sessions of spam, and of ham, it takes to choose by them.
const enoughToTune = 1000

// chosenTOML is what a setting changes in the configuration.
func chosenTOML(inForce, chosen tune.Result) string {
	var b strings.Builder
	was, is := triedOf(inForce), triedOf(chosen)
	if is.Enter != was.Enter {
		fmt.Fprintf(&b, "[[policy.tier]]\nname = \"bad\"\nenter = %g\nleave = %.4g\n\n", is.Enter, is.Leave)
	}
	if chosen.Params != inForce.Params {
		fmt.Fprintln(&b, "[reputation]")
	}
	if is.HalfLife != was.HalfLife {
		fmt.Fprintf(&b, "half_life = %q\n", is.HalfLife)
	}
	if is.NetworkHalfLife != was.NetworkHalfLife {
		fmt.Fprintf(&b, "network_half_life = %q\n", is.NetworkHalfLife)
	}
	if is.Prior != was.Prior {
		fmt.Fprintf(&b, "prior = %g\n", is.Prior)
	}
	return b.String()
}

// tradeOff draws the most spam that is avoided at each share of harm.
func tradeOff(best []tune.Result, harm float64) string {
	const columns = 70
	most := max(2*harm, best[0].Whole.Harm())
	var line []float64
	avoided := 0.0
	for i, next := 0, 0; i <= columns; i++ {
		for next < len(best) && best[next].Whole.Harm() <= most*float64(i)/columns {
			avoided = 100 * best[next].Whole.Avoided()
			next++
		}
		line = append(line, avoided)
	}
	return asciigraph.Plot(line, asciigraph.Height(10), asciigraph.Precision(1),
		asciigraph.Caption(fmt.Sprintf("spam avoided in %%, over ham harmed from 0 at the left to %.4g %%", 100*most)))
}
