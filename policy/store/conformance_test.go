package store_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/redisd"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
	"github.com/ehlogate/ehlogate/policy/store"
	"github.com/ehlogate/ehlogate/policy/store/redis"
)

// keeper is what the daemon needs of a store.
type keeper interface {
	policy.Store
	SetOverride(policy.Override) error
	LiftOverride(netip.Prefix) (bool, error)
	Overrides() []policy.Override
	SetException(x policy.Exception, gone ...policy.Exception) error
	Exceptions() []policy.Exception
	KeptExceptions() *policy.Exceptions
	Forget(n netip.Prefix, keysOf func(netip.Addr) policy.Keys) (int, error)
	Each(func(policy.Record) error) error
	Load(dump string, chunk uint64, records []policy.Record, networkOf func(netip.Prefix) netip.Prefix) (bool, error)
	Restore(records []policy.Record, networkOf func(netip.Prefix) netip.Prefix) error
	Close() error
}

// form is a form of store: open opens it, again after it was closed, and another node's where there
// may be several at once.
type form struct {
	name   string
	shared bool
	start  func(t *testing.T) (open func(t *testing.T) keeper)
}

// byDefault is the policy of a configuration that says nothing.
var byDefault = policy.NewInForce(policy.New(policy.Default()), time.Now)

// forms are the embedded store and Redis in every form that a URL can name, on real servers.
var forms = []form{
	{"embedded", false, func(t *testing.T) func(*testing.T) keeper {
		dir := t.TempDir()
		return func(t *testing.T) keeper {
			e, err := store.Open(dir, store.Options{Layout: policy.Default().Layout, Tier: byDefault.Tier, Now: time.Now})
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
	}},
	{"redis", true, func(t *testing.T) func(*testing.T) keeper {
		s := server(t)
		return shares("redis://" + s.Addr() + "/3")
	}},
	{"Valkey", true, func(t *testing.T) func(*testing.T) keeper {
		s, err := redisd.New(t.TempDir())
		if err == nil {
			s.Binary = "valkey-server"
			err = s.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Stop)
		return shares("redis://" + s.Addr())
	}},
	{"redis over TLS, with a user and a password in a file", true, func(t *testing.T) func(*testing.T) keeper {
		dir := t.TempDir()
		certificate(t, dir)
		s := server(t, "--tls-cert-file", dir+"/cert.pem", "--tls-key-file", dir+"/key.pem", "--tls-ca-cert-file", dir+"/cert.pem", "--tls-auth-clients", "no", "--aclfile", aclFile(t))
		return shares(fmt.Sprintf("rediss://ehlogate@%s?password_file=%s&ca_file=%s/cert.pem", s.Addr(), passwordFile(t), dir))
	}},
	{"redis on a unix socket, with the rights of contrib/redis/users.acl", true, func(t *testing.T) func(*testing.T) keeper {
		socket := filepath.Join(t.TempDir(), "redis.sock")
		s := server(t, "--unixsocket", socket, "--aclfile", aclFile(t))
		mayDoAll(t, s)
		return shares("redis+unix://" + socket + "?user=ehlogate&password_file=" + passwordFile(t))
	}},
	{"redis behind Sentinel", true, func(t *testing.T) func(*testing.T) keeper {
		s, err := redisd.NewSentinels(t.TempDir(), "--aclfile", aclFile(t))
		t.Cleanup(s.Stop)
		if err != nil {
			t.Fatal(err)
		}
		mayDoAll(t, s.Servers...)
		return shares("redis+sentinel://" + strings.Join(s.Addrs(), ",") + "/mymaster?user=ehlogate&password_file=" + passwordFile(t))
	}},
	{"Redis Cluster", true, func(t *testing.T) func(*testing.T) keeper {
		c, err := redisd.NewCluster(t.TempDir(), "--aclfile", aclFile(t))
		t.Cleanup(c.Stop)
		if err != nil {
			t.Fatal(err)
		}
		mayDoAll(t, c.Servers...)
		return shares("redis+cluster://" + strings.Join(c.Addrs()[:2], ",") + "?user=ehlogate&password_file=" + passwordFile(t))
	}},
}

func server(t *testing.T, args ...string) *redisd.Server {
	t.Helper()
	s, err := redisd.New(t.TempDir(), args...)
	if err == nil {
		s.TLS = slices.Contains(args, "--tls-cert-file")
		err = s.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// shares returns an opener of the Redis store at a URL.
func shares(url string) func(*testing.T) keeper {
	redis.LogLibrary(slog.New(slog.DiscardHandler))
	return func(t *testing.T) keeper {
		t.Helper()
		target, err := redis.ParseURL(url)
		if err != nil {
			t.Fatal(err)
		}
		s, err := redis.Open(redis.Options{
			Target: target, SpoolDir: t.TempDir(), SpoolLimit: 1 << 20, Layout: policy.Default().Layout,
			Tier: byDefault.Tier, Now: time.Now, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		if !s.Up() {
			t.Fatal("Redis is not up")
		}
		return s
	}
}

// aclFile makes a file of users: the one of contrib/redis/users.acl, with another password, and the
// default one for the servers among themselves.
func aclFile(t *testing.T) string {
	t.Helper()
	users, err := os.ReadFile("../../contrib/redis/users.acl")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "users.acl")
	write(t, file, "user default on nopass ~* &* +@all\n"+strings.Replace(string(users), ">change-me", ">apassword", 1))
	return file
}

// passwordFile has the password of aclFile.
func passwordFile(t *testing.T) string {
	file := filepath.Join(t.TempDir(), "password")
	write(t, file, "apassword\n")
	return file
}

// mayDoAll holds it against a server that it never refused anything to the daemon's user.
func mayDoAll(t *testing.T, servers ...*redisd.Server) {
	t.Cleanup(func() {
		for _, s := range servers {
			if s.TLS {
				continue
			}
			if refused, err := s.Do("ACL", "LOG"); err != nil || len(refused.([]any)) > 0 {
				t.Errorf("%s refused %v, %v", s.Addr(), refused, err)
			}
		}
	})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// certificate makes cert.pem and key.pem for 127.0.0.1.
func certificate(t *testing.T, dir string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, _ := x509.MarshalPKCS8PrivateKey(key)
	write(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	write(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

func keysOf(addr string) (netip.Addr, policy.Keys) {
	a := netip.MustParseAddr(addr)
	return a, byDefault.Policy().Keys(a)
}

// withSystem is the policy by default, where all of IPv4 is one autonomous system.
func withSystem() *policy.Policy {
	p := policy.Default()
	p.ASN = func(a netip.Addr) uint32 {
		if a.Is4() {
			return 64500
		}
		return 0
	}
	return policy.New(p)
}

// judge is the policy over a store, with a clock that stands still.
func judge(k keeper, now time.Time) *policy.Judge {
	return policy.NewJudge(policy.NewInForce(withSystem(), func() time.Time { return now }), k)
}

func observe(t *testing.T, j *policy.Judge, addr string, class policy.Class, at time.Time) {
	t.Helper()
	m := &policy.Message{Time: at, Client: policy.Client{Addr: netip.MustParseAddr(addr)}, Verdict: policy.Verdict{Class: class, Weight: 1}, Mail: true}
	select {
	case err := <-j.Learn(m):
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("nothing came of a lesson")
	}
}

// explain judges a client.
func explain(j *policy.Judge, addr string) (policy.Decision, policy.Known) {
	return j.Explain(netip.MustParseAddr(addr))
}

// soon holds a store to what it says as soon as it answers in time, which on a busy machine it may
// not do at once.
func soon(t *testing.T, check func() error) {
	t.Helper()
	var err error
	for range 100 {
		if err = check(); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error(err)
}

// TestConformance is what every store promises.
func TestConformance(t *testing.T) {
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			open := f.start(t)
			t.Run("what was learnt is there, also after reopening", func(t *testing.T) { keepsWhatWasLearnt(t, open) })
			t.Run("overrides hold, the longest network first", func(t *testing.T) { overridesHold(t, open) })
			t.Run("an override that has ended hides no other", func(t *testing.T) { endedOverridesHideNone(t, open) })
			t.Run("exceptions hold beside overrides", func(t *testing.T) { exceptionsHold(t, open) })
			t.Run("forget", func(t *testing.T) { forgets(t, open) })
			t.Run("learners together leave what one leaves", func(t *testing.T) { commutes(t, open, f.shared) })
			t.Run("a dump of another store is taken in once", func(t *testing.T) { takesIn(t, open) })
			t.Run("its own dump brings back what is gone", func(t *testing.T) { givesBack(t, open) })
			if f.shared {
				t.Run("what one node learns the others judge by at once", func(t *testing.T) { tells(t, open) })
			}
		})
	}
}

// base is the time of all lessons: the start of this hour, so that none of them falls into the
// next.
func base() time.Time { return time.Now().Truncate(time.Hour) }

func keepsWhatWasLearnt(t *testing.T, open func(*testing.T) keeper) {
	k := open(t)
	at := base()
	for _, addr := range []string{"192.0.2.7", "192.0.2.8", "2001:db8:1:2::7"} {
		observe(t, judge(k, at), addr, policy.Spam, at)
		observe(t, judge(k, at), addr, policy.Ham, at.Add(-50*time.Hour))
	}
	want := reputation.Mass{Spam: 1, Ham: 1}
	check := func() error {
		for _, addr := range []string{"192.0.2.7", "2001:db8:1:2::99"} {
			_, known := explain(judge(k, at), addr)
			if got := known.Host.Total(); got != want || known.Unavailable {
				return fmt.Errorf("%s: %+v, want %+v", addr, known, want)
			}
		}
		d, known := explain(judge(k, at), "192.0.2.8")
		if n := known.Network.Total(); n != (reputation.Mass{Spam: 2, Ham: 2}) || known.AS.Total() != n {
			return fmt.Errorf("network %v, system %v", n, known.AS.Total())
		}
		if d.Tier == reputation.Unknown || known.Host.Tier != d.Tier {
			return fmt.Errorf("judged %s, kept as %s", d.Tier, known.Host.Tier)
		}
		if _, known := explain(judge(k, at), "192.0.3.7"); known.Unavailable || known.Network != (reputation.Evidence{}) {
			return fmt.Errorf("a stranger: %+v", known)
		}
		return nil
	}
	soon(t, check)
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	k = open(t)
	defer k.Close()
	soon(t, check)
	seen := map[netip.Prefix]bool{}
	k.Each(func(r policy.Record) error { seen[r.Network] = true; return nil })
	for _, n := range []string{"192.0.2.7/32", "192.0.2.0/24", "2001:db8:1:2::/64", "2001:db8:1::/48"} {
		if !seen[netip.MustParsePrefix(n)] {
			t.Errorf("%s is not among the %d that are listed", n, len(seen))
		}
	}
}

// exceptionsHold makes an exception for a host beside the operator's override of it.
func exceptionsHold(t *testing.T, open func(*testing.T) keeper) {
	k := open(t)
	host := netip.MustParsePrefix("198.51.100.21/32")
	set := time.Now().UTC().Truncate(time.Second)
	exception := policy.Exception{Network: host, Cause: policy.BrokenTLS, Note: "3 TLS handshakes failed", Set: set, Until: set.Add(time.Hour)}
	allow := policy.Override{Network: host, Allow: true, Set: set}
	if err := k.SetException(exception); err != nil {
		t.Fatal(err)
	}
	if err := k.SetOverride(allow); err != nil {
		t.Fatal(err)
	}
	k.Close()
	k = open(t)
	defer k.Close()
	a, keys := keysOf("198.51.100.21")
	known := k.Recall(a, keys, time.Now())
	if known.Override == nil || *known.Override != allow || known.Exception == nil || *known.Exception != exception {
		t.Errorf("%+v", known)
	}
	if !slices.Contains(k.Overrides(), allow) || !slices.Equal(k.Exceptions(), []policy.Exception{exception}) || k.KeptExceptions().Size() != 1 {
		t.Errorf("overrides %v, exceptions %v", k.Overrides(), k.Exceptions())
	}
	if lifted, err := k.LiftOverride(host); !lifted || err != nil || slices.Contains(k.Overrides(), allow) || k.KeptExceptions().Size() != 0 {
		t.Errorf("lifted %v, %v; overrides %v, exceptions %v", lifted, err, k.Overrides(), k.Exceptions())
	}
	if lifted, err := k.LiftOverride(host); lifted || err != nil {
		t.Errorf("lifted again: %v, %v", lifted, err)
	}
}

func overridesHold(t *testing.T, open func(*testing.T) keeper) {
	k := open(t)
	deny := policy.Override{Network: netip.MustParsePrefix("198.51.100.0/24"), Note: "a note", Set: time.Now().UTC().Truncate(time.Second)}
	allow := policy.Override{Network: netip.MustParsePrefix("198.51.100.9/32"), Allow: true, Set: deny.Set}
	for _, o := range []policy.Override{deny, allow} {
		if err := k.SetOverride(o); err != nil {
			t.Fatal(err)
		}
	}
	k.Close()
	k = open(t)
	defer k.Close()
	for addr, want := range map[string]policy.Override{"198.51.100.7": deny, "198.51.100.9": allow} {
		a, keys := keysOf(addr)
		if known := k.Recall(a, keys, time.Now()); known.Override == nil || *known.Override != want {
			t.Errorf("%s: %+v, want %+v", addr, known.Override, want)
		}
	}
	if lifted, err := k.LiftOverride(allow.Network); !lifted || err != nil {
		t.Errorf("lifted %v, %v", lifted, err)
	}
	if all := k.Overrides(); len(all) != 1 || all[0] != deny {
		t.Errorf("overrides %v", all)
	}
}

func forgets(t *testing.T, open func(*testing.T) keeper) {
	k := open(t)
	defer k.Close()
	at := base()
	for _, addr := range []string{"203.0.113.7", "203.0.113.8", "203.0.113.200"} {
		observe(t, judge(k, at), addr, policy.Spam, at)
	}
	_, keys := keysOf("203.0.113.7")
	keys.ASN = 64500
	var before policy.Known
	soon(t, func() error {
		if _, before = explain(judge(k, at), "203.0.113.7"); before.Network.Total().Spam != 3 || before.AS.Total().Spam < 3 {
			return fmt.Errorf("before: %+v", before)
		}
		return nil
	})
	cut := withSystem().Keys
	if n, err := k.Forget(keys.Host, cut); n != 1 || err != nil {
		t.Errorf("forgot %d, %v", n, err)
	}
	soon(t, func() error {
		_, after := explain(judge(k, at), "203.0.113.7")
		if after.Unavailable || after.Host.Total() != (reputation.Mass{}) || after.Network != before.Network.Without(before.Host) || after.AS != before.AS.Without(before.Host) {
			return fmt.Errorf("forgotten, but %+v, before %+v", after, before)
		}
		return nil
	})
	if n, err := k.Forget(netip.MustParsePrefix("203.0.113.128/25"), cut); n != 1 || err != nil {
		t.Errorf("forgot %d of the half, %v", n, err)
	}
	if n, err := k.Forget(netip.MustParsePrefix("203.0.0.0/16"), cut); n != 2 || err != nil {
		t.Errorf("forgot %d of the rest, %v; want a host and its network", n, err)
	}
	soon(t, func() error {
		if _, known := explain(judge(k, at), "203.0.113.8"); known.Unavailable || known.Network != (reputation.Evidence{}) {
			return fmt.Errorf("the network is still known: %+v", known)
		}
		_, known := explain(judge(k, at), "203.0.113.7")
		if got, want := known.AS.Total().Spam, before.AS.Total().Spam-3; got != want {
			return fmt.Errorf("the autonomous system knows %v spam of three hosts less, want %v", got, want)
		}
		return nil
	})
}

// commutes lets several learners, on nodes of their own where the store is shared, learn at once,
// and wants the sums of one learner.
func commutes(t *testing.T, open func(*testing.T) keeper, shared bool) {
	const learners, rounds, hosts = 4, 60, 7
	at := base()
	inForce := policy.NewInForce(policy.New(policy.Default()), func() time.Time { return at })
	memory := store.NewMemory(inForce.Tier, func() time.Time { return at })
	alone := policy.NewJudge(inForce, memory)
	nodes := []keeper{open(t)}
	for range learners - 1 {
		if n := nodes[0]; !shared {
			nodes = append(nodes, n)
		} else {
			nodes = append(nodes, open(t))
		}
	}
	observation := func(i, j int) (string, policy.Class, time.Time) {
		class := policy.Spam
		if (i+j)%3 == 0 {
			class = policy.Ham
		}
		return fmt.Sprintf("100.64.%d.%d", j%3, j%hosts), class, at.Add(-time.Duration(j%5) * time.Hour)
	}
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() {
			for j := range rounds {
				addr, class, when := observation(i, j)
				observe(t, judge(n, at), addr, class, when)
			}
		})
		for j := range rounds {
			addr, class, when := observation(i, j)
			observe(t, alone, addr, class, when)
		}
	}
	all.Wait()
	if shared {
		for _, n := range nodes {
			n.Close()
		}
		nodes[0] = open(t)
	}
	defer nodes[0].Close()
	got := map[netip.Prefix]reputation.Evidence{}
	nodes[0].Each(func(r policy.Record) error { got[r.Network] = r.Evidence; return nil })
	records := 0
	memory.Each(func(r policy.Record) error {
		records++
		if g, e := got[r.Network], r.Evidence; g.Recent != e.Recent || g.Past != e.Past || g.Newest != e.Newest {
			t.Errorf("%s: %+v, alone %+v", r.Network, g, e)
		}
		return nil
	})
	if records == 0 {
		t.Error("nothing was learnt")
	}
}

// takesIn loads what another store knows, in parts, some of them several times, and wants it all as
// it was.
// networkOf is the network in which a host is counted, and a network itself.
func networkOf(n netip.Prefix) netip.Prefix {
	_, k := keysOf(n.Addr().String())
	if k.Host == n {
		return k.Network
	}
	return n
}

// givesBack forgets a host and a whole network, learns of another host, and restores what there
// was.
func givesBack(t *testing.T, open func(*testing.T) keeper) {
	k := open(t)
	defer k.Close()
	at := base()
	j := policy.NewJudge(policy.NewInForce(policy.New(policy.Default()), func() time.Time { return at }), k)
	learn := func(addr string) { observe(t, j, addr, policy.Spam, at) }
	for i := range 40 {
		learn(fmt.Sprintf("172.21.%d.%d", i%3, i%10))
	}
	all := func() map[netip.Prefix]policy.Record {
		found := map[netip.Prefix]policy.Record{}
		if err := k.Each(func(r policy.Record) error {
			if netip.MustParsePrefix("172.21.0.0/16").Overlaps(r.Network) {
				found[r.Network] = r
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return found
	}
	before := all()
	for _, gone := range []string{"172.21.0.3/32", "172.21.1.0/24"} {
		if _, err := k.Forget(netip.MustParsePrefix(gone), func(a netip.Addr) policy.Keys { _, keys := keysOf(a.String()); return keys }); err != nil {
			t.Fatal(err)
		}
	}
	learn("172.21.2.5")
	now := all()
	if len(now) >= len(before) {
		t.Fatalf("%d records after forgetting, before %d", len(now), len(before))
	}
	for range 2 {
		if err := k.Restore(slices.Collect(maps.Values(before)), networkOf); err != nil {
			t.Fatal(err)
		}
		restored := all()
		for n, was := range before {
			want := was
			if netip.MustParsePrefix("172.21.2.0/24").Overlaps(n) {
				// Nothing was gone there.
				want = now[n]
			}
			if restored[n] != want {
				t.Errorf("%s: %+v, want %+v", n, restored[n], want)
			}
		}
		if len(restored) != len(before) {
			t.Errorf("%d records, want %d", len(restored), len(before))
		}
	}
}

func takesIn(t *testing.T, open func(*testing.T) keeper) {
	at := base()
	p := policy.Default()
	p.ASN = func(netip.Addr) uint32 { return 64999 }
	inForce := policy.NewInForce(policy.New(p), func() time.Time { return at })
	source := store.NewMemory(inForce.Tier, func() time.Time { return at })
	learn := func(i int) {
		j := policy.NewJudge(inForce, source)
		observe(t, j, fmt.Sprintf("172.20.%d.%d", i%9, i%31), []policy.Class{policy.Spam, policy.Ham}[i%2], at.Add(-time.Duration(i%150)*time.Hour))
	}
	for i := range 400 {
		learn(i)
	}
	parts := [][]policy.Record{{}}
	source.Each(func(r policy.Record) error {
		if len(parts[len(parts)-1]) == 40 {
			parts = append(parts, nil)
		}
		parts[len(parts)-1] = append(parts[len(parts)-1], r)
		return nil
	})
	dump := fmt.Sprint("dump", time.Now().UnixNano())
	k := open(t)
	for i, part := range parts {
		// Interrupted, and begun again from the start.
		if i == len(parts)/2 {
			k.Close()
			k = open(t)
			for j := range i {
				if fresh, err := k.Load(dump, uint64(j+1), parts[j], networkOf); fresh || err != nil {
					t.Errorf("part %d again: fresh %v, %v", j+1, fresh, err)
				}
			}
		}
		if fresh, err := k.Load(dump, uint64(i+1), part, networkOf); !fresh || err != nil {
			t.Errorf("part %d: fresh %v, %v", i+1, fresh, err)
		}
	}
	got := map[policy.Record]bool{}
	if err := k.Each(func(r policy.Record) error { got[r] = true; return nil }); err != nil {
		t.Error(err)
	}
	missing, records := 0, 0
	source.Each(func(r policy.Record) error {
		records++
		if !got[r] {
			missing++
		}
		return nil
	})
	if missing > 0 || records < 50 {
		t.Errorf("%d of %d records are not as they were", missing, records)
	}
	if fresh, err := k.Load(dump+" another", 1, parts[0], networkOf); !fresh || err != nil {
		t.Errorf("another dump: fresh %v, %v", fresh, err)
	}
	k.Close()
	k = open(t)
	defer k.Close()
	if fresh, err := k.Load(dump+" another", 1, parts[0], networkOf); fresh || err != nil {
		t.Errorf("another dump again: fresh %v, %v", fresh, err)
	}
}

// atOnce is how long it may take on a busy machine until another node hears of something. It reads
// all anew every ten seconds, which would be too late.
const atOnce = 5 * time.Second

// tells holds a second node to what the first one learns, which the second has looked up before and
// so remembers otherwise.
func tells(t *testing.T, open func(*testing.T) keeper) {
	one, other := open(t), open(t)
	defer one.Close()
	defer other.Close()
	at := base()
	addr := netip.MustParseAddr("192.88.99.7")
	if d := judge(other, at).Decide(addr); d.Withhold {
		t.Fatalf("a stranger: %s", d.Why())
	}
	for range 3 {
		observe(t, judge(one, at), addr.String(), policy.Spam, at)
	}
	learnt := time.Now()
	for !judge(other, at).Decide(addr).Withhold {
		if time.Since(learnt) > atOnce {
			t.Fatalf("later: %s", judge(other, at).Decide(addr).Why())
		}
		time.Sleep(time.Millisecond)
	}
	t.Logf("the other node withholds after %v", time.Since(learnt))
	if err := one.SetOverride(policy.Override{Network: netip.PrefixFrom(addr, 32), Allow: true, Set: at}); err != nil {
		t.Fatal(err)
	}
	for set := time.Now(); judge(other, at).Decide(addr).Withhold; time.Sleep(time.Millisecond) {
		if time.Since(set) > atOnce {
			t.Fatal("the operator's override has not come")
		}
	}
}

// endedOverridesHideNone has an override that has ended, within a network with one that holds.
func endedOverridesHideNone(t *testing.T, open func(*testing.T) keeper) {
	k := open(t)
	defer k.Close()
	now := time.Now().UTC().Truncate(time.Second)
	wide := policy.Override{Network: netip.MustParsePrefix("198.18.0.0/16"), Allow: true, Set: now}
	narrow := policy.Override{Network: netip.MustParsePrefix("198.18.1.0/24"), Set: now, Until: now.Add(-time.Minute)}
	for _, o := range []policy.Override{wide, narrow} {
		if err := k.SetOverride(o); err != nil {
			t.Fatal(err)
		}
	}
	addr, keys := keysOf("198.18.1.7")
	if known := k.Recall(addr, keys, time.Now()); known.Override == nil || *known.Override != wide {
		t.Errorf("%+v holds, want %+v", known.Override, wide)
	}
	if _, err := k.LiftOverride(wide.Network); err != nil {
		t.Fatal(err)
	}
	if known := k.Recall(addr, keys, time.Now()); known.Override != nil {
		t.Errorf("%+v holds, want none", known.Override)
	}
	if _, err := k.LiftOverride(narrow.Network); err != nil {
		t.Fatal(err)
	}
}
