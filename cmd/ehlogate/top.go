package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/render"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/ledger"
)

func topCommand() *cli.Command {
	return &cli.Command{
		Name: "top", Usage: "list the hosts of the highest scores, or others of note", Action: top,
		Flags: []cli.Flag{
			apiFlag, jsonFlag,
			&cli.IntFlag{Name: "n", Usage: "`NUMBER` of hosts", Value: 20},
			&cli.StringFlag{Name: "by", Usage: "count from what was heard instead, by `WHAT`: address, network, asn, domain"},
			&cli.StringFlag{Name: "measure", Usage: "with --by, `WHAT` they are ordered by: " + strings.Join(measures(), ", "), Value: "spam"},
			&cli.StringFlag{Name: "since", Usage: "with --by, how long ago, or a `TIME`", Value: "24h"},
			&cli.BoolFlag{Name: brokenTLS, Usage: "those whose TLS handshakes fail again and again: STARTTLS is withheld for a while"},
			&cli.BoolFlag{Name: requiresTLS, Usage: "those that left, or were refused, for want of STARTTLS: it is offered again"},
		},
	}
}

// The flags of top.
const brokenTLS, requiresTLS = "broken-tls", "requires-tls"

func top(c *cli.Context) error {
	var causes []policy.Cause
	if c.Bool(brokenTLS) {
		causes = append(causes, policy.BrokenTLS)
	}
	if c.Bool(requiresTLS) {
		causes = append(causes, policy.RequiresTLS, policy.TLSDemanded)
	}
	if err := noArguments(c, "top"); err != nil {
		return err
	}
	if n := c.Int("n"); n < 1 || n > api.MostTop {
		return misuseOf("-n: %d is out of range; want 1 to %d", n, api.MostTop)
	}
	daemon, err := client(c)
	if err != nil {
		return err
	}
	by := c.String("by")
	if by == "" && (c.IsSet("measure") || c.IsSet("since")) {
		return misuseOf("--measure and --since are for --by; name what to list: --by address, network, asn or domain")
	}
	if by != "" && len(causes) > 0 {
		return misuseOf("--by counts what was heard; leave --%s and --%s out", brokenTLS, requiresTLS)
	}
	if by != "" {
		return topBy(c, daemon, ledger.Kind(by))
	}
	if len(causes) == 0 {
		return topByScore(c, daemon)
	}
	exceptions, err := daemon.Exceptions(c.Context)
	if err != nil {
		return err
	}
	exceptions = slices.DeleteFunc(exceptions, func(x policy.Exception) bool { return !slices.Contains(causes, x.Cause) })
	slices.SortFunc(exceptions, func(a, b policy.Exception) int {
		return cmp.Or(cmp.Compare(a.Cause, b.Cause), b.Set.Compare(a.Set), a.Network.Addr().Compare(b.Network.Addr()))
	})
	if len(exceptions) == 0 && !c.Bool("json") {
		fmt.Fprintln(c.App.ErrWriter, "no such hosts")
		return nil
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
	if !c.Bool("json") {
		fmt.Fprintln(w, "HOST\tCAUSE\tSINCE\tUNTIL\tNOTE")
	}
	for _, x := range exceptions {
		if c.Bool("json") {
			if err := json.NewEncoder(c.App.Writer).Encode(x); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", x.Network, x.Cause, x.Set.Format(minuteFormat), x.Until.Format(minuteFormat), x.Note)
	}
	return w.Flush()
}

// topBy lists what most was heard of.
func topBy(c *cli.Context, daemon *api.Client, kind ledger.Kind) error {
	kinds := []ledger.Kind{ledger.ByAddress, ledger.ByNetwork, ledger.ByASN, ledger.ByDomain}
	if !slices.Contains(kinds, kind) {
		return misuseOf("--by: %q is none of address, network, asn, domain", kind)
	}
	now := time.Now()
	since, err := timeOf(c.String("since"), now)
	if err != nil {
		return misuseOf("--since: %w", err)
	}
	q := api.Reporting{Since: since, Until: now, Step: 24 * time.Hour, Top: min(c.Int("n"), api.MostRows), Measure: c.String("measure")}
	if ledger.Measures[q.Measure] == nil {
		return misuseOf("--measure: %q is none of %s", q.Measure, strings.Join(measures(), ", "))
	}
	r, err := daemon.Report(c.Context, q)
	if err != nil {
		return err
	}
	if !c.Bool("json") {
		return render.Text(c.App.Writer, r, string(kind), widthOf(c.App.Writer), unicode())
	}
	for _, row := range r.Top[kind] {
		if err := json.NewEncoder(c.App.Writer).Encode(row); err != nil {
			return err
		}
	}
	return nil
}

// topByScore lists the hosts of the highest scores.
func topByScore(c *cli.Context, daemon *api.Client) error {
	worst, err := daemon.Top(c.Context, c.Int("n"))
	if err != nil {
		return err
	}
	if len(worst) == 0 && !c.Bool("json") {
		fmt.Fprintln(c.App.ErrWriter, "nothing is known of any host yet")
	}
	return printLookups(c, worst)
}
