package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/policy"
)

func topCommand() *cli.Command {
	return &cli.Command{
		Name: "top", Usage: "list hosts of note", Action: top,
		Flags: []cli.Flag{
			apiFlag, jsonFlag,
			&cli.BoolFlag{Name: string(policy.BrokenTLS), Usage: "those whose TLS handshakes fail again and again: STARTTLS is withheld for a while"},
			&cli.BoolFlag{Name: string(policy.RequiresTLS), Usage: "those that left when STARTTLS was withheld: it is offered again"},
		},
	}
}

func top(c *cli.Context) error {
	var causes []policy.Cause
	for _, cause := range []policy.Cause{policy.BrokenTLS, policy.RequiresTLS} {
		if c.Bool(string(cause)) {
			causes = append(causes, cause)
		}
	}
	if c.Args().Present() || len(causes) == 0 {
		return misuseOf("top needs --%s, --%s or both, and no arguments", policy.BrokenTLS, policy.RequiresTLS)
	}
	daemon, err := client(c)
	if err != nil {
		return err
	}
	marks, err := daemon.Marks(c.Context)
	if err != nil {
		return err
	}
	marks = slices.DeleteFunc(marks, func(m policy.Override) bool { return !slices.Contains(causes, m.Cause) })
	slices.SortFunc(marks, func(a, b policy.Override) int {
		return cmp.Or(cmp.Compare(a.Cause, b.Cause), b.Set.Compare(a.Set), a.Network.Addr().Compare(b.Network.Addr()))
	})
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
	for _, m := range marks {
		if c.Bool("json") {
			if err := json.NewEncoder(c.App.Writer).Encode(m); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(w, "%s\t%s\tsince %s\tuntil %s\t%s\n", m.Network, m.Cause, m.Set.Format(minuteFormat), m.Until.Format(minuteFormat), m.Note)
	}
	return w.Flush()
}
