package redis

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/pace"
	"github.com/ehlogate/ehlogate/contrib/e2e/redisd"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

// lesson teaches a store one message and returns what came of it.
func lesson(s *Store, addr string, class policy.Class) error {
	now := time.Now()
	j := policy.NewJudge(policy.NewInForce(policy.New(policy.Default()), func() time.Time { return now }), s)
	return <-j.Learn(&policy.Message{Time: now, Client: policy.Client{Addr: netip.MustParseAddr(addr)}, Mail: true, Verdict: policy.Verdict{Class: class, Weight: 1}})
}

func recall(s *Store, addr string) policy.Known {
	a := netip.MustParseAddr(addr)
	return s.Recall(a, policy.New(policy.Default()).Keys(a), time.Now())
}

func says(t *testing.T, log *logBuffer, what string) {
	t.Helper()
	if err := redisd.Until(func() error {
		if !strings.Contains(log.String(), what) {
			return fmt.Errorf("the log does not say %q:\n%s", what, log)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// arrives waits until a network holds so much spam in Redis, and nothing waits on disk.
func arrives(t *testing.T, s *Store, network string, spam float64) {
	t.Helper()
	if err := redisd.Until(func() error {
		record, err := s.server.client.HGet(context.Background(), redisKey(network), "").Result()
		if err != nil {
			return err
		}
		e, err := parseRecord(record)
		if n := s.Stats.Spooled.Load(); err != nil || e.Total().Spam != spam || n != 0 {
			return fmt.Errorf("%v, %v, %d on disk, want %v spam", e.Total(), err, n, spam)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestAWrongPasswordIsSaidAndMended(t *testing.T) {
	server := startRedis(t)
	do(t, server, "ACL", "SETUSER", "ehlogate", "on", ">right", "~ehlogate:*", "&ehlogate:*", "+@all")
	file := filepath.Join(t.TempDir(), "password")
	must(t, os.WriteFile(file, []byte("wrong\n"), 0o600))
	log := &logBuffer{}
	s := openStore(t, "redis://ehlogate@"+server.Addr()+"?password_file="+file, t.TempDir(), log)
	defer s.Close()
	says(t, log, "WRONGPASS")
	if strings.Contains(log.String(), "wrong") && strings.Contains(log.String(), "password=") {
		t.Error("the log shows a password")
	}
	if err := lesson(s, "192.0.2.7", policy.Spam); err != nil {
		t.Errorf("a lesson meanwhile: %v", err)
	}
	if k := recall(s, "198.51.100.7"); !k.Unavailable {
		t.Errorf("a lookup meanwhile: %+v", k)
	}
	must(t, os.WriteFile(file, []byte("right\n"), 0o600))
	arrives(t, s, "192.0.2.0/24", 1)
}

func TestAnotherSchemaIsLeftAlone(t *testing.T) {
	server := startRedis(t)
	do(t, server, "SET", schemaKey, "ehlogate evidence 9; IPv4 /32 in /24")
	do(t, server, "HSET", redisKey("192.0.2.0/24"), "", "something of the future")
	log := &logBuffer{}
	s := openStore(t, "redis://"+server.Addr(), t.TempDir(), log)
	defer s.Close()
	says(t, log, "another version or layout")
	says(t, log, "ehlogate evidence 9")
	if err := lesson(s, "192.0.2.7", policy.Spam); err != nil {
		t.Errorf("a lesson meanwhile: %v", err)
	}
	if k := recall(s, "198.51.100.7"); !k.Unavailable || s.Up() {
		t.Errorf("a lookup meanwhile: %+v", k)
	}
	if err := s.SetOverride(policy.Override{Network: netip.MustParsePrefix("192.0.2.0/24")}); err == nil || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("an override meanwhile: %v", err)
	}
	time.Sleep(200 * time.Millisecond)
	client := server.Client()
	defer client.Close()
	if keys := client.Keys(context.Background(), "*").Val(); len(keys) != 2 {
		t.Errorf("something was written: %q", keys)
	}
	if v := client.HGet(context.Background(), redisKey("192.0.2.0/24"), "").Val(); v != "something of the future" {
		t.Errorf("the future was overwritten with %q", v)
	}
	// The operator empties it, and what waited comes in.
	do(t, server, "FLUSHALL")
	arrives(t, s, "192.0.2.0/24", 1)
}

func TestAKeyOfAnotherTypeSpoilsNothingElse(t *testing.T) {
	server := startRedis(t)
	do(t, server, "SET", redisKey("192.0.2.0/24"), "a string")
	do(t, server, "HSET", redisKey("192.0.3.0/24"), "\x07", "no record")
	log := &logBuffer{}
	s := openStore(t, "redis://"+server.Addr(), t.TempDir(), log)
	defer s.Close()
	for _, addr := range []string{"192.0.2.7", "192.0.3.7"} {
		if err := lesson(s, addr, policy.Spam); err == nil {
			t.Errorf("%s: the lesson is said to be kept", addr)
		}
		if k := recall(s, addr); !k.Unavailable || k.Host.Total().Spam != 1 {
			t.Errorf("%s: known is %+v, want what was learnt here", addr, k)
		}
	}
	says(t, log, "Redis holds something else where evidence should be")
	says(t, log, redisKey("192.0.2.0/24"))
	if k := recall(s, "192.0.2.9"); !k.Unavailable && k.Network == (reputation.Evidence{}) {
		t.Errorf("a neighbour: %+v", k)
	}
	if err := lesson(s, "192.0.4.7", policy.Spam); err != nil {
		t.Errorf("another network: %v", err)
	}
	arrives(t, s, "192.0.4.0/24", 1)
	if v, err := server.Do("GET", redisKey("192.0.2.0/24")); v != "a string" {
		t.Errorf("it was overwritten: %v, %v", v, err)
	}
	do(t, server, "DEL", redisKey("192.0.2.0/24"))
	if err := lesson(s, "192.0.2.7", policy.Spam); err != nil {
		t.Errorf("after it was removed: %v", err)
	}
}

// TestAnOldServerIsSaid takes sharded publish and subscribe from a server, which those before 7.0
// do not have.
func TestAnOldServerIsSaid(t *testing.T) {
	server := startRedis(t, "--rename-command", "SSUBSCRIBE", "", "--rename-command", "SPUBLISH", "")
	log := &logBuffer{}
	s := openStore(t, "redis://"+server.Addr(), t.TempDir(), log)
	defer s.Close()
	says(t, log, "changes of other nodes are not heard")
	if err := lesson(s, "192.0.2.7", policy.Spam); err != nil {
		t.Error(err)
	}
	arrives(t, s, "192.0.2.0/24", 1)
}

// TestASlotUnderWay holds a slot of a cluster between two masters, as a resharding that was broken
// off leaves it: ASK for what is not there, TRYAGAIN for a batch whose keys are in both places.
func TestASlotUnderWay(t *testing.T) {
	c, url := newCluster(t)
	log := &logBuffer{}
	s := openStore(t, url, t.TempDir(), log)
	defer s.Close()
	const network, addr = "192.0.2.0/24", "192.0.2.7"
	must(t, lesson(s, addr, policy.Spam))
	from, err := c.Master(redisKey(network))
	must(t, err)
	var to *redisd.Server
	for i := 0; to == nil || to == from; i++ {
		to, err = c.Master(fmt.Sprint("key", i))
		must(t, err)
	}
	id := func(s *redisd.Server) any { v, err := s.Do("CLUSTER", "MYID"); must(t, err); return v }
	slot, err := from.Do("CLUSTER", "KEYSLOT", redisKey(network))
	must(t, err)
	do(t, to, "CLUSTER", "SETSLOT", slot, "IMPORTING", id(from))
	do(t, from, "CLUSTER", "SETSLOT", slot, "MIGRATING", id(to))
	// The evidence goes, its mark stays.
	do(t, from, "MIGRATE", "127.0.0.1", to.Port, redisKey(network), 0, 1000)
	if err := lesson(s, "192.0.2.8", policy.Spam); err != nil {
		t.Errorf("a lesson meanwhile: %v", err)
	}
	says(t, log, "TRYAGAIN")
	s.cache.markAllStale()
	if k := recall(s, addr); k.Host.Total().Spam < 1 || k.Unavailable {
		t.Errorf("a lookup meanwhile: %+v", k)
	}
	keys, err := from.Do("CLUSTER", "GETKEYSINSLOT", slot, 100)
	must(t, err)
	for _, k := range keys.([]any) {
		do(t, from, "MIGRATE", "127.0.0.1", to.Port, k, 0, 1000)
	}
	for _, m := range []*redisd.Server{to, from} {
		do(t, m, "CLUSTER", "SETSLOT", slot, "NODE", id(to))
	}
	arrives(t, s, network, 2)
}

// TestALostReplyCountsOnce cuts the connection after Redis has had a batch and before its reply
// comes through.
func TestALostReplyCountsOnce(t *testing.T) {
	server := startRedis(t)
	proxy := newProxy(t, server.Addr())
	s := openStore(t, "redis://"+proxy.addr, t.TempDir(), &logBuffer{})
	defer s.Close()
	for i := range 20 {
		proxy.swallow(i%2 == 0)
		if err := lesson(s, fmt.Sprintf("192.0.2.%d", i), policy.Spam); err != nil {
			t.Error(err)
		}
	}
	proxy.swallow(false)
	arrives(t, s, "192.0.2.0/24", 20)
	if n := s.Stats.Failed.Load(); n == 0 {
		t.Error("no batch ever failed")
	}
}

// proxy stands between a client and a server. It can swallow a reply to a batch and cut the
// connection instead, and answer whoever connects with an error and nothing else.
type proxy struct {
	addr string
	mu   sync.Mutex
	cut  bool
	says string
	open map[net.Conn]struct{}
}

// say has each command answered with an error, from now on, on new connections only: the others are
// cut.
func (p *proxy) say(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.says = what
	for c := range p.open {
		c.Close()
	}
}

// refuse answers each command with an error. The client sends a log-in and then the rest, and each
// command is an array of RESP.
func (p *proxy) refuse(client net.Conn, says string) {
	in := bufio.NewReader(client)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		var parts int
		if _, err := fmt.Sscanf(line, "*%d", &parts); err != nil {
			return
		}
		for range parts {
			var length int
			if line, err = in.ReadString('\n'); err != nil {
				return
			}
			if _, err := fmt.Sscanf(line, "$%d", &length); err != nil {
				return
			}
			if _, err := in.Discard(length + 2); err != nil {
				return
			}
		}
		if _, err := io.WriteString(client, "-"+says+"\r\n"); err != nil {
			return
		}
	}
}

func newProxy(t *testing.T, server string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	p := &proxy{addr: l.Addr().String(), open: map[net.Conn]struct{}{}}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c, server)
		}
	}()
	return p
}

func (p *proxy) swallow(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = yes
}

func (p *proxy) serve(client net.Conn, addr string) {
	defer client.Close()
	p.mu.Lock()
	says := p.says
	p.open[client] = struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.open, client)
		p.mu.Unlock()
	}()
	if says != "" {
		p.refuse(client, says)
		return
	}
	server, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer server.Close()
	go func() { io.Copy(server, client); server.Close() }()
	b := make([]byte, 64<<10)
	for {
		n, err := server.Read(b)
		if err != nil {
			return
		}
		p.mu.Lock()
		// Once for each time it is asked to, and only what a batch is answered.
		cut := p.cut && strings.Contains(string(b[:n]), applied)
		if cut {
			p.cut = false
		}
		p.mu.Unlock()
		if cut {
			return
		}
		if _, err := client.Write(b[:n]); err != nil {
			return
		}
	}
}

func TestADamagedSpoolIsMovedAside(t *testing.T) {
	server := startRedis(t)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, SpoolName), []byte(strings.Repeat("no spool\n", 5000)), 0o600))
	log := &logBuffer{}
	s := openStore(t, "redis://"+server.Addr(), dir, log)
	says(t, log, "the spool was damaged")
	must(t, lesson(s, "192.0.2.7", policy.Spam))
	s.Close()
	if left, _ := filepath.Glob(filepath.Join(dir, SpoolName+".damaged-*")); len(left) != 1 {
		t.Errorf("moved aside: %v", left)
	}
}

// TestAFullSpoolDropsWhatIsNewAndCountsIt learns without a Redis until the spool is full, and finds
// all that was acknowledged afterwards.
func TestAFullSpoolDropsWhatIsNewAndCountsIt(t *testing.T) {
	server, err := redisd.New(t.TempDir())
	must(t, err)
	log := &logBuffer{}
	s := openStore(t, "redis://"+server.Addr(), t.TempDir(), log)
	defer s.Close()
	s.writer.spool.limit = 4000
	kept := 0
	for i := range 60 {
		switch err := lesson(s, fmt.Sprintf("192.0.2.%d", i), policy.Spam); {
		case err == nil:
			kept++
		case !errors.Is(err, errFull):
			t.Errorf("lesson %d: %v", i, err)
		}
	}
	if dropped := int(s.Stats.Dropped.Load()); kept == 0 || dropped == 0 || kept+dropped != 60 {
		t.Errorf("%d kept, %d dropped of 60", kept, dropped)
	}
	must(t, server.Start())
	t.Cleanup(server.Kill)
	arrives(t, s, "192.0.2.0/24", float64(kept))
	says(t, log, "the spool is full")
}

// TestALostReplyStillMovesTheSystem is the same where an autonomous system is to be told what
// moved, which is in the reply.
func TestALostReplyStillMovesTheSystem(t *testing.T) {
	server := startRedis(t)
	proxy := newProxy(t, server.Addr())
	s := openStore(t, "redis://"+proxy.addr, t.TempDir(), &logBuffer{})
	defer s.Close()
	p := policy.Default()
	p.ASN = func(netip.Addr) uint32 { return 64500 }
	now := time.Now()
	j := policy.NewJudge(policy.NewInForce(policy.New(p), func() time.Time { return now }), s)
	for i := range 10 {
		proxy.swallow(i%2 == 0)
		must(t, <-j.Learn(&policy.Message{Time: now, Client: policy.Client{Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})}, Mail: true, Verdict: policy.Verdict{Class: policy.Spam, Weight: 1}}))
	}
	proxy.swallow(false)
	arrives(t, s, "192.0.2.0/24", 10)
	arrives(t, s, "AS64500", 10)
}

// TestALookupWaitsTwentyMilliseconds asks while Redis hangs: who is known is answered from memory,
// who is not is offered STARTTLS, in any mode.
func TestALookupWaitsTwentyMilliseconds(t *testing.T) {
	server := startRedis(t)
	s := openStore(t, "redis://"+server.Addr(), t.TempDir(), &logBuffer{})
	defer s.Close()
	p := policy.Default()
	p.Mode = policy.Earn
	j := policy.NewJudge(policy.NewInForce(policy.New(p), time.Now), s)
	for range 3 {
		must(t, lesson(s, "192.0.2.7", policy.Spam))
	}
	server.Pause()
	defer server.Resume()
	// A busy machine may hold up any lookup for a while; none waits for Redis longer than the 20
	// ms.
	lag := pace.Start()
	defer lag.Stop()
	busy := func() time.Duration { return 150*time.Millisecond + 2*lag.Most() }
	decide := func(addr string) (policy.Decision, time.Duration) {
		start := time.Now()
		d := j.Decide(netip.MustParseAddr(addr))
		return d, time.Since(start)
	}
	if d, took := decide("198.51.100.7"); d.Withhold || d.Rule != policy.RuleUnavailable || took < readWait || took > readWait+busy() {
		t.Errorf("a stranger, after %v: %s", took, d.Why())
	}
	if d, took := decide("192.0.2.7"); !d.Withhold || took > busy() {
		t.Errorf("a spammer, after %v: %s", took, d.Why())
	}
	// What is remembered is still good when it may have changed since.
	s.cache.markAllStale()
	if d, took := decide("192.0.2.7"); !d.Withhold || took > readWait+busy() {
		t.Errorf("a spammer who may have changed, after %v: %s", took, d.Why())
	}
	// As soon as the breaker is open, nobody waits.
	must(t, redisd.Until(func() error {
		if d, took := decide(fmt.Sprintf("198.51.100.%d", time.Now().Nanosecond()%250)); took > readWait/2 || d.Withhold {
			return fmt.Errorf("%v: %s", took, d.Why())
		}
		return nil
	}))
}

// TestTheDiskIsFullWhileRedisIsAway has nowhere to put observations but memory; they are there when
// either comes back.
func TestTheDiskIsFullWhileRedisIsAway(t *testing.T) {
	server, err := redisd.New(t.TempDir())
	must(t, err)
	dir := t.TempDir()
	must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"))
	t.Cleanup(func() { must(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	log := &logBuffer{}
	s := openStore(t, "redis://"+server.Addr(), dir, log)
	defer s.Close()
	if err := os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	now := time.Now()
	j := policy.NewJudge(policy.NewInForce(policy.New(policy.Default()), func() time.Time { return now }), s)
	const lessons = 3000
	for i := range lessons {
		j.Learn(&policy.Message{Time: now, Client: policy.Client{Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})}, Mail: true, Verdict: policy.Verdict{Class: policy.Ham, Weight: 1}})
		if i%100 == 0 {
			time.Sleep(20 * time.Millisecond)
		}
	}
	says(t, log, "observations cannot be kept on disk while Redis is away")
	must(t, server.Start())
	t.Cleanup(server.Kill)
	must(t, redisd.Until(func() error {
		sum := 0.0
		err := s.Each(func(r policy.Record) error {
			if r.Network.IsSingleIP() {
				sum += r.Evidence.Total().Ham
			}
			return nil
		})
		if err != nil || sum != lessons {
			return fmt.Errorf("%v of %d messages, %v, dropped %d", sum, lessons, err, s.Stats.Dropped.Load())
		}
		return nil
	}))
}

// TestASystemHasItsPartOnce takes from Redis what a bucket had, so that it is sent again, and holds
// the autonomous system, which lost nothing, to what it had.
func TestASystemHasItsPartOnce(t *testing.T) {
	server := startRedis(t)
	log := &logBuffer{}
	s := openStore(t, "redis://"+server.Addr(), t.TempDir(), log)
	defer s.Close()
	p := policy.Default()
	p.ASN = func(netip.Addr) uint32 { return 64500 }
	now := time.Now()
	j := policy.NewJudge(policy.NewInForce(policy.New(p), func() time.Time { return now }), s)
	learn := func(addr string) {
		must(t, <-j.Learn(&policy.Message{Time: now, Client: policy.Client{Addr: netip.MustParseAddr(addr)}, Mail: true, Verdict: policy.Verdict{Class: policy.Spam, Weight: 1}}))
	}
	learn("192.0.2.7")
	arrives(t, s, "AS64500", 1)
	do(t, server, "DEL", redisKey("192.0.2.0/24"), streamID{s.writer.sender, bucketOf("192.0.2.0/24")}.mark())
	learn("192.0.2.8")
	arrives(t, s, "192.0.2.0/24", 2)
	arrives(t, s, "AS64500", 2)
	says(t, log, "Redis lacks evidence that it had taken")
}

// TestASpoolThatIsDamagedWhileOpenIsBegunAnew does to the spool what disks and people do, while
// Redis is away. What waited there is lost, and said; what comes after is not.
func TestASpoolThatIsDamagedWhileOpenIsBegunAnew(t *testing.T) {
	for name, harm := range map[string]func(path string) error{
		"cut to nothing":    func(path string) error { return os.Truncate(path, 0) },
		"cut to a page":     func(path string) error { return os.Truncate(path, 4096) },
		"removed":           os.Remove,
		"directory removed": func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
		"overwritten": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt(make([]byte, 16<<10), 8192)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, log, dir := startRedis(t), &logBuffer{}, filepath.Join(t.TempDir(), "spool")
			s := openStore(t, "redis://"+server.Addr(), dir, log)
			defer s.Close()
			server.Kill()
			for i := range 20 {
				if err := lesson(s, fmt.Sprintf("192.0.2.%d", i), policy.Spam); err != nil {
					t.Fatal(err)
				}
			}
			must(t, harm(filepath.Join(dir, SpoolName)))
			for i := range 20 {
				lesson(s, fmt.Sprintf("198.51.100.%d", i), policy.Spam)
			}
			must(t, server.Start())
			if err := redisd.Until(func() error {
				record, err := s.server.client.HGet(context.Background(), redisKey("198.51.100.0/24"), "").Result()
				if err != nil {
					return err
				}
				if e, err := parseRecord(record); err != nil || e.Total().Spam != 20 {
					return fmt.Errorf("%v, %v", e.Total(), err)
				}
				return nil
			}); err != nil {
				t.Errorf("what came after it: %v\n%s", err, log)
			}
			if n := s.faults.Count.Load(); n > 0 {
				t.Errorf("%d faults of ours:\n%s", n, log)
			}
		})
	}
}
