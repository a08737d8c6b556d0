package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/policy"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "show how the daemon stands: mode, tiers, what was heard and withheld, and what reports nothing",
		Description: "The exit status is 0 whatever it says, if the daemon answers; check ends with 1 where there is something to fix.",
		Flags:       []cli.Flag{apiFlag, jsonFlag}, Action: status,
	}
}

func status(c *cli.Context) error {
	if err := noArguments(c, "status"); err != nil {
		return err
	}
	daemon, err := client(c)
	if err != nil {
		return err
	}
	st, err := daemon.Status(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(st)
	}
	_, err = fmt.Fprint(c.App.Writer, statusText(st, time.Now()))
	return err
}

func statusText(st api.Status, now time.Time) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	row("running", "since %s (%s), version %s, node %s", st.Started.Format(minuteFormat), now.Sub(st.Started).Round(time.Second), st.Version, st.Node)
	row("mode", "%s", modeText(st.Mode))
	row("configuration", "%s", orNone(st.Config))
	if st.Store.Uncounted != "" {
		row("store", "%s: %s", st.Store.Name, st.Store.State)
		row("hosts", "not known now: %s", st.Store.Uncounted)
	} else {
		row("store", "%s: %s, %s%s", st.Store.Name, st.Store.State, plural(st.Store.Records, "record"), syncText(st.Store.Sync))
		row("hosts", "%d good, %d unknown, %d suspect, %d bad", st.Tiers["good"], st.Tiers["unknown"], st.Tiers["suspect"], st.Tiers["bad"])
	}
	heard := func(name string, n api.Counts) { row(name, "%s", heardText(n)) }
	heard("heard since the start", st.Heard.Counts)
	// What came before a start of today is not known here: "today" would say the same, or less than
	// it promises. A report has it.
	today := st.Started.Local().Format(time.DateOnly) != time.Now().Format(time.DateOnly)
	if today {
		heard("heard today", st.Heard.Today)
	}
	withheld := func(name string, n api.Answers) {
		text := fmt.Sprintf("STARTTLS in %d of %s", n.Withheld, plural(int(n.Lookups), "lookup"))
		if st.Mode == policy.Observe {
			text += fmt.Sprintf("; in mode protect it would be %d", n.Would)
		}
		row(name, "%s", text)
	}
	withheld("withheld since the start", st.Withheld.Answers)
	if today {
		withheld("withheld today", st.Withheld.Today)
	}
	row("cost", "%s", costText(&st))
	if len(st.Nodes) > 1 {
		var names []string
		for _, n := range st.Nodes {
			names = append(names, fmt.Sprintf("%s (%s ago)", n.Name, now.Sub(n.Time).Round(time.Second)))
		}
		row("nodes", "%s", strings.Join(names, ", "))
	}
	if st.Store.OverridesUnknown {
		row("overrides", "not known now")
	} else {
		row("overrides", "%d set by the operator; %s made by the daemon", st.Overrides, plural(st.Exceptions, "exception"))
	}
	for _, w := range st.Waves {
		row("wave", "%s", w.Text())
	}
	for _, source := range st.Silent {
		row("silent", "%s: %s", source, st.Why[source])
	}
	for _, note := range st.Notes {
		row("note", "%s", note)
	}
	for _, warning := range st.Warnings {
		row("warning", "%s", warning)
	}
	w.Flush()
	return b.String()
}

// heardText says what was heard, and of what the milter heard nothing.
func heardText(n api.Counts) string {
	what := plural(int(n.Sessions), "session") + ", " + plural(int(n.Messages), "message")
	switch {
	case n.Sessions == 0 && n.Told > 0:
		what = plural(int(n.Messages), "message") + " by the log and posts, no session by the milter"
	case n.Told > 0:
		what += fmt.Sprintf(", %d of them by the log and posts alone", n.Told)
	}
	return fmt.Sprintf("%s: %d over TLS, %d spam, %d ham", what, n.TLS, n.Spam, n.Ham)
}

func modeText(m policy.Mode) string {
	return map[policy.Mode]string{
		policy.Observe: "observe: STARTTLS is withheld only from whom you denied; the event log says from whom it would be otherwise",
		policy.Protect: "protect: STARTTLS is withheld from tier bad",
		policy.Earn:    "earn: STARTTLS is offered to tier good only",
	}[m]
}

// syncText says what a power cut may cost.
func syncText(sync string) string {
	switch config.Sync(sync) {
	case config.SyncSecond:
		return `, on disk within a second (store.sync = "second")`
	case config.SyncAlways:
		return `, on disk before a message is acknowledged (store.sync = "always")`
	}
	return ""
}

func orNone(s string) string {
	if s == "" {
		return "no file: defaults, and what the environment and flags set"
	}
	return s
}

func reloadCommand() *cli.Command {
	return &cli.Command{
		Name: "reload", Usage: "have the daemon read its configuration again, and reopen the event log", Flags: []cli.Flag{apiFlag},
		Action: func(c *cli.Context) error {
			if err := noArguments(c, "reload"); err != nil {
				return err
			}
			daemon, err := client(c)
			if err != nil {
				return err
			}
			done, err := daemon.Reload(c.Context)
			if err != nil {
				return err
			}
			for _, key := range done.Restart {
				fmt.Fprintf(c.App.Writer, "note: %s was changed; restart the daemon to apply it\n", key)
			}
			for _, warning := range done.Warnings {
				fmt.Fprintf(c.App.Writer, "note: %s\n", warning)
			}
			st, err := daemon.Status(c.Context)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.App.Writer, "reloaded: mode %s, configuration %s\n", st.Mode, orNone(st.Config))
			return err
		},
	}
}

// enoughSessions is how many sessions it takes until what the start and commands like this one cost
// is little beside them.
const enoughSessions = 1000

// costText is what the daemon costs, and from when on that pays.
func costText(st *api.Status) string {
	text := fmt.Sprintf("%.2f s of processor time since the start", st.Cost.CPUSeconds)
	if st.Heard.Sessions < enoughSessions {
		return text + "; too few sessions to say what one costs"
	}
	text += fmt.Sprintf(", %.2f ms a session", st.Cost.CPUMilliseconds)
	if st.Cost.Avoided > 0 {
		text += fmt.Sprintf("; at most %s avoided, which pays if one costs the MTA more than %.2f ms", plural(int(st.Cost.Avoided), "TLS handshake"), st.Cost.PaysFrom)
	}
	return text
}
