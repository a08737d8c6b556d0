package redis

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// TestAnOverrideThatIsSetWhileOthersAreReadStays sets overrides on one node while both read all of
// them again and again, and wants each on the other from when it was heard of there.
func TestAnOverrideThatIsSetWhileOthersAreReadStays(t *testing.T) {
	server := startRedis(t)
	log := &logBuffer{}
	one, other := openStore(t, "redis://"+server.Addr(), t.TempDir(), log), openStore(t, "redis://"+server.Addr(), t.TempDir(), log)
	defer one.Close()
	defer other.Close()
	done := make(chan struct{})
	var reading sync.WaitGroup
	for _, s := range []*Store{one, other, one, other, one, other} {
		reading.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					s.loadOverrides(context.Background())
				}
			}
		})
	}
	vanished := 0
	for i := range 300 {
		addr := netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)})
		host := netip.PrefixFrom(addr, 32)
		must(t, one.SetOverride(policy.Override{Network: host, Set: noon}))
		for _, s := range []*Store{one, other} {
			for end := time.Now().Add(5 * time.Second); recall(s, addr.String()).Override == nil; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("override %d is not heard of", i)
				}
			}
			// It was there: it must not go again.
			for range 20 {
				if recall(s, addr.String()).Override == nil {
					vanished++
					break
				}
			}
		}
	}
	close(done)
	reading.Wait()
	if vanished > 0 {
		t.Errorf("%d of 300 overrides vanished again", vanished)
	}
	if n := len(other.Overrides()); n != 300 {
		t.Errorf("%d of 300 overrides hold on the other node", n)
	}
}

// TestAnExceptionThatIsSetAnewIsNotRemoved has one that ended when it was read, and that another
// node set anew before it was removed.
func TestAnExceptionThatIsSetAnewIsNotRemoved(t *testing.T) {
	s := openStore(t, "redis://"+startRedis(t).Addr(), t.TempDir(), &logBuffer{})
	defer s.Close()
	host := netip.MustParsePrefix("192.0.2.7/32")
	exception := policy.Exception{Network: host, Cause: policy.BrokenTLS, Set: time.Now().UTC(), Until: time.Now().Add(-time.Hour).UTC()}
	field := exceptionField + host.String()
	must(t, s.server.client.HSet(t.Context(), overridesKey, field, fmt.Sprintf(`{"network":%q,"cause":"broken-tls","until":%q}`, host, exception.Until.Format(time.RFC3339))).Err())
	read, err := s.server.client.HGet(t.Context(), overridesKey, field).Result()
	must(t, err)
	exception.Until = time.Now().Add(time.Hour).UTC()
	must(t, s.SetException(exception))
	must(t, s.removeUnchanged(t.Context(), map[string]string{field: read}))
	must(t, s.loadOverrides(t.Context()))
	if s.KeptExceptions().Size() != 1 {
		t.Error("the new one is gone")
	}
	// One that has ended, and is as it was read, goes.
	exception.Until = time.Now().Add(-time.Second).UTC()
	must(t, s.SetException(exception))
	must(t, s.loadOverrides(t.Context()))
	if n, err := s.server.client.HExists(t.Context(), overridesKey, field).Result(); n || err != nil {
		t.Errorf("one that has ended is still there: %v, %v", n, err)
	}
}

// TestWhatAnEarlierVersionLeftInTheSpoolIsUnderstood reads a batch with the names that operations
// had.
func TestWhatAnEarlierVersionLeftInTheSpoolIsUnderstood(t *testing.T) {
	b, err := decodeBatch([]byte(`{"stream":"s","bucket":1,"number":7,"changes":[{"do":"leave","key":"192.0.2.0/24","host":"192.0.2.7/32"},{"do":"less","key":"AS64500"},{"do":"join","key":"192.0.2.0/24"},{"do":"learn","key":"192.0.2.0/24"}]}`))
	must(t, err)
	var ops []string
	for _, c := range b.Changes {
		ops = append(ops, c.Op)
	}
	if got := fmt.Sprint(ops); got != "[remove subtract merge learn]" || b.Sender != "s" {
		t.Errorf("%s of %q", got, b.Sender)
	}
}

// TestLookupsOfOneClientAskOnce asks for a client just as another question about it was answered.
func TestLookupsOfOneClientAskOnce(t *testing.T) {
	s := openStore(t, "redis://"+startRedis(t).Addr(), t.TempDir(), &logBuffer{})
	defer s.Close()
	k := keysOf(netip.MustParseAddr("192.0.2.7"))
	before := commands(t, s)
	for range 50 {
		// As one does who looked into the cache before it was answered.
		if r := <-s.ask(k); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	if n := commands(t, s) - before; n != 1 {
		t.Errorf("%d commands for fifty questions about one client", n)
	}
}

// commands is how often Redis was asked for a record.
func commands(t *testing.T, s *Store) int {
	t.Helper()
	stats, err := s.server.client.Info(t.Context(), "commandstats").Result()
	must(t, err)
	var calls int
	for line := range strings.Lines(stats) {
		fmt.Sscanf(line, "cmdstat_hmget:calls=%d", &calls)
	}
	return calls
}

// TestARedisWithoutItsDataIsGivenTheOverrides: what an operator has set outlives a Redis that is
// started again empty, as long as a node runs that knows it; what was lifted stays lifted.
func TestARedisWithoutItsDataIsGivenTheOverrides(t *testing.T) {
	server := startRedis(t)
	url := "redis://" + server.Addr()
	var log logBuffer
	one, other := openStore(t, url, t.TempDir(), &log), openStore(t, url, t.TempDir(), new(logBuffer))
	defer one.Close()
	defer other.Close()
	denied, lifted, excepted := netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("192.0.2.8/32"), netip.MustParsePrefix("192.0.2.9/32")
	now := time.Now()
	must(t, one.SetOverride(policy.Override{Network: denied, Set: now, Note: "kept"}))
	must(t, one.SetOverride(policy.Override{Network: lifted, Set: now}))
	must(t, other.SetException(policy.Exception{Network: excepted, Cause: policy.RequiresTLS, Set: now, Until: now.Add(time.Hour)}))
	if _, err := one.LiftOverride(lifted); err != nil {
		t.Fatal(err)
	}
	all := func(s *Store) string {
		var names []string
		for _, o := range s.Overrides() {
			names = append(names, o.Network.String()+" "+o.Note)
		}
		for _, x := range s.Exceptions() {
			names = append(names, x.Network.String())
		}
		return strings.Join(names, ", ")
	}
	const want = "192.0.2.7/32 kept, 192.0.2.9/32"
	within := func(what string, s *Store) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); all(s) != want; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %q, want %q", what, all(s), want)
			}
		}
	}
	within("one", one)
	within("the other", other)
	server.Kill()
	must(t, server.Start())
	// A node that knows nothing finds them when another one has put them back.
	fresh := openStore(t, url, t.TempDir(), new(logBuffer))
	defer fresh.Close()
	within("a fresh one", fresh)
	within("one", one)
	within("the other", other)
	if !strings.Contains(log.String(), "Redis has lost its data") {
		t.Errorf("the log says nothing of it: %s", log.String())
	}
	must(t, one.SetOverride(policy.Override{Network: lifted, Set: now}))
	if _, err := other.LiftOverride(lifted); err != nil {
		t.Fatal(err)
	}
	within("one, afterwards", one)
}
