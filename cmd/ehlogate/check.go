package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	server "github.com/ehlogate/ehlogate/cmd/ehlogate/internal/daemon"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/postfix"
	"github.com/ehlogate/ehlogate/milter/verdict/maillog"
	"github.com/ehlogate/ehlogate/policy/asn"
	"github.com/ehlogate/ehlogate/policy/store"
	"github.com/ehlogate/ehlogate/policy/store/redis"
)

var postfixFlag = &cli.StringFlag{Name: "postfix-config", Usage: "Postfix's config_`DIRECTORY` (default: the host's own)"}

func checkCommand() *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "look at configuration, store and Postfix: what is missing, wrong or dangerous",
		Flags: []cli.Flag{apiFlag, jsonFlag, postfixFlag}, Action: check,
	}
}

func check(c *cli.Context) error {
	cfg, err := loadConfig(c)
	if err != nil {
		return err
	}
	daemon, err := client(c)
	if err != nil {
		return err
	}
	found := []postfix.Finding{{OK: true, What: "the configuration is sound"}}
	if err := new(asn.Database).Use(cfg.ASNDatabase); err != nil {
		found = append(found, postfix.Finding{What: "autonomous systems are not judged", Fix: "fix or replace the file of reputation.asn_database: " + err.Error()})
	} else if cfg.ASNDatabase != "" {
		found = append(found, postfix.Finding{OK: true, What: "the database of autonomous systems is sound"})
	}
	running := daemon.Health(c.Context)
	if running == nil {
		found = append(found, postfix.Finding{OK: true, What: "the daemon answers"})
		h, err := daemon.Heard(c.Context)
		if err != nil {
			return err
		}
		if h.OneSided() {
			found = append(found, postfix.Finding{
				What: fmt.Sprintf("filters said spam %d times in %d messages, and ham never: a client that sends some spam looks as if it sent nothing else", h.Spam, h.Messages),
				Fix:  `verdict.silence = "ham", where the filter marks only spam`,
			})
		}
		if h.ResolverRefused > 0 {
			found = append(found, postfix.Finding{
				What: fmt.Sprintf("a DNS block list does not serve this host's resolver, as seen in %s: the MTA refuses mail because of it", plural(int(h.ResolverRefused), "refusal")),
				Fix:  "ask the list through a resolver of your own, or restrict its answers, as in reject_rbl_client LIST=127.0.0.[2..11]",
			})
		}
	} else {
		found = append(found, postfix.Finding{What: "the daemon does not answer", Fix: "ehlogate serve (" + running.Error() + ")"})
	}
	found = append(found, logFindings(cfg)...)
	found = append(found, storeFindings(c.Context, cfg, running == nil)...)
	p, err := postfix.Find(c.Context, c.String("postfix-config"), cfg)
	switch {
	case errors.Is(err, postfix.ErrMissing):
		found = append(found, postfix.Finding{What: "there is no Postfix on this host", Fix: "nothing, where the MTA is another one"})
	case err != nil && c.IsSet("postfix-config"):
		return misused{err}
	case err != nil:
		found = append(found, postfix.Finding{What: "Postfix's configuration cannot be read", Fix: err.Error()})
	default:
		found = append(found, p.Check(c.Context)...)
	}
	return printReport(c, found)
}

// logFindings looks at the MTA's log, as the user who runs the check.
func logFindings(cfg *config.Config) []postfix.Finding {
	if !filepath.IsAbs(cfg.LogFile) {
		return nil
	}
	sample, err := maillog.Inspect(cfg.LogFile, maillog.Options{Now: time.Now, Zone: time.Local, Services: cfg.Services})
	if errors.Is(err, os.ErrNotExist) {
		return []postfix.Finding{{What: "the MTA's log is not there: what filters refuse is not heard", Fix: "name the file that Postfix, or the syslog daemon, writes in verdict.log_file: " + err.Error()}}
	}
	if err != nil {
		return []postfix.Finding{{What: "the MTA's log cannot be read: what filters refuse is not heard", Fix: "let the daemon's user read the file of verdict.log_file, by group adm on Debian: " + err.Error()}}
	}
	if fault := sample.Fault(); fault != "" {
		return []postfix.Finding{{What: "the MTA's log tells nothing: " + fault, Fix: "name the log that Postfix writes in verdict.log_file, in a format with a time and the program, such as syslog's"}}
	}
	if sample.Lines == 0 {
		return []postfix.Finding{{OK: true, What: "the MTA's log can be opened, and is empty so far"}}
	}
	return []postfix.Finding{{OK: true, What: "the MTA's log can be read"}}
}

// storeFindings looks at the store. The embedded one is the daemon's alone while that runs.
func storeFindings(ctx context.Context, cfg *config.Config, running bool) (found []postfix.Finding) {
	switch {
	case cfg.Store.Redis != nil:
		for _, f := range redis.Inspect(ctx, server.RedisOptions(cfg, nil)) {
			found = append(found, postfix.Finding{OK: f.OK, What: f.What, Fix: f.Fix})
		}
	case running:
		found = append(found, postfix.Finding{OK: true, What: "the daemon holds the store in " + cfg.Store.Dir})
	default:
		f := postfix.Finding{OK: true, What: "the store in " + cfg.Store.Dir + " is sound"}
		if err := store.Verify(cfg.Store.Dir, cfg.Policy.Layout); err != nil {
			f = postfix.Finding{What: "the store cannot be opened", Fix: err.Error()}
		}
		found = append(found, f)
	}
	return found
}

// errWanting makes the exit status 1 without another word.
var errWanting = errors.New("")

func printReport(c *cli.Context, found []postfix.Finding) error {
	var err error
	for _, f := range found {
		if !f.OK {
			err = errWanting
		}
		switch {
		case c.Bool("json"):
			json.NewEncoder(c.App.Writer).Encode(f)
		case f.Note:
			fmt.Fprintf(c.App.Writer, "note  %s\n", f.What)
		case f.OK:
			fmt.Fprintf(c.App.Writer, "ok    %s\n", f.What)
		default:
			fmt.Fprintf(c.App.Writer, "fix   %s\n", f.What)
		}
		if f.Fix != "" && !c.Bool("json") {
			fmt.Fprintf(c.App.Writer, "      %s\n", f.Fix)
		}
	}
	return err
}
