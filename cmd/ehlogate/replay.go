package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/schollz/progressbar/v3"
	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/replay"
	"github.com/ehlogate/ehlogate/policy"
)

func replayCommand() *cli.Command {
	return &cli.Command{
		Name: "replay", Usage: "run the policy over an event log or another trace, in the trace's own time",
		Description: "Nothing is asked of a running daemon and nothing is stored: the policy of the configuration starts with no evidence, judges\n" +
			"every connection of the trace, and learns from each only afterwards. The operator's overrides are not applied.",
		Flags: []cli.Flag{
			traceFlag,
			&cli.StringFlag{Name: "decisions", Usage: "`FILE` for one decision a connection; - is standard output"},
			&cli.BoolFlag{Name: "against", Usage: "print what would change against what was decided then"},
			jsonFlag,
		},
		Action: replayTrace,
	}
}

func replayTrace(c *cli.Context) (err error) {
	name, decisions := c.String("trace"), c.String("decisions")
	switch {
	case name == "":
		return misuseOf("replay needs a trace; usage: ehlogate replay --trace FILE")
	case c.Args().Present():
		return misuseOf("replay takes no argument %q; usage: ehlogate replay --trace FILE", c.Args().First())
	}
	cfg, err := loadConfig(c)
	if err != nil {
		return err
	}
	trace, size, err := openTrace(name)
	if err != nil {
		return misused{err}
	}
	defer trace.Close()
	opts := replay.Options{Against: c.Bool("against")}
	// The summary goes where the decisions do not.
	summary := c.App.Writer
	switch decisions {
	case "":
	case "-":
		opts.Decisions, summary = c.App.Writer, c.App.ErrWriter
	default:
		f, err := os.OpenFile(decisions, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if errors.Is(err, os.ErrExist) {
			return misuseOf("%s exists; name a file that does not", decisions)
		} else if err != nil {
			return misused{err}
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		opts.Decisions = f
	}
	p, err := policyFor(cfg)
	if err != nil {
		return misused{err}
	}
	bar := progress(c.App.ErrWriter, "replay", size, progressbar.OptionShowBytes(true))
	s, err := replay.Run(io.TeeReader(trace, bar), p, opts)
	bar.Close()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if c.Bool("json") {
		return json.NewEncoder(summary).Encode(s)
	}
	_, err = fmt.Fprint(summary, replayText(s, opts.Against))
	return err
}

func replayText(s *replay.Summary, against bool) string {
	var b strings.Builder
	if s.Rows == 0 {
		return "replayed nothing: the trace is empty\n"
	}
	fmt.Fprintf(&b, "replayed %s in %s, %s to %s, mode %s\n", plural(s.Connections, "connection"), plural(s.Rows, "row"),
		s.First.UTC().Format(minuteFormat), s.Last.UTC().Format(minuteFormat), s.Mode)
	if s.Corrections > 0 {
		fmt.Fprintf(&b, "%s, %d of rows that are not in the trace\n", plural(s.Corrections, "correction"), s.Orphans)
	}
	if s.OutOfOrder > 0 {
		fmt.Fprintf(&b, "%s out of order, by %.3f s at most: judged at their own time\n", plural(s.OutOfOrder, "row"), s.Back)
	}
	if s.NoAddress > 0 {
		fmt.Fprintf(&b, "%s without an address: always offered\n", plural(s.NoAddress, "connection"))
	}
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	header := "\nVERDICT\tCONNECTIONS\tWITHHELD\tOVER TLS\tNO LONGER OVER TLS"
	if against {
		header += "\tWITHHELD THEN\tNEWLY WITHHELD\tNEWLY OFFERED\tNOT ASKED THEN"
	}
	fmt.Fprintln(w, header)
	for _, class := range []policy.Class{policy.Spam, policy.Ham, policy.None} {
		v := s.Verdicts[class]
		fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%s", class, v.Connections, share(v.WithheldNow, v.Connections), v.TLS, share(v.TLS-v.TLSNow, v.TLS))
		if against {
			fmt.Fprintf(w, "\t%s\t%d\t%d\t%d", share(v.WithheldThen, v.Connections), v.NewlyWithheld, v.NewlyOffered, v.Unasked)
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	if len(s.Clients) > 0 {
		fmt.Fprintln(w, "\nCHANGES MOST\tNEWLY WITHHELD\tNEWLY OFFERED\tSPAM\tHAM")
		for _, c := range s.Clients {
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\n", c.Addr, c.NewlyWithheld, c.NewlyOffered, c.Spam, c.Ham)
		}
		w.Flush()
	}
	return b.String()
}

func share(part, whole int) string {
	if whole == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%.1f %%)", part, 100*float64(part)/float64(whole))
}
