package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
)

// TestCheckSaysWhoseMailIsRefused, and warns where that is the mail of honest clients.
func TestCheckSaysWhoseMailIsRefused(t *testing.T) {
	none := func(string) (string, bool) { return "", false }
	for _, c := range []struct {
		toml, says string
		ok         bool
	}{
		{"", "", true},
		{"[[policy.tier]]\nname = 'bad'\naction = 'header'\nstage = 'connect'\n", "", true},
		{"[[policy.tier]]\nname = 'bad'\naction = 'reject'\n", `action = "reject": mail of clients of tier bad is refused at stage rcpt`, true},
		{"[policy]\nmode = 'observe'\n[[policy.tier]]\nname = 'good'\naction = 'reject'\n", "but not in mode observe", true},
		{"[[policy.tier]]\nname = 'unknown'\naction = 'tempfail'\nstage = 'connect'\n", "tier unknown is refused at stage connect, which is where honest ones are", false},
		{"[[policy.tier]]\nname = 'good'\naction = 'reject'\n", "tier good is refused", false},
	} {
		file := filepath.Join(t.TempDir(), "ehlogate.toml")
		if err := os.WriteFile(file, []byte(c.toml), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load(config.Source{File: file, Env: none, Flag: none})
		if err != nil {
			t.Fatal(err)
		}
		var said string
		ok := true
		for _, f := range refusalFindings(cfg) {
			said += f.What + "\n"
			ok = ok && f.OK
		}
		if ok != c.ok || !strings.Contains(said, c.says) || c.says == "" && said != "" {
			t.Errorf("%q: ok %v, %q", c.toml, ok, said)
		}
	}
}
