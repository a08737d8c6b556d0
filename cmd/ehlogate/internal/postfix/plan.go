package postfix

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/ehlogate/ehlogate/policy"
)

// Plan is what connects Postfix to ehlogate.
type Plan struct {
	// Files are those to write.
	Files []File
	// Notes say what is left to the operator.
	Notes []string
	// documents are the files that are changed, master.cf before main.cf: what main.cf turns on is
	// turned off in master.cf where it must not be.
	documents []*document
	// mainLines and masterLines are what is added to main.cf and master.cf, as an operator would
	// write it.
	mainLines   []string
	masterLines []addition
	// Mode is the mode that the configuration is given, empty where it has one.
	Mode policy.Mode
	// ConfigFile is the daemon's configuration file.
	ConfigFile string
}

// addition is what is added to master.cf in one place.
type addition struct {
	// below is the service whose entry it ends, empty for an entry of its own.
	below string
	lines []string
}

// File is a file to write.
type File struct{ Path, Text string }

// Options are what the operator asks of a plan.
type Options struct {
	// Socketmap uses the plain table, which fails closed.
	Socketmap bool
	// Mode is the mode to begin in, empty for observe.
	Mode policy.Mode
}

// planner works out a plan.
type planner struct {
	*Postfix
	Plan
	ctx          context.Context
	main, master *document
	err          error
	// cleanups are the services that ours in master.cf stand for.
	cleanups map[string]bool
}

// ErrConnected means that there is nothing left to do.
var ErrConnected = errors.New("postfix: it is connected already; ehlogate check says how it stands")

// unnameable cannot stand in the name of a table's file in main.cf.
const unnameable = " \t\r\n,;{}$"

// Plan works out the lines for this Postfix.
func (p *Postfix) Plan(ctx context.Context, o Options) (*Plan, error) {
	pl := &planner{
		Postfix: p, ctx: ctx, cleanups: map[string]bool{},
		main: newDocument(p.main.path, p.main.text), master: newDocument(p.master.path, p.master.text),
	}
	if i := strings.IndexAny(p.Dir, unnameable); i >= 0 {
		return nil, fmt.Errorf("postfix: %s has %q in its name, where main.cf ends the name of a table; give --postfix-config a symbolic link without it", p.Dir, p.Dir[i])
	}
	served := p.of(exchanger)
	if len(served) == 0 {
		return nil, errors.New("postfix: no service in master.cf takes mail from strangers and lets them do without TLS: " + p.roles() + "; there is nobody from whom STARTTLS could be withheld")
	}
	pl.connectMilter()
	pl.connectTable(served, o.Socketmap)
	pl.stripForged()
	pl.noteFilters()
	for _, s := range served {
		if level := s.tlsLevel(); level != "may" {
			pl.note("%s: %s is %s, so STARTTLS is offered to nobody there; ehlogate check says how to offer it", s.key(), tlsLevel, level)
		}
		if tables := s.demanding(); len(tables) > 0 {
			pl.note("%s: %s", s.key(), demandingNote(tables))
		}
		if s.onlyOne && s.yes("smtpd_sasl_auth_enable") {
			pl.note("%s is taken for the mail exchanger, since no other service is, and users can log in there: if it is theirs alone, this host has nobody from whom STARTTLS could be withheld", s.key())
		}
	}
	pl.noteGenerated()
	pl.setMode(o.Mode)
	if pl.err != nil {
		return nil, fmt.Errorf("postfix: %w", pl.err)
	}
	for _, d := range []*document{pl.master, pl.main} {
		if len(d.edits) > 0 {
			pl.documents = append(pl.documents, d)
		}
	}
	if len(pl.documents) == 0 {
		return nil, ErrConnected
	}
	return &pl.Plan, nil
}

// roles says what the smtpd(8) services are.
func (p *Postfix) roles() string {
	var all []string
	for r, what := range map[role]string{users: "for users", strict: "requires TLS", inside: "for inside hosts"} {
		for _, s := range p.of(r) {
			all = append(all, s.key()+" is "+what)
		}
	}
	if len(all) == 0 {
		return "it has no smtpd service at all"
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// chrooted are the smtpd(8) services that face strangers that run in a chroot.
func (p *Postfix) chrooted() []*service {
	return slices.DeleteFunc(p.of(exchanger, strict), func(s *service) bool { return !s.chroot })
}

// set adds a setting to a service.
func (pl *planner) set(s *service, name, value string) {
	line := option(name, value)
	pl.master.insertAfter(s.at.last, line)
	pl.master.settings = append(pl.master.settings, setting{Service: s.key(), Name: name, Value: value})
	i := slices.IndexFunc(pl.masterLines, func(a addition) bool { return a.below == s.key() })
	if i < 0 {
		i = len(pl.masterLines)
		pl.masterLines = append(pl.masterLines, addition{below: s.key()})
	}
	pl.masterLines[i].lines = append(pl.masterLines[i].lines, line)
}

// ourMilter is the item for smtpd_milters. The timeouts bound what a daemon that hangs costs a
// session; an end of message is answered in a tenth of that.
func (p *Postfix) ourMilter() (string, error) {
	addr, err := p.reach("milter.listen", p.cfg.Milter.Listen, p.chrooted())
	return fmt.Sprintf("{ %s, default_action=accept, connect_timeout=1s, command_timeout=1s, content_timeout=1s }", addr), err
}

// withOurs is a list of milters with ours last.
func (p *Postfix) withOurs(list []string, ours string) string {
	list = slices.DeleteFunc(slices.Clone(list), p.ours)
	return strings.Join(append(list, ours), ", ")
}

// sound reports whether our milter stands in a list as it should, with the parameters in force.
func (p *Postfix) sound(list []string, value func(string) string) bool {
	i := slices.IndexFunc(list, p.ours)
	return i >= 0 && len(p.milterFaults(list, i, value)) == 0
}

// connectMilter puts our milter last in main.cf, and in the services that face strangers that have
// a list of their own.
func (pl *planner) connectMilter() {
	ours, err := pl.ourMilter()
	if err != nil {
		pl.err = errors.Join(pl.err, err)
		return
	}
	pl.addMilter(ours)
	for _, s := range pl.of(exchanger, strict) {
		if list, ok := s.own(milters); ok && !pl.sound(split(s.value(milters)), s.value) {
			pl.set(s, milters, pl.withOurs(split(list), ours))
		}
		if s.overrides("no_milters") {
			pl.note("%s has no_milters in receive_override_options: ehlogate hears nothing there until that is taken out", s.key())
		}
	}
}

func (pl *planner) addMilter(ours string) {
	raw, _, _ := pl.main.parameter(milters)
	list, inForce := split(raw), split(pl.values[milters])
	switch {
	case pl.sound(inForce, func(name string) string { return pl.values[name] }):
	case slices.ContainsFunc(list, pl.ours):
		pl.put(milters, pl.withOurs(list, ours), ours, anew)
	case slices.ContainsFunc(inForce, pl.ours):
		pl.note("%s names our milter through another parameter; let it be the last, as %s", milters, ours)
	default:
		pl.put(milters, pl.withOurs(list, ours), ours, longer)
	}
}

// How a parameter of main.cf is changed where it is there already: its list gets longer by an item,
// or it is written anew.
const (
	longer = iota
	anew
)

// put gives a parameter of main.cf a value; item is what was added to its list, "" where all of it
// is ours.
func (pl *planner) put(name, value, item string, how int) {
	line := strings.TrimSpace(name + " = " + value)
	s := setting{Name: name, Value: item, Set: value}
	_, at, ok := pl.main.parameter(name)
	if ok {
		s.Was = slices.Clone(pl.main.lines[at.first : at.last+1])
	}
	switch {
	case ok && how == longer:
		items := split(value)
		pl.main.insertAfter(at.last, "    "+items[len(items)-1])
	case ok:
		pl.main.replace(at, line)
	default:
		pl.main.add(line)
	}
	pl.main.settings = append(pl.main.settings, s)
	pl.mainLines = append(pl.mainLines, line)
}

func (pl *planner) note(format string, args ...any) {
	pl.Notes = append(pl.Notes, fmt.Sprintf(format, args...))
}

// noteFilters says what is needed to hear after-queue and before-queue filters.
func (pl *planner) noteFilters() {
	for _, f := range pl.deaf(true) {
		pl.note("%s", f.what+": "+f.fix)
	}
}

// generated is what programs that write Postfix's files leave in them.
var generated = regexp.MustCompile(`(?i)do not (edit|modify|change)|(ansible|puppet|chef)[ -]?managed|managed by (ansible|puppet|chef|salt|zimbra)|e-smith|automatically generated|generated by`)

// noteGenerated says that another program may write the files again.
func (pl *planner) noteGenerated() {
	for _, d := range []*document{pl.main, pl.master} {
		if mark := generated.FindString(d.text); mark != "" {
			pl.note("%s says %q: if another program writes it again, these lines are lost; put them where it takes its own from", d.path, mark)
		}
	}
}

// String is the plan as an operator would carry it out by hand.
func (plan *Plan) String() string {
	var b strings.Builder
	b.WriteString("### ehlogate setup postfix --apply does this, and --dry-run shows it as a diff; to do it by hand:\n\n")
	for _, f := range plan.Files {
		fmt.Fprintf(&b, "### file %s\n%s\n", f.Path, f.Text)
	}
	section := func(title string, lines []string) {
		if len(lines) > 0 {
			fmt.Fprintf(&b, "### %s\n%s\n\n", title, strings.Join(lines, "\n"))
		}
	}
	section("main.cf: in the place of a line of the same name", plan.mainLines)
	var master []string
	for _, a := range plan.masterLines {
		where := "# a service of its own:"
		if a.below != "" {
			where = "# below the lines of " + a.below + ":"
		}
		master = append(append(master, where), a.lines...)
	}
	section("master.cf", master)
	for _, d := range plan.documents {
		if d.path == plan.ConfigFile {
			section(d.path, []string{fmt.Sprintf("policy.mode = %q", plan.Mode)})
		}
	}
	section("to be done by hand", plan.Notes)
	return b.String()
}

// Creates reports whether a file is made by the plan, and was not there.
func (plan *Plan) Creates(path string) bool {
	return slices.ContainsFunc(plan.Files, func(f File) bool { return f.Path == path })
}

// Diff is the plan as a unified diff of the files, and what is to be done beside it.
func (plan *Plan) Diff() string {
	var b strings.Builder
	for _, f := range plan.Files {
		b.Write(diff.Diff("/dev/null", nil, f.Path, []byte(f.Text)))
	}
	for _, d := range plan.documents {
		b.Write(diff.Diff(d.path, []byte(d.text), d.path, []byte(d.edited())))
	}
	for _, n := range plan.Notes {
		// Behind the last hunk, where patch(1) passes over it.
		fmt.Fprintf(&b, "# to be done by hand: %s\n", n)
	}
	return b.String()
}
