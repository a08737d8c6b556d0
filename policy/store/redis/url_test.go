package redis

import (
	"slices"
	"testing"
)

func TestParseURL(t *testing.T) {
	for _, c := range []struct {
		url   string
		addrs []string
		check func(*Target) bool
		shown string
	}{
		{"redis://redis1", []string{"redis1:6379"}, func(t *Target) bool { return !t.secure && t.db == 0 }, "redis://redis1:6379"},
		{"rediss://ehlogate:secret@[2001:db8::1]:6380/3", []string{"[2001:db8::1]:6380"}, func(t *Target) bool { return t.secure && t.user == "ehlogate" && t.password == "secret" && t.db == 3 }, "rediss://[2001:db8::1]:6380"},
		{"redis+unix:///run/redis/redis.sock?db=2&user=x", []string{"/run/redis/redis.sock"}, func(t *Target) bool { return t.db == 2 && t.user == "x" }, "redis+unix:///run/redis/redis.sock"},
		{"redis+sentinel://mx1,mx2:26380,mx3/reputation/1", []string{"mx1:26379", "mx2:26380", "mx3:26379"}, func(t *Target) bool { return t.master == "reputation" && t.db == 1 }, "redis+sentinel://mx1:26379,mx2:26380,mx3:26379/reputation"},
		{"rediss+cluster://:secret@mx1:7000,mx2:7001", []string{"mx1:7000", "mx2:7001"}, func(t *Target) bool { return t.secure && t.form == "cluster" }, "rediss+cluster://mx1:7000,mx2:7001"},
		{"redis+cluster://[2001:db8::1]:7000,[2001:db8::2]:7000", []string{"[2001:db8::1]:7000", "[2001:db8::2]:7000"}, func(*Target) bool { return true }, "redis+cluster://[2001:db8::1]:7000,[2001:db8::2]:7000"},
	} {
		got, err := ParseURL(c.url)
		if err != nil {
			t.Errorf("%s: %v", c.url, err)
			continue
		}
		if !slices.Equal(got.addrs, c.addrs) || !c.check(got) {
			t.Errorf("%s: %+v", c.url, got)
		}
		if got.String() != c.shown {
			t.Errorf("%s is shown as %s, want %s", c.url, got, c.shown)
		}
	}
}
