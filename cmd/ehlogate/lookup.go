package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/render"
	"github.com/ehlogate/ehlogate/policy"
)

func lookupCommand() *cli.Command {
	return &cli.Command{
		Name: "lookup", Usage: "print score, tier and answer of addresses", ArgsUsage: "ADDR|HOST...",
		Flags: []cli.Flag{apiFlag, jsonFlag}, Action: lookup,
	}
}

func lookup(c *cli.Context) error {
	all, err := askOfEach(c, (*api.Client).Lookup)
	return errors.Join(printLookups(c, all), err)
}

// askOfEach asks the daemon about each address of the arguments, which may be host names. What is
// no address, or has none, keeps nobody from the others: answers come with the error.
func askOfEach[T any](c *cli.Context, ask func(*api.Client, context.Context, string) (T, error)) (all []T, err error) {
	if !c.Args().Present() {
		return nil, misuseOf("%s needs at least one address or host name; usage: ehlogate %[1]s ADDR|HOST...", c.Command.Name)
	}
	var addrs []netip.Addr
	var unresolved error
	for _, arg := range c.Args().Slice() {
		some, err := addressesOf(c.Context, arg)
		unresolved = errors.Join(unresolved, err)
		addrs = append(addrs, some...)
	}
	if len(addrs) == 0 {
		return nil, unresolved
	}
	daemon, err := client(c)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		answer, err := ask(daemon, c.Context, a.String())
		if err != nil {
			return all, errors.Join(err, unresolved)
		}
		all = append(all, answer)
	}
	return all, unresolved
}

func printLookups(c *cli.Context, all []api.Lookup) error {
	if c.Bool("json") {
		for _, l := range all {
			if err := json.NewEncoder(c.App.Writer).Encode(l); err != nil {
				return err
			}
		}
		return nil
	}
	if len(all) == 0 {
		return nil
	}
	width := terminalWidth(c.App.Writer)
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ADDRESS\tSTARTTLS\tTIER\tSCORE\tWHY")
	longest := len("ADDRESS")
	for _, l := range all {
		longest = max(longest, len(l.Addr))
	}
	for _, l := range all {
		wrapCell(w, fmt.Sprintf("%s\t%s\t%s\t%.2f", l.Addr, l.STARTTLS, l.Tier, l.Score), l.Why, width-longest-len("  STARTTLS  unknown  SCORE  "))
	}
	return w.Flush()
}

// leastWrapped is the narrowest column in which text is wrapped.
const leastWrapped = 24

// wrapCell writes a row whose last cell is a text in lines of a width, in one where there is no
// such width.
func wrapCell(w io.Writer, before, text string, width int) {
	if width < leastWrapped {
		width = 0
	}
	for i, line := range render.Wrap(text, width) {
		if i == 1 {
			before = strings.Repeat("\t", strings.Count(before, "\t"))
		}
		fmt.Fprintf(w, "%s\t%s\n", before, line)
	}
}

// resolveWait is how long a host name may take.
const resolveWait = 10 * time.Second

// addressesOf are the addresses of an argument: itself, or those of a host name.
func addressesOf(ctx context.Context, arg string) ([]netip.Addr, error) {
	addr, err := policy.ParseAddr(arg)
	if err == nil {
		return []netip.Addr{addr}, nil
	}
	if n, err := netip.ParsePrefix(arg); err == nil {
		if n.IsSingleIP() {
			return []netip.Addr{policy.PlainAddr(n.Addr())}, nil
		}
		return nil, misuseOf("%s is a network, and each host of it has a record of its own: ask about an address, such as %s; ehlogate report --by network and ehlogate top --by network say what was heard of networks", arg, n.Masked().Addr().Next())
	}
	if !hostName.MatchString(arg) {
		return nil, misuseOf("%w; expected something like 192.0.2.7, 2001:db8::7, or a host name with a dot in it", err)
	}
	ctx, cancel := context.WithTimeout(ctx, resolveWait)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", arg)
	if err != nil {
		return nil, fmt.Errorf("the host name %s has no address: %w", arg, err)
	}
	for i, a := range addrs {
		addrs[i] = policy.PlainAddr(a)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs), nil
}

// hostName is a name with a dot in it, of which the last part is not a number.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.[A-Za-z][A-Za-z0-9-]*\.?$`)

func explainCommand() *cli.Command {
	return &cli.Command{
		Name: "explain", Usage: "print how an address comes to its answer, term by term", ArgsUsage: "ADDR|HOST...",
		Flags: []cli.Flag{apiFlag, jsonFlag}, Action: explain,
	}
}

func explain(c *cli.Context) error {
	all, err := askOfEach(c, (*api.Client).Explain)
	for i, e := range all {
		switch {
		case c.Bool("json"):
			err = errors.Join(json.NewEncoder(c.App.Writer).Encode(e), err)
			continue
		case i > 0:
			fmt.Fprintln(c.App.Writer)
		}
		_, failed := fmt.Fprint(c.App.Writer, explanation(e, terminalWidth(c.App.Writer)))
		err = errors.Join(failed, err)
	}
	return err
}

// explanation is the text of an explanation, in the width of a terminal, 0 where there is none.
func explanation(e api.Explanation, width int) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		wrapCell(w, name, fmt.Sprintf(format, args...), width-len("what changes it  "))
	}
	row("address", "%s (host %s, network %s)", e.Addr, e.Host, e.Network)
	row("answer", "%s STARTTLS, in mode %s", e.STARTTLS, e.Mode)
	row("why", "%s", e.Why)
	row("its mail", "%s", mailText(e.Lookup))
	row("own evidence", "%s", ownText(e.Own))
	row("prior", "%.0f %% of the clients of whom nothing is known are expected to be spammers", 100*e.Expected.Prior)
	row("AS", "%s", systemText(e.Expected))
	row("neighbours", "weighing %.2f spam and %.2f ham now, in %s without this host: %.0f %% spammers expected, %+.2f",
		e.Expected.Neighbours.Spam, e.Expected.Neighbours.Ham, e.Network, 100*e.Expected.Share, e.Expected.LogOdds)
	row("score", "%.2f = %.2f of its own %+.2f expected; 0 is even odds of spam, 2.2 nine to one, each term within ±%g",
		e.Score, e.Own.LogOdds, e.Expected.LogOdds, e.Own.Cap)
	row("tier", "%s", tierText(e))
	row("exempt", "%s", yesNo(e.Exempt))
	override := overrideText(e.Override)
	if e.Exempt && e.Override != nil {
		override += " (without effect: the address is exempt)"
	}
	row("override", "%s", override)
	row("STARTTLS", "%s", exceptionText(e.Exception))
	row("in each mode", "observe: %s, protect: %s, earn: %s", e.Modes[policy.Observe], e.Modes[policy.Protect], e.Modes[policy.Earn])
	row("what changes it", "%s", render.WhatIf(&e))
	w.Flush()
	return b.String()
}

// mailText says what is done with a client's mail.
func mailText(l api.Lookup) string {
	switch {
	case l.Action.Refuses():
		return fmt.Sprintf("is refused: action %s of tier %s, at stage %s", l.Action, l.Tier, l.Stage)
	case l.Action != "":
		return fmt.Sprintf("goes on, with action %s of tier %s", l.Action, l.Tier)
	}
	return "goes on"
}

func ownText(o api.Own) string {
	if o.Since.IsZero() {
		return "none: the client is a stranger, 0.00"
	}
	return fmt.Sprintf("worth %.1f messages of spam and %.1f of ham, none before %s: %+.2f now (spam fades by half in %s, ham in %s)",
		o.Spam, o.Ham, o.Since.Format(minuteFormat), o.LogOdds, brief(o.HalfLife), brief(o.HamHalfLife))
}

// brief is a duration of the API as an operator writes it.
func brief(duration string) string {
	d, err := time.ParseDuration(duration)
	if err != nil {
		return duration
	}
	return config.FormatDuration(d)
}

func systemText(x api.Expected) string {
	if x.ASN == 0 {
		return "not known"
	}
	return fmt.Sprintf("AS%d, weighing %.1f spam and %.1f ham now: %.0f %% spammers expected before the neighbours", x.ASN, x.AS.Spam, x.AS.Ham, 100*x.Start)
}

func tierText(e api.Explanation) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s", e.Tier)
	switch {
	case e.Override != nil && e.Tier != e.Stored:
		s.WriteString(" by the override")
		return s.String()
	case e.Entered.IsZero():
	case e.Tier == e.Stored:
		fmt.Fprintf(&s, " since about %s, entered at score %.2f", e.Entered.Format(minuteFormat), e.EnteredAt)
	default:
		fmt.Fprintf(&s, "; it was %s since about %s, entered at score %.2f, and left it without a message of its own", e.Stored, e.Entered.Format(minuteFormat), e.EnteredAt)
	}
	th := e.Thresholds
	switch e.Tier {
	case "bad":
		fmt.Fprintf(&s, "; left below %g", th.Bad.Leave)
	case "suspect":
		fmt.Fprintf(&s, "; left below %g, bad from %g", th.Suspect.Leave, th.Bad.Enter)
	case "good":
		fmt.Fprintf(&s, "; left above %g", th.Good.Leave)
	default:
		fmt.Fprintf(&s, "; suspect from %g, bad from %g, good at %g or less with two ham messages of its own", th.Suspect.Enter, th.Bad.Enter, th.Good.Enter)
	}
	return s.String()
}

func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// exceptionText says what was noticed of the client and STARTTLS.
func exceptionText(m *policy.Exception) string {
	switch {
	case m == nil:
		return "nothing noticed"
	case m.Cause == policy.RequiresTLS:
		return fmt.Sprintf("%s on %s: maybe it requires TLS; offered until %s, unless its own mail is bad", m.Note, m.Set.Format(minuteFormat), m.Until.Format(minuteFormat))
	}
	if m.Offers() {
		return fmt.Sprintf("%s on %s: offered until %s", m.Note, m.Set.Format(minuteFormat), m.Until.Format(minuteFormat))
	}
	return fmt.Sprintf("%s, the last on %s: withheld until %s", m.Note, m.Set.Format(minuteFormat), m.Until.Format(minuteFormat))
}

func overrideText(o *policy.Override) string {
	if o == nil {
		return "none"
	}
	s := fmt.Sprintf("%s %s, set %s", o.Verb(), o.Network, o.Set.Format(time.RFC3339))
	if o.By != "" {
		s += " by " + policy.Printable(o.By)
	}
	if !o.Until.IsZero() {
		s += ", until " + o.Until.Format(time.RFC3339)
	}
	if o.List != "" {
		s += ", from " + policy.Printable(o.List)
	}
	if o.Note != "" {
		s += ": " + policy.Printable(o.Note)
	}
	return s
}
