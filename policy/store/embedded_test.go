package store

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func clock() time.Time { return noon }

// options are those of the tests: whoever is learnt of becomes suspect.
func options() Options {
	return Options{Layout: policy.Default().Layout, Now: clock, Tier: func(_, after policy.Known) reputation.Evidence {
		return after.Host.Enter(reputation.Suspect, noon, 1)
	}}
}

func open(t *testing.T, dir string) *Embedded {
	t.Helper()
	e, err := Open(dir, options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	// On a busy machine some of it may still be read behind Open.
	<-e.Ready()
	return e
}

func keys(addr string) policy.Keys {
	p := policy.Default()
	return policy.New(p).Keys(netip.MustParseAddr(addr))
}

func cut(addr netip.Addr) policy.Keys { return policy.New(policy.Default()).Keys(addr) }

func learn(e *Embedded, addr string, spam, ham float64) error {
	return <-e.Learn(keys(addr), policy.Lesson{At: noon, Spam: spam, Ham: ham})
}

func count(e *Embedded, n netip.Prefix) reputation.Count {
	return e.get(key{network: n}).Recent[reputation.Slice(noon)%reputation.Slices]
}

func TestWhatIsLearntIsThereAfterReopening(t *testing.T) {
	dir := t.TempDir()
	e := open(t, dir)
	for _, a := range []string{"192.0.2.7", "192.0.2.8", "2001:db8::7"} {
		if err := learn(e, a, 1, 2); err != nil {
			t.Fatal(err)
		}
	}
	deny := policy.Override{Network: netip.MustParsePrefix("198.51.100.0/24"), Set: noon}
	if err := e.SetOverride(deny); err != nil {
		t.Fatal(err)
	}
	e.Close()

	e = open(t, dir)
	known := e.Recall(netip.MustParseAddr("192.0.2.7"), keys("192.0.2.7"), e.now())
	if m := known.Host.Total(); known.Host.Tier != reputation.Suspect || m != (reputation.Mass{Spam: 1, Ham: 2}) || known.Network.Empty(noon) {
		t.Errorf("after reopening: %+v", known)
	}
	if known := e.Recall(netip.MustParseAddr("198.51.100.9"), keys("198.51.100.9"), e.now()); known.Override == nil || *known.Override != deny {
		t.Errorf("the override after reopening: %+v", known)
	}
	if known := e.Recall(netip.MustParseAddr("198.51.101.9"), keys("198.51.101.9"), e.now()); known.Override != nil || !known.Host.Empty(noon) {
		t.Errorf("a stranger is known: %+v", known)
	}
}

func TestAnAutonomousSystemIsKeptAndForgotten(t *testing.T) {
	dir := t.TempDir()
	e := open(t, dir)
	k, addr := keys("192.0.2.7"), netip.MustParseAddr("192.0.2.7")
	k.ASN = 64500
	if err := <-e.Learn(k, policy.Lesson{At: noon, Spam: 1}); err != nil {
		t.Fatal(err)
	}
	e.Close()
	e = open(t, dir)
	if known := e.Recall(addr, k, e.now()); known.AS.Total().Spam != 1 || known.AS.Recent != known.Network.Recent {
		t.Errorf("after reopening: %+v", known)
	}
	if _, err := e.Forget(k.Host, func(netip.Addr) policy.Keys { return k }); err != nil || e.Recall(addr, k, e.now()).AS.Total() != (reputation.Mass{}) {
		t.Errorf("%v; forgotten, its system still knows %v", err, e.Recall(addr, k, e.now()).AS)
	}
}

func TestLearningTogetherSharesCommits(t *testing.T) {
	e := open(t, t.TempDir())
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			for range 10 {
				if err := learn(e, fmt.Sprintf("192.0.2.%d", i), 1, 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if got := count(e, keys("192.0.2.1").Host).Spam; got != 10*reputation.Unit {
		t.Errorf("a host learnt %d units", got)
	}
	if got := count(e, keys("192.0.2.1").Network).Spam; got != 50*reputation.ContributionCap*reputation.Unit {
		t.Errorf("the network learnt %d units, want the voices of 50 hosts", got)
	}
	if c := e.Stats.Commits.Load(); c >= 250 {
		t.Errorf("%d commits for 500 lessons of 50 learners", c)
	}
}

func TestForget(t *testing.T) {
	e := open(t, t.TempDir())
	for _, a := range []string{"192.0.2.7", "192.0.2.8", "198.51.100.1"} {
		learn(e, a, 1, 0)
	}
	if n, err := e.Forget(keys("192.0.2.7").Host, cut); err != nil || n != 1 {
		t.Errorf("forgot %d, %v", n, err)
	}
	if got := count(e, keys("192.0.2.7").Network).Spam; got != reputation.Unit {
		t.Errorf("the network still holds %d units, want its other host's", got)
	}
	if n, err := e.Forget(netip.MustParsePrefix("192.0.0.0/16"), cut); err != nil || n != 2 {
		t.Errorf("forgot %d, %v, want one host and its network", n, err)
	}
	if e.Len() != 2 {
		t.Errorf("%d records left, want the other network's two", e.Len())
	}
}

func TestSweepRemovesWhatNoLongerCounts(t *testing.T) {
	dir := t.TempDir()
	e := open(t, dir)
	learn(e, "192.0.2.7", 1, 0)
	e.SetOverride(policy.Override{Network: netip.MustParsePrefix("192.0.2.0/24"), Until: noon.Add(time.Hour)})
	e.now = func() time.Time { return noon.Add(reputation.Pasts * reputation.PastWidth) }
	e.Sweep()
	e.Close()
	if e = open(t, dir); e.Len() != 0 || len(e.Overrides()) != 0 {
		t.Errorf("%d records and %d overrides left", e.Len(), len(e.Overrides()))
	}
}

// TestRefusedFiles shows that a file which is not ours, or not for us, is left as it is.
func TestRefusedFiles(t *testing.T) {
	for name, c := range map[string]struct {
		fill func(*bolt.Tx) error
		want string
	}{
		"another program's database": {func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("theirs")); return err }, "another program"},
		"a later version": {func(tx *bolt.Tx) error {
			if err := newEmbedded("", options()).fill(tx); err != nil {
				return err
			}
			return tx.Bucket(bucketMeta).Put(keyFormat, []byte("ehlogate evidence 9"))
		}, `has format "ehlogate evidence 9"`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, FileName)
			db, err := bolt.Open(path, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(db.Update(c.fill), db.Close()); err != nil {
				t.Fatal(err)
			}
			before, _ := os.ReadFile(path)
			e, err := Open(dir, options())
			if err == nil {
				e.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %q, want %q and the path", err, c.want)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
}

func TestAFileInUseIsRefused(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if _, err := Open(dir, options()); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("opened twice: %v", err)
	}
}

// TestKilledAtAnyMomentNothingAcknowledgedIsLost runs this test program as a learner that prints
// each acknowledged lesson, kills it with SIGKILL and counts what the file holds.
func TestKilledAtAnyMomentNothingAcknowledgedIsLost(t *testing.T) {
	if dir := os.Getenv("EHLOGATE_TEST_LEARNER"); dir != "" {
		learner(dir)
		return
	}
	dir := t.TempDir()
	acknowledged := 0
	for round := range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledAtAnyMoment")
		cmd.Env = append(os.Environ(), "EHLOGATE_TEST_LEARNER="+dir)
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(300+70*round) * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
		acknowledged += strings.Count(out.String(), "+")
		e := open(t, dir)
		got := 0
		for i := range learners {
			got += int(count(e, keys(fmt.Sprintf("192.0.2.%d", i)).Host).Ham)
		}
		if got < acknowledged || acknowledged == 0 {
			t.Fatalf("round %d: %d lessons acknowledged, the file holds %d", round, acknowledged, got)
		}
		e.Close()
	}
}

// TestAFirstStartCanBeKilledAtAnyMoment leaves a directory in which the next start works, and no
// half-made file that looks like somebody else's.
func TestAFirstStartCanBeKilledAtAnyMoment(t *testing.T) {
	const opener = "EHLOGATE_TEST_OPENER"
	if dir := os.Getenv(opener); dir != "" {
		os.Stdout.WriteString("opening\n")
		for i := 0; ; i++ {
			e, err := Open(filepath.Join(dir, fmt.Sprint(i)), options())
			if err != nil {
				panic(err)
			}
			e.Close()
		}
	}
	for round := range 20 {
		dir := t.TempDir()
		cmd := exec.Command(os.Args[0], "-test.run=^TestAFirstStart")
		cmd.Env = append(os.Environ(), opener+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		out.Read(make([]byte, 1))
		time.Sleep(time.Duration(round*round) * time.Millisecond / 10)
		cmd.Process.Kill()
		cmd.Wait()
		begun, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range begun {
			e, err := Open(d, options())
			if err != nil {
				t.Errorf("killed in round %d: %v", round, err)
				continue
			}
			e.Close()
		}
	}
}

const learners = 8

func learner(dir string) {
	e, err := Open(dir, options())
	if err != nil {
		panic(err)
	}
	for i := range learners {
		go func() {
			for {
				if learn(e, fmt.Sprintf("192.0.2.%d", i), 0, 1.0/reputation.Unit) == nil {
					os.Stdout.WriteString("+")
				}
			}
		}()
	}
	select {}
}

func BenchmarkRecall(b *testing.B) {
	e, err := Open(b.TempDir(), options())
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	learn(e, "192.0.2.7", 1, 0)
	addr, k := netip.MustParseAddr("192.0.2.7"), keys("192.0.2.7")
	b.ReportAllocs()
	for b.Loop() {
		if e.Recall(addr, k, e.now()).Host.Newest == 0 {
			b.Fatal("forgotten")
		}
	}
}

// TestAStoreThatHoldsTheFutureHeals opens a file that was written while times of others were
// believed: a bad host had ham dated 2062.
func TestAStoreThatHoldsTheFutureHeals(t *testing.T) {
	dir := t.TempDir()
	e := open(t, dir)
	k, addr := keys("192.0.2.7"), netip.MustParseAddr("192.0.2.7")
	k.ASN = 64500
	cut := func(a netip.Addr) policy.Keys {
		k := cut(a)
		k.ASN = 64500
		return k
	}
	future := noon.AddDate(36, 0, 0)
	e.now = func() time.Time { return future }
	if err := <-e.Learn(k, policy.Lesson{At: future, Ham: 1}); err != nil {
		t.Fatal(err)
	}
	e.Close()

	e = open(t, dir)
	newest := func() (n uint32) {
		e.Each(func(r policy.Record) error { n = max(n, r.Evidence.Newest); return nil })
		return n
	}
	if newest() != reputation.Slice(future) {
		t.Fatal("there is nothing to heal")
	}
	known := e.Recall(addr, k, e.now())
	for _, v := range []reputation.Evidence{known.Host, known.Network, known.AS} {
		if v.Newest > reputation.Slice(noon)+1 || v.Total().Ham != 1 {
			t.Errorf("recalled as %+v", v)
		}
	}
	// What comes in now counts, in the host, its network and its system.
	for range 3 {
		if err := <-e.Learn(k, policy.Lesson{At: noon, Spam: 1}); err != nil {
			t.Fatal(err)
		}
	}
	const contribution = reputation.ContributionCap * reputation.Unit
	hour := reputation.Slice(noon) % reputation.Slices
	if known := e.Recall(addr, k, e.now()); known.Host.Total().Spam != 3 || known.Network.Recent[hour].Spam != contribution || known.AS.Recent[hour].Spam != contribution {
		t.Errorf("frozen: %+v", known)
	}
	// What is forgotten leaves nothing in what is around it.
	if _, err := e.Forget(k.Host, cut); err != nil {
		t.Fatal(err)
	}
	if known := e.Recall(addr, k, e.now()); known.Network.Total().Spam != 0 || known.AS.Total().Spam != 0 {
		t.Errorf("forgotten, but %+v", known)
	}
	e.now = func() time.Time { return future }
	<-e.Learn(keys("198.51.100.1"), policy.Lesson{At: future, Ham: 1})
	e.now = clock
	e.Sweep()
	e.Close()
	e = open(t, dir)
	if newest() > reputation.Slice(noon)+1 {
		t.Error("the file still holds the future after a sweep")
	}
}

func TestEvidenceOfAnotherLayoutIsRefused(t *testing.T) {
	dir := t.TempDir()
	e := open(t, dir)
	learn(e, "2001:db8::7", 1, 0)
	e.Close()
	o := options()
	o.Layout.IPv6Host = 56
	before, _ := os.ReadFile(filepath.Join(dir, FileName))
	for name, err := range map[string]error{"opened": second(Open(dir, o)), "found sound": Verify(dir, o.Layout)} {
		if err == nil || !strings.Contains(err.Error(), "IPv6 /64 in /48") || !strings.Contains(err.Error(), "IPv6 /56 in /48") || !strings.Contains(err.Error(), "reputation.ipv4_network") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after, _ := os.ReadFile(filepath.Join(dir, FileName)); !bytes.Equal(before, after) {
		t.Error("the file was changed")
	}
	if err := Verify(dir, options().Layout); err != nil {
		t.Errorf("its own layout: %v", err)
	}
	// A file of an earlier version says nothing of its layout, and is taken for what is configured.
	e = open(t, dir)
	e.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Delete(keyLayout) })
	e.Close()
	e = open(t, dir)
	e.Close()
	if _, err := Open(dir, o); err == nil {
		t.Error("it did not get the layout that it was opened with")
	}
}

func second(_ *Embedded, err error) error { return err }

// TestLoadReportsACommitThatFailed lets the commit of a chunk fail, and the client try again.
func TestLoadReportsACommitThatFailed(t *testing.T) {
	dir := t.TempDir()
	e := open(t, dir)
	network := netip.MustParsePrefix("192.0.2.0/24")
	evidence, _ := reputation.Evidence{}.Add(noon, 3, 0)
	load := func() (bool, error) {
		return e.Load("dump", 1, []policy.Record{{Network: network, Evidence: evidence}}, func(n netip.Prefix) netip.Prefix { return n })
	}
	// bbolt refuses a transaction on a database that is open for reading only.
	path := filepath.Join(dir, FileName)
	e.committing.Lock()
	e.db.Close()
	readOnly, err := bolt.Open(path, 0o640, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	e.db = readOnly
	e.committing.Unlock()
	for try := range 3 {
		if fresh, err := load(); err == nil || fresh != (try == 0) {
			t.Fatalf("try %d: fresh %v, %v; want the commit's error", try+1, fresh, err)
		}
	}
	e.committing.Lock()
	e.db.Close()
	if e.db, err = bolt.Open(path, 0o640, nil); err != nil {
		t.Fatal(err)
	}
	e.committing.Unlock()
	if fresh, err := load(); fresh || err != nil {
		t.Errorf("when it can be committed: fresh %v, %v", fresh, err)
	}
	e.Close()
	e = open(t, dir)
	if got := e.get(key{network: network}); got != evidence {
		t.Errorf("on disk: %+v", got)
	}
	if fresh, err := load(); fresh || err != nil {
		t.Errorf("after reopening: fresh %v, %v", fresh, err)
	}
}

// TestASweepLeavesWhatWasSetAnew lifts what has ended, and nothing that was set since it was
// listed.
func TestASweepLeavesWhatWasSetAnew(t *testing.T) {
	e := open(t, t.TempDir())
	host := keys("192.0.2.7").Host
	ended := func(x policy.Exception) bool { return x.Ended(noon) }
	for _, c := range []struct {
		until time.Duration
		lifts bool
	}{{0, true}, {time.Hour, false}} {
		if err := e.SetException(policy.Exception{Network: host, Cause: policy.BrokenTLS, Until: noon.Add(c.until)}); err != nil {
			t.Fatal(err)
		}
		if lifted, err := lift(e, &e.exceptions, host, exceptionKey, ended); lifted != c.lifts || err != nil {
			t.Errorf("until %s: lifted %v, %v", c.until, lifted, err)
		}
	}
	if e.KeptExceptions().Size() != 1 {
		t.Errorf("%d exceptions", e.KeptExceptions().Size())
	}
}
