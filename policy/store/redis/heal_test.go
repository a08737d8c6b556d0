package redis

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/redisd"
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

// TestWhatIsOfTheFutureFadesWithoutAnotherMessage is only looked up: it is healed in Redis all the
// same, or it would be as of now for ever.
func TestWhatIsOfTheFutureFadesWithoutAnotherMessage(t *testing.T) {
	s := openStore(t, "redis://"+startRedis(t).Addr(), t.TempDir(), &logBuffer{})
	defer s.Close()
	future := time.Now().AddDate(36, 0, 0)
	host, moved := reputation.Evidence{}.Add(future, 5, 0)
	k := keysOf(netip.MustParseAddr("192.0.2.7"))
	key := redisKey(k.Network.String())
	for name, e := range map[string]reputation.Evidence{"": reputation.Evidence{}.Apply(moved), field(k.Host, k.Network): host} {
		record, _ := e.AppendBinary(nil)
		must(t, s.server.client.HSet(t.Context(), key, name, record).Err())
	}
	// A neighbour of which nothing is known is not made known by being looked up.
	recall(s, "192.0.2.200")
	recall(s, "192.0.2.7")
	newest := reputation.Slice(time.Now()) + 2
	must(t, redisd.Until(func() error {
		raw, err := s.server.client.HGetAll(t.Context(), key).Result()
		if err != nil || len(raw) != 2 {
			return fmt.Errorf("%d fields, %v", len(raw), err)
		}
		for name, record := range raw {
			var e reputation.Evidence
			if err := e.UnmarshalBinary([]byte(record)); err != nil || e.Newest > newest {
				return fmt.Errorf("field %q: slice %d, %v", name, e.Newest, err)
			}
		}
		return nil
	}))
	if known := recall(s, "192.0.2.7"); known.Host.Total().Spam != 5 {
		t.Errorf("healed, but %+v", known)
	}
}

// TestAFieldThatIsNotItsNetworks is not believed.
func TestAFieldThatIsNotItsNetworks(t *testing.T) {
	s := openStore(t, "redis://"+startRedis(t).Addr(), t.TempDir(), &logBuffer{})
	defer s.Close()
	until := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	for name, value := range map[string]string{
		"192.0.2.7/32":      `{"network":"0.0.0.0/0","allow":true,"set":"2026-11-24T12:00:00Z"}`,
		"mark 192.0.2.1/32": `{"network":"0.0.0.0/0","cause":"broken-tls","until":"` + until + `"}`,
	} {
		must(t, s.server.client.HSet(t.Context(), overridesKey, name, value).Err())
	}
	must(t, s.loadOverrides(t.Context()))
	if known := recall(s, "203.0.113.7"); known.Override != nil || known.Exception != nil {
		t.Errorf("%+v", known)
	}
}

// TestWhatWaitsIsForgottenToo learns while Redis is away: what waits in the spool would be learnt
// again after it was forgotten.
func TestWhatWaitsIsForgottenToo(t *testing.T) {
	server := startRedis(t)
	s := openStore(t, "redis://"+server.Addr(), t.TempDir(), &logBuffer{})
	defer s.Close()
	server.Stop()
	must(t, lesson(s, "192.0.2.7", policy.Spam))
	host := keysOf(netip.MustParseAddr("192.0.2.7")).Host
	if _, err := s.Forget(host, byDefault.Policy().Keys); err == nil {
		t.Error("it says that it has forgotten while Redis is away")
	}
	must(t, server.Start())
	must(t, redisd.Until(func() error {
		removed, err := s.Forget(host, byDefault.Policy().Keys)
		if err == nil && removed != 1 {
			t.Errorf("%d records were removed: what waited is still to come", removed)
		}
		return err
	}))
	if known := recall(s, "192.0.2.7"); known.Host.Total().Spam != 0 {
		t.Errorf("%+v is known again", known)
	}
}
