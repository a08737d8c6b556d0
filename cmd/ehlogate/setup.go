package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/connect"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/postfix"
	"github.com/ehlogate/ehlogate/policy"
)

func setupCommand() *cli.Command {
	return &cli.Command{
		Name: "setup", Usage: "print or apply the lines that connect the MTA",
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return misuseOf("unknown MTA %q%s; usage: ehlogate setup postfix|sendmail|exim|opensmtpd", c.Args().First(), nearest(c.Command.Subcommands, c.Args().First()))
			}
			return misuseOf("setup: name the MTA; usage: ehlogate setup postfix|sendmail|exim|opensmtpd")
		},
		Subcommands: []*cli.Command{{
			Name: "postfix", Usage: "print the lines for main.cf and master.cf, apply them, or take them back",
			Flags: []cli.Flag{
				postfixFlag,
				&cli.BoolFlag{Name: "apply", Usage: "write the files and change main.cf and master.cf; what then does not work is taken back at once"},
				&cli.BoolFlag{Name: "dry-run", Usage: "print what --apply would change, or --undo, as a diff"},
				&cli.BoolFlag{Name: "undo", Usage: "take back what --apply did"},
				&cli.BoolFlag{Name: "no-tls", Usage: "print the line that offers STARTTLS to no stranger at all, without ehlogate, and what that costs"},
				&cli.BoolFlag{Name: "no-reload", Usage: "do not reload a Postfix that runs; the daemon reads its configuration all the same, so that it does not answer by the mode before"},
				&cli.BoolFlag{Name: "socketmap", Usage: "use the socketmap table, which stops all mail while the daemon is away"},
				&cli.StringFlag{Name: "mode", Usage: "begin in `MODE` (default: policy.mode where that is set, else observe)"},
			},
			Action: setupPostfix,
		},
			sendmailCommand(),
			eximCommand(),
			printing("opensmtpd", "print the lines for OpenSMTPD's smtpd.conf, which reads a file", connect.OpenSMTPD),
		},
	}
}

// eximCommand prints what connects an Exim, in the words of the configuration that it has.
func eximCommand() *cli.Command {
	return &cli.Command{
		Name: "exim", Usage: "print the lines for Exim's configuration",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "debian", Usage: "for the configuration that Debian's exim4-config makes (default: where " + connect.EximOfDebian + " is)"},
			&cli.Float64Flag{Name: "required-score", Usage: "`SCORE` from which on SpamAssassin calls a message spam, its required_score: what is just over it then counts less than what is far over it"},
		},
		Action: func(c *cli.Context) error {
			required := c.Float64("required-score")
			if c.IsSet("required-score") && !(required > 0 && required <= 1000) {
				return misuseOf("--required-score: %g is out of range; want SpamAssassin's required_score, such as 5", required)
			}
			lines := connect.Exim
			if c.Bool("debian") || !c.IsSet("debian") && exists(connect.EximOfDebian) {
				lines = connect.DebiansExim
			}
			return printLines(c, func(cfg *config.Config) (string, error) { return lines(cfg, required) })
		},
	}
}

// sendmailCommand prints what connects a Sendmail.
func sendmailCommand() *cli.Command {
	return &cli.Command{
		Name: "sendmail", Usage: "print the lines for sendmail.mc",
		Flags: []cli.Flag{&cli.StringFlag{Name: "list", Usage: "for a `FILE` that cron keeps, in place of a question to the daemon at each session: a daemon that hangs then holds up nothing"}},
		Action: func(c *cli.Context) error {
			if !c.IsSet("list") {
				return printLines(c, connect.Sendmail)
			}
			return printLines(c, func(cfg *config.Config) (string, error) {
				text, err := connect.SendmailByList(cfg, c.String("list"))
				if err != nil {
					return "", misused{err}
				}
				return text, nil
			})
		},
	}
}

// printing is the command that prints what connects an MTA.
func printing(mta, usage string, lines func(*config.Config) (string, error)) *cli.Command {
	return &cli.Command{Name: mta, Usage: usage, Action: func(c *cli.Context) error { return printLines(c, lines) }}
}

func printLines(c *cli.Context, lines func(*config.Config) (string, error)) error {
	if err := noArguments(c, "setup "+c.Command.Name); err != nil {
		return err
	}
	cfg, err := loadConfig(c)
	if err != nil {
		return err
	}
	text, err := lines(cfg)
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(c.App.Writer, text)
	return err
}

func setupPostfix(c *cli.Context) error {
	var asked []string
	for _, f := range []string{"apply", "dry-run", "undo", "no-tls"} {
		if c.Bool(f) && !(f == "dry-run" && c.Bool("undo")) {
			asked = append(asked, "--"+f)
		}
	}
	if len(asked) > 1 {
		return misuseOf("%s exclude each other", strings.Join(asked, " and "))
	}
	if err := noArguments(c, "setup postfix"); err != nil {
		return err
	}
	mode := policy.Mode(c.String("mode"))
	if c.IsSet("mode") && !slices.Contains(policy.Modes, mode) {
		return misuseOf("--mode: %q is not allowed; want observe, protect or earn", mode)
	}
	cfg, err := loadConfig(c)
	if err != nil {
		return err
	}
	// What was begun is taken back, not left half done.
	ctx, stop := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM)
	defer stop()
	c.Context = ctx
	if c.Bool("undo") {
		return undoPostfix(c, cfg)
	}
	p, err := postfix.Find(c.Context, c.String("postfix-config"), cfg)
	if err != nil {
		return err
	}
	if c.Bool("no-tls") {
		return withoutTLS(c, p)
	}
	plan, err := p.Plan(c.Context, postfix.Options{Socketmap: c.Bool("socketmap"), Mode: mode})
	switch {
	case c.Bool("apply") && p.Applied():
		return postfix.ErrApplied
	case errors.Is(err, postfix.ErrConnected) && !c.Bool("apply"):
		if c.IsSet("mode") || c.Bool("socketmap") {
			return misuseOf("it is connected already, and --mode and --socketmap change nothing there: set policy.mode in the daemon's configuration and run ehlogate reload; for another table, run setup postfix --undo first")
		}
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
	if err := reloadable(c, p); err != nil {
		return err
	}
	if err := p.Apply(c.Context, plan); err != nil {
		return err
	}
	return printNext(c, cfg, p, plan)
}

// withoutTLS prints how to offer STARTTLS to nobody, the first way of those who are concerned about
// the load of decryption.
func withoutTLS(c *cli.Context, p *postfix.Postfix) error {
	line, back, err := p.WithoutTLS()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, `# This offers STARTTLS to no stranger; services of your users keep it. ehlogate plays no part in it:
%s
# What it costs: all mail from other hosts comes in the clear, for whoever is on the way to read or
# change (RFC 3207 section 6, RFC 7435). Senders who require TLS cannot deliver: those with MTA-STS
# (RFC 8461), DANE (RFC 7672) or REQUIRETLS (RFC 8689), and providers set to "TLS only"; their mail is
# returned after days. ehlogate report --require-tls and ehlogate report --by tls tell how much mail comes
# over TLS now. Where the domain has a TLSA record for this host, or an MTA-STS policy that is enforced,
# take that back first.
# To take it back:
# %s
`, line, back)
	return err
}

// reloadable refuses what would reload a Postfix that had better not be reloaded.
func reloadable(c *cli.Context, p *postfix.Postfix) error {
	if c.Bool("no-reload") {
		return nil
	}
	return p.Reloadable()
}

func undoPostfix(c *cli.Context, cfg *config.Config) error {
	p, err := postfix.FindApplied(c.Context, c.String("postfix-config"), cfg)
	if err != nil {
		return err
	}
	if c.Bool("dry-run") {
		return showUndo(c, p)
	}
	if err := reloadable(c, p); err != nil {
		return err
	}
	left, err := p.Undo(c.Context, !c.Bool("no-reload"))
	if err != nil {
		return err
	}
	if err := sayLeft(c, left, "not all could be taken back; change what is left by hand, and run this again"); err != nil {
		return err
	}
	for _, path := range p.MovedAside {
		fmt.Fprintf(c.App.Writer, "kept as %s, since it was changed\n", path)
	}
	if cfg.ModeGiven && cfg.File != "" {
		fmt.Fprintf(c.App.Writer, "policy.mode stays as it is in %s\n", cfg.File)
	}
	if p.Running() && !c.Bool("no-reload") {
		_, err = fmt.Fprintf(c.App.Writer, "taken back in %s, and Postfix reloaded\n", p.Dir)
		return err
	}
	_, mta := againWith(c, p)
	_, err = fmt.Fprintf(c.App.Writer, "taken back in %s; if Postfix runs, run %s reload now: until then it may defer mail\n", p.Dir, mta)
	return err
}

// showUndo prints what an undo would change.
func showUndo(c *cli.Context, p *postfix.Postfix) error {
	text, left, err := p.UndoDiff()
	if err != nil {
		return err
	}
	if _, err := fmt.Fprint(c.App.Writer, text); err != nil {
		return err
	}
	return sayLeft(c, left, "not all could be taken back")
}

// sayLeft says what an undo leaves, and that this is an error.
func sayLeft(c *cli.Context, left []string, fault string) error {
	for _, what := range left {
		fmt.Fprintf(c.App.Writer, "left: %s\n", what)
	}
	if len(left) > 0 {
		return errors.New(fault)
	}
	return nil
}

// printNext puts what was applied in force, as far as that can be done, and says how to go on.
func printNext(c *cli.Context, cfg *config.Config, p *postfix.Postfix, plan *postfix.Plan) error {
	w := c.App.Writer
	fmt.Fprintf(w, "applied in %s, and tried: its tables answer, and postfix check finds nothing new\n", p.Dir)
	for _, n := range plan.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	mode := cfg.Policy.Mode
	if plan.Mode != "" {
		mode = plan.Mode
		what := "changed"
		if plan.Creates(plan.ConfigFile) {
			what = "created"
		}
		fmt.Fprintf(w, "mode: %s, as %s says now, which was %s for that\n", mode, plan.ConfigFile, what)
	} else {
		fmt.Fprintf(w, "mode: %s, as the configuration says\n", mode)
	}
	again, mta := againWith(c, p)
	var next []string
	running, problem := daemonFollows(c, mode, plan.Mode != "")
	switch {
	case !running:
		next = append(next, howToStart(c)+"   the daemon does not run yet")
	case problem != "":
		fmt.Fprintf(w, "note: %s\n", problem)
		next = append(next, again("reload")+"   before Postfix is reloaded")
	default:
		fmt.Fprintf(w, "daemon: runs in mode %s\n", mode)
	}
	switch {
	case !p.Running():
		next = append(next, mta+" start   it does not run")
	case problem != "" || c.Bool("no-reload"):
		next = append(next, mta+" reload")
	default:
		// Its new processes read main.cf at once, but master.cf only now.
		if err := p.Reload(c.Context); err != nil {
			return fmt.Errorf("it is applied, but Postfix was not reloaded, and takes part of it only then: run %s reload: %w", mta, err)
		}
		fmt.Fprintln(w, "Postfix: reloaded")
	}
	next = append(next, again("check --live")+"   one session through Postfix, and what the daemon heard of it")
	fmt.Fprintf(w, "\nnow:\n  %s\n", strings.Join(next, "\n  "))
	if mode == policy.Observe && problem == "" {
		_, err := fmt.Fprintf(w, "\nIn mode observe nothing is withheld. After some days, ehlogate status says what would have been; then set\npolicy.mode = \"protect\" in %s, and:\n  %s\n", plan.ConfigFile, again("reload"))
		return err
	}
	return nil
}

// againWith are the beginnings of further commands: those of ehlogate with the configuration and
// Postfix that this one was given, and postfix(1) for that Postfix.
func againWith(c *cli.Context, p *postfix.Postfix) (ehlogate func(command string) string, mta string) {
	mta = "postfix"
	if dir := c.String("postfix-config"); dir != "" {
		mta += " -c " + p.Dir
	}
	return func(command string) string {
		line := "ehlogate " + command
		if file, ok := flagOf(c, "config"); ok {
			line += " --config " + file
		}
		if strings.HasPrefix(command, "check") && c.String("postfix-config") != "" {
			line += " --postfix-config " + p.Dir
		}
		return line
	}, mta
}

// daemonFollows has a running daemon read its configuration, where that was changed or it is not in
// the mode that it should be in, and says why it is not in that mode all the same.
func daemonFollows(c *cli.Context, mode policy.Mode, changed bool) (running bool, problem string) {
	daemon, err := client(c)
	if err != nil || daemon.Health(c.Context) != nil {
		return false, ""
	}
	st, err := daemon.Status(c.Context)
	if err == nil && st.Mode == mode && !changed {
		return true, ""
	}
	if _, err := daemon.Reload(c.Context); err != nil {
		return true, "the daemon could not be reloaded: " + err.Error()
	}
	if st, err = daemon.Status(c.Context); err != nil {
		return true, err.Error()
	}
	if st.Mode != mode {
		where := "in " + st.Config
		if st.Config == "" {
			where = "in a configuration file, which it does not have, or in its environment (EHLOGATE_POLICY_MODE)"
		}
		return true, fmt.Sprintf("the daemon that runs is in mode %s, not %s, and withholds by that: set policy.mode = %q %s", st.Mode, mode, mode, where)
	}
	return true, ""
}
