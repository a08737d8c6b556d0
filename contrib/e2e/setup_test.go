package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSetupIsCheckedAndCanBeUndone goes an operator's way: check, setup, check, undo.
func TestSetupIsCheckedAndCanBeUndone(t *testing.T) {
	x := prepare(t, "")
	must(t, x.Set("smtpd_discard_ehlo_keyword_address_maps = inline:{203.0.113.9=etrn}"))
	master := filepath.Join(x.ConfigDir(), "master.cf")
	f, err := os.OpenFile(master, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString("127.0.0.1:submission inet n - n - - smtpd -o smtpd_tls_security_level=encrypt\n" +
		"127.0.0.1:2626 inet n - n - 1 postscreen\n")
	must(t, err)
	must(t, f.Close())
	must(t, x.Set("alias_database =")) // postconf -e normalizes the file once
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(x.ConfigDir(), name))
		must(t, err)
		return string(b)
	}
	main, masterText := read("main.cf"), read("master.cf")
	must(t, x.daemon.Start())

	check := func() (string, int) { return x.daemon.Command("check", "--postfix-config", x.ConfigDir()) }
	out, status := check()
	for _, want := range []string{"does not name our milter", "does not name our table", "submission/inet uses our table", "a client can write X-Spam-Flag"} {
		if status != 1 || !strings.Contains(out, want) {
			t.Errorf("check before: %d, without %q:\n%s", status, want, out)
		}
	}
	if out := x.command("setup", "postfix", "--postfix-config", x.ConfigDir()); read("main.cf") != main || !strings.Contains(out, "smtpd_milters = "+x.filter.Addr()+", { inet:") {
		t.Errorf("setup without --apply printed\n%s", out)
	}
	x.apply()
	if out, status := check(); status != 0 {
		t.Errorf("check after setup: %d\n%s", status, out)
	}
	if out, status := x.daemon.Command("setup", "postfix", "--apply", "--postfix-config", x.ConfigDir()); status != 1 || !strings.Contains(out, "set up already") {
		t.Errorf("a second --apply: %d\n%s", status, out)
	}
	for param, want := range map[string]string{
		"smtpd_tls_security_level = encrypt":                                                      "TLS is mandatory",
		"smtpd_milters = " + milterItem(t, x) + ", " + x.filter.Addr():                            "is not the last",
		"postscreen_discard_ehlo_keyword_address_maps = $smtpd_discard_ehlo_keyword_address_maps": "postscreen uses our table",
	} {
		t.Run(param, func(t *testing.T) {
			name, _, _ := strings.Cut(param, " =")
			before := postconf(t, x, name)
			must(t, x.Set(param))
			if out, status := check(); status != 1 || !strings.Contains(out, want) {
				t.Errorf("check: %d, without %q:\n%s", status, want, out)
			}
			must(t, x.Set(name+" = "+before))
		})
	}
	x.command("setup", "postfix", "--undo", "--postfix-config", x.ConfigDir())
	if got := read("main.cf"); got != main {
		t.Errorf("main.cf after --undo:\n%s\nwant\n%s", got, main)
	}
	if got := read("master.cf"); strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(masterText), " ") {
		t.Errorf("master.cf after --undo:\n%s\nwant\n%s", got, masterText)
	}
	if left, _ := filepath.Glob(filepath.Join(x.ConfigDir(), "ehlogate*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestUndoKeepsFilesThatAreStillNamed changes a parameter by hand between setup and undo: Postfix
// would take no mail without a table that main.cf names.
func TestUndoKeepsFilesThatAreStillNamed(t *testing.T) {
	x := prepare(t, "")
	x.apply()
	checks := postconf(t, x, "header_checks")
	must(t, x.Set("header_checks = "+checks+", regexp:{{/^X-Own:/ IGNORE}}"))
	out := x.command("setup", "postfix", "--undo", "--postfix-config", x.ConfigDir())
	if !strings.Contains(out, "still named: header_checks") {
		t.Errorf("undo printed\n%s", out)
	}
	if _, err := os.Stat(strings.TrimPrefix(checks, "regexp:")); err != nil {
		t.Error(err)
	}
	if got := postconf(t, x, "smtpd_milters"); got != x.filter.Addr() {
		t.Errorf("smtpd_milters after --undo: %q", got)
	}
}

func postconf(t *testing.T, x *exchanger, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(x.ConfigDir(), "main.cf"))
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, name+" ="); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// milterItem is our item of smtpd_milters.
func milterItem(t *testing.T, x *exchanger) string {
	t.Helper()
	_, item, ok := strings.Cut(postconf(t, x, "smtpd_milters"), ", {")
	if !ok {
		t.Fatal("setup did not put our milter last")
	}
	return "{" + item
}
