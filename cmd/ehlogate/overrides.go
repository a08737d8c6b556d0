package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
)

// changeUsage says what each verb does.
var changeUsage = map[string]string{
	"allow":  "always offer STARTTLS to an address or network",
	"deny":   "never offer STARTTLS to an address or network",
	"forget": "drop the evidence of an address or network, and the override on exactly it",
}

func changeCommand(verb string) *cli.Command {
	c := &cli.Command{
		Name: verb, Usage: changeUsage[verb], ArgsUsage: "ADDR|NET", Flags: []cli.Flag{apiFlag, jsonFlag},
		Action: func(c *cli.Context) error { return change(c, verb) },
	}
	if verb != "forget" {
		c.Flags = append(c.Flags,
			&cli.StringFlag{Name: "note", Usage: "the reason, for whoever reads \"overrides\" later"},
			&cli.StringFlag{Name: "for", Usage: "how long it holds, such as 24h (default: until forgotten)"})
	}
	return c
}

func change(c *cli.Context, verb string) error {
	if c.NArg() != 1 {
		return misuseOf("%s needs one address or network; usage: ehlogate %s ADDR|NET", verb, verb)
	}
	n, err := config.ParseNetwork(c.Args().First())
	if err != nil {
		return misused{err}
	}
	if f := c.String("for"); f != "" {
		if d, err := time.ParseDuration(f); err != nil || d <= 0 {
			return misuseOf("--for: %q is not a duration above zero; want such as 24h", f)
		}
	}
	daemon, err := client(c)
	if err != nil {
		return err
	}
	done, err := daemon.Change(c.Context, api.Change{Verb: verb, Network: n.String(), Note: c.String("note"), For: c.String("for")})
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(done)
	}
	if verb == "forget" {
		_, err = fmt.Fprintf(c.App.Writer, "forgot %s: %d records and overrides\n", done.Network, done.Removed)
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s %s, from the next connection on\n", verb, done.Network)
	return err
}

func overridesCommand() *cli.Command {
	return &cli.Command{Name: "overrides", Usage: "list the overrides", Flags: []cli.Flag{apiFlag, jsonFlag}, Action: overrides}
}

func overrides(c *cli.Context) error {
	daemon, err := client(c)
	if err != nil {
		return err
	}
	all, err := daemon.Overrides(c.Context)
	if err != nil {
		return err
	}
	for _, o := range all {
		if c.Bool("json") {
			err = json.NewEncoder(c.App.Writer).Encode(o)
		} else {
			_, err = fmt.Fprintln(c.App.Writer, overrideText(&o))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func exportCommand() *cli.Command {
	return &cli.Command{
		Name: "export", Usage: "print what would be withheld now as a static table",
		Flags: []cli.Flag{apiFlag, &cli.StringFlag{Name: "format", Usage: "cidr, as Postfix's cidr_table(5)", Value: "cidr"}},
		Action: func(c *cli.Context) error {
			if f := c.String("format"); f != "cidr" {
				return misuseOf("--format: %q is not allowed; want cidr", f)
			}
			daemon, err := client(c)
			if err != nil {
				return err
			}
			return daemon.Export(c.Context, "cidr", c.App.Writer)
		},
	}
}
