package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/connect"
	server "github.com/ehlogate/ehlogate/cmd/ehlogate/internal/daemon"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/postfix"
	"github.com/ehlogate/ehlogate/milter/verdict/maillog"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/asn"
	"github.com/ehlogate/ehlogate/policy/reputation"
	"github.com/ehlogate/ehlogate/policy/store"
	"github.com/ehlogate/ehlogate/policy/store/redis"
)

var postfixFlag = &cli.StringFlag{Name: "postfix-config", Usage: "`DIRECTORY` of main.cf and master.cf (default: the host's own)", EnvVars: []string{"MAIL_CONFIG"}}

func checkCommand() *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "look at configuration, store and Postfix: what is missing, wrong or dangerous",
		Description: "Lines begin with ok, with note where there is something to know, or with fix where something is\n" +
			"wrong; the line that fixes it follows. The exit status is 1 if there is anything to fix.",
		Flags: []cli.Flag{
			apiFlag, jsonFlag, postfixFlag,
			&cli.BoolFlag{Name: "live", Usage: "also have one session with the MTA, and see what table, milter and event log make of it"},
			&cli.StringFlag{Name: "live-address", Usage: "`HOST:PORT` of that session (default: where master.cf says, or port 25 of this host)"},
		},
		Action: check,
	}
}

func check(c *cli.Context) error {
	if err := noArguments(c, "check"); err != nil {
		return err
	}
	cfg, err := loadConfig(c)
	if err != nil {
		return err
	}
	daemon, err := client(c)
	if err != nil {
		return err
	}
	found := configFindings(cfg)
	more, running, st := daemonFindings(c, daemon)
	found = append(found, more...)
	found = append(found, logFindings(cfg)...)
	found = append(found, storeFindings(c.Context, cfg, running, st)...)
	found = append(found, restartFindings(cfg, st)...)
	p, err := postfix.Find(c.Context, c.String("postfix-config"), inForce(cfg, st))
	mta := connect.Found()
	var live []postfix.Finding
	if c.Bool("live") || c.IsSet("live-address") {
		live = liveFindings(c, daemon, p, mta)
		if after, err := daemon.Status(c.Context); err == nil {
			st = &after
		}
	}
	switch {
	case errors.Is(err, os.ErrNotExist) && c.IsSet("postfix-config"):
		return misused{err}
	case errors.Is(err, postfix.ErrMissing):
		found = append(found, otherFindings("there is no Postfix on this host", mta, cfg, st)...)
	case errors.Is(err, os.ErrNotExist):
		found = append(found, otherFindings("Postfix has no configuration on this host: "+err.Error(), mta, cfg, st)...)
	case err != nil:
		found = append(found, postfix.Finding{What: "Postfix's configuration cannot be read", Fix: err.Error()})
	default:
		if _, given := flagOf(c, "config"); given && !c.IsSet("postfix-config") {
			found = append(found, postfix.Finding{OK: true, Note: true, What: "the Postfix that is looked at is that of " + p.Dir + "; where this daemon is another one's, name that with --postfix-config"})
		}
		found = append(found, p.Check(c.Context)...)
	}
	return printReport(c, append(found, live...))
}

// modeNotSet is what somebody should know who has not chosen a mode.
const modeNotSet = `STARTTLS is withheld from tier bad; to see first from whom that would be, set policy.mode = "observe"`

// configFindings looks at what the configuration names.
func configFindings(cfg *config.Config) []postfix.Finding {
	found := []postfix.Finding{{OK: true, What: "the configuration is sound"}}
	if !cfg.ModeGiven {
		found = append(found, postfix.Finding{OK: true, Note: true, What: "policy.mode is not set, and is protect: " + modeNotSet})
	}
	found = append(found, ignoredVariables(cfg)...)
	if err := new(asn.Database).Use(cfg.ASNDatabase); err != nil {
		found = append(found, postfix.Finding{What: "autonomous systems are not judged", Fix: "fix or replace the file of reputation.asn_database: " + err.Error()})
	} else if cfg.ASNDatabase != "" {
		found = append(found, postfix.Finding{OK: true, What: "the database of autonomous systems is sound"})
	}
	found = append(found, accessFindings(cfg)...)
	found = append(found, refusalFindings(cfg)...)
	if info, err := os.Stat(cfg.Log.Events); err == nil && info.IsDir() {
		found = append(found, postfix.Finding{What: fmt.Sprintf("log.events is %s, which is a directory: the daemon will not start", cfg.Log.Events), Fix: "name a file in log.events"})
	}
	const chmod, remove = "chmod o= ", "remove it, and restart the daemon, which makes a new one, or put another one there: rm "
	secret := func(path, what, fix string) {
		if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o004 != 0 {
			found = append(found, postfix.Finding{What: fmt.Sprintf("everybody on this host can read %s, %s", path, what), Fix: fix + path})
		}
	}
	found = append(found, tokenFindings(cfg)...)
	secret(cfg.HTTP.TokenFile, "the token with which everything can be done", remove)
	secret(cfg.HTTP.FeedTokenFile, "the token with which clients can be accused", remove)
	if cfg.Store.Redis != nil {
		files, inURL := cfg.Store.Redis.Secrets()
		for _, f := range files {
			secret(f, "a secret of store.url", chmod)
		}
		if text, err := os.ReadFile(cfg.File); inURL && err == nil && strings.Contains(string(text), cfg.Store.URL) {
			secret(cfg.File, "which has the password of store.url", chmod)
		}
	}
	return found
}

// refusalFindings says whose mail is refused, and warns where that is not the mail of spammers.
func refusalFindings(cfg *config.Config) (found []postfix.Finding) {
	for _, t := range []reputation.Tier{reputation.Good, reputation.Unknown, reputation.Suspect, reputation.Bad} {
		treatment := cfg.Policy.Treatments[t]
		if !treatment.Action.Refuses() {
			continue
		}
		what := fmt.Sprintf("action = %q: mail of clients of tier %s is refused at stage %s", treatment.Action, t, cmp.Or(treatment.Stage, policy.AtRcpt))
		switch {
		case cfg.Policy.Mode == policy.Observe:
			found = append(found, postfix.Finding{OK: true, Note: true, What: what + ", but not in mode observe"})
		case t == reputation.Good || t == reputation.Unknown:
			found = append(found, postfix.Finding{What: what + ", which is where honest ones are", Fix: fmt.Sprintf("take action out of the [[policy.tier]] of name %q", t)})
		default:
			found = append(found, postfix.Finding{OK: true, Note: true, What: what})
		}
	}
	return found
}

// tokenFindings finds tokens with which the daemon will not start.
func tokenFindings(cfg *config.Config) (found []postfix.Finding) {
	files := []string{cfg.HTTP.TokenFile, cfg.HTTP.FeedTokenFile}
	tokens := make([]string, len(files))
	for i, file := range files {
		var err error
		if tokens[i], err = api.ReadToken(file); errors.Is(err, api.ErrShort) {
			found = append(found, postfix.Finding{What: file + " is too short for a token: the daemon will not start", Fix: "rm " + file + ", and the daemon makes another one when it starts"})
		}
	}
	if tokens[0] != "" && tokens[0] == tokens[1] && cfg.HTTP.Listen.Network == "tcp" {
		found = append(found, postfix.Finding{What: fmt.Sprintf("%s and %s have the same token, with which filters could do everything: the daemon will not start", files[0], files[1]), Fix: "rm " + files[1] + ", and the daemon makes another one when it starts"})
	}
	return found
}

// startedWith are the keys whose change takes a restart, and their values in a configuration.
func startedWith(cfg *config.Config) map[string]*config.Address {
	return map[string]*config.Address{"milter.listen": &cfg.Milter.Listen, "table.socketmap": &cfg.Table.Socketmap, "table.memcache": &cfg.Table.Memcache}
}

// inForce is the configuration with the addresses at which the daemon listens, if it runs.
func inForce(cfg *config.Config, st *api.Status) *config.Config {
	if st == nil {
		return cfg
	}
	now := *cfg
	for key, field := range startedWith(&now) {
		if a, err := config.ParseAddress(st.Listen[key]); err == nil {
			*field = a
		}
	}
	return &now
}

// restartFindings says what the daemon runs with that the configuration does not have any more.
func restartFindings(cfg *config.Config, st *api.Status) (found []postfix.Finding) {
	if st == nil {
		return nil
	}
	if st.Config != cfg.File {
		return []postfix.Finding{{What: fmt.Sprintf("the daemon runs with the configuration %s, and this command reads %s", orNone(st.Config), orNone(cfg.File)), Fix: "name the daemon's with --config; or, where it is to read this one: ehlogate reload"}}
	}
	const restart = "restart the daemon"
	changed := startedWith(cfg)
	for _, key := range slices.Sorted(maps.Keys(changed)) {
		if now := st.Listen[key]; now != "" && now != changed[key].String() {
			found = append(found, postfix.Finding{What: fmt.Sprintf("%s is %s in the configuration, and the daemon still listens on %s", key, changed[key], now), Fix: restart})
		}
	}
	if st.LogFile != cfg.LogFile {
		found = append(found, postfix.Finding{What: fmt.Sprintf("verdict.log_file is %q in the configuration, and the daemon still follows %q", cfg.LogFile, st.LogFile), Fix: restart})
	}
	return found
}

// daemonFindings asks the daemon, if it is running, how it gets on; st is nil where it does not
// say.
func daemonFindings(c *cli.Context, daemon *api.Client) (found []postfix.Finding, running bool, st *api.Status) {
	if err := daemon.Health(c.Context); err != nil {
		f := postfix.Finding{What: err.Error(), Fix: howToStart(c)}
		switch {
		case errors.Is(err, api.ErrHangs):
			f.Fix = "restart the daemon"
		case errors.Is(err, api.ErrForbidden):
			f.Fix = "run check as root"
		}
		return []postfix.Finding{f}, false, nil
	}
	found = append(found, postfix.Finding{OK: true, What: "the daemon answers"})
	h, err := daemon.Heard(c.Context)
	if err != nil {
		return append(found, postfix.Finding{What: "the daemon does not say what it heard", Fix: err.Error()}), true, nil
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
	if why := h.Hidden(); why != "" {
		found = append(found, postfix.Finding{
			What: why + ": the clients' own addresses do not reach Postfix, and all would be judged as one",
			Fix:  "let the proxy before it send PROXY lines (smtpd_upstream_proxy_protocol = haproxy), or Docker keep the addresses (host network, or no userland proxy); if these are relays, list them in policy.exempt",
		})
	}
	status, err := daemon.Status(c.Context)
	if err != nil {
		return append(found, postfix.Finding{What: "the daemon does not say how it stands", Fix: err.Error()}), true, nil
	}
	st = &status
	for _, n := range st.Notes {
		found = append(found, postfix.Finding{OK: true, Note: true, What: n})
	}
	for _, w := range st.Warnings {
		f := postfix.Finding{What: "the daemon reports: " + w}
		if strings.Contains(w, "permission denied") {
			f.Fix = "let the user that it runs as read, or write, that file"
		}
		found = append(found, f)
	}
	names := map[string]bool{}
	for _, n := range st.Nodes {
		if names[n.Name] {
			found = append(found, postfix.Finding{What: fmt.Sprintf("several nodes of the cluster are called %s: reports and events do not tell them apart", n.Name), Fix: "give each a name of its own: node = \"mx1\" below [log], and restart the daemon"})
			break
		}
		names[n.Name] = true
	}
	for _, source := range st.Silent {
		found = append(found, postfix.Finding{What: "a source is silent: " + source, Fix: st.Why[source]})
	}
	return found, true, st
}

// logFindings looks at the MTA's log, as the user who runs the check.
func logFindings(cfg *config.Config) []postfix.Finding {
	if !filepath.IsAbs(cfg.LogFile) {
		return nil
	}
	if info, err := os.Stat(cfg.LogFile); err == nil && info.IsDir() {
		return []postfix.Finding{{What: "the MTA's log is a directory: " + cfg.LogFile, Fix: "name the file in it that Postfix, or the syslog daemon, writes in verdict.log_file"}}
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
func storeFindings(ctx context.Context, cfg *config.Config, running bool, st *api.Status) (found []postfix.Finding) {
	switch {
	case cfg.Store.Redis != nil:
		redis.LogLibrary(slog.New(slog.DiscardHandler))
		for _, f := range redis.Inspect(ctx, server.RedisOptions(cfg, nil)) {
			found = append(found, postfix.Finding{OK: f.OK, Note: f.Note, What: f.What, Fix: f.Fix})
		}
	case running:
		where := cfg.Store.Dir
		if st != nil {
			// It may have been started with other settings than this command.
			where = st.Store.Name
		}
		found = append(found, postfix.Finding{OK: true, What: "the daemon holds its store: " + where})
	default:
		dir := storeDir(cfg)
		f := postfix.Finding{OK: true, What: "the store in " + dir + " is sound"}
		if !exists(filepath.Join(dir, store.FileName)) {
			f.What = "there is no store yet in " + dir
		}
		if err := store.Verify(dir, cfg.Policy.Layout); err != nil {
			f = postfix.Finding{What: "the store cannot be opened", Fix: err.Error()}
			switch {
			case errors.Is(err, store.ErrInUse):
				f = postfix.Finding{What: "a process has the store in " + dir + " open: the daemon runs, and this command does not reach it", Fix: "where it hangs, or the socket of http.listen was removed, restart it; else name its http.listen with --api"}
			case errors.Is(err, store.ErrDamaged):
				f = postfix.Finding{What: err.Error(), Fix: "restore a copy, or start the daemon: it keeps what can be read, and moves the file aside"}
			}
		}
		found = append(found, f)
	}
	return found
}

// storeDir is where the daemon's store is: a shell has no STATE_DIRECTORY, which the unit's daemon
// has.
func storeDir(cfg *config.Config) string {
	if unit := filepath.Dir(unitToken); filepath.Base(cfg.Store.Dir) == config.DefaultDir && !exists(cfg.Store.Dir) && exists(unit) {
		return unit
	}
	return cfg.Store.Dir
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
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
