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
