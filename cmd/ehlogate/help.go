package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/xrash/smetrics"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/manual"
	"github.com/ehlogate/ehlogate/contrib"
)

// examples has a command line for each command.
var examples = map[string]string{
	"serve":     "ehlogate serve --config /etc/ehlogate/ehlogate.toml",
	"check":     "ehlogate check\nehlogate check --live",
	"postfix":   "ehlogate setup postfix              prints the lines\nehlogate setup postfix --dry-run    prints them as a diff\nehlogate setup postfix --apply      writes them; --undo takes them back",
	"setup":     "ehlogate setup postfix",
	"sendmail":  "ehlogate setup sendmail",
	"exim":      "ehlogate setup exim",
	"opensmtpd": "ehlogate setup opensmtpd",
	"status":    "ehlogate status",
	"reload":    "ehlogate reload",
	"lookup":    "ehlogate lookup 192.0.2.7 2001:db8::7 mail.example.com",
	"explain":   "ehlogate explain 192.0.2.7",
	"allow":     "ehlogate allow 192.0.2.7 mail.example.com --note \"our partner\"\nehlogate allow 198.51.100.0/24 --for 7d",
	"deny":      "ehlogate deny 203.0.113.0/24 --for 36h --note \"flood\"",
	"forget":    "ehlogate forget 192.0.2.7\nehlogate forget 198.51.100.0/24 --override",
	"overrides": "ehlogate overrides\nehlogate overrides --export > overrides.cidr\nehlogate overrides --import drop.txt --as deny",
	"learn":     "ehlogate learn ham 780D29842A2\nehlogate learn spam ~/Maildir/.Junk",
	"spam":      "ehlogate learn spam ~/Maildir/.Junk",
	"ham":       "ehlogate learn ham 780D29842A2",
	"report":    "ehlogate report --since 30d --by day\nehlogate report --require-tls\nehlogate report --html report.html\nehlogate report --since 30d --events /var/lib/ehlogate/events*.ndjson",
	"tail":      "ehlogate tail --spam --net 192.0.2.0/24",
	"top":       "ehlogate top\nehlogate top --by network --measure tls-spam --since 1h\nehlogate top --broken-tls",
	"export":    "ehlogate export --output /etc/postfix/ehlogate-withheld.cidr\nehlogate export --format lmdb --output /etc/postfix/ehlogate-withheld",
	"dump":      "ehlogate dump reputation.ndjson",
	"load":      "ehlogate load reputation.ndjson",
	"replay":    "ehlogate replay --trace /var/lib/ehlogate/events.ndjson --decisions -",
	"tune":      "ehlogate tune --trace /var/lib/ehlogate/events.ndjson --harm 0.3%",
	"version":   "ehlogate version",
	"help":      "ehlogate help deny\nehlogate help config > ehlogate.toml\nehlogate help man > ehlogate.1\nehlogate help completion bash > /etc/bash_completion.d/ehlogate",
}

// described is a command's description with its example.
func described(c *cli.Command) string {
	example := "Example:"
	for line := range strings.Lines(examples[c.Name]) {
		example += "\n  " + strings.TrimRight(line, "\n")
	}
	if c.Description == "" {
		return example
	}
	return c.Description + "\n\n" + example
}

// topics are what help writes besides the help of a command.
var topics = map[string]func(*cli.Context) (string, error){
	"config": func(*cli.Context) (string, error) { return contrib.Sample, nil },
	"man": func(c *cli.Context) (string, error) {
		return manual.Commands(c.App, []string{"config"}), nil
	},
	"man-config": func(c *cli.Context) (string, error) {
		return manual.Settings(contrib.Sample, c.App.Name+" "+c.App.Version), nil
	},
	"completion": func(c *cli.Context) (string, error) {
		script, err := manual.Completion(c.App, c.Args().Get(1))
		if err != nil {
			err = misuseOf("%w; usage: ehlogate help completion SHELL", err)
		}
		return script, err
	},
}

func helpCommand() *cli.Command {
	return &cli.Command{
		Name: "help", Usage: "show the commands, one of them, or the configuration; write the manual pages and what shells complete by",
		ArgsUsage: "[COMMAND|config|man|man-config|completion SHELL]",
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return cli.ShowAppHelp(c)
			}
			if topic, ok := topics[c.Args().First()]; ok {
				content, err := topic(c)
				if err == nil {
					_, err = fmt.Fprint(c.App.Writer, content)
				}
				return err
			}
			about, path := &cli.Command{Subcommands: c.App.Commands}, c.App.Name
			for _, word := range c.Args().Slice() {
				next := commandOf(about.Subcommands, word)
				if next == nil {
					return misuseOf("unknown command %q%s; see \"ehlogate help\"", word, nearest(about.Subcommands, word))
				}
				about, path = next, path+" "+word
			}
			about.HelpName = path
			cli.HelpPrinter(c.App.Writer, cli.CommandHelpTemplate, about)
			return nil
		},
	}
}

// alike is how much a word must be like another one for that to be suggested, from 0 to 1.
const alike = 0.85

// closest is the word that is most like another one, or "".
func closest(word string, words []string) (best string) {
	most := alike
	for _, w := range words {
		if likeness := smetrics.JaroWinkler(word, w, 0.7, 4); likeness >= most {
			best, most = w, likeness
		}
	}
	return best
}

// nearest asks whether another command was meant.
func nearest(commands []*cli.Command, word string) string {
	var names []string
	for _, c := range commands {
		names = append(names, c.Names()...)
	}
	if best := closest(word, names); best != "" {
		return fmt.Sprintf("; did you mean %q", best)
	}
	return ""
}

// usageError is a command line that the library cannot read.
func usageError(c *cli.Context, err error, _ bool) error {
	name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: ")
	if !ok {
		return misuseOf("%w; see \"ehlogate help\"", err)
	}
	var names []string
	for _, level := range c.Lineage() {
		if level.Command == nil {
			continue
		}
		for _, f := range level.Command.Flags {
			names = append(names, f.Names()...)
		}
	}
	if best := closest(strings.TrimLeft(name, "-"), names); best != "" {
		return misuseOf("%w; did you mean --%s? See \"ehlogate help\"", err, best)
	}
	return misuseOf("%w; see \"ehlogate help\"", err)
}
