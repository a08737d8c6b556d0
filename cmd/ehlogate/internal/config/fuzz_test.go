package config

import (
	"os"
	"strings"
	"testing"
)

// FuzzConfiguration reads anything as a configuration: it is taken, or what is wrong is said with
// its line.
func FuzzConfiguration(f *testing.F) {
	sample, err := os.ReadFile("../../../../contrib/ehlogate.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		string(sample), "[milter]\nlisten = 'inet:127.0.0.1:8897'\n", "[[policy.tier]]\nname = 'bad'\nenter = nan\n", "policy.mode = 1979-05-27\n", "[[verdict.filter]]\nheader = 'X'\nread = 'stars'\nstar = ''\n",
		"[verdict]\ntraps = ['@', '/etc/passwd']\n", "[http]\npeers = ['::ffff:1.2.3.4/120']\nnames = ['']\n", "[store]\nurl = 'redis://:secret@h'\n", "[policy.tier]\n", "a.b.c.d = [[[[]]]]\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if err := Parse("ehlogate.toml", []byte(text)); err != nil && !strings.Contains(err.Error(), "ehlogate.toml:") {
			t.Errorf("no line in %q", err)
		}
	})
}

// FuzzStoreURL reads anything as store.url: an error does not show the password that may be in it.
func FuzzStoreURL(f *testing.F) {
	for _, seed := range []string{"embedded:/x", "redis://user:hunter2@host", "redi://user:hunter2@host", "rediss://:hunter2@[::1", "postgres://u:hunter2@h/d", "redis+cluster://u:hunter2@a,b,c:x", "hunter2", "redis://u:hunter2%zz@h"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := defaults(func(string) (string, bool) { return "", false })
		err := c.setStore(value{text: s, isText: true})
		const secret = "hunter2"
		if err != nil && strings.Contains(s, ":"+secret+"@") && strings.Count(s, secret) == 1 && strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v", s, err)
		}
	})
}
