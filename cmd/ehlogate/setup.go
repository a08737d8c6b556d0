package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/postfix"
)

func setupCommand() *cli.Command {
	return &cli.Command{
		Name: "setup", Usage: "print or apply the lines that connect the MTA",
		Action: func(c *cli.Context) error {
			return misuseOf("setup needs the MTA; usage: ehlogate setup postfix [--apply|--undo]")
		},
		Subcommands: []*cli.Command{{
			Name: "postfix", Usage: "print the lines for main.cf and master.cf, apply them, or take them back",
			Flags: []cli.Flag{
				postfixFlag,
				&cli.BoolFlag{Name: "apply", Usage: "write the files and change main.cf and master.cf with postconf(1)"},
				&cli.BoolFlag{Name: "undo", Usage: "take back what --apply did"},
				&cli.BoolFlag{Name: "socketmap", Usage: "use the socketmap table, which stops all mail while the daemon is away"},
			},
			Action: setupPostfix,
		}},
	}
}

func setupPostfix(c *cli.Context) error {
	if c.Bool("apply") && c.Bool("undo") {
		return misuseOf("--apply and --undo exclude each other")
	}
	if c.Args().Present() {
		return misuseOf("setup postfix takes no arguments, got %q", c.Args().Slice())
	}
	cfg, err := loadConfig(c)
	if err != nil {
		return err
	}
	p, err := postfix.Find(c.Context, c.String("postfix-config"), cfg)
	if err != nil {
		return err
	}
	if c.Bool("undo") {
		left, err := p.Undo(c.Context)
		for _, name := range left {
			fmt.Fprintf(c.App.Writer, "left alone, because it was changed since or is still named: %s\n", name)
		}
		if err == nil {
			fmt.Fprintf(c.App.Writer, "taken back in %s; now: postfix reload\n", p.Dir)
		}
		return err
	}
	plan, err := p.Plan(c.Context, c.Bool("socketmap"))
	if err != nil {
		return err
	}
	if !c.Bool("apply") {
		_, err = fmt.Fprint(c.App.Writer, plan)
		return err
	}
	if err := p.Apply(c.Context, plan); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "applied in %s; now: postfix reload\n", p.Dir)
	return err
}
