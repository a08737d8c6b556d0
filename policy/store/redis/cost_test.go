package redis

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/ehlogate/ehlogate/contrib/e2e/redisd"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

// fill learns a message from each of many clients, without waiting for one before the next.
func fill(t testing.TB, s *Store, n int, client func(int) netip.Addr, class policy.Class) {
	t.Helper()
	now := time.Now()
	j := policy.NewJudge(policy.NewInForce(policy.New(policy.Default()), func() time.Time { return now }), s)
	waiting := make(chan (<-chan error), 4096)
	var all sync.WaitGroup
	var failed atomic.Int64
	all.Go(func() {
		for c := range waiting {
			if <-c != nil {
				failed.Add(1)
			}
		}
	})
	for i := range n {
		waiting <- j.Learn(&policy.Message{Time: now, Client: policy.Client{Addr: client(i)}, Mail: true, Verdict: policy.Verdict{Class: class, Weight: 1}})
	}
	close(waiting)
	all.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d lessons failed", n)
	}
	// However slow the machine, the spool empties; it may not stand still.
	left, since := s.Stats.Spooled.Load(), time.Now()
	for left > 0 {
		time.Sleep(10 * time.Millisecond)
		if n := s.Stats.Spooled.Load(); n != left {
			left, since = n, time.Now()
		}
		if time.Since(since) > 30*time.Second {
			t.Fatalf("%d batches stay on disk", left)
		}
	}
}

// usedMemory is what Redis says of its memory, in bytes.
func usedMemory(t testing.TB, server *redisd.Server) int64 {
	t.Helper()
	c := server.Client()
	defer c.Close()
	for line := range strings.Lines(c.Info(context.Background(), "memory").Val()) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "used_memory:"); ok {
			n, err := strconv.ParseInt(v, 10, 64)
			must(t, err)
			return n
		}
	}
	t.Fatal("Redis does not tell its memory")
	return 0
}

// TestMemoryOfAnAddress holds what an address takes, beyond its record, to 20 bytes where there are
// 32 in a /24.
func TestMemoryOfAnAddress(t *testing.T) {
	const addresses, inNetwork = 64_000, 32
	server := startRedis(t)
	s := openStore(t, "redis://"+server.Addr(), t.TempDir(), &logBuffer{})
	defer s.Close()
	// The marks of all buckets are there before it is measured; they do not grow with the
	// addresses.
	fill(t, s, 4*buckets, func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}) }, policy.Spam)
	before := usedMemory(t, server)
	fill(t, s, addresses, func(i int) netip.Addr {
		network := i / inNetwork
		return netip.AddrFrom4([4]byte{20, byte(network >> 8), byte(network), byte(i % inNetwork * 7)})
	}, policy.Spam)
	time.Sleep(100 * time.Millisecond)
	each := float64(usedMemory(t, server)-before) / addresses
	t.Logf("%.1f bytes for each of %d addresses, %d in a /24: %.1f beyond the record", each, addresses, inNetwork, each-reputation.RecordSize)
	if each-reputation.RecordSize > 20 {
		t.Errorf("%.1f bytes beyond the record, want 20 at most", each-reputation.RecordSize)
	}
	key := redisKey("20.0.0.0/24")
	if encoding, err := server.Do("OBJECT", "ENCODING", key); encoding != "listpack" {
		t.Errorf("%s is kept as %v, %v", key, encoding, err)
	}
	ttl, err := server.Do("TTL", key)
	if seconds, ok := ttl.(int64); err != nil || !ok || seconds < 190*3600 || seconds > 194*3600 {
		t.Errorf("%s expires in %v s, %v; want some eight days", key, ttl, err)
	}
}

// TestAFloodIntoOneNetwork has thousands of hosts of one network send a message each, after one
// that is honest and one that is not.
func TestAFloodIntoOneNetwork(t *testing.T) {
	server := startRedis(t)
	s := openStore(t, "redis://"+server.Addr(), t.TempDir(), &logBuffer{})
	defer s.Close()
	host := func(i int) netip.Addr {
		return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 1, byte(i >> 8), byte(i), 15: 1})
	}
	fill(t, s, 1, host, policy.Ham)
	for round := range 10 {
		fill(t, s, 500, func(i int) netip.Addr { return host(round*500 + i + 1) }, policy.Spam)
	}
	// The same in one batch, as it comes out of the spool.
	large := &batch{Sender: "large", Bucket: bucketOf("2001:db8:1::/48"), Number: 1}
	for i := range 1900 {
		large.Changes = append(large.Changes, change{Op: learn, Key: "2001:db8:1::/48", Host: keysOf(host(10_000 + i)).Host, Slice: reputation.Slice(time.Now()), Count: reputation.Count{Spam: 8}})
	}
	must(t, s.writer.run(context.Background(), [][]*batch{{large}}, []bool{false}, make([][]*redis.Cmd, 1)))
	key := redisKey("2001:db8:1::/48")
	n, err := server.Do("HLEN", key)
	if hosts, ok := n.(int64); err != nil || !ok || hosts > hostsPerNetwork+1 || hosts < hostsPerNetwork/2 {
		t.Errorf("%v hosts, %v; want some, and %d at most", n, err, hostsPerNetwork)
	}
	if encoding, err := server.Do("OBJECT", "ENCODING", key); encoding != "listpack" {
		t.Errorf("kept as %v, %v", encoding, err)
	}
	s.cache.markAllStale()
	known := recall(s, host(0).String())
	if known.Host.Total().Ham != 1 {
		t.Errorf("the honest host was pushed out: %+v", known)
	}
	if got := known.Network.Total().Spam; got != 6900 {
		t.Errorf("the network has %v spam, want all 6900", got)
	}
}

// TestAFloodOfNetworksStaysWithinMemory fills a Redis that has a limit and the policy that
// contrib/redis/README.md asks for.
func TestAFloodOfNetworksStaysWithinMemory(t *testing.T) {
	const limit = 8 << 20
	server := startRedis(t, "--maxmemory", fmt.Sprint(limit), "--maxmemory-policy", "volatile-ttl")
	log := &logBuffer{}
	s := openStore(t, "redis://"+server.Addr(), t.TempDir(), log)
	defer s.Close()
	must(t, s.SetOverride(policy.Override{Network: netip.MustParsePrefix("192.0.2.0/24"), Allow: true}))
	fill(t, s, 70_000, func(i int) netip.Addr { return netip.AddrFrom4([4]byte{byte(30 + i>>16), byte(i >> 8), byte(i), 9}) }, policy.Spam)
	if used := usedMemory(t, server); used > limit+limit/8 {
		t.Errorf("%d bytes used, with a limit of %d", used, limit)
	}
	evicted := int64(0)
	c := server.Client()
	defer c.Close()
	for line := range strings.Lines(c.Info(context.Background(), "stats").Val()) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "evicted_keys:"); ok {
			evicted, _ = strconv.ParseInt(v, 10, 64)
		}
	}
	if evicted < 10_000 {
		t.Errorf("%d keys were evicted; was it no flood?", evicted)
	}
	if recall(s, "192.0.2.7").Override == nil || !s.Up() {
		t.Error("the operator's word is gone")
	}
	must(t, lesson(s, "198.51.100.7", policy.Spam))
	arrives(t, s, "198.51.100.0/24", 1)
	if lost := s.Stats.Lost.Load(); lost > 0 {
		t.Errorf("%d times evidence was missed that could not be sent again:\n%s", lost, log)
	}
}

// monitor collects the commands that clients send a server, scripts' own not among them.
func monitor(t *testing.T, server *redisd.Server) func() []string {
	c, err := net.Dial("tcp", server.Addr())
	must(t, err)
	t.Cleanup(func() { c.Close() })
	fmt.Fprintf(c, "MONITOR\r\n")
	in := bufio.NewScanner(c)
	in.Buffer(nil, 1<<20)
	in.Scan()
	var mu sync.Mutex
	var commands []string
	go func() {
		for in.Scan() {
			if line := in.Text(); !strings.Contains(line, " lua] ") {
				_, command, _ := strings.Cut(line, "] ")
				mu.Lock()
				commands = append(commands, command)
				mu.Unlock()
			}
		}
	}()
	return func() []string {
		time.Sleep(100 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		got := commands
		commands = nil
		return got
	}
}

// TestRoundTrips counts what a message and a lookup ask of Redis.
func TestRoundTrips(t *testing.T) {
	server := startRedis(t)
	s := openStore(t, "redis://"+server.Addr(), t.TempDir(), &logBuffer{})
	defer s.Close()
	seen := monitor(t, server)
	count := func(what string, want int, f func()) []string {
		t.Helper()
		seen()
		f()
		var got []string
		for _, c := range seen() {
			// What the node does by itself, now and then.
			if name, _, _ := strings.Cut(strings.ToLower(c), " "); name != `"ping"` && name != `"setnx"` && name != `"get"` && !strings.Contains(c, overridesKey) {
				got = append(got, c)
			}
		}
		t.Logf("%s: %d", what, len(got))
		if len(got) != want {
			t.Errorf("%s: %d commands, want %d: %q", what, len(got), want, got)
		}
		return got
	}
	known := func(addr string) {
		if k := recall(s, addr); k.Unavailable {
			t.Errorf("%s is unread", addr)
		}
	}
	must(t, lesson(s, "203.0.113.1", policy.Ham)) // The first one brings the script.
	count("a cold lookup", 1, func() { known("192.0.2.7") })
	count("a warm lookup", 0, func() { known("192.0.2.7") })
	count("fifty cold lookups of one client at once", 1, func() {
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() { known("192.0.2.8") })
		}
		all.Wait()
	})
	count("a client's first message, which makes it suspect: the batch, and the word to the others", 2, func() { must(t, lesson(s, "192.0.2.7", policy.Spam)) })
	count("its second message, which makes it bad: the same", 2, func() { must(t, lesson(s, "192.0.2.7", policy.Spam)) })
	count("its third message, which changes no tier", 1, func() { must(t, lesson(s, "192.0.2.7", policy.Spam)) })
	count("a lookup after that", 0, func() { known("192.0.2.7") })
	count("twenty messages of one moment to one network", 1, func() {
		now := time.Now()
		j := policy.NewJudge(policy.NewInForce(policy.New(policy.Default()), func() time.Time { return now }), s)
		var told []<-chan error
		for range 20 {
			told = append(told, j.Learn(&policy.Message{Time: now, Client: policy.Client{Addr: netip.MustParseAddr("192.0.2.7")}, Mail: true, Verdict: policy.Verdict{Class: policy.Spam, Weight: 1}}))
		}
		for _, c := range told {
			must(t, <-c)
		}
	})
}
