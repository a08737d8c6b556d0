package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
)

// check looks into the log, and does not only open it.
func TestCheckReadsTheLog(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"sound", "Nov 25 09:00:00 mx1 postfix/qmgr[9]: 4ABC: removed\n", ""},
		{"empty", "", ""},
		{"another program's", "Nov 25 09:00:00 mx1 sshd[9]: hello\n", "sshd[9]: hello"},
		{"not a log", "<html>\n", "<html>"},
	} {
		path := filepath.Join(t.TempDir(), "mail.log")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		found := logFindings(&config.Config{LogFile: path})
		if len(found) != 1 || found[0].OK != (c.want == "" || c.name == "empty") || !strings.Contains(found[0].What, c.want) {
			t.Errorf("%s: %+v", c.name, found)
		}
	}
	if found := logFindings(&config.Config{LogFile: "/nowhere/mail.log"}); len(found) != 1 || found[0].OK {
		t.Errorf("a log that is not there: %+v", found)
	}
}

// check finds what serve would refuse, and what is set in vain.
func TestCheckFindsWhatServeRefuses(t *testing.T) {
	dir := t.TempDir()
	short := filepath.Join(dir, "short")
	long := filepath.Join(dir, "long")
	for file, token := range map[string]string{short: "short", long: "long enough for a token"} {
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, toml, want string
	}{
		{"nothing", "", ""},
		{"an event log that is a directory", "[log]\nevents = '" + dir + "'", "which is a directory"},
		{"a token that is too short", "[http]\ntoken_file = '" + short + "'", "too short for a token"},
		{"a feed token that is too short", "[http]\nfeed_token_file = '" + short + "'", "too short for a token"},
		{"the same token twice", "[http]\ntoken_file = '" + long + "'\nfeed_token_file = '" + long + "'", "have the same token"},
		{"peers of a unix socket", "[milter]\nlisten = 'unix:" + dir + "/m'\npeers = ['192.0.2.7']", "milter.peers has no effect"},
		{"peers of one of two", "[table]\nmemcache = 'unix:" + dir + "/t'\npeers = ['192.0.2.7']", ""},
		{"a group of a TCP port", "[http]\ngroup = 'root'", "http.group has no effect"},
		{"a group that is not there", "[http]\nlisten = 'unix:" + dir + "/h'\ngroup = 'nobody-has-this'", "there is no such group"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "ehlogate.toml")
			if err := os.WriteFile(file, []byte(c.toml), 0o600); err != nil {
				t.Fatal(err)
			}
			none := func(string) (string, bool) { return "", false }
			cfg, err := config.Load(config.Source{File: file, Env: none, Flag: none})
			if err != nil {
				t.Fatal(err)
			}
			var faults []string
			for _, f := range configFindings(cfg) {
				if !f.OK {
					faults = append(faults, f.What)
				}
			}
			if len(faults) > 1 || strings.Join(faults, "") == "" != (c.want == "") || !strings.Contains(strings.Join(faults, ""), c.want) {
				t.Errorf("found %q, not %q", faults, c.want)
			}
		})
	}
}
