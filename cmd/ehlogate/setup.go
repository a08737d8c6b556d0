package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/postfix"
	"github.com/ehlogate/ehlogate/policy"
)

func setupCommand() *cli.Command {
	return &cli.Command{
		Name: "setup", Usage: "print or apply the lines that connect the MTA",
		Action: func(c *cli.Context) error {
			return misuseOf("setup needs the MTA; usage: ehlogate setup postfix [--dry-run|--apply|--undo]")
		},
		Subcommands: []*cli.Command{{
			Name: "postfix", Usage: "print the lines for main.cf and master.cf, apply them, or take them back",
			Flags: []cli.Flag{
				postfixFlag,
				&cli.BoolFlag{Name: "apply", Usage: "write the files and change main.cf and master.cf; what then does not work is taken back at once"},
				&cli.BoolFlag{Name: "dry-run", Usage: "print what --apply would change, as a diff"},
				&cli.BoolFlag{Name: "undo", Usage: "take back what --apply did"},
				&cli.BoolFlag{Name: "socketmap", Usage: "use the socketmap table, which stops all mail while the daemon is away"},
				&cli.StringFlag{Name: "mode", Usage: "the `MODE` to begin in (default: policy.mode where that is set, else observe)"},
			},
			Action: setupPostfix,
		}},
	}
}

func setupPostfix(c *cli.Context) error {
	var asked []string
	for _, f := range []string{"apply", "dry-run", "undo"} {
		if c.Bool(f) {
			asked = append(asked, "--"+f)
		}
	}
	if len(asked) > 1 {
		return misuseOf("%s exclude each other", strings.Join(asked, " and "))
	}
	if c.Args().Present() {
		return misuseOf("setup postfix takes no arguments, got %q", c.Args().Slice())
	}
	mode := policy.Mode(c.String("mode"))
	if c.IsSet("mode") && !slices.Contains(policy.Modes, mode) {
		return misuseOf("--mode: %q is not allowed; want observe, protect or earn", mode)
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
		return undoPostfix(c, p)
	}
	plan, err := p.Plan(c.Context, postfix.Options{Socketmap: c.Bool("socketmap"), Mode: mode})
	switch {
	case c.Bool("apply") && p.Applied():
		return postfix.ErrApplied
	case errors.Is(err, postfix.ErrConnected) && !c.Bool("apply"):
		_, err = fmt.Fprintln(c.App.Writer, "nothing to do: it is connected already; ehlogate check says how it stands")
		return err
	case err != nil:
		return err
	case c.Bool("dry-run"):
		_, err = fmt.Fprint(c.App.Writer, plan.Diff())
		return err
	case !c.Bool("apply"):
		_, err = fmt.Fprint(c.App.Writer, plan)
		return err
	}
	if err := p.Apply(c.Context, plan); err != nil {
		return err
	}
	return printNext(c, cfg, p, plan)
}

func undoPostfix(c *cli.Context, p *postfix.Postfix) error {
	left, err := p.Undo()
	for _, what := range left {
		fmt.Fprintf(c.App.Writer, "left alone, because it was changed since or is still named: %s\n", what)
	}
	if err == nil {
		fmt.Fprintf(c.App.Writer, "taken back in %s; now: postfix reload\n", p.Dir)
	}
	return err
}

// printNext says what was done, and how to go on.
func printNext(c *cli.Context, cfg *config.Config, p *postfix.Postfix, plan *postfix.Plan) error {
	w := c.App.Writer
	fmt.Fprintf(w, "applied in %s, and tried: its tables answer, and postfix check finds nothing new\n", p.Dir)
	for _, n := range plan.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	fmt.Fprintf(w, "\nnow:\n")
	if plan.Mode != "" {
		fmt.Fprintf(w, "  ehlogate reload          or start it: ehlogate serve; %s says policy.mode = %q\n", plan.ConfigFile, plan.Mode)
	}
	fmt.Fprintf(w, "  postfix reload\n  ehlogate check --live    one session through Postfix, and what the daemon heard of it\n")
	mode := cfg.Policy.Mode
	if plan.Mode != "" {
		mode = plan.Mode
	}
	if mode == policy.Observe {
		_, err := fmt.Fprintf(w, "\nIn mode observe nothing is withheld. After some days, ehlogate status says what would have been; then set\npolicy.mode = \"protect\" in %s, and: ehlogate reload\n", plan.ConfigFile)
		return err
	}
	return nil
}
