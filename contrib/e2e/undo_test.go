package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestUndoTakesOutWhatIsStillThere changes both files by hand between setup and undo.
func TestUndoTakesOutWhatIsStillThere(t *testing.T) {
	t.Parallel()
	x := prepare(t, "")
	x.apply()
	item := milterItem(t, x)
	must(t, x.Set("smtpd_milters = "+x.filter.Addr()+", "+item+", inet:127.0.0.1:1", "smtpd_banner = mine"))
	master := filepath.Join(x.ConfigDir(), "master.cf")
	text, err := os.ReadFile(master)
	must(t, err)
	must(t, os.WriteFile(master, []byte("# mine\n"+string(text)+"mine unix - - n - - smtp\n"), 0o644))
	out := x.command("setup", "postfix", "--undo", "--postfix-config", x.ConfigDir())
	if strings.Contains(out, "left alone") {
		t.Errorf("undo printed\n%s", out)
	}
	if got := postconf(t, x, "smtpd_milters"); got != x.filter.Addr()+", inet:127.0.0.1:1" {
		t.Errorf("smtpd_milters after --undo: %q", got)
	}
	text, err = os.ReadFile(master)
	must(t, err)
	if s := string(text); !strings.Contains(s, "# mine") || !strings.Contains(s, "mine unix") || strings.Contains(s, "ehlogate") {
		t.Errorf("master.cf after --undo:\n%s", s)
	}
	if got := postconf(t, x, "smtpd_banner"); got != "mine" {
		t.Errorf("smtpd_banner after --undo: %q", got)
	}
}

// TestUndoKeepsFilesThatAreStillNamed names our file once more between setup and undo: Postfix
// would take no mail without a table that main.cf names.
func TestUndoKeepsFilesThatAreStillNamed(t *testing.T) {
	t.Parallel()
	x := prepare(t, "")
	x.apply()
	checks := filepath.Join(x.ConfigDir(), "ehlogate-header-checks")
	must(t, x.Set("header_checks = regexp:"+checks+", regexp:{{/^X-Own:/ IGNORE}}"))
	out, status := x.daemon.Command("setup", "postfix", "--undo", "--postfix-config", x.ConfigDir())
	if status != 1 || !strings.Contains(out, checks+" is still named") {
		t.Errorf("undo: %d\n%s", status, out)
	}
	if _, err := os.Stat(checks); err != nil {
		t.Error(err)
	}
	if got := postconf(t, x, "smtpd_milters"); got != x.filter.Addr() {
		t.Errorf("smtpd_milters after --undo: %q", got)
	}
	must(t, x.Set("header_checks ="))
	x.command("setup", "postfix", "--undo", "--postfix-config", x.ConfigDir())
	if left, _ := filepath.Glob(filepath.Join(x.ConfigDir(), "ehlogate*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestUndoKeepsAServiceThatMainStillNames: Postfix takes no mail without the cleanup(8) that
// main.cf names.
func TestUndoKeepsAServiceThatMainStillNames(t *testing.T) {
	t.Parallel()
	x := prepare(t, "")
	x.apply()
	must(t, x.Set("cleanup_service_name = ehlogate-cleanup"))
	out, status := x.daemon.Command("setup", "postfix", "--undo", "--postfix-config", x.ConfigDir())
	if status != 1 || !strings.Contains(out, "the service ehlogate-cleanup is still named by cleanup_service_name in ") {
		t.Errorf("undo: %d\n%s", status, out)
	}
	must(t, x.Set("cleanup_service_name = cleanup"))
	x.command("setup", "postfix", "--undo", "--postfix-config", x.ConfigDir())
	if left, _ := filepath.Glob(filepath.Join(x.ConfigDir(), "ehlogate*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestUndoOfFilesThatPostfixCannotRead: somebody has broken main.cf since.
func TestUndoOfFilesThatPostfixCannotRead(t *testing.T) {
	t.Parallel()
	x := prepare(t, "")
	main := filepath.Join(x.ConfigDir(), "main.cf")
	before, err := os.ReadFile(main)
	must(t, err)
	x.apply()
	const garbage = "foo bar\n"
	f, err := os.OpenFile(main, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString(garbage)
	must(t, err)
	must(t, f.Close())
	if out, status := x.daemon.Command("check", "--postfix-config", x.ConfigDir()); status == 0 || !strings.Contains(out, main+", line ") {
		t.Errorf("check: %d\n%s", status, out)
	}
	x.command("setup", "postfix", "--undo", "--postfix-config", x.ConfigDir())
	after, err := os.ReadFile(main)
	must(t, err)
	if string(after) != string(before)+garbage {
		t.Errorf("main.cf after --undo:\n%s", after)
	}
}

// TestSetupKeepsWhatAFileHasBesideItsText: other names and extended attributes, of which access
// control lists are some, such as a web panel's.
func TestSetupKeepsWhatAFileHasBesideItsText(t *testing.T) {
	t.Parallel()
	x := prepare(t, "")
	main, master := filepath.Join(x.ConfigDir(), "main.cf"), filepath.Join(x.ConfigDir(), "master.cf")
	must(t, syscall.Setxattr(main, "user.panel", []byte("yes"), 0))
	must(t, os.Link(master, master+".link"))
	text, err := os.ReadFile(master)
	must(t, err)
	kept := func(when string) {
		t.Helper()
		value := make([]byte, 10)
		if n, err := syscall.Getxattr(main, "user.panel", value); err != nil || string(value[:n]) != "yes" {
			t.Errorf("%s: the attribute of main.cf is %q, %v", when, value[:max(n, 0)], err)
		}
		a, err := os.Stat(master)
		must(t, err)
		b, err := os.Stat(master + ".link")
		must(t, err)
		if !os.SameFile(a, b) {
			t.Errorf("%s: master.cf has lost its other name", when)
		}
	}
	x.apply()
	kept("after setup")
	x.command("setup", "postfix", "--undo", "--postfix-config", x.ConfigDir())
	kept("after undo")
	if after, err := os.ReadFile(master + ".link"); err != nil || string(after) != string(text) {
		t.Errorf("master.cf after --undo: %v\n%s", err, after)
	}
}

// TestAFullDiskLeavesNothingBehind applies on file systems of a few pages.
func TestAFullDiskLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	for _, size := range []string{"12k", "16k", "20k", "24k", "32k"} {
		t.Run(size, func(t *testing.T) {
			x := prepare(t, "")
			small := tempDir(t)
			must(t, syscall.Mount("ehlogate-test", small, "tmpfs", 0, "mode=755,size="+size))
			t.Cleanup(func() { syscall.Unmount(small, syscall.MNT_DETACH) })
			texts := map[string]string{}
			for _, name := range []string{"main.cf", "master.cf"} {
				b, err := os.ReadFile(filepath.Join(x.ConfigDir(), name))
				must(t, err)
				texts[name] = string(b)
				must(t, os.WriteFile(filepath.Join(small, name), b, 0o644))
			}
			out, status := x.daemon.Command("setup", "postfix", "--apply", "--postfix-config", small)
			if status == 0 {
				x.command("setup", "postfix", "--undo", "--postfix-config", small)
			} else if !strings.Contains(out, "no space left on device") {
				t.Errorf("setup: %d\n%s", status, out)
			}
			for name, want := range texts {
				if b, err := os.ReadFile(filepath.Join(small, name)); err != nil || string(b) != want {
					t.Errorf("%s is not what it was: %v\n%s", name, err, b)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(small, "*")); len(left) != 2 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestSetupDoesNotReloadAPostfixThatWouldStop: one that logs with postlogd(8) and warns of
// parameters that are set twice stops over that when it is reloaded, and all mail with it.
func TestSetupDoesNotReloadAPostfixThatWouldStop(t *testing.T) {
	t.Parallel()
	x := prepare(t, "")
	main := filepath.Join(x.ConfigDir(), "main.cf")
	must(t, x.daemon.Start())
	must(t, x.Postfix.Start())
	t.Cleanup(func() { must(t, x.Postfix.Stop()) })
	text, err := os.ReadFile(main)
	must(t, err)
	text = append(text, "smtpd_banner = one\nsmtpd_banner = two\n"...)
	must(t, os.WriteFile(main, text, 0o644))
	must(t, exec.Command("touch", "-d", "5 seconds ago", main).Run())
	out, status := x.daemon.Command("setup", "postfix", "--apply", "--postfix-config", x.ConfigDir())
	if status != 1 || !strings.Contains(out, "main.cf sets smtpd_banner more than once") {
		t.Errorf("setup: %d\n%s", status, out)
	}
	if after, err := os.ReadFile(main); err != nil || string(after) != string(text) {
		t.Errorf("main.cf was changed: %v\n%s", err, after)
	}
	if out, _ := x.daemon.Command("check", "--postfix-config", x.ConfigDir()); !strings.Contains(out, "fix   "+main+" sets smtpd_banner more than once") {
		t.Errorf("check:\n%s", out)
	}
	x.command("setup", "postfix", "--apply", "--no-reload", "--postfix-config", x.ConfigDir())
	x.command("setup", "postfix", "--undo", "--no-reload", "--postfix-config", x.ConfigDir())
	if !x.offered("192.0.2.7") {
		t.Error("STARTTLS is not offered")
	}
}
