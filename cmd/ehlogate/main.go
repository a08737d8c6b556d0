// Command ehlogate is a daemon beside a mail server that offers STARTTLS by reputation, and the
// commands of its operator.
//
// Exit status: 0 done, 1 found wanting, 2 misuse.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/postfix"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/render"
)

// version is set when a release is built: -ldflags "-X main.version=1.2.3".
var version = "development"

const about = `ehlogate sits beside an existing mail server. It hears every SMTP session through the milter protocol, gives each
client a reputation by what filters and the server itself say of its mail, and answers the server's own table
lookup, so that STARTTLS is not offered to clients of low reputation. It writes down TLS use beside the verdicts.
When it is slow, wrong or dead, mail flows and STARTTLS is offered.`

// The exit statuses.
const (
	done    = 0
	wanting = 1
	misuse  = 2
)

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) }

// misused marks an error as the caller's.
type misused struct{ error }

func (m misused) Unwrap() error { return m.error }

func misuseOf(format string, args ...any) error { return misused{fmt.Errorf(format, args...)} }

// noArguments refuses the arguments of a command that takes none.
func noArguments(c *cli.Context, command string) error {
	if c.Args().Present() {
		return misuseOf("%s takes no arguments, got %q", command, c.Args().Slice())
	}
	return nil
}

// run runs a command line and returns its exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (status int) {
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintln(stderr, faultText(p, debug.Stack()))
			status = wanting
		}
	}()
	app := newApp(stdout, stderr)
	var err error
	if !slices.Contains(args, "--generate-bash-completion") {
		args, err = flagsFirst(app, args)
	}
	if err == nil {
		err = app.RunContext(ctx, append([]string{app.Name}, args...))
	}
	if err == nil {
		return done
	}
	// A found fault is printed as it is; everything else with the program's name before each line
	// of it.
	if message := err.Error(); message != "" {
		for line := range strings.Lines(message) {
			fmt.Fprintf(stderr, "ehlogate: %s\n", strings.TrimSuffix(line, "\n"))
		}
	}
	if errors.As(err, new(misused)) {
		return misuse
	}
	return wanting
}

// faultText says what an operator can do about a fault of ours, and where it is.
func faultText(p any, stack []byte) string {
	_, stack, _ = bytes.Cut(stack, []byte("panic("))
	where := "an unknown place"
	for line := range strings.Lines(string(stack)) {
		if file, ok := strings.CutPrefix(line, "\t"); ok && !strings.Contains(file, "/src/runtime/") {
			where, _, _ = strings.Cut(filepath.Base(strings.TrimSpace(file)), " ")
			break
		}
	}
	return fmt.Sprintf("ehlogate: a fault of ours at %s: %v; please report it, with the command and what it was given", where, p)
}

func newApp(stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name: "ehlogate", Usage: "offer STARTTLS by reputation", Version: version,
		Writer: stdout, ErrWriter: stderr, ExitErrHandler: func(*cli.Context, error) {}, OnUsageError: usageError,
		// The library gives a program with a help command of its own no --help.
		Flags:           append(commonFlags(), cli.HelpFlag),
		Description:     about,
		HideHelpCommand: true, EnableBashCompletion: true,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return misuseOf("unknown command %q%s; see \"ehlogate help\"", c.Args().First(), nearest(c.App.Commands, c.Args().First()))
			}
			return cli.ShowAppHelp(c)
		},
		Commands: []*cli.Command{
			serveCommand(), checkCommand(), setupCommand(), statusCommand(), reloadCommand(), lookupCommand(), explainCommand(),
			changeCommand("allow"), changeCommand("deny"), changeCommand("forget"), overridesCommand(), learnCommand(), reportCommand(), tailCommand(), topCommand(), exportCommand(), dumpCommand(), loadCommand(), replayCommand(), tuneCommand(), versionCommand(), helpCommand(),
		},
	}
	for _, c := range app.Commands {
		c.OnUsageError = usageError
		c.Flags = append(c.Flags, commonFlags()...)
		c.Description, c.HideHelpCommand = described(c), true
		quiet(c.Flags)
		for _, sub := range c.Subcommands {
			sub.OnUsageError = usageError
			sub.Flags = append(sub.Flags, commonFlags()...)
			sub.Description, sub.HideHelpCommand = described(sub, c.Name), true
			quiet(sub.Flags)
		}
	}
	return app
}

// quiet leaves "(default: false)" out of the help.
func quiet(flags []cli.Flag) {
	for _, f := range flags {
		if b, ok := f.(*cli.BoolFlag); ok {
			b.DisableDefaultText = true
		}
	}
}

// commonFlags are --config and one flag for each key of the configuration, of which "help config"
// tells.
func commonFlags() []cli.Flag {
	flags := []cli.Flag{&cli.StringFlag{Name: "config", Usage: "configuration `FILE` (default " + config.DefaultFile + " if it exists); every key can also be given as a flag: see \"ehlogate help config\""}}
	for _, s := range config.Settings {
		flags = append(flags, &cli.StringFlag{Name: s.Key, Usage: s.Usage, Hidden: true})
	}
	return flags
}

// flagsFirst moves flags before the arguments of a command, where the command-line library wants
// them: "lookup ADDR --json" works as "lookup --json ADDR" does. What follows "--" stays where it
// is.
func flagsFirst(app *cli.App, args []string) ([]string, error) {
	var words, flags, rest []string
	commands, known := app.Commands, app.Flags
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			rest = args[i:]
			break
		}
		if !strings.HasPrefix(arg, "-") || arg == "-" {
			if c := commandOf(commands, arg); c != nil && len(rest) == 0 {
				words, commands, known = append(words, arg), c.Subcommands, slices.Concat(known, c.Flags)
				continue
			}
			commands = nil
			rest = append(rest, arg)
			continue
		}
		flags = append(flags, arg)
		name, _, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if !hasValue && takesValue(known, name) {
			if i+1 == len(args) {
				return nil, misuseOf("flag %s needs a value; see \"ehlogate help\"", arg)
			}
			i++
			flags = append(flags, args[i])
		}
	}
	return slices.Concat(words, flags, rest), nil
}

func commandOf(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

func takesValue(flags []cli.Flag, name string) bool {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			_, isBool := f.(*cli.BoolFlag)
			return !isBool
		}
	}
	return false
}

// flagOf finds a flag that was set on a command or before it.
func flagOf(c *cli.Context, name string) (string, bool) {
	for _, level := range c.Lineage() {
		if slices.Contains(level.LocalFlagNames(), name) {
			return level.String(name), true
		}
	}
	return "", false
}

// loadConfig reads the configuration of a command line.
func loadConfig(c *cli.Context) (*config.Config, error) {
	file, _ := flagOf(c, "config")
	cfg, err := config.Load(config.Source{
		File: file,
		Env:  os.LookupEnv, Environ: os.Environ,
		Flag: func(key string) (string, bool) { return flagOf(c, key) },
	})
	if err != nil {
		return nil, misused{err}
	}
	return cfg, nil
}

// ignoredVariables finds the variables that look like keys of the configuration, and are none.
func ignoredVariables(cfg *config.Config) (all []postfix.Finding) {
	var known []string
	for _, s := range config.Settings {
		known = append(known, strings.TrimPrefix(config.EnvName(s.Key), config.EnvPrefix))
	}
	for _, name := range cfg.Ignored {
		f := postfix.Finding{What: "the variable " + name + " is not a key of the configuration, and is ignored", Fix: "unset it; \"ehlogate help config\" has the keys"}
		if best := closest(strings.TrimPrefix(name, config.EnvPrefix), known); best != "" {
			f.Fix = "did you mean " + config.EnvPrefix + best + "?"
		}
		all = append(all, f)
	}
	return all
}

var (
	apiFlag  = &cli.StringFlag{Name: "api", Usage: "`ADDRESS` of the daemon's HTTP API (default http.listen)"}
	jsonFlag = &cli.BoolFlag{Name: "json", Usage: "print JSON, an object a line"}
)

// minuteFormat is how a time in UTC is printed for people.
const minuteFormat = render.MinuteFormat

// unitToken is where the systemd unit's daemon keeps its token, whose STATE_DIRECTORY an operator's
// shell does not have.
const unitToken = "/var/lib/ehlogate/api-token"

// debianNotes say how the daemon is started where there is no systemd.
const debianNotes = "/usr/share/doc/ehlogate/README.Debian"

// howToStart is how the daemon is started that a command was meant for.
func howToStart(c *cli.Context) string {
	file, given := flagOf(c, "config")
	switch {
	case given:
		return "ehlogate serve --config " + file
	case exists("/run/systemd/system") && exists("/lib/systemd/system/ehlogate.service"):
		return "systemctl start ehlogate"
	case exists(debianNotes):
		return "start-stop-daemon --start ..., as " + debianNotes + " says"
	}
	return "ehlogate serve"
}

// client returns a client of the running daemon. The token is read if it can be; whether it is
// needed, the daemon knows.
func client(c *cli.Context) (*api.Client, error) {
	at, ok := flagOf(c, "api")
	cfg, err := loadConfig(c)
	if err != nil {
		// The daemon goes on with the configuration that it has.
		cfg = &config.Config{}
		cfg.HTTP.Listen = config.DefaultAddress("http.listen")
		if !ok {
			fmt.Fprintf(c.App.ErrWriter, "ehlogate: %v; a daemon that runs goes on as it is, and is asked at %s (--api names another address)\n", err, cfg.HTTP.Listen)
		}
	}
	if !ok {
		at = cfg.HTTP.Listen.String()
	}
	file := cfg.HTTP.TokenFile
	token, err := api.ReadToken(file)
	if _, given := flagOf(c, "http.token_file"); errors.Is(err, os.ErrNotExist) && !given {
		file = unitToken
		token, _ = api.ReadToken(file)
	}
	client, err := api.NewClient(at, token)
	if err != nil {
		return nil, misused{err}
	}
	client.OnlyTo(file)
	return client, nil
}
