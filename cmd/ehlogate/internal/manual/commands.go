package manual

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// Commands is ehlogate(1): all commands with their flags and examples. What is told of a program is
// what --help tells; those of common are told once.
func Commands(app *cli.App, common []string) string {
	var p page
	p.title(app.Name, 1, app.Name+" "+app.Version, "User commands")
	p.section("name")
	p.WriteString(text(app.Name) + ` \- ` + text(app.Usage) + "\n")
	p.section("synopsis")
	p.WriteString(".B " + text(app.Name) + "\n" + text("[--config FILE] COMMAND [OPTIONS] [ARGUMENTS]") + "\n")
	p.section("description")
	p.paragraph(app.Description)
	p.section("options")
	p.flags(app.VisibleFlags(), nil)
	p.section("commands")
	for _, c := range app.VisibleCommands() {
		p.command(app.Name, c, common)
	}
	p.section("exit status")
	p.term("0", "done")
	p.term("1", "something is wrong, or failed; standard error says why")
	p.term("2", "wrong use: of the command line or the configuration")
	p.section("files")
	p.term("/etc/ehlogate/ehlogate.toml", "the configuration, read if it exists; ehlogate.toml(5)")
	p.term("/var/lib/ehlogate", "store, event log and tokens of the systemd unit's daemon; without the unit, $STATE_DIRECTORY or ./ehlogate-data")
	p.section("environment")
	p.term("EHLOGATE_SECTION_KEY", "overrides a key of the configuration: EHLOGATE_POLICY_MODE overrides policy.mode")
	p.term("NO_COLOR", "if it is set to anything, output to a terminal has no colours")
	p.section("see also")
	p.paragraph("ehlogate.toml(5), postconf(5), memcache_table(5), socketmap_table(5), RFC 3207")
	return p.String()
}

// command is a command with its flags and its example; one with commands of its own is told by
// them.
func (p *page) command(path string, c *cli.Command, common []string) {
	path += " " + c.Name
	if len(c.Subcommands) > 0 {
		for _, sub := range c.Subcommands {
			p.command(path, sub, common)
		}
		return
	}
	p.subsection(strings.TrimSpace(path + " [OPTIONS] " + c.ArgsUsage))
	p.paragraph(sentence(c.Usage))
	description, example, _ := strings.Cut(c.Description, "Examples:\n")
	if description = strings.TrimSpace(description); description != "" {
		p.paragraph(description)
	}
	p.flags(c.VisibleFlags(), common)
	if example != "" {
		p.paragraph("Examples:")
		p.verbatim(unindented(example))
	}
}

// flags are flags, but for those that are told elsewhere.
func (p *page) flags(flags []cli.Flag, but []string) {
	for _, f := range flags {
		doc, ok := f.(cli.DocGenerationFlag)
		if name := f.Names()[0]; !ok || name == "help" || slices.Contains(but, name) {
			continue
		}
		usage, word := doc.GetUsage(), ""
		if doc.TakesValue() {
			word = " VALUE"
			// The library's way to name a value: the first word in backquotes.
			if before, after, ok := strings.Cut(usage, "`"); ok {
				name, rest, _ := strings.Cut(after, "`")
				usage, word = before+name+rest, " "+name
			}
		}
		if v := doc.GetDefaultText(); doc.TakesValue() && v != "" && v != `""` {
			usage += " (default " + v + ")"
		}
		var names []string
		for _, n := range f.Names() {
			if len(n) == 1 {
				names = append(names, "-"+n)
			} else {
				names = append(names, "--"+n)
			}
		}
		p.term(strings.Join(names, ", ")+word, usage)
	}
}

// sentence is a usage as a sentence.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + strings.TrimRight(s[1:], ".") + "."
}

// unindented takes the two columns of help's examples away.
func unindented(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString(strings.TrimPrefix(line, "  "))
	}
	return b.String()
}
