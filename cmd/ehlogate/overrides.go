package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/policy"
)

// changeUsage says what each verb does.
var changeUsage = map[string]string{
	"allow":  "always offer STARTTLS to an address or network",
	"deny":   "never offer STARTTLS to an address or network",
	"forget": "drop the evidence of an address or network, and the override on exactly it",
}

func changeCommand(verb string) *cli.Command {
	c := &cli.Command{
		Name: verb, Usage: changeUsage[verb], ArgsUsage: "ADDR|NET|HOST...",
		Flags: []cli.Flag{
			apiFlag, jsonFlag,
			&cli.BoolFlag{Name: "yes", Usage: "do not ask, however large the network"},
		},
		Action: func(c *cli.Context) error { return change(c, verb) },
	}
	if verb == "forget" {
		c.Flags = append(c.Flags, &cli.BoolFlag{Name: "override", Usage: "lift the override alone, and keep the evidence"})
	} else {
		c.Flags = append(c.Flags,
			&cli.StringFlag{Name: "note", Usage: "`TEXT` of the reason, for whoever reads \"overrides\" later"},
			&cli.StringFlag{Name: "for", Usage: "`DURATION` for which it holds, such as 36h or 7d (default: until removed with forget)"})
	}
	return c
}

func change(c *cli.Context, verb string) error {
	if !c.Args().Present() {
		return misuseOf("%s needs at least one address, network or host name; usage: ehlogate %s ADDR|NET|HOST...", verb, verb)
	}
	if err := checkFor(c); err != nil {
		return err
	}
	var networks []netip.Prefix
	for _, arg := range c.Args().Slice() {
		some, err := networksOf(c.Context, arg)
		if err != nil {
			return fmt.Errorf("%w; nothing was changed", err)
		}
		networks = append(networks, some...)
	}
	for _, n := range networks {
		if err := confirm(c, verb, n); err != nil {
			return err
		}
	}
	daemon, err := client(c)
	if err != nil {
		return err
	}
	if c.Bool("override") {
		verb = "lift"
	}
	for _, n := range networks {
		done, err := daemon.Change(c.Context, api.Change{Verb: verb, Network: n.String(), Note: c.String("note"), For: c.String("for"), By: operator()})
		if err != nil {
			return err
		}
		if err := printChange(c, verb, n, done); err != nil {
			return err
		}
	}
	return nil
}

// checkFor says what is wrong with --for.
func checkFor(c *cli.Context) error {
	if f := c.String("for"); f != "" {
		if d, err := config.ParseDuration(f); err != nil || d < time.Second {
			return misuseOf("--for: %q is not a duration of a second or more; expected something like 24h or 7d", f)
		}
	}
	return nil
}

// operator is the user who runs a command, for whoever reads later who changed something.
func operator() string {
	if name := os.Getenv("SUDO_USER"); name != "" {
		return policy.Printable(name)
	}
	if u, err := user.Current(); err == nil {
		return policy.Printable(u.Username)
	}
	return ""
}

func printChange(c *cli.Context, verb string, n netip.Prefix, done api.Changed) (err error) {
	switch {
	case c.Bool("json"):
		return json.NewEncoder(c.App.Writer).Encode(done)
	case done.Removed == 0 && verb == "lift":
		_, err = fmt.Fprintf(c.App.Writer, "there is no override on %s\n", done.Network)
		return err
	case verb == "lift":
		_, err = fmt.Fprintf(c.App.Writer, "lifted from %s: %s\n%s", done.Network, plural(done.Removed, "override"), tableNote(done))
		return err
	case done.Removed == 0 && verb == "forget":
		_, err = fmt.Fprintf(c.App.Writer, "nothing was known of %s\n", done.Network)
		return err
	case verb == "forget":
		_, err = fmt.Fprintf(c.App.Writer, "forgot %s: %s of evidence and overrides\n%s", done.Network, plural(done.Removed, "record"), tableNote(done))
		return err
	}
	until := ""
	if o := done.Override; o != nil && !o.Until.IsZero() {
		until = ", until " + o.Until.Format(minuteFormat)
	}
	if _, err = fmt.Fprintf(c.App.Writer, "%s %s, from the next connection on%s\n", verb, done.Network, until); err != nil {
		return err
	}
	if done.Replaced != nil {
		fmt.Fprintf(c.App.Writer, "note: it replaces %s\n", overrideText(done.Replaced))
	}
	fmt.Fprint(c.App.Writer, tableNote(done))
	for _, e := range done.Exempt {
		exempt, parseErr := netip.ParsePrefix(e)
		if parseErr == nil && exempt.Bits() <= n.Bits() {
			_, err = fmt.Fprintf(c.App.Writer, "note: it has no effect, since %s is exempt (policy.exempt)\n", e)
		} else {
			_, err = fmt.Fprintf(c.App.Writer, "note: it has no effect on %s, which is exempt (policy.exempt)\n", e)
		}
	}
	return err
}

// tableNote says when a static table takes a change up, where one is written.
func tableNote(done api.Changed) string {
	if done.Exported.IsZero() {
		return ""
	}
	return fmt.Sprintf("note: a static table (export, table.export) takes it up when it is next written; the last was written at %s\n", done.Exported.Format(minuteFormat))
}

// networksOf are the networks that an argument means: itself, or the addresses of a host name.
func networksOf(ctx context.Context, arg string) ([]netip.Prefix, error) {
	n, err := config.ParseNetwork(arg)
	if err == nil {
		return []netip.Prefix{n}, nil
	}
	if !hostName.MatchString(arg) {
		return nil, misused{err}
	}
	addrs, err := addressesOf(ctx, arg)
	if err != nil {
		return nil, err
	}
	var all []netip.Prefix
	for _, a := range addrs {
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	return all, nil
}

// confirm asks about a network that is larger than anybody means.
func confirm(c *cli.Context, verb string, n netip.Prefix) error {
	if !config.Oversized(n) || c.Bool("yes") {
		return nil
	}
	share := fmt.Sprintf("one in %d of all addresses", 1<<n.Bits())
	if n.Bits() == 0 {
		share = "all addresses"
	}
	if !isTerminal(c.App.Reader) {
		return misuseOf("%s %s covers about %s; repeat the command with --yes if that is meant", verb, n, share)
	}
	fmt.Fprintf(c.App.ErrWriter, "%s %s covers about %s. Go on? [y/N] ", verb, n, share)
	var answer string
	fmt.Fscanln(c.App.Reader, &answer)
	if !strings.EqualFold(answer, "y") && !strings.EqualFold(answer, "yes") {
		return errors.New("nothing was changed")
	}
	return nil
}

func overridesCommand() *cli.Command {
	return &cli.Command{
		Name: "overrides", Usage: "list the overrides, or keep them as a list in a file",
		Description: "A list has a network a line, allow or deny behind it, and a comment after # or ;. Other people's lists are read, too:\n" +
			"cidr_table(5), DROP as text and as JSON, and DNSWL as rbldnsd has it; they need --as. Importing a list again sets what is\n" +
			"new in it, and lifts what is not in it any more; overrides that were set by hand stay.",
		Flags: []cli.Flag{
			apiFlag, jsonFlag,
			&cli.BoolFlag{Name: "export", Usage: "print them as such a list"},
			&cli.StringFlag{Name: "import", Usage: "take them from `FILE`; - is standard input"},
			&cli.StringFlag{Name: "as", Usage: "`VERB`, allow or deny, for lines that do not say"},
			&cli.StringFlag{Name: "list", Usage: "`NAME` of the list that is imported (default: the file's name)"},
			&cli.StringFlag{Name: "for", Usage: "`DURATION` for which they hold, such as 36h or 7d, where the list does not say (default: until lifted)"},
			&cli.BoolFlag{Name: "yes", Usage: "do not ask, however large a network is, and however many are lifted"},
		},
		Action: overrides,
	}
}

func overrides(c *cli.Context) error {
	if err := noArguments(c, "overrides"); err != nil {
		return err
	}
	if c.Bool("export") && (c.IsSet("import") || c.Bool("json")) {
		return misuseOf("--export, --import and --json exclude each other")
	}
	daemon, err := client(c)
	if err != nil {
		return err
	}
	all, err := daemon.Overrides(c.Context)
	if err != nil {
		return err
	}
	switch {
	case c.IsSet("import"):
		return importList(c, daemon, all)
	case c.Bool("export"):
		return exportList(c.App.Writer, all)
	}
	if len(all) == 0 && !c.Bool("json") {
		fmt.Fprintln(c.App.ErrWriter, "no overrides")
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
