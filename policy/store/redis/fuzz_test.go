package redis

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/ehlogate/ehlogate/policy/reputation"
)

// FuzzParseURL holds what a URL makes of itself against its password.
func FuzzParseURL(f *testing.F) {
	for _, u := range []string{
		"redis://127.0.0.1:6379/0", "rediss://user:secret@[::1]:6379/3?ca_file=/x", "redis+unix:///run/redis.sock?db=1",
		"redis+sentinel://a,b:26379,c/master/2?sentinel_user=x", "redis+cluster://:secret@a,b,c", "redis://%zz", "redis://a/b/c", "redis://?db=-1", "://",
	} {
		f.Add(u)
	}
	f.Fuzz(func(t *testing.T, s string) {
		target, err := ParseURL(s)
		if err != nil {
			return
		}
		if len(target.addrs) == 0 || target.db < 0 {
			t.Errorf("%q: %+v", s, target)
		}
		if len(target.password) > 8 && strings.Contains(target.String(), target.password) && !strings.Contains(strings.Join(target.addrs, ",")+target.master, target.password) {
			t.Errorf("%q shows its password: %s", s, target)
		}
	})
}

// FuzzStored reads batches as a disk might hold them, and makes of each what Redis would be sent.
func FuzzStored(f *testing.F) {
	b := &batch{Sender: "s", Bucket: 7, Number: 1, Changes: []change{{Op: learn, Key: "192.0.2.0/24", Slice: 1, Count: reputation.Count{Spam: 8}}}}
	sound, _ := json.Marshal(b)
	f.Add(sound)
	f.Add([]byte(`{"stream":"s","bucket":-1,"number":1}`))
	f.Add([]byte(`{"stream":"s","bucket":1,"number":1,"changes":[{"do":"learn","key":"x","host":"192.0.2.1/32"}]}`))
	f.Fuzz(func(t *testing.T, v []byte) {
		b, err := decodeBatch(v)
		if err != nil {
			return
		}
		if keys, args := b.arguments(noon, false); len(keys) == 0 || len(args) < 5 {
			t.Errorf("%q: %v %v", v, keys, args)
		}
	})
}
