package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestSetupIsCheckedAndCanBeUndone goes an operator's way: check, setup, check, faults of all
// kinds, undo.
func TestSetupIsCheckedAndCanBeUndone(t *testing.T) {
	t.Parallel()
	x := prepare(t, "")
	must(t, x.Set("smtpd_discard_ehlo_keyword_address_maps = inline:{203.0.113.9=etrn}", "smtpd_discard_ehlo_keywords = chunking"))
	master := filepath.Join(x.ConfigDir(), "master.cf")
	f, err := os.OpenFile(master, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString("127.0.0.1:submission inet n - n - - smtpd -o smtpd_tls_security_level=encrypt\n" +
		"127.0.0.1:2626 inet n - n - 1 postscreen")
	must(t, err)
	must(t, f.Close())
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(x.ConfigDir(), name))
		must(t, err)
		return string(b)
	}
	main, masterText := read("main.cf"), read("master.cf")
	must(t, x.daemon.Start())

	check := func() (string, int) { return x.daemon.Command("check", "--postfix-config", x.ConfigDir()) }
	out, status := check()
	for _, want := range []string{"does not name our milter", "does not name our table", "a client can write X-Spam-Flag"} {
		if status != 1 || !strings.Contains(out, want) {
			t.Errorf("check before: %d, without %q:\n%s", status, want, out)
		}
	}
	if out := x.command("setup", "postfix", "--postfix-config", x.ConfigDir()); read("main.cf") != main || !strings.Contains(out, "smtpd_milters = "+x.filter.Addr()+", { inet:") {
		t.Errorf("setup without --apply printed\n%s", out)
	}
	if out := x.command("setup", "postfix", "--dry-run", "--postfix-config", x.ConfigDir()); read("main.cf") != main || !strings.Contains(out, "\n+    { inet:127.0.0.1:") && !strings.Contains(out, "\n+smtpd_milters") {
		t.Errorf("setup --dry-run printed\n%s", out)
	}
	x.apply()
	if out, status := check(); status != 0 {
		t.Errorf("check after setup: %d\n%s", status, out)
	}
	if out, status := x.daemon.Command("setup", "postfix", "--apply", "--postfix-config", x.ConfigDir()); status != 1 || !strings.Contains(out, "set up already") {
		t.Errorf("a second --apply: %d\n%s", status, out)
	}
	connected := read("main.cf")
	memcache := filepath.Join(x.ConfigDir(), "ehlogate-memcache.cf")
	table := "memcache:" + memcache
	for _, c := range []struct{ param, want string }{
		{"smtpd_tls_security_level = none", "STARTTLS is offered to nobody"},
		{"smtpd_tls_chain_files =", "there is no certificate"},
		{"smtpd_tls_chain_files = /nonexistent.pem", "/nonexistent.pem: no such file"},
		{"smtpd_milters = " + milterItem(t, x) + ", " + x.filter.Addr(), "is not the last"},
		{"smtpd_milters = inet:127.0.0.1:" + strconv.Itoa(x.daemon.Milter), "default_action is tempfail"},
		{"smtpd_milters = { inet:127.0.0.1:" + strconv.Itoa(x.daemon.Milter) + ", default_action=accept }", "holds up each session for connect_timeout 30s"},
		{"receive_override_options = no_milters", "has no_milters"},
		{"smtpd_milter_maps = cidr:{{0.0.0.0/0 DISABLE}}", "smtpd_milter_maps gives other milters"},
		{"non_smtpd_milters = " + x.filter.Addr() + ", inet:127.0.0.1:" + strconv.Itoa(x.daemon.Milter), "non_smtpd_milters names our milter: default_action is tempfail"},
		{"smtpd_discard_ehlo_keywords = starttls, chunking", "STARTTLS is offered to nobody: smtpd_discard_ehlo_keywords hides it"},
		{"smtpd_tls_protocols = TLS1", "which is not a protocol"},
		{"postscreen_discard_ehlo_keyword_address_maps = $smtpd_discard_ehlo_keyword_address_maps", "postscreen asks our table"},
		{"smtpd_discard_ehlo_keyword_address_maps = " + table, "chunking is offered again to everybody"},
		{"smtpd_discard_ehlo_keyword_address_maps = cidr:{{0.0.0.0/0 etrn}}, " + table, "has an answer for every address, so ours is never asked"},
		{"smtpd_discard_ehlo_keyword_address_maps = socketmap:inet:127.0.0.1:" + strconv.Itoa(x.daemon.Socketmap) + ":starttls", "the table is a socketmap"},
		{"smtpd_discard_ehlo_keyword_address_maps = memcache:ehlogate-memcache.cf", "has a relative path"},
		{"smtpd_discard_ehlo_keyword_address_maps = memcache:/nonexistent.cf", "cannot be read: every client gets 421"},
		{"smtpd_discard_ehlo_keyword_address_maps = hash:/nonexistent, " + table, "fails, and every client gets 421"},
		{"smtpd_discard_ehlo_keyword_address_maps = randmap:{" + table + ", static:etrn}", "stands in a randmap"},
		{"smtpd_discard_ehlo_keyword_address_maps = pipemap:{" + table + ", static:etrn}", "stands in a pipemap"},
		{"mynetworks = 127.0.0.0/8, 198.51.100.0/24", "could be taken for spammers because of what they relay: 198.51.100.0/24"},
		{"nested_header_checks = regexp:" + filepath.Join(x.ConfigDir(), "ehlogate-header-checks"), "attached mail loses the headers of its filters"},
	} {
		t.Run(c.param, func(t *testing.T) {
			must(t, x.Set(c.param))
			out, status := check()
			if status != 1 || !strings.Contains(out, c.want) {
				t.Errorf("check: %d, without %q:\n%s", status, c.want, out)
			}
			if remedies := commands(out); len(remedies) > 0 {
				for _, remedy := range remedies {
					if out, err := exec.Command("sh", "-c", remedy).CombinedOutput(); err != nil {
						t.Errorf("%s: %v\n%s", remedy, err, out)
					}
				}
				must(t, x.Set("alias_database ="))
				if out, status := check(); status != 0 {
					t.Errorf("check after its own remedies, %q: %d\n%s", remedies, status, out)
				}
			}
			must(t, os.WriteFile(filepath.Join(x.ConfigDir(), "main.cf"), []byte(connected), 0o644))
		})
	}
	for file, want := range map[string]string{
		filepath.Join(x.ConfigDir(), "ehlogate-backup"): "is not there: every client gets 421 4.3.0 while the daemon is away",
		memcache: "cannot be read: every client gets 421",
	} {
		must(t, os.Rename(file, file+".away"))
		if out, status := check(); status != 1 || !strings.Contains(out, want) {
			t.Errorf("check: %d, without %q:\n%s", status, want, out)
		}
		must(t, os.Rename(file+".away", file))
	}
	x.command("setup", "postfix", "--undo", "--postfix-config", x.ConfigDir())
	if got := read("main.cf"); got != main {
		t.Errorf("main.cf after --undo:\n%s\nwant\n%s", got, main)
	}
	if got := read("master.cf"); got != masterText {
		t.Errorf("master.cf after --undo:\n%s\nwant\n%s", got, masterText)
	}
	if left, _ := filepath.Glob(filepath.Join(x.ConfigDir(), "ehlogate*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestSetupTakesBackWhatDoesNotWork gives setup a Postfix in which the result cannot work: its own
// header check that is damaged would be asked by the new service, too.
func TestSetupTakesBackWhatDoesNotWork(t *testing.T) {
	t.Parallel()
	x := prepare(t, "")
	must(t, x.Set("header_checks = pcre:/nonexistent/header_checks"))
	before, err := os.ReadFile(filepath.Join(x.ConfigDir(), "main.cf"))
	must(t, err)
	out, status := x.daemon.Command("setup", "postfix", "--apply", "--postfix-config", x.ConfigDir())
	after, err := os.ReadFile(filepath.Join(x.ConfigDir(), "main.cf"))
	must(t, err)
	if status != 1 || !strings.Contains(out, "nothing has changed") || string(after) != string(before) {
		t.Errorf("%d: %s\nmain.cf:\n%s", status, out, after)
	}
	if left, _ := filepath.Glob(filepath.Join(x.ConfigDir(), "ehlogate*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestSetupBeginsInObserve unless the configuration, or the operator, says otherwise.
func TestSetupBeginsInObserve(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, toml string
		flags      []string
		want       string
	}{
		{"nothing said", "", nil, "observe"},
		{"a section without the mode", "[policy]\nexempt = ['192.0.2.0/24']\n", nil, "observe"},
		{"said in the file", "[policy]\nmode = 'earn'\n", nil, "earn"},
		{"said on the command line", "", []string{"--mode", "protect"}, "protect"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := prepare(t, c.toml)
			before, err := os.ReadFile(x.daemon.Config())
			must(t, err)
			must(t, x.daemon.Start())
			out := x.command(append([]string{"setup", "postfix", "--apply", "--postfix-config", x.ConfigDir()}, c.flags...)...)
			if c.want == "observe" && !strings.Contains(out, `policy.mode = "protect" in `) {
				t.Errorf("setup does not say how to go on:\n%s", out)
			}
			x.command("reload")
			if out := x.command("status", "--json"); !strings.Contains(out, `"mode":"`+c.want+`"`) {
				t.Errorf("status: %s", out)
			}
			x.command("setup", "postfix", "--undo", "--postfix-config", x.ConfigDir())
			after, err := os.ReadFile(x.daemon.Config())
			must(t, err)
			// Another Postfix may be connected to the same daemon.
			if !strings.Contains(string(after), c.want) || string(after) == string(before) != (c.toml != "" && strings.Contains(c.toml, "mode")) {
				t.Errorf("the configuration after --undo:\n%s", after)
			}
		})
	}
}

// commands are the remedies of a check that can be carried out as they are printed.
func commands(out string) (all []string) {
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if command, _, ok := strings.Cut(line, " ("); ok && strings.HasPrefix(line, "postconf ") {
			line = command
		}
		if strings.HasPrefix(line, "postconf ") && !strings.Contains(line, ", with ") {
			all = append(all, line)
		}
	}
	return all
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

// milterItem is our item of smtpd_milters, which setup puts on a line of its own.
func milterItem(t *testing.T, x *exchanger) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(x.ConfigDir(), "main.cf"))
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "{ inet:") {
			return line
		}
	}
	t.Fatal("setup did not put our milter last")
	return ""
}
