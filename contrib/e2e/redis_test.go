package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
	"github.com/ehlogate/ehlogate/contrib/e2e/redisd"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
	"github.com/ehlogate/ehlogate/policy/store"
)

// percentile is the value below which a share of durations lies.
func percentile(d []time.Duration, share float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	return d[min(int(share*float64(len(d))), len(d)-1)]
}

// dumped is what a daemon's store holds, by "ehlogate dump".
func dumped(t testing.TB, d *mx.Daemon) map[netip.Prefix]reputation.Evidence {
	t.Helper()
	file := filepath.Join(t.TempDir(), "dump")
	if out, status := d.Command("dump", file); status != 0 {
		t.Fatalf("dump: %d: %s", status, out)
	}
	b, err := os.ReadFile(file)
	must(t, err)
	got := map[netip.Prefix]reputation.Evidence{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		var line struct {
			Network  netip.Prefix
			Evidence []byte
		}
		must(t, json.Unmarshal(lines.Bytes(), &line))
		if line.Network.IsValid() {
			var e reputation.Evidence
			must(t, e.UnmarshalBinary(line.Evidence))
			got[line.Network] = e
		}
	}
	return got
}

// sumsEqualTheLogs waits until the store of daemons that share one holds what one node makes of all
// their event logs.
func sumsEqualTheLogs(t testing.TB, daemons ...*mx.Daemon) {
	t.Helper()
	inForce := policy.NewInForce(policy.New(policy.Default()), time.Now)
	alone := store.NewMemory(inForce.Tier, time.Now)
	judge := policy.NewJudge(inForce, alone)
	messages := 0
	for _, d := range daemons {
		events, err := d.Events()
		must(t, err)
		for _, e := range events {
			at, err := time.Parse(time.RFC3339Nano, e.Time)
			must(t, err)
			judge.Learn(&policy.Message{
				Time: at, Client: policy.Client{Addr: netip.MustParseAddr(e.Client.Addr)}, Mail: e.Event == "message", HamShare: e.HamShare,
				Verdict: policy.Verdict{Class: policy.Class(e.Verdict.Class), Weight: 1},
			})
			messages++
		}
	}
	check := func() error {
		for _, d := range daemons {
			if n, err := d.Metric("ehlogate_store_spooled"); err != nil || n > 0 {
				return fmt.Errorf("%v batches are on disk, %v", n, err)
			}
		}
		got := dumped(t, daemons[0])
		wrong, records := 0, 0
		var err error
		alone.Each(func(r policy.Record) error {
			records++
			if g := got[r.Network]; g.Recent != r.Evidence.Recent || g.Past != r.Evidence.Past {
				wrong++
				err = fmt.Errorf("%s: %v, the logs have %v", r.Network, g.Total(), r.Evidence.Total())
			}
			return nil
		})
		if wrong > 0 || len(got) != records {
			return fmt.Errorf("%d of %d records differ from %d messages in the logs, the store has %d: %w", wrong, records, messages, len(got), err)
		}
		return nil
	}
	var err error
	for range 40 {
		if err = check(); err == nil {
			t.Logf("the store holds the sums of the %d messages in the event logs", messages)
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
	t.Error(err)
}

// TestThreeExchangersShareACluster has three Postfix instances with a daemon each, and one Redis
// Cluster.
func TestThreeExchangersShareACluster(t *testing.T) {
	cluster, err := redisd.NewCluster(tempDir(t))
	t.Cleanup(cluster.Stop)
	must(t, err)
	url := "redis+cluster://" + strings.Join(cluster.Addrs(), ",")
	var xs []*exchanger
	for i := range 3 {
		x := prepareOn(t, url, fmt.Sprintf("[log]\nnode = 'mx%d'\n", i+1))
		x.apply()
		x.run()
		xs = append(xs, x)
	}

	t.Run("spam at mx1 makes mx2 and mx3 withhold within a second", func(t *testing.T) {
		for round := range 5 {
			spammer := fmt.Sprintf("198.51.100.%d", 10+round)
			if round > 0 {
				// Of a network that no spam has come from.
				spammer = fmt.Sprintf("198.51.%d.10", 100+round)
			}
			for _, x := range xs {
				if !x.offered(spammer) {
					t.Fatalf("a stranger is not offered STARTTLS")
				}
			}
			xs[0].sendUntilWithheld(spammer)
			start := time.Now()
			for i, x := range xs[1:] {
				for x.offered(spammer) {
					// It is milliseconds, but for a busy machine. Each node reads all anew every
					// ten seconds.
					if time.Since(start) > 5*time.Second {
						t.Fatalf("mx%d still offers STARTTLS", i+2)
					}
				}
			}
			t.Logf("mx2 and mx3 withhold after %v, with an SMTP session each", time.Since(start))
		}
	})

	t.Run("a master is killed under traffic", func(t *testing.T) { masterKilled(t, cluster, xs) })
}

func masterKilled(t *testing.T, cluster *redisd.Cluster, xs []*exchanger) {
	var all sync.WaitGroup
	stop := make(chan struct{})
	stopped := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	for i, x := range xs {
		for j := range 2 {
			all.Go(func() {
				for n := j; !stopped(); n += 2 {
					subject := "hello"
					if n%3 == 0 {
						subject = "spam"
					}
					if _, err := x.trySend(fmt.Sprintf("203.0.%d.%d", n%50, i*3+n%4), subject); err != nil {
						t.Errorf("mx%d: a session was refused: %v", i+1, err)
						return
					}
				}
			})
		}
	}
	type lookup struct {
		at   time.Time
		took time.Duration
	}
	lookups := make([][]lookup, len(xs))
	for i, x := range xs {
		table, err := mx.NewTable(x.daemon)
		must(t, err)
		defer table.Close()
		all.Go(func() {
			for n := 0; !stopped(); n++ {
				_, took, err := table.Lookup(fmt.Sprintf("203.%d.%d.%d", n%7, n%200, n%250))
				if err != nil {
					t.Errorf("mx%d: a lookup: %v", i+1, err)
					return
				}
				lookups[i] = append(lookups[i], lookup{time.Now(), took})
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	time.Sleep(3 * time.Second)
	master, err := cluster.Master("ehlogate:{news}")
	must(t, err)
	killed := time.Now()
	master.Kill()
	// It is over when all daemons say so.
	over := killed
	for time.Since(killed) < 20*time.Second {
		time.Sleep(100 * time.Millisecond)
		up := 0.0
		for _, x := range xs {
			v, err := x.daemon.Metric("ehlogate_store_up")
			must(t, err)
			up += v
		}
		if up < float64(len(xs)) {
			over = time.Now()
		} else if time.Since(over) > 2*time.Second {
			break
		}
	}
	time.Sleep(2 * time.Second)
	close(stop)
	all.Wait()
	var within, without []time.Duration
	for _, ls := range lookups {
		for _, l := range ls {
			if l.at.After(killed) && l.at.Before(over.Add(time.Second)) {
				within = append(within, l.took)
			} else {
				without = append(without, l.took)
			}
		}
	}
	t.Logf("fail-over seen for %v; lookups apart from it: %d, p50 %v, p99 %v; within it: %d, p50 %v, p99 %v, most %v", over.Sub(killed),
		len(without), percentile(without, .5), percentile(without, .99), len(within), percentile(within, .5), percentile(within, .99), percentile(within, 1))
	if p := percentile(without, .99); p > 50*time.Millisecond || len(without) < 500 {
		t.Errorf("lookups took %v at the 99th percentile of %d", p, len(without))
	}
	var daemons []*mx.Daemon
	for _, x := range xs {
		daemons = append(daemons, x.daemon)
	}
	sumsEqualTheLogs(t, daemons...)
}

// redisWithFile starts a Redis that keeps every write.
func redisWithFile(t testing.TB) *redisd.Server {
	t.Helper()
	s, err := redisd.New(tempDir(t), "--appendonly", "yes", "--appendfsync", "everysec")
	must(t, err)
	must(t, s.Start())
	t.Cleanup(s.Stop)
	return s
}

// daemonOn starts a daemon on a Redis, without an MTA.
func daemonOn(t testing.TB, binary, url string) *mx.Daemon {
	t.Helper()
	d, err := mx.NewDaemon(binary, tempDir(t), url, "")
	must(t, err)
	must(t, d.Start())
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Errorf("the daemon did not end well: %v\n%s", err, d.Log())
		}
		if t.Failed() {
			t.Logf("daemon:\n%s", d.Log())
		}
	})
	return d
}

// sender is who sends the n-th message of a stream, and whether it is spam.
func sender(n int) (netip.Addr, bool) {
	return netip.AddrFrom4([4]byte{198, 18, byte(n % 200), byte(n % 7)}), n%3 != 0
}

// TestRedisIsStoppedForAMinute sends 500 messages a second to a daemon whose Redis is stopped for a
// minute.
func TestRedisIsStoppedForAMinute(t *testing.T) {
	const perSecond = 500
	redis := redisWithFile(t)
	d := daemonOn(t, plain, "redis://"+redis.Addr())
	mta := mx.NewMTA(d)
	var mu sync.Mutex
	var all sync.WaitGroup
	n := 0
	phase := func(name string, last time.Duration) []time.Duration {
		var eom []time.Duration
		var failed error
		tick := time.NewTicker(time.Second / perSecond)
		defer tick.Stop()
		start := time.Now()
		for ; time.Since(start) < last; n++ {
			<-tick.C
			client, spam := sender(n)
			all.Go(func() {
				took, err := mta.Message(client, spam)
				mu.Lock()
				defer mu.Unlock()
				if eom = append(eom, took); err != nil {
					failed = err
				}
			})
		}
		all.Wait()
		must(t, failed)
		took := time.Since(start)
		t.Logf("%s: %d messages, %.0f a second; end of message p50 %v, p99 %v, most %v", name, len(eom), float64(len(eom))/took.Seconds(),
			percentile(eom, .5), percentile(eom, .99), percentile(eom, 1))
		return eom
	}
	before := phase("before", 10*time.Second)
	redis.Stop()
	during := phase("during", time.Minute)
	must(t, redis.Start())
	after := phase("after", 10*time.Second)
	for name, eom := range map[string][]time.Duration{"before": before, "during": during, "after": after} {
		if p := percentile(eom, .99); p > 150*time.Millisecond {
			t.Errorf("%s: the end of a message took %v at the 99th percentile", name, p)
		}
	}
	sumsEqualTheLogs(t, d)
	if v, err := d.Metric("ehlogate_observations_late_total"); err != nil || v > float64(n)/1000 {
		t.Errorf("%v observations were not durable when their message was answered, %v", v, err)
	}
}

// TestKilledWhileItReplays kills a daemon with SIGKILL again and again while it brings its spool to
// Redis.
func TestKilledWhileItReplays(t *testing.T) {
	redis := redisWithFile(t)
	slow := slowly(t, redis.Addr(), 100*time.Millisecond)
	d := daemonOn(t, binary, "redis://"+slow)
	mta := mx.NewMTA(d)
	redis.Stop()
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := i; n < 2400; n += 8 {
				if _, err := mta.Message(sender(n)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	waiting, err := d.Metric("ehlogate_store_spooled")
	must(t, err)
	must(t, redis.Start())
	kills := 0
	for kills < 5 {
		var replayed, left float64
		for replayed == 0 {
			replayed, err = d.Metric("ehlogate_store_replayed_total")
			must(t, err)
			left, err = d.Metric("ehlogate_store_spooled")
			must(t, err)
			if left == 0 {
				break
			}
		}
		if left == 0 {
			break
		}
		d.Kill()
		kills++
		began := time.Now()
		must(t, d.Start())
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it served after %v, with a Redis that takes 100 ms for an answer", took)
		}
	}
	if kills < 2 || waiting < 100 {
		t.Errorf("killed %d times while it replayed %v batches, want at least 2", kills, waiting)
	}
	t.Logf("killed %d times while it replayed %v batches", kills, waiting)
	sumsEqualTheLogs(t, d)
}

// slowly is a way to a server on which every answer takes its time.
func slowly(t testing.TB, server string, wait time.Duration) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	relay := func(to, from net.Conn, wait time.Duration) {
		defer to.Close()
		b := make([]byte, 16<<10)
		for {
			n, err := from.Read(b)
			if err != nil {
				return
			}
			time.Sleep(wait)
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
	}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer client.Close()
				s, err := net.Dial("tcp", server)
				if err != nil {
					return
				}
				go relay(s, client, 0)
				relay(client, s, wait)
			}()
		}
	}()
	return l.Addr().String()
}

// TestReputationMovesBetweenStores takes what an embedded store knows to Redis and back to another
// embedded one. Loading is killed halfway.
func TestReputationMovesBetweenStores(t *testing.T) {
	t.Parallel()
	source, err := mx.NewDaemon(binary, tempDir(t), "", "")
	must(t, err)
	fillEmbedded(t, filepath.Join(source.Dir, "data"), 20_000)
	must(t, source.Start())
	t.Cleanup(func() { source.Stop() })
	if out, status := source.Command("deny", "192.0.2.0/24", "--note", "moved"); status != 0 {
		t.Fatal(out)
	}
	want := dumped(t, source)
	file := filepath.Join(tempDir(t), "dump")
	if out, status := source.Command("dump", file); status != 0 || !strings.Contains(out, fmt.Sprintf("dumped %d records, 1 override", len(want))) {
		t.Fatalf("%d: %s", status, out)
	}
	if out, status := source.Command("dump", file); status != 2 || !strings.Contains(out, "exists") {
		t.Errorf("over a file that is there: %d: %s", status, out)
	}
	if out, status := source.Command("load", file); status != 0 || !strings.Contains(out, "is a dump of this very store") {
		t.Errorf("loaded where it came from: %d: %s", status, out)
	}
	same(t, "the store that it was dumped from and loaded into", want, dumped(t, source))
	for _, args := range [][]string{{"forget", "0.0.0.0/0", "--yes"}, {"load", file}} {
		if out, status := source.Command(args...); status != 0 {
			t.Fatalf("%v: %d: %s", args, status, out)
		}
	}
	same(t, "the store after all was forgotten and its dump loaded", want, dumped(t, source))

	redis := redisWithFile(t)
	d := daemonOn(t, binary, "redis://"+redis.Addr())
	cut := file + ".cut"
	whole, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(cut, whole[:len(whole)/2], 0o600))
	if out, status := d.Command("load", cut); status != 1 || !strings.Contains(out, cut+": is cut short") {
		t.Errorf("a dump that is cut short: %d: %s", status, out)
	}
	size := func() int64 {
		n, err := redis.Do("DBSIZE")
		must(t, err)
		return n.(int64)
	}
	if n := size(); n > 10 {
		t.Errorf("%d keys of a dump that is cut short", n)
	}
	load := exec.Command(d.Binary, "load", "--config", d.Config(), file)
	load.Env = append(load.Environ(), "STATE_DIRECTORY="+filepath.Join(d.Dir, "data"))
	must(t, load.Start())
	for size() < 100 {
		time.Sleep(time.Millisecond)
	}
	load.Process.Kill()
	load.Wait()
	if got := dumped(t, d); len(got) == 0 || len(got) >= len(want) {
		t.Errorf("killed with %d of %d records loaded", len(got), len(want))
	}
	for _, again := range []string{"of them before", fmt.Sprintf("%d of them before", len(want)+1)} {
		if out, status := d.Command("load", file); status != 0 || !strings.Contains(out, again) {
			t.Errorf("loaded again: %d: %s", status, out)
		}
	}
	same(t, "Redis", want, dumped(t, d))
	if out, _ := d.Command("overrides"); !strings.Contains(out, "deny 192.0.2.0/24") || !strings.Contains(out, "moved") {
		t.Errorf("overrides: %s", out)
	}

	back := filepath.Join(tempDir(t), "back")
	if out, status := d.Command("dump", back); status != 0 {
		t.Fatalf("%d: %s", status, out)
	}
	if out, status := d.Command("load", back); status != 0 || !strings.Contains(out, "is a dump of this very store") {
		t.Errorf("loaded where it came from: %d: %s", status, out)
	}
	same(t, "Redis, dumped and loaded again", want, dumped(t, d))
	for _, args := range [][]string{{"forget", "0.0.0.0/0", "--yes"}, {"load", back}} {
		if out, status := d.Command(args...); status != 0 {
			t.Fatalf("%v: %d: %s", args, status, out)
		}
	}
	same(t, "Redis after all was forgotten and its dump loaded", want, dumped(t, d))
	last := daemonOn(t, binary, "")
	if out, status := last.Command("load", back); status != 0 {
		t.Fatalf("%d: %s", status, out)
	}
	same(t, "the other embedded store", want, dumped(t, last))
	must(t, last.Stop())
	must(t, last.Start())
	same(t, "the other embedded store, started again", want, dumped(t, last))
}

func same(t testing.TB, name string, want, got map[netip.Prefix]reputation.Evidence) {
	t.Helper()
	if maps.Equal(want, got) {
		return
	}
	wrong := 0
	for n, e := range want {
		if got[n] != e {
			wrong++
		}
	}
	t.Errorf("%s has %d records, want %d; %d of them differ", name, len(got), len(want), wrong)
}

// fillEmbedded lets an embedded store learn a message from each of many hosts.
func fillEmbedded(t testing.TB, dir string, hosts int) {
	t.Helper()
	now := time.Now()
	inForce := policy.NewInForce(policy.New(policy.Default()), func() time.Time { return now })
	s, err := store.Open(dir, store.Options{Layout: policy.Default().Layout, Tier: inForce.Tier, Now: time.Now})
	must(t, err)
	judge := policy.NewJudge(inForce, s)
	var last <-chan error
	for i := range hosts {
		last = judge.Learn(&policy.Message{Time: now.Add(-time.Duration(i%100) * time.Hour), Mail: true, Client: policy.Client{Addr: netip.AddrFrom4([4]byte{198, byte(i >> 13), byte(i >> 5), byte(i % 32)})}, Verdict: policy.Verdict{Class: []policy.Class{policy.Spam, policy.Ham}[i%2], Weight: 1}})
	}
	must(t, <-last)
	must(t, s.Close())
}

// TestTheSamplesWork starts Redis with the samples of contrib/redis, and has the daemon's own check
// look at it.
func TestTheSamplesWork(t *testing.T) {
	dir := tempDir(t)
	for _, name := range []string{"redis.conf", "users.acl"} {
		b, err := os.ReadFile(filepath.Join("..", "redis", name))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, name), bytes.ReplaceAll(b, []byte("/etc/redis/"), []byte(dir+"/")), 0o644))
	}
	must(t, os.WriteFile(filepath.Join(dir, "password"), []byte("change-me\n"), 0o600))
	redis, err := redisd.New(dir)
	must(t, err)
	redis.Config = filepath.Join(dir, "redis.conf")
	must(t, redis.Start())
	t.Cleanup(redis.Stop)
	d := daemonOn(t, binary, "redis://"+redis.Addr()+"?user=ehlogate&password_file="+filepath.Join(dir, "password"))
	out, _ := d.Command("check")
	for _, want := range []string{
		"ok    redis://" + redis.Addr() + " serves, and holds reputation of this version or none",
		"ok    Redis is version 7", "with a limit on memory and its data kept",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("check does not say %q:\n%s", want, out)
		}
	}
	if strings.Contains(out+d.Log(), "change-me") {
		t.Error("a password is shown")
	}
	bare := daemonOn(t, binary, "redis://"+redisWithFile(t).Addr())
	if out, status := bare.Command("check"); status != 1 || !strings.Contains(out, "maxmemory-policy volatile-ttl") {
		t.Errorf("a Redis without a limit: %d\n%s", status, out)
	}
	for _, name := range []string{"cluster.conf", "sentinel.conf"} {
		sampleStarts(t, name)
	}
}

// sampleStarts starts a server with a sample that builds upon redis.conf.
func sampleStarts(t *testing.T, name string) {
	t.Helper()
	dir := tempDir(t)
	for _, n := range []string{"redis.conf", "users.acl", name} {
		b, err := os.ReadFile(filepath.Join("..", "redis", n))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, n), bytes.ReplaceAll(b, []byte("/etc/redis/"), []byte(dir+"/")), 0o644))
	}
	s, err := redisd.New(dir)
	must(t, err)
	s.Config, s.Sentinel = filepath.Join(dir, name), name == "sentinel.conf"
	must(t, s.Start())
	s.Stop()
}
