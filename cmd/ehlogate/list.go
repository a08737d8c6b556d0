package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/netlist"
	"github.com/ehlogate/ehlogate/policy"
)

// exportList prints overrides as a list that importList reads.
func exportList(w io.Writer, all []policy.Override) (err error) {
	for _, o := range all {
		line := o.Network.String() + "\t" + o.Verb()
		if !o.Until.IsZero() {
			line += "\tuntil " + o.Until.UTC().Format(time.RFC3339)
		}
		if o.Note != "" {
			line += "\t# " + policy.Printable(o.Note)
		}
		if _, err = fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

// imported is what comes of a list: what is set and lifted, how many are as they were, and how many
// were set by hand or by another list, and stay. against says of some of the latter that the list
// wants it otherwise, opposed how many there are.
type imported struct {
	set                 []api.Change
	lifted              []policy.Override
	same, kept, opposed int
	against             []string
}

// fewOpposed is how many are named that a list wants otherwise.
const fewOpposed = 5

// keep keeps an override that was set by hand or from another list.
func (p *imported) keep(o policy.Override, e netlist.Entry) {
	p.kept++
	if o.Verb() == e.Verb && o.Until.Equal(e.Until) {
		return
	}
	if p.opposed++; p.opposed > fewOpposed {
		return
	}
	by := "by hand"
	if o.List != "" {
		by = "by the list " + o.List
	}
	p.against = append(p.against, fmt.Sprintf("line %d: %s is to be %s%s, and stays %s%s %s", e.Line, e.Network, past[e.Verb], untilText(e.Until), past[o.Verb()], untilText(o.Until), by))
}

func untilText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " until " + t.Format(minuteFormat)
}

// past are the verbs of what was done.
var past = map[string]string{"allow": "allowed", "deny": "denied"}

func importList(c *cli.Context, daemon *api.Client, before []policy.Override) error {
	file := c.String("import")
	in, name := io.Reader(c.App.Reader), c.String("list")
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return misused{err}
		}
		defer f.Close()
		in = f
		if name == "" {
			name = filepath.Base(file)
		}
	}
	if name == "" {
		return misuseOf("--import -: a list from standard input needs a name: give it with --list")
	}
	if name != policy.Printable(name) {
		return misuseOf("--list: %q is no name; want one on a line, without control characters", name)
	}
	if err := checkFor(c); err != nil {
		return err
	}
	entries, err := netlist.Read(in)
	if err != nil {
		return misuseOf("%s: %w; nothing was changed", file, err)
	}
	plan, err := planImport(c, entries, before, name)
	if err != nil {
		return fmt.Errorf("%s: %w; nothing was changed", file, err)
	}
	changes := plan.set
	for _, o := range plan.lifted {
		changes = append(changes, api.Change{Verb: "lift", Network: o.Network.String(), By: operator(), List: name})
	}
	if done, err := daemon.ChangeAll(c.Context, changes); err != nil {
		return fmt.Errorf("%s: %w; %d of %d changes are in force: import it again", file, err, done, len(changes))
	}
	for _, line := range plan.against {
		fmt.Fprintf(c.App.ErrWriter, "ehlogate: %s: %s\n", name, line)
	}
	if more := plan.opposed - len(plan.against); more > 0 {
		fmt.Fprintf(c.App.ErrWriter, "ehlogate: %s: and %d more; ehlogate overrides lists what is set\n", name, more)
	}
	if plan.opposed > 0 {
		fmt.Fprintf(c.App.ErrWriter, "ehlogate: %s: where the list is to hold, lift them with ehlogate forget --override, and import it again\n", name)
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s: %d set, %d as before, %d lifted, %d kept that were set by hand or from another list\n", name, len(plan.set), plan.same, len(plan.lifted), plan.kept)
	return err
}

// fewLifted is how many may go from a list at once without a question, whatever their share.
const fewLifted = 10

// planImport works out what a list changes.
func planImport(c *cli.Context, entries []netlist.Entry, before []policy.Override, name string) (plan imported, err error) {
	standing := map[string]policy.Override{}
	for _, o := range before {
		standing[o.Network.String()] = o
	}
	listed := map[string]netlist.Entry{}
	var silent []netlist.Entry
	was := 0
	for _, e := range entries {
		if !e.Until.IsZero() && time.Until(e.Until) < time.Second {
			// It is over, which is as if it were not there.
			continue
		}
		as := c.String("as")
		if e.Verb != "" && as != "" && e.Verb != as {
			return plan, misuseOf("line %d: %s is to be %s by the list, and %s by --as; leave out one of them", e.Line, e.Network, past[e.Verb], cmp.Or(past[as], as))
		}
		if e.Verb == "" {
			e.Verb = as
		}
		if e.Verb != "allow" && e.Verb != "deny" {
			silent = append(silent, e)
			continue
		}
		if config.Oversized(e.Network) && !c.Bool("yes") {
			return plan, misuseOf("line %d: %s is larger than any one network; repeat the command with --yes if that is meant", e.Line, e.Network)
		}
		key := e.Network.String()
		if first, twice := listed[key]; twice {
			if first.Verb != e.Verb {
				return plan, misuseOf("line %d: %s is to be %s, and %s by line %d", e.Line, e.Network, past[e.Verb], past[first.Verb], first.Line)
			}
			continue
		}
		listed[key] = e
		o, ok := standing[key]
		switch {
		case ok && o.List != name:
			plan.keep(o, e)
		case ok && o.Verb() == e.Verb && o.Note == e.Note && o.Until.Equal(e.Until) && c.String("for") == "":
			plan.same++
		default:
			change := api.Change{Verb: e.Verb, Network: key, Note: e.Note, For: c.String("for"), By: operator(), List: name}
			if !e.Until.IsZero() {
				change.For, change.Until = "", e.Until
			}
			plan.set = append(plan.set, change)
		}
	}
	if len(silent) > 0 {
		more := ""
		if n := len(silent) - 1; n > 0 {
			more = fmt.Sprintf(", and %s more", plural(n, "line"))
		}
		return plan, misuseOf("line %d: %s%s: neither allow nor deny; say which with --as", silent[0].Line, silent[0].Network, more)
	}
	for _, o := range before {
		if o.List != name {
			continue
		}
		if was++; listed[o.Network.String()].Verb == "" {
			plan.lifted = append(plan.lifted, o)
		}
	}
	switch lifted := len(plan.lifted); {
	case c.Bool("yes") || lifted == 0:
	case len(listed) == 0:
		return plan, misused{errors.New("it is empty, which lifts all that came from it; repeat the command with --yes if that is meant")}
	case lifted > fewLifted && 2*lifted > was:
		return plan, misuseOf("it lifts %d of the %d that came from it; repeat the command with --yes if that is meant", lifted, was)
	}
	return plan, nil
}
