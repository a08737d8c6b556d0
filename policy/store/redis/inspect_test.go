package redis

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/redisd"
	"github.com/ehlogate/ehlogate/policy"
)

func inspect(t *testing.T, url string) []Finding {
	t.Helper()
	target, err := ParseURL(url)
	must(t, err)
	return Inspect(context.Background(), Options{Target: target, Now: time.Now, Layout: policy.Default().Layout})
}

func TestInspect(t *testing.T) {
	good := startRedis(t, "--maxmemory", "64mb", "--maxmemory-policy", "volatile-ttl", "--appendonly", "yes")
	bare := startRedis(t)
	wrong := startRedis(t, "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru", "--appendonly", "yes")
	other := startRedis(t)
	do(t, other, "SET", schemaKey, "ehlogate evidence 9")
	shut := startRedis(t)
	for _, r := range []*redisd.Server{good, shut} {
		do(t, r, "ACL", "SETUSER", "ehlogate", "on", ">secret", "~ehlogate:*", "+@all")
	}
	do(t, shut, "ACL", "SETUSER", "default", "off")
	for _, c := range []struct{ name, url, want string }{
		{"as it should be", "redis://" + good.Addr(), "true Redis is version 7"},
		{"no limit", "redis://" + bare.Addr(), "false Redis has no limit on memory"},
		{"nothing kept", "redis://" + bare.Addr(), "false Redis keeps nothing when it ends"},
		{"a policy that evicts what is needed", "redis://" + wrong.Addr(), "false Redis has maxmemory-policy allkeys-lru"},
		{"another version", "redis://" + other.Addr(), "holds reputation of another version or layout (ehlogate evidence 9)"},
		{"a password, and none for the default user", "redis://ehlogate:secret@" + good.Addr(), "its default user needs no password"},
		{"nobody there", "redis://127.0.0.1:1", "false redis://127.0.0.1:1 does not serve"},
		{"a password file that is missing", "redis://127.0.0.1:1?password_file=/nonexistent", "cannot be used: password file: open /nonexistent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var all []string
			for _, f := range inspect(t, c.url) {
				all = append(all, fmt.Sprint(f.OK, " ", f.What, ": ", f.Fix))
			}
			if got := strings.Join(all, "\n"); !strings.Contains(got, c.want) {
				t.Errorf("found\n%s\nwant %q", got, c.want)
			}
		})
	}
	for name, url := range map[string]string{"no default user": "redis://ehlogate:secret@" + shut.Addr(), "no password at all": "redis://" + good.Addr()} {
		if all := inspect(t, url); slices.ContainsFunc(all, func(f Finding) bool {
			return f.Note || !f.OK && name == "no default user" && strings.Contains(f.What, "serve")
		}) {
			t.Errorf("%s: found %+v", name, all)
		}
	}
}
