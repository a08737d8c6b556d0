package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/table"
)

func lookupCommand() *cli.Command {
	return &cli.Command{
		Name: "lookup", Usage: "print score, tier and answer of addresses", ArgsUsage: "ADDR...",
		Flags: []cli.Flag{apiFlag, jsonFlag}, Action: lookup,
	}
}

func lookup(c *cli.Context) error {
	if !c.Args().Present() {
		return misuseOf("lookup needs an address; usage: ehlogate lookup ADDR...")
	}
	if err := allAddresses(c.Args().Slice()); err != nil {
		return err
	}
	daemon, err := client(c)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
	for _, a := range c.Args().Slice() {
		l, err := daemon.Lookup(c.Context, a)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			if err := json.NewEncoder(c.App.Writer).Encode(l); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%.2f\t%s\n", l.Addr, l.STARTTLS, l.Tier, l.Score, l.Why)
	}
	return w.Flush()
}

func allAddresses(args []string) error {
	for _, a := range args {
		if _, err := table.ParseAddr(a); err != nil {
			return misuseOf("%w; want such as 192.0.2.7 or 2001:db8::7", err)
		}
	}
	return nil
}

func explainCommand() *cli.Command {
	return &cli.Command{
		Name: "explain", Usage: "print how an address comes to its answer, term by term", ArgsUsage: "ADDR",
		Flags: []cli.Flag{apiFlag, jsonFlag}, Action: explain,
	}
}

func explain(c *cli.Context) error {
	if c.NArg() != 1 {
		return misuseOf("explain needs one address; usage: ehlogate explain ADDR")
	}
	if err := allAddresses(c.Args().Slice()); err != nil {
		return err
	}
	daemon, err := client(c)
	if err != nil {
		return err
	}
	e, err := daemon.Explain(c.Context, c.Args().First())
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(e)
	}
	_, err = fmt.Fprint(c.App.Writer, explanation(e))
	return err
}

// explanation is the text of an explanation.
func explanation(e api.Explanation) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	row("address", "%s (host %s, network %s)", e.Addr, e.Host, e.Network)
	row("answer", "%s STARTTLS, in mode %s", e.STARTTLS, e.Mode)
	row("why", "%s", e.Why)
	row("own evidence", "%.2f spam, %.2f ham, faded to now%s", e.Own.Spam, e.Own.Ham, since(e.Since))
	row("neighbours", "%.2f spam, %.2f ham in %s without this host", e.Neighbours.Spam, e.Neighbours.Ham, e.Network)
	row("expected", "%.0f %% spam of a host of this network, weighing %.2f messages", 100*e.Expected, e.Strength)
	row("score", "%.2f = ln((%.2f + %.2f × %.2f) / (%.2f + %.2f × %.2f)), above 0 is more spam than ham",
		e.Score, e.Own.Spam, e.Strength, e.Expected, e.Own.Ham, e.Strength, 1-e.Expected)
	row("tier", "%s (bad from %g until below %g, suspect from %g until below %g, good to %g until above %g)", e.Tier,
		e.Thresholds.Bad.Enter, e.Thresholds.Bad.Leave, e.Thresholds.Suspect.Enter, e.Thresholds.Suspect.Leave, e.Thresholds.Good.Enter, e.Thresholds.Good.Leave)
	row("exempt", "%s", yesNo(e.Exempt))
	row("override", "%s", overrideText(e.Override))
	row("in each mode", "observe: %s, protect: %s, earn: %s", e.Modes[policy.Observe], e.Modes[policy.Protect], e.Modes[policy.Earn])
	w.Flush()
	return b.String()
}

func since(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return ", since " + t.Format(time.RFC3339)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func overrideText(o *policy.Override) string {
	if o == nil {
		return "none"
	}
	s := fmt.Sprintf("%s %s, set %s", o.Verb(), o.Network, o.Set.Format(time.RFC3339))
	if !o.Until.IsZero() {
		s += ", until " + o.Until.Format(time.RFC3339)
	}
	if o.Note != "" {
		s += ": " + o.Note
	}
	return s
}
