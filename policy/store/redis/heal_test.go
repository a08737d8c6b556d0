package redis

import (
	"net/netip"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

// TestARedisThatHoldsTheFutureHeals has evidence of 2062 in it, as an earlier version left it.
func TestARedisThatHoldsTheFutureHeals(t *testing.T) {
	server := startRedis(t)
	s := openStore(t, "redis://"+server.Addr(), t.TempDir(), &logBuffer{})
	defer s.Close()
	future := time.Now().AddDate(36, 0, 0)
	host, moved := reputation.Evidence{}.Add(future, 0, 1)
	network := reputation.Evidence{}.Apply(moved)
	k := keysOf(netip.MustParseAddr("192.0.2.7"))
	key := redisKey(k.Network.String())
	write := func(name, field string, e reputation.Evidence) {
		t.Helper()
		record, _ := e.AppendBinary(nil)
		must(t, s.server.client.HSet(t.Context(), name, field, record).Err())
	}
	write(key, "", network)
	write(key, field(k.Host, k.Network), host)
	now := time.Now()
	newest := reputation.Slice(now) + 1
	if known := recall(s, "192.0.2.7"); known.Host.Newest > newest || known.Network.Newest > newest || known.Host.Total().Ham != 1 {
		t.Errorf("recalled as %+v", known)
	}
	for range 3 {
		must(t, lesson(s, "192.0.2.7", policy.Spam))
	}
	raw, err := s.server.client.HGetAll(t.Context(), key).Result()
	must(t, err)
	for name, record := range raw {
		var e reputation.Evidence
		must(t, e.UnmarshalBinary([]byte(record)))
		if e.Newest > newest+1 {
			t.Errorf("field %q still holds slice %d, it is %d now", name, e.Newest, newest-1)
		}
		if spam := e.Recent[reputation.Slice(now)%reputation.Slices].Spam; spam < reputation.ContributionCap*reputation.Unit {
			t.Errorf("field %q is frozen: %d units of spam in this hour", name, spam)
		}
	}
	ttl, err := s.server.client.TTL(t.Context(), key).Result()
	if most := reputation.Lifetime + reputation.PastWidth; err != nil || ttl <= 0 || ttl > most {
		t.Errorf("it expires in %s, %v; want %s at most", ttl, err, most)
	}
	removed, err := s.Forget(k.Host, byDefault.Policy().Keys)
	must(t, err)
	if known := recall(s, "192.0.2.7"); removed != 1 || known.Network.Total().Spam != 0 {
		t.Errorf("removed %d, and %+v is left", removed, known)
	}
}
