package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"slices"

	"github.com/schollz/progressbar/v3"
	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/intake"
	"github.com/ehlogate/ehlogate/milter/verdict/report"
	"github.com/ehlogate/ehlogate/policy"
)

func learnCommand() *cli.Command {
	c := &cli.Command{
		Name: "learn", ArgsUsage: "spam|ham [WHAT...]", Usage: "say what a message was: it corrects what was learnt of it, or is a new verdict on its client",
		Description: "WHAT is a queue id, an address, a file with a message, a feedback report (ARF) or an mbox, a Maildir, or - for standard input, which is\n" +
			"the default; gzip is read, too. A message's client is found in its Received lines, past the relays in verdict.own_networks. A feedback report\n" +
			"says by itself what it is. Mail of logged-in users, of hosts inside and of programs on this host teaches nothing. What is refused is said\n" +
			"with its file and number, and the exit status is 1.",
	}
	c.Action = func(c *cli.Context) error {
		return misuseOf("learn needs spam or ham, got %q; usage: ehlogate learn spam|ham [WHAT...]", c.Args().First())
	}
	for _, class := range []policy.Class{policy.Spam, policy.Ham} {
		c.Subcommands = append(c.Subcommands, &cli.Command{
			Name: string(class), Usage: "it was " + string(class), ArgsUsage: "[WHAT...]", Flags: []cli.Flag{apiFlag, jsonFlag},
			Action: func(c *cli.Context) error { return learn(c, class) },
		})
	}
	return c
}

// reportsAtOnce is how many reports go in one request.
const reportsAtOnce = 200

// learner gathers reports and sends them.
type learner struct {
	ctx      context.Context
	class    policy.Class
	own      []netip.Prefix
	daemon   *api.Client
	report   func(api.Learnt) error
	complain func(what string, err error)
	waiting  []api.Report
	// where says of each that waits what it was given as.
	where  []string
	counts map[intake.Status]int
	// learnt counts what was learnt by class, refused what was not given to the daemon.
	learnt  map[policy.Class]int
	refused int
}

func learn(c *cli.Context, class policy.Class) error {
	cfg, err := loadConfig(c)
	if err != nil {
		return err
	}
	daemon, err := client(c)
	if err != nil {
		return err
	}
	what := c.Args().Slice()
	if len(what) == 0 {
		what = []string{"-"}
	}
	for _, w := range what {
		if err := checkWhat(w); err != nil {
			return err
		}
	}
	bar := progress(c.App.ErrWriter, "learn", -1, progressbar.OptionShowCount())
	defer bar.Close()
	l := &learner{ctx: c.Context, class: class, own: cfg.OwnNetworks, daemon: daemon, counts: map[intake.Status]int{}, learnt: map[policy.Class]int{}}
	l.report = func(done api.Learnt) error {
		bar.Add(1)
		if c.Bool("json") {
			return json.NewEncoder(c.App.Writer).Encode(done)
		}
		return nil
	}
	l.complain = func(what string, err error) { fmt.Fprintf(c.App.ErrWriter, "ehlogate: %s: %v\n", what, err) }
	for _, w := range what {
		if err := l.learn(w, os.Stdin); err != nil {
			return err
		}
	}
	if err := l.send(); err != nil {
		return err
	}
	if !c.Bool("json") {
		fmt.Fprintln(c.App.Writer, l.summary())
	}
	if l.refused > 0 || l.counts[intake.Unknown] > 0 || l.counts[intake.TooOld] > 0 {
		return errWanting
	}
	return nil
}

// aQueueID is what Postfix, Sendmail and Exim call a message.
var aQueueID = regexp.MustCompile(`^[0-9A-Za-z-]{5,64}$`)

// checkWhat finds what can be neither an address, nor a file, nor a queue id.
func checkWhat(what string) error {
	if _, err := policy.ParseAddr(what); err == nil || what == "-" || aQueueID.MatchString(what) {
		return nil
	}
	if _, err := os.Stat(what); err != nil {
		return misuseOf("%q is neither a queue id nor an address nor a file", what)
	}
	return nil
}

// learn takes one argument.
func (l *learner) learn(what string, stdin io.Reader) error {
	if what == "-" {
		return l.stream("standard input", stdin)
	}
	if addr, err := policy.ParseAddr(what); err == nil {
		if policy.IsHere(addr) || slices.ContainsFunc(l.own, func(n netip.Prefix) bool { return n.Contains(addr) }) {
			l.refuse(what, errors.New("it is this host or a relay of yours, which is no client"))
			return nil
		}
		return l.add(api.Report{Addr: addr, Reason: "an address, by hand"}, what)
	}
	info, err := os.Stat(what)
	switch {
	case err != nil:
		return l.add(api.Report{QueueID: what, Reason: "a queue id, by hand"}, what)
	case info.IsDir():
		files, err := report.Files(what)
		for _, f := range files {
			err = errors.Join(err, l.file(f))
		}
		if err == nil && len(files) == 0 {
			l.refuse(what, errors.New("there is no message in it"))
		}
		return err
	}
	return l.file(what)
}

// refuse says what was not learnt, and why.
func (l *learner) refuse(what string, why error) {
	l.refused++
	l.complain(what, why)
}

func (l *learner) file(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return l.stream(path, f)
}

// stream takes a message or an mbox. One that cannot be read does not end the others.
func (l *learner) stream(name string, r io.Reader) error {
	n := 0
	var failed error
	err := report.Each(r, func(raw []byte) error {
		n++
		m, err := report.Read(raw, l.own)
		switch {
		case errors.Is(err, report.ErrFolder):
			return nil
		case err != nil:
			l.refuse(fmt.Sprintf("%s: message %d", name, n), err)
			return nil
		}
		failed = l.add(reportOf(m), fmt.Sprintf("%s: message %d", name, n))
		return failed
	})
	switch {
	case failed != nil:
		return failed
	case err != nil:
		l.refuse(name, err)
	case n == 0:
		l.refuse(name, errors.New("there is no message in it; \"ehlogate help learn\" says what can be given"))
	}
	return nil
}

// reportOf is the report of a message.
func reportOf(m report.Message) api.Report {
	r := api.Report{Class: m.Class(), QueueID: m.QueueID, Addr: m.Addr, Time: m.Time, FromDomain: m.FromDomain, Reason: "a message, by hand", Fingerprint: m.Fingerprint}
	switch {
	case m.Claimed:
		r.Trust = intake.Claimed
	case m.Foreign:
		r.Trust = intake.Foreign
	}
	if m.Feedback != "" {
		r.Source, r.Reason = policy.FromReport, "feedback report: "+m.Feedback
	}
	return r
}

// add takes a report, and what it was given as. What says by itself what it is, is that.
func (l *learner) add(r api.Report, where string) error {
	if r.Source == "" {
		r.Source, r.Class = policy.FromPerson, l.class
	}
	l.waiting, l.where = append(l.waiting, r), append(l.where, where)
	if len(l.waiting) < reportsAtOnce {
		return nil
	}
	return l.send()
}

func (l *learner) send() error {
	if len(l.waiting) == 0 {
		return nil
	}
	done, err := l.daemon.Learn(l.ctx, l.waiting)
	if err != nil {
		return err
	}
	for i, d := range done {
		l.counts[d.Status]++
		switch d.Status {
		case intake.Corrected, intake.New:
			l.learnt[d.Class]++
		case intake.Unknown:
			l.complain(l.where[i], unknown(l.waiting[i]))
		case intake.TooOld:
			l.complain(l.where[i], errors.New("it is too old: no evidence is kept so long"))
		}
		if err := l.report(d); err != nil {
			return err
		}
	}
	l.waiting, l.where = l.waiting[:0], l.where[:0]
	return nil
}

// unknown says why a report says nothing of anybody.
func unknown(r api.Report) error {
	if r.Trust == intake.Claimed {
		return fmt.Errorf("a host inside passed it on, and no message with the queue id %s is known here; if that host is a relay of yours, list it in verdict.own_networks", r.QueueID)
	}
	return errors.New("no message of a client with this queue id is known here; report its client's address, or the message as it was delivered")
}

// summary says what became of all reports.
func (l *learner) summary() string {
	c := l.counts
	text := fmt.Sprintf("%s learnt (%d as spam, %d as ham): %d corrected, %d new",
		plural(c[intake.Corrected]+c[intake.New], "message"), l.learnt[policy.Spam], l.learnt[policy.Ham], c[intake.Corrected], c[intake.New])
	for _, other := range []struct {
		n    int
		what string
	}{
		{c[intake.Again], "said before"}, {c[intake.OwnUser], "of logged-in users"}, {c[intake.Unknown], "unknown"}, {c[intake.TooOld], "too old"}, {l.refused, "refused"},
	} {
		if other.n > 0 {
			text += fmt.Sprintf("; %d %s", other.n, other.what)
		}
	}
	return text
}
