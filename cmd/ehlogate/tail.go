package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/go-json-experiment/json"
	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/eventlog"
)

func tailCommand() *cli.Command {
	return &cli.Command{
		Name: "tail", Usage: "show sessions and messages of all nodes as they end", Action: tail,
		Description: "One line each: when, at which node, the client, what it was offered and used, its verdict with the source, its tier, the\n" +
			"sender's domain and what became of it. Of very many at once the last are shown. It needs the token, as dump does.",
		Flags: []cli.Flag{
			apiFlag, jsonFlag,
			&cli.BoolFlag{Name: "spam", Usage: "only what has a verdict of spam"},
			&cli.BoolFlag{Name: "tls", Usage: "only what came over TLS"},
			&cli.StringFlag{Name: "net", Usage: "only clients of `NETWORK`, or one address"},
			&cli.StringFlag{Name: "domain", Usage: "only senders of `DOMAIN` and below it, in the envelope"},
			&cli.IntFlag{Name: "n", Usage: "end after `NUMBER` lines"},
		},
	}
}

// tailFilter is what tail shows.
type tailFilter struct {
	spam, tls bool
	net       netip.Prefix
	domain    string
}

func (f *tailFilter) shows(e *eventlog.Event) bool {
	facts := e.Facts()
	if f.spam && e.Verdict.Class != policy.Spam {
		return false
	}
	if f.tls && (facts == nil || facts.TLS == nil) {
		return false
	}
	if f.domain != "" && (facts == nil || facts.FromDomain != f.domain && !strings.HasSuffix(facts.FromDomain, "."+f.domain)) {
		return false
	}
	if f.net.IsValid() {
		addr, err := policy.ParseAddr(e.Client.Addr)
		return err == nil && f.net.Contains(addr)
	}
	return true
}

// errEnough ends a tail that has shown as many lines as are asked for.
var errEnough = errors.New("enough")

func tail(c *cli.Context) error {
	if err := noArguments(c, "tail"); err != nil {
		return err
	}
	filter := tailFilter{spam: c.Bool("spam"), tls: c.Bool("tls"), domain: strings.ToLower(c.String("domain"))}
	if s := c.String("net"); s != "" {
		var err error
		if filter.net, err = config.ParseNetwork(s); err != nil {
			return misuseOf("--net: %w", err)
		}
	}
	daemon, err := client(c)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM)
	defer stop()
	colors := isTerminal(c.App.Writer) && os.Getenv("NO_COLOR") == ""
	shown := 0
	titles := func() {
		if !c.Bool("json") {
			fmt.Fprintf(c.App.Writer, tailFormat+"\n", "TIME", "NODE", "WHAT", "CLIENT", "TLS", "VERDICT", "TIER", "SENDER", "OUTCOME")
		}
	}
	err = daemon.Tail(ctx, titles, func(line []byte) error {
		var e eventlog.Event
		if json.Unmarshal(line, &e, eventlog.Lenient) != nil || !filter.shows(&e) {
			return nil
		}
		text := string(line)
		if !c.Bool("json") {
			text = tailLine(&e, colors)
		}
		if _, err := fmt.Fprintln(c.App.Writer, text); err != nil {
			return err
		}
		if shown++; shown == c.Int("n") {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) || errors.Is(err, context.Canceled) || ctx.Err() != nil {
		return nil
	}
	return err
}

const tailFormat = "%-8s %-8s %-10s %-39s %-12s %-22s %-8s %-24s %s"

// tailLine is an event in a line. What clients sent is made printable.
func tailLine(e *eventlog.Event, colors bool) string {
	facts := e.Facts()
	if facts == nil {
		facts = &policy.Facts{STARTTLS: policy.Unasked}
	}
	used := "in the clear"
	switch {
	case e.Change != nil:
		change := e.Change.Verb
		if e.Change.By != "" {
			change += " by " + e.Change.By
		}
		return strings.TrimRight(fmt.Sprintf("%-8s %-8s %-10s %-39s %s", e.Time.Local().Format("15:04:05"), e.Node, e.Kind, e.Client.Addr, policy.Printable(change)), " ")
	case e.Kind == eventlog.KindForget:
		used = "-"
	case facts.STARTTLS == policy.Withheld:
		used = "withheld"
	case facts.TLS != nil:
		used = facts.TLS.Version
	case e.Session == "" && !facts.InClear:
		used = "unknown"
	}
	verdict := string(e.Verdict.Class)
	if e.Verdict.Source != "" {
		verdict += " (" + string(e.Verdict.Source) + ")"
	}
	line := fmt.Sprintf(tailFormat, e.Time.Local().Format("15:04:05"), e.Node, e.Kind, cmp.Or(e.Client.Addr, "-"), used, verdict,
		cmp.Or(facts.Tier, "-"), cmp.Or(policy.Printable(facts.FromDomain), "-"), facts.Outcome)
	line = strings.TrimRight(line, " ")
	if !colors {
		return line
	}
	switch {
	case e.Verdict.Class == policy.Spam:
		return "\x1b[31m" + line + "\x1b[0m"
	case e.Verdict.Class == policy.Ham:
		return "\x1b[32m" + line + "\x1b[0m"
	}
	return line
}
