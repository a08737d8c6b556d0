package store

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
	"github.com/ehlogate/ehlogate/policy/store/bolted"
)

// addr is one of many IPv4 addresses, 200 in a network.
func addr(i int) netip.Addr {
	n := uint32(i/200)<<8 | uint32(i%200)
	return netip.AddrFrom4([4]byte{byte(16 + n>>24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// TestThereIsRoomForNewClientsWhateverTheyAre floods a small store with hosts of spam: those that
// are silent longest go, those with ham stay, and what the others said stays in their networks.
func TestThereIsRoomForNewClientsWhateverTheyAre(t *testing.T) {
	dir := t.TempDir()
	o := options()
	o.Most = 5000
	var now atomic.Int64
	now.Store(noon.Unix())
	o.Now = func() time.Time { return time.Unix(now.Load(), 0) }
	e, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	cutter := policy.New(policy.Default())
	learnAt := func(a netip.Addr, spam, ham float64) {
		e.Learn(cutter.Keys(a), policy.Lesson{At: o.Now(), Spam: spam, Ham: ham})
	}
	honest := netip.MustParseAddr("192.0.2.7")
	learnAt(honest, 0, 1)
	flood := 5 * o.Most
	for i := range flood {
		now.Store(noon.Unix() + int64(i))
		learnAt(addr(i), 1, 0)
		if i%1000 == 0 {
			e.bound()
		}
	}
	e.bound()
	if n := e.Len(); n > o.Most+o.Most/beyond || n < o.Most*9/10 {
		t.Errorf("%d records are kept, %d may be", n, o.Most)
	}
	if e.get(key{network: cutter.Keys(honest).Host}).Total().Ham != 1 {
		t.Error("the honest host is forgotten")
	}
	first := cutter.Keys(addr(0))
	if e.get(key{network: first.Host}) != (reputation.Evidence{}) {
		t.Error("the host that is silent longest is kept")
	}
	if got := e.get(key{network: first.Network}).Total().Spam; got == 0 {
		t.Error("what it said in its network is gone")
	}
	if last := cutter.Keys(addr(flood - 1)); e.get(key{network: last.Host}).Total().Spam != 1 {
		t.Error("the newest host is not kept")
	}
	if e.Stats.Crowded.Load() == 0 {
		t.Error("nothing is counted")
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	kept := e.Len()
	again, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Len() != kept {
		t.Errorf("%d records in the file, %d were in memory", again.Len(), kept)
	}
}

// many makes a file of so many hosts.
func many(t testing.TB, dir string, n int) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(dir, FileName), fileMode, bolted.Options())
	if err != nil {
		t.Fatal(err)
	}
	db.NoSync = true
	e := newEmbedded("", options())
	if err := db.Update(e.fill); err != nil {
		t.Fatal(err)
	}
	v, _ := reputation.Evidence{}.Add(noon, 1, 0)
	cutter := policy.New(policy.Default())
	for i := 0; i < n; {
		err := db.Update(func(tx *bolt.Tx) error {
			for end := min(n, i+50_000); i < end; i++ {
				k := cutter.Keys(addr(i))
				if err := putEvidence(tx, key{network: k.Host}, v); err != nil {
					return err
				}
				if i%200 == 0 {
					if err := putEvidence(tx, key{network: k.Network}, v); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Sync(); err != nil {
		t.Fatal(err)
	}
	db.Close()
}

// TestALargeStoreAnswersFromTheStart: until all of it is read, nothing is known, and what is learnt
// meanwhile is kept. With EHLOGATE_TEST_RECORDS it prints how long things take with so many.
func TestALargeStoreAnswersFromTheStart(t *testing.T) {
	n := 50_000
	if s := os.Getenv("EHLOGATE_TEST_RECORDS"); s != "" {
		fmt.Sscan(s, &n)
	}
	dir := t.TempDir()
	many(t, dir, n)
	o := options()
	o.Most = 2 * n
	begun := time.Now()
	e, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	opened := time.Since(begun)
	committed := e.Learn(keys("203.0.113.7"), policy.Lesson{At: noon, Spam: 1})
	if known := e.Recall(addr(0), keys(addr(0).String()), e.now()); !known.Unavailable && known.Host == (reputation.Evidence{}) {
		t.Error("it answers that nothing is known, and has not read it")
	}
	<-e.Ready()
	ready := time.Since(begun)
	if err := <-committed; err != nil {
		t.Error(err)
	}
	if known := e.Recall(addr(0), keys(addr(0).String()), e.now()); known.Unavailable || known.Host.Total().Spam != 1 {
		t.Errorf("what it has read it does not know: %+v", known)
	}
	if opened > time.Second {
		t.Errorf("it takes %s until it answers", opened)
	}
	t.Logf("%d records: answers after %s, knows all after %s", e.Len(), opened.Round(time.Millisecond), ready.Round(time.Millisecond))

	// Everything expires at once, with lessons and lookups beside it.
	var lookups, lessons []time.Duration
	expired := make(chan int)
	later := noon.Add(reputation.Lifetime)
	go func() { expired <- e.Expire(later) }()
	begun = time.Now()
	gone := 0
	for i := 0; gone == 0; i++ {
		select {
		case gone = <-expired:
		default:
		}
		a := addr(i * 7919 % n)
		at := time.Now()
		e.Recall(a, keys(a.String()), e.now())
		lookups = append(lookups, time.Since(at))
		if i%200 == 0 {
			at = time.Now()
			if err := <-e.Learn(keys("203.0.113.8"), policy.Lesson{At: later, Spam: 1}); err != nil {
				t.Fatal(err)
			}
			lessons = append(lessons, time.Since(at))
		}
	}
	took := time.Since(begun)
	p99 := func(all []time.Duration) time.Duration {
		slices.Sort(all)
		return all[len(all)*99/100]
	}
	t.Logf("%d records expired in %s: lookup p99 %s, lesson p99 %s, at most %s", gone, took.Round(time.Millisecond), p99(lookups), p99(lessons), lessons[len(lessons)-1])
	if got := p99(lookups); got > 5*time.Millisecond {
		t.Errorf("lookups take %s (p99) meanwhile", got)
	}
	if got := p99(lessons); got > 500*time.Millisecond {
		t.Errorf("lessons take %s (p99) meanwhile", got)
	}
}
