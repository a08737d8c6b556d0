package redis

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/ehlogate/ehlogate/contrib/e2e/pace"
	"github.com/ehlogate/ehlogate/contrib/e2e/redisd"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
	"github.com/ehlogate/ehlogate/policy/store"
)

// traffic is one node that learns and looks up while something happens to Redis, and what it should
// have left.
type traffic struct {
	*testing.T
	store *Store
	judge *policy.Judge
	// alone is a judge that learns the same and keeps it in memory.
	alone *store.Memory
	log   *logBuffer

	// every is the time between lessons; all are of one hour.
	every time.Duration
	at    time.Time

	mu       sync.Mutex
	lookups  []time.Duration
	learning []time.Duration
	lessons  int
	// lag is how far the machine lagged behind.
	lag time.Duration
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func openStore(t *testing.T, url, spool string, log *logBuffer) *Store {
	t.Helper()
	LogLibrary(slog.New(slog.DiscardHandler))
	target, err := ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(Options{
		Target: target, SpoolDir: spool, SpoolLimit: 64 << 20, Layout: policy.Default().Layout,
		Tier: byDefault.Tier, Now: time.Now, Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newTraffic(t *testing.T, url string) *traffic {
	x := &traffic{T: t, log: &logBuffer{}, alone: store.NewMemory(byDefault.Tier, time.Now), every: 3 * time.Millisecond, at: time.Now().Truncate(time.Hour)}
	x.open(url, t.TempDir())
	return x
}

func (x *traffic) open(url, spool string) {
	x.store = openStore(x.T, url, spool, x.log)
	x.judge = policy.NewJudge(policy.NewInForce(policy.New(policy.Default()), func() time.Time { return x.at }), x.store)
}

// client is the client of a lesson: some hosts of a hundred networks, spread over all buckets.
func client(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{198, 18, byte(i * 7 % 100), byte(i * 13 % 5)})
}

// run sends lessons and lookups until stop is closed.
func (x *traffic) run(stop <-chan struct{}) {
	var all sync.WaitGroup
	alone := policy.NewJudge(policy.NewInForce(policy.New(policy.Default()), func() time.Time { return x.at }), x.alone)
	tick := time.NewTicker(x.every)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-stop:
			all.Wait()
			return
		case <-tick.C:
		}
		m := &policy.Message{Time: x.at, Client: policy.Client{Addr: client(i)}, Mail: true, Verdict: policy.Verdict{Class: policy.Spam, Weight: 1}}
		if i%3 == 0 {
			m.Verdict.Class = policy.Ham
		}
		alone.Learn(m)
		x.lessons++
		all.Go(func() {
			start := time.Now()
			x.judge.Decide(m.Client.Addr)
			looked := time.Since(start)
			start = time.Now()
			if err := <-x.judge.Learn(m); err != nil {
				x.Errorf("a lesson: %v", err)
			}
			x.mu.Lock()
			defer x.mu.Unlock()
			x.lookups, x.learning = append(x.lookups, looked), append(x.learning, time.Since(start))
		})
	}
}

// percentile is the value below which a share of durations lies.
func percentile(d []time.Duration, share float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	return d[min(int(share*float64(len(d))), len(d)-1)]
}

// settle waits until all that was learnt is in Redis, and holds the sums there against those of one
// node.
func (x *traffic) settle() {
	x.Helper()
	var err error
	for range 400 {
		if err = x.compare(); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	x.Errorf("%v\nspooled %d, dropped %d, lost %d, refused %d\n%s", err, x.store.Stats.Spooled.Load(), x.store.Stats.Dropped.Load(), x.store.Stats.Lost.Load(), x.store.Stats.Refused.Load(), x.log)
}

func (x *traffic) compare() error {
	if n := x.store.Stats.Spooled.Load(); n > 0 {
		return fmt.Errorf("%d batches are still on disk", n)
	}
	got := map[netip.Prefix]reputation.Evidence{}
	if err := x.store.Each(func(r policy.Record) error { got[r.Network] = r.Evidence; return nil }); err != nil {
		return err
	}
	var err error
	wrong, records := 0, 0
	x.alone.Each(func(r policy.Record) error {
		records++
		if g, e := got[r.Network], r.Evidence; g.Recent != e.Recent || g.Past != e.Past {
			wrong++
			err = fmt.Errorf("%s: %v, one node alone has %v", r.Network, g.Total(), e.Total())
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%d of %d records differ, such as %w", wrong, records, err)
	}
	return nil
}

// during runs traffic, lets something happen, and runs on.
func (x *traffic) during(before time.Duration, happens func(), after time.Duration) {
	lag := pace.Start()
	defer func() { lag.Stop(); x.lag = max(x.lag, lag.Most()) }()
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { x.run(stop) })
	// Also when the test ends in between.
	defer running.Wait()
	defer close(stop)
	time.Sleep(before)
	happens()
	time.Sleep(after)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// doAs is do with a password.
func doAs(t testing.TB, s *redisd.Server, password string, args ...any) {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: s.Addr(), Password: password})
	defer c.Close()
	must(t, c.Do(context.Background(), args...).Err())
}

// TestWhateverALogInIsAnsweredWith has each connection answered with an error from its first
// command on, as a server, or a proxy before one, does: it is as if Redis were away.
func TestWhateverALogInIsAnsweredWith(t *testing.T) {
	for _, says := range []string{
		"LOADING Redis is loading the dataset in memory", "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
		"BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", "WRONGPASS invalid username-password pair or user is disabled.",
		"ERR max number of clients reached", "ERR",
	} {
		word, _, _ := strings.Cut(says, " ")
		t.Run(says, func(t *testing.T) {
			server := startRedis(t, "--user", "ehlogate", "on", ">right", "~*", "&*", "+@all")
			p := newProxy(t, server.Addr())
			x := newTraffic(t, "redis://ehlogate:right@"+p.addr)
			defer func() { x.store.Close() }()
			x.during(300*time.Millisecond, func() {
				p.say(says)
				time.Sleep(time.Second)
				p.say("")
			}, 500*time.Millisecond)
			x.settle()
			x.report(word)
			if n := x.store.faults.Count.Load(); n > 0 {
				t.Errorf("%d faults of ours:\n%s", n, x.log)
			}
		})
	}
}

func do(t testing.TB, s *redisd.Server, args ...any) {
	t.Helper()
	_, err := s.Do(args...)
	must(t, err)
}

// TestFaults lets everything happen to a Redis that happens to one, under traffic. Whatever it is,
// every lesson is acknowledged, lookups are answered, the operator is told, and afterwards Redis
// holds the sums of one node that learnt it all.
func TestFaults(t *testing.T) {
	type rig struct {
		*traffic
		server *redisd.Server
	}
	for _, c := range []struct {
		name string
		args []string
		// happens, for some seconds.
		happens func(*rig)
		// says is what the operator finds in the log.
		says string
	}{
		{"it is killed and started again with its append-only file", []string{"--appendonly", "yes", "--appendfsync", "always"}, func(r *rig) {
			r.server.Kill()
			time.Sleep(time.Second)
			must(r, r.server.Start())
		}, "Redis does not answer"},
		{"it is killed and started again empty", nil, func(r *rig) {
			r.server.Kill()
			time.Sleep(time.Second)
			must(r, r.server.Start())
		}, "Redis lacks evidence that it had taken"},
		{"it hangs", nil, func(r *rig) {
			r.server.Pause()
			time.Sleep(2 * time.Second)
			r.server.Resume()
		}, "Redis does not serve"},
		{"it becomes a replica: READONLY", nil, func(r *rig) {
			do(r, r.server, "REPLICAOF", "127.0.0.1", "1")
			time.Sleep(time.Second)
			do(r, r.server, "REPLICAOF", "NO", "ONE")
		}, "READONLY"},
		{"its memory is full: OOM", nil, func(r *rig) {
			do(r, r.server, "CONFIG", "SET", "maxmemory", "1000")
			time.Sleep(time.Second)
			do(r, r.server, "CONFIG", "SET", "maxmemory", "0")
		}, "OOM"},
		{"it reads its file slowly: LOADING", []string{"--appendonly", "no", "--loading-process-events-interval-bytes", "1024", "--key-load-delay", "5000"}, func(r *rig) {
			// Keys of others, each so large that it sees to its clients after reading it.
			for i := range 400 {
				do(r, r.server, "SET", fmt.Sprint("other:", i), strings.Repeat("x", 2000))
			}
			do(r, r.server, "SAVE")
			r.server.Kill()
			must(r, r.server.Launch())
			time.Sleep(3 * time.Second)
		}, "LOADING"},
		{"its disk is full: MISCONF", []string{"--enable-protected-configs", "yes"}, func(r *rig) {
			do(r, r.server, "CONFIG", "SET", "save", "1 1")
			do(r, r.server, "CONFIG", "SET", "dir", "/proc")
			time.Sleep(2500 * time.Millisecond)
			do(r, r.server, "CONFIG", "SET", "save", "")
			do(r, r.server, "CONFIG", "SET", "stop-writes-on-bgsave-error", "no")
		}, "MISCONF"},
		{"it forgets the script: NOSCRIPT", nil, func(r *rig) {
			do(r, r.server, "SCRIPT", "FLUSH")
		}, ""},
		{"it takes the user's rights back", []string{"--user", "ehlogate", "on", ">right", "~*", "&*", "+@all"}, func(r *rig) {
			for range 20 {
				do(r, r.server, "ACL", "SETUSER", "ehlogate", "off")
				do(r, r.server, "CLIENT", "KILL", "USER", "ehlogate")
				time.Sleep(50 * time.Millisecond)
			}
			do(r, r.server, "ACL", "SETUSER", "ehlogate", "on")
		}, "WRONGPASS"},
		{"it is given a password while we run", nil, func(r *rig) {
			do(r, r.server, "CONFIG", "SET", "requirepass", "new")
			for range 20 {
				doAs(r, r.server, "new", "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
				time.Sleep(50 * time.Millisecond)
			}
			doAs(r, r.server, "new", "CONFIG", "SET", "requirepass", "")
		}, "Redis does not serve"},
		{"an administrator kills all connections", nil, func(r *rig) {
			for range 20 {
				do(r, r.server, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
				do(r, r.server, "CLIENT", "KILL", "TYPE", "pubsub")
				time.Sleep(50 * time.Millisecond)
			}
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := startRedis(t, c.args...)
			url := "redis://" + server.Addr()
			if slices.Contains(c.args, "--user") {
				url = "redis://ehlogate:right@" + server.Addr()
			}
			r := &rig{newTraffic(t, url), server}
			defer func() { r.store.Close() }()
			r.during(500*time.Millisecond, func() { c.happens(r) }, time.Second)
			r.settle()
			r.report(c.says)
		})
	}
}

// report holds a traffic to its promises on time, and to what the operator is told.
func (x *traffic) report(says string) {
	x.Helper()
	s := &x.store.Stats
	// A lookup waits for this process and for Redis, a lesson in addition for the disk.
	x.Logf("the machine lagged %v behind; %d lessons; lookups p50 %v, p99 %v, most %v; lessons p50 %v, p99 %v, most %v; replayed %d, failed %d",
		x.lag, x.lessons, percentile(x.lookups, .5), percentile(x.lookups, .99), percentile(x.lookups, 1),
		percentile(x.learning, .5), percentile(x.learning, .99), percentile(x.learning, 1), s.Replayed.Load(), s.Failed.Load())
	if p := percentile(x.lookups, .99); p > 50*time.Millisecond+2*x.lag {
		x.Errorf("lookups took %v at the 99th percentile", p)
	}
	if p := percentile(x.learning, .99); p > 150*time.Millisecond+3*x.lag {
		x.Errorf("lessons took %v at the 99th percentile", p)
	}
	if n := s.Dropped.Load() + s.Refused.Load() + s.Lost.Load(); n > 0 {
		x.Errorf("%d changes dropped, refused or lost", n)
	}
	if log := x.log.String(); says != "" && !strings.Contains(log, says) {
		x.Errorf("the log does not say %q:\n%s", says, log)
	}
}

// TestAReplicaThatLagsTakesOver stops a replica, lets its master learn on, kills the master, and
// has Sentinel promote the replica.
func TestAReplicaThatLagsTakesOver(t *testing.T) {
	s, err := redisd.NewSentinels(t.TempDir())
	t.Cleanup(s.Stop)
	must(t, err)
	x := newTraffic(t, "redis+sentinel://"+strings.Join(s.Addrs(), ",")+"/mymaster")
	defer func() { x.store.Close() }()
	master, replica := s.Servers[0], s.Servers[1]
	x.during(time.Second, func() {
		replica.Pause()
		// What is on its way to it would be read when it goes on.
		do(t, master, "CLIENT", "KILL", "TYPE", "replica")
		time.Sleep(400 * time.Millisecond)
		master.Kill()
		replica.Resume()
		must(t, redisd.Until(func() error {
			role, err := replica.Do("ROLE")
			if r, ok := role.([]any); err != nil || !ok || r[0] != "master" {
				return fmt.Errorf("role %v, %v", role, err)
			}
			return nil
		}))
	}, time.Second)
	x.settle()
	x.report("Redis lacks evidence that it had taken")
}

func newCluster(t *testing.T) (*redisd.Cluster, string) {
	t.Helper()
	c, err := redisd.NewCluster(t.TempDir())
	t.Cleanup(c.Stop)
	must(t, err)
	return c, "redis+cluster://" + strings.Join(c.Addrs(), ",")
}

// TestAMasterOfAClusterIsKilled kills one of three masters under traffic. The others' networks go
// on meanwhile.
func TestAMasterOfAClusterIsKilled(t *testing.T) {
	c, url := newCluster(t)
	x := newTraffic(t, url)
	defer func() { x.store.Close() }()
	x.during(time.Second, func() {
		m, err := c.Master(schemaKey)
		must(t, err)
		m.Kill()
		time.Sleep(4 * time.Second)
	}, 2*time.Second)
	x.settle()
	x.report("Redis does not answer")
}

// TestAClusterIsResharded moves a third of the slots from one master to another under traffic:
// MOVED, ASK and TRYAGAIN.
func TestAClusterIsResharded(t *testing.T) {
	c, url := newCluster(t)
	// Check looks at each master.
	if found := inspect(t, url); len(found) < 4 || !found[0].OK {
		t.Errorf("found %+v", found)
	}
	x := newTraffic(t, url)
	defer func() { x.store.Close() }()
	x.during(time.Second, func() {
		id := func(key string) string {
			m, err := c.Master(key)
			must(t, err)
			v, err := m.Do("CLUSTER", "MYID")
			must(t, err)
			return fmt.Sprint(v)
		}
		from, to := id(invalidationChannel), ""
		for i := 0; to == "" || to == from; i++ {
			to = id(fmt.Sprint("key", i))
		}
		out, err := redisd.CLI("--cluster", "reshard", c.Addrs()[0], "--cluster-from", from, "--cluster-to", to, "--cluster-slots", "5400", "--cluster-yes")
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}, time.Second)
	x.settle()
	x.report("")
}

// TestADamagedSpoolIsReadOnce: after the first batch that cannot be read, none of the others is
// waited for, and the next write begins the file anew.
func TestADamagedSpoolIsReadOnce(t *testing.T) {
	s, _, err := openSpool(filepath.Join(t.TempDir(), "spool"), 1<<20, time.Now, func(*batch) {})
	must(t, err)
	keys, err := s.put([]*batch{{Sender: "a", Number: 1}, {Sender: "a", Number: 2}})
	must(t, err)
	must(t, os.Truncate(s.path, 0))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, k := range append(keys, keys...) {
			if _, err := s.get(k); err == nil {
				t.Error("it is read from nothing")
			}
		}
		if _, err := s.put([]*batch{{Sender: "a", Number: 3}}); err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("it is waited for")
	}
	must(t, s.close())
}

// TestASpoolThatIsGoneIsBegunAnew: it is said that what waited there is lost, and whoever holds its
// keys finds no other batch by them.
func TestASpoolThatIsGoneIsBegunAnew(t *testing.T) {
	s, _, err := openSpool(filepath.Join(t.TempDir(), "spool"), 1<<20, time.Now, func(*batch) {})
	must(t, err)
	said := 0
	s.renewed = func(aside string) {
		if said++; aside != "" {
			t.Errorf("it was moved to %s", aside)
		}
	}
	old, err := s.put([]*batch{{Sender: "a", Number: 1}, {Sender: "a", Number: 2}})
	must(t, err)
	must(t, os.Remove(s.path))
	fresh, err := s.put([]*batch{{Sender: "a", Number: 3}})
	must(t, err)
	if said != 1 || fresh[0] <= old[1] {
		t.Errorf("said %d times; keys %v, after %v", said, fresh, old)
	}
	for _, k := range old {
		if b, err := s.get(k); err == nil {
			t.Errorf("key %d of the old file has batch %d", k, b.Number)
		}
	}
	if b, err := s.get(fresh[0]); err != nil || b.Number != 3 {
		t.Errorf("%+v, %v", b, err)
	}
	must(t, s.close())
}
