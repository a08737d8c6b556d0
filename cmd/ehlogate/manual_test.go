package main

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/manual"
)

// written is what help writes of a topic.
func written(t *testing.T, topic ...string) string {
	t.Helper()
	var out, problems bytes.Buffer
	if status := run(t.Context(), append([]string{"help"}, topic...), &out, &problems); status != done {
		t.Fatalf("help %v: %d: %s", topic, status, &problems)
	}
	return out.String()
}

// plain is a page of man(7) without what man(7) needs.
func plain(page string) string {
	return strings.NewReplacer(`\-`, "-", `\(dq`, `"`, `\(aq`, "'", `\e`, `\`, `\(ti`, "~", `\(ga`, "`", `\(ha`, "^").Replace(page)
}

func TestTheManualHasEveryCommandAndFlag(t *testing.T) {
	page := plain(written(t, "man"))
	var commands func(path string, all []*cli.Command)
	commands = func(path string, all []*cli.Command) {
		for _, c := range all {
			if len(c.Subcommands) > 0 {
				commands(path+" "+c.Name, c.Subcommands)
				continue
			}
			_, about, ok := strings.Cut(page, ".SS \""+path+" "+c.Name+" ")
			about, _, _ = strings.Cut(about, "\n.SS ")
			if !ok {
				t.Errorf("no %s %s", path, c.Name)
			}
			for _, f := range c.VisibleFlags() {
				name := f.Names()[0]
				dashes := "--"[:min(2, len(name))]
				if name != "help" && name != "config" && !strings.Contains(about, "\n.B "+dashes+name) {
					t.Errorf("%s %s: no %s%s", path, c.Name, dashes, name)
				}
			}
			for _, line := range examplesOf(strings.ReplaceAll(strings.TrimPrefix(path+" "+c.Name, "ehlogate "), " ", "-")) {
				if !strings.Contains(about, line) {
					t.Errorf("%s %s: no example %q", path, c.Name, line)
				}
			}
		}
	}
	commands("ehlogate", newApp(nil, nil).Commands)
}

func TestTheManualHasEveryKey(t *testing.T) {
	page := plain(written(t, "man-config"))
	for _, s := range config.Settings {
		section, key, _ := strings.Cut(s.Key, ".")
		if name, source, ok := strings.Cut(key, "."); ok {
			section, key = section+"."+name, source
		}
		_, about, ok := strings.Cut(page, ".SH \"["+section+"]\"\n")
		about, _, _ = strings.Cut(about, "\n.SH \"")
		if !ok || !strings.Contains("\n"+about, "\n.B "+key+" = ") {
			t.Errorf("no %s in the section [%s]", key, section)
		}
	}
}

// TestThePagesAreOfMan has groff(1), where it is there, look at the pages.
func TestThePagesAreOfMan(t *testing.T) {
	for _, topic := range []string{"man", "man-config"} {
		page := written(t, topic)
		for n, line := range strings.Split(page, "\n") {
			if request := strings.TrimLeft(line, "'."); request != line && !strings.HasPrefix(line, ".") {
				t.Errorf("%s:%d: a text is taken for a request: %q", topic, n+1, line)
			}
		}
		if _, err := exec.LookPath("groff"); err != nil {
			continue
		}
		cmd := exec.Command("groff", "-man", "-Tutf8", "-ww", "-z")
		cmd.Stdin = strings.NewReader(page)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", topic, err, out)
		}
	}
}

// completed is what bash completes a command line to.
func completed(t *testing.T, words ...string) []string {
	t.Helper()
	script := written(t, "completion", "bash") + `
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_ehlogate
printf '%s\n' "${COMPREPLY[@]}"
`
	cmd := exec.Command("bash", append([]string{"-c", script, "bash", "ehlogate"}, words...)...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

func TestBashCompletes(t *testing.T) {
	for _, c := range []struct {
		words []string
		want  string
	}{
		{[]string{"expl"}, "explain"},
		{[]string{"setup", ""}, "postfix"},
		{[]string{"check", "--live-"}, "--live-address"},
		{[]string{"deny", "192.0.2.7", "--no"}, "--note"},
	} {
		got := completed(t, c.words...)
		found := false
		for _, g := range got {
			found = found || g == c.want
		}
		if !found {
			t.Errorf("%q is completed to %q, want %q among them", c.words, got, c.want)
		}
	}
}

func TestEachShellHasACompletion(t *testing.T) {
	for _, shell := range manual.Shells {
		script := written(t, "completion", shell)
		if !strings.Contains(script, "ehlogate") {
			t.Errorf("%s: %s", shell, script)
		}
	}
	var problems bytes.Buffer
	if status := run(t.Context(), []string{"help", "completion", "tcsh"}, &problems, &problems); status != misuse || !strings.Contains(problems.String(), "bash zsh fish") {
		t.Errorf("%d: %s", status, &problems)
	}
}
