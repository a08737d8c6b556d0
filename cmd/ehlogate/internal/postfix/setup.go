package postfix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Plan is what connects Postfix to ehlogate.
type Plan struct {
	// Files are those to write, by path.
	Files []File
	// Params are lines of main.cf, Services settings of master.cf as postconf -P takes them.
	Params, Services []Param
}

// File is a file to write.
type File struct{ Path, Text string }

// Param is a parameter and its value.
type Param struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// ourMilter is the item for smtpd_milters. The timeouts bound what a daemon that hangs costs a
// session; an end of message is answered in a tenth of that.
func (p *Postfix) ourMilter() string {
	return fmt.Sprintf("{ %s, default_action=accept, connect_timeout=1s, command_timeout=1s, content_timeout=1s }", p.cfg.Milter.Listen)
}

func (p *Postfix) miltersWithOurs(list []string) string {
	list = slices.DeleteFunc(slices.Clone(list), p.ours)
	return strings.Join(append(list, p.ourMilter()), ", ")
}

func (p *Postfix) checksWithOurs(tables []string) string {
	return joinNew(append([]string{"regexp:" + p.file(checksFile)}, tables...))
}

func joinNew(items []string) string {
	var list []string
	for _, i := range items {
		if !slices.Contains(list, i) {
			list = append(list, i)
		}
	}
	return strings.Join(list, ", ")
}

// Plan works out the lines for this Postfix. With socketmap it uses the plain alternative, which
// fails closed.
func (p *Postfix) Plan(ctx context.Context, socketmap bool) (*Plan, error) {
	current := map[string]string{}
	for _, name := range []string{milters, discard, checks} {
		v, _, err := p.explicit(ctx, name)
		if err != nil {
			return nil, err
		}
		current[name] = v
	}
	plan := &Plan{}
	table := "memcache:" + p.file(memcacheFile)
	if socketmap {
		table = fmt.Sprintf("socketmap:%s:starttls", p.cfg.Table.Socketmap)
	} else {
		plan.Files = append(plan.Files,
			File{p.file(memcacheFile), fmt.Sprintf("# ehlogate's table, memcache_table(5). The backup answers while the daemon is away.\nmemcache = %s\nkey_format = starttls:%%s\ntimeout = 1\nmax_try = 1\nbackup = texthash:%s\n", p.cfg.Table.Memcache, p.file(backupFile))},
			File{p.file(backupFile), "# Empty: while ehlogate is away, STARTTLS is offered to everyone.\n"})
	}
	plan.Files = append(plan.Files, File{p.file(checksFile), p.headerChecks()})
	plan.Params = []Param{
		{milters, p.miltersWithOurs(split(current[milters]))},
		// Ours comes last: it has an answer for every address.
		{discard, joinNew(append(slices.DeleteFunc(split(current[discard]), func(s string) bool { return s == table }), table))},
		{postscreen, ""},
		{checks, p.checksWithOurs(split(current[checks]))},
	}
	services, err := p.services(ctx)
	for _, s := range services {
		if s.submission() {
			plan.Services = append(plan.Services, Param{s.key() + "/" + discard, ""})
		}
	}
	return plan, err
}

// headerChecks is a regexp_table(5) that removes the client's copies of verdict headers.
// header_checks(5) sees what the client sent, never what a milter adds.
func (p *Postfix) headerChecks() string {
	var b strings.Builder
	b.WriteString("# What a client writes here is no verdict. Headers that milters add are not touched by this.\n")
	for _, h := range p.cfg.Verdict.Names() {
		fmt.Fprintf(&b, "/^%s[ \t]*:/\tIGNORE\n", regexp.QuoteMeta(h))
	}
	if id := p.cfg.Verdict.AuthservID; id != "" {
		// RFC 8601 section 5: whatever claims to be ours. A comment may stand before the id.
		fmt.Fprintf(&b, "/^Authentication-Results[ \t]*:[^;]*%s/\tIGNORE\n", regexp.QuoteMeta(id))
	}
	return b.String()
}

// String is the plan as an operator would carry it out by hand.
func (plan *Plan) String() string {
	var b strings.Builder
	for _, f := range plan.Files {
		fmt.Fprintf(&b, "### file %s\n%s\n", f.Path, f.Text)
	}
	b.WriteString("### main.cf\n")
	for _, p := range plan.Params {
		fmt.Fprintf(&b, "%s = %s\n", p.Name, p.Value)
	}
	if len(plan.Services) > 0 {
		b.WriteString("\n### master.cf, each with: postconf -P 'SETTING'\n")
		for _, s := range plan.Services {
			fmt.Fprintf(&b, "%s=%s\n", s.Name, s.Value)
		}
	}
	return b.String()
}

// undo is what Apply replaced, kept beside main.cf.
type undo struct {
	Files   []string `json:"files"`
	Changes []change `json:"changes"`
}

// change is a value before and after; Before is nil where nothing was set.
type change struct {
	Name string `json:"name"`
	// Service says that it is a setting of master.cf, SERVICE/TYPE/PARAMETER, and not one of
	// main.cf.
	Service bool    `json:"service,omitempty"`
	Before  *string `json:"before"`
	After   string  `json:"after"`
}

// current is the value of what a change is about, nil where nothing is set.
func (p *Postfix) current(ctx context.Context, c change) (*string, error) {
	if c.Service {
		parts := strings.Split(c.Name, "/")
		if value, ok := p.ownValue(ctx, service{name: parts[0], kind: parts[1]}, parts[2]); ok {
			return &value, nil
		}
		return nil, nil
	}
	value, ok, err := p.explicit(ctx, c.Name)
	if !ok {
		return nil, err
	}
	return &value, err
}

// set gives what a change is about a value, or removes it where value is nil.
func (p *Postfix) set(ctx context.Context, c change, value *string) error {
	var args []string
	switch {
	case c.Service && value == nil:
		args = []string{"-PX", c.Name}
	case c.Service:
		args = []string{"-P", c.Name + "=" + *value}
	case value == nil:
		args = []string{"-X", c.Name}
	default:
		args = []string{"-e", c.Name + " = " + *value}
	}
	_, err := p.run(ctx, "postconf", append([]string{"-c", p.Dir}, args...)...)
	return err
}

// ErrApplied means that a plan is in force already.
var ErrApplied = errors.New("postfix: set up already; ehlogate setup postfix --undo takes it back")

// Apply carries a plan out and notes what it replaced, so that Undo can take it back. Files of
// other people are never overwritten.
func (p *Postfix) Apply(ctx context.Context, plan *Plan) error {
	if _, err := os.Stat(p.file(undoFile)); err == nil {
		return ErrApplied
	}
	u := undo{}
	for _, f := range plan.Files {
		if _, err := os.Stat(f.Path); err == nil {
			return fmt.Errorf("postfix: %s exists and was not written by this command; move it away", f.Path)
		}
		u.Files = append(u.Files, f.Path)
	}
	for _, param := range plan.Params {
		u.Changes = append(u.Changes, change{Name: param.Name, After: param.Value})
	}
	for _, setting := range plan.Services {
		u.Changes = append(u.Changes, change{Name: setting.Name, Service: true, After: setting.Value})
	}
	for i, c := range u.Changes {
		var err error
		if u.Changes[i].Before, err = p.current(ctx, c); err != nil {
			return err
		}
	}
	note, err := json.MarshalIndent(u, "", "  ")
	if err != nil {
		return err
	}
	// The note is written first: whatever happens after it, Undo knows what to take back.
	if err := os.WriteFile(p.file(undoFile), append(note, '\n'), 0o644); err != nil {
		return fmt.Errorf("postfix: %w", err)
	}
	for _, f := range plan.Files {
		if err := os.WriteFile(f.Path, []byte(f.Text), 0o644); err != nil {
			return fmt.Errorf("postfix: %w", err)
		}
	}
	for _, c := range u.Changes {
		if err := p.set(ctx, c, &c.After); err != nil {
			return err
		}
	}
	return nil
}

// Undo takes back what Apply did. What has been changed since is left alone and returned, with the
// files while it still names one of them: Postfix takes no mail when a table in main.cf is missing.
func (p *Postfix) Undo(ctx context.Context) (left []string, err error) {
	b, err := os.ReadFile(p.file(undoFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("postfix: %s is not there: nothing to take back", p.file(undoFile))
	} else if err != nil {
		return nil, fmt.Errorf("postfix: %w", err)
	}
	var u undo
	if err := json.Unmarshal(b, &u); err != nil {
		return nil, fmt.Errorf("postfix: %s: %w", p.file(undoFile), err)
	}
	inUse := false
	for _, c := range u.Changes {
		now, err := p.current(ctx, c)
		if err != nil {
			return left, err
		}
		if now == nil || *now != c.After {
			left = append(left, c.Name)
			inUse = inUse || now != nil && slices.ContainsFunc(u.Files, func(f string) bool { return strings.Contains(*now, f) })
			continue
		}
		if err := p.set(ctx, c, c.Before); err != nil {
			return left, err
		}
	}
	if inUse {
		left = append(left, u.Files...)
		u.Files = nil
	}
	for _, f := range append(u.Files, p.file(undoFile)) {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return left, fmt.Errorf("postfix: %w", err)
		}
	}
	return left, nil
}
