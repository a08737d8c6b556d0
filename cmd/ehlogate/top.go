package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/policy"
)

func topCommand() *cli.Command {
	return &cli.Command{
		Name: "top", Usage: "list the hosts of the highest scores, or others of note", Action: top,
		Flags: []cli.Flag{
			apiFlag, jsonFlag,
			&cli.IntFlag{Name: "n", Usage: "`NUMBER` of hosts", Value: 20},
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
