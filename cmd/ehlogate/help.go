package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/xrash/smetrics"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/manual"
	"github.com/ehlogate/ehlogate/contrib"
)

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
			if len(about.Subcommands) > 0 {
				// Only a command that is run knows its subcommands.
				return c.App.RunContext(c.Context, append(strings.Fields(path), "--help"))
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
