package guard

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// listen is a guarded listener on loopback that answers each byte with itself, and its address.
func listen(t *testing.T, rules Rules) (*Listener, string) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if rules.Log == nil {
		rules.Log = slog.New(slog.DiscardHandler)
	}
	rules.Key = "test.listen"
	l := New(inner, rules)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}); c.Close() }()
		}
	}()
	return l, inner.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// asks reports whether a connection is answered.
func asks(c net.Conn) bool {
	c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Write([]byte("x")); err != nil {
		return false
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err == nil
}

func TestTheLongestIdleConnectionMakesRoom(t *testing.T) {
	l, addr := listen(t, Rules{Most: 4})
	var asked []net.Conn
	for range 3 {
		c := dial(t, addr)
		if !asks(c) {
			t.Fatal("not answered")
		}
		asked = append(asked, c)
	}
	mute := dial(t, addr)
	for l.Open() < 4 {
		time.Sleep(time.Millisecond)
	}
	// The one on which nothing was asked goes first, then the one that is idle longest.
	time.Sleep(2 * grace)
	if !asks(dial(t, addr)) {
		t.Error("the new one is not answered")
	}
	if asks(mute) {
		t.Error("the one on which nothing was asked is still open")
	}
	asks(asked[0])
	if !asks(dial(t, addr)) {
		t.Error("the new one is not answered")
	}
	for i, want := range []bool{true, false, true} {
		if got := asks(asked[i]); got != want {
			t.Errorf("connection %d is open: %t, want %t", i, got, want)
		}
	}
	if n := l.Stats.Evicted.Load(); n != 2 {
		t.Errorf("%d counted", n)
	}
	if l.Open() > 4 {
		t.Errorf("%d are open", l.Open())
	}
}

// TestTheMTAIsAnsweredWhoeverFloods fills all room with connections that have asked once, and
// floods it with more that ask nothing: whoever connects and asks is answered.
func TestTheMTAIsAnsweredWhoeverFloods(t *testing.T) {
	const most = 400
	l, addr := listen(t, Rules{Most: most})
	for range most {
		if !asks(dial(t, addr)) {
			t.Fatal("not answered")
		}
	}
	time.Sleep(idle)
	quit := make(chan struct{})
	defer close(quit)
	for range 2 {
		go func() {
			for {
				select {
				case <-quit:
					return
				default:
				}
				if c, err := net.Dial("tcp", addr); err == nil {
					defer c.Close()
				}
				time.Sleep(200 * time.Microsecond)
			}
		}()
	}
	failed := 0
	for range 300 {
		c, err := net.Dial("tcp", addr)
		if err != nil || !asks(c) {
			failed++
		}
		if err == nil {
			c.Close()
		}
	}
	if failed > 0 {
		t.Errorf("%d of 300 are not answered; %d made room", failed, l.Stats.Evicted.Load())
	}
}

// peer is a connection of somebody.
type peer struct {
	net.Conn
	local, remote string
}

func (p peer) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(p.local)) }
func (p peer) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(p.remote))
}

func TestWhoMayConnect(t *testing.T) {
	peers := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	l := New(nil, Rules{Peers: func() []netip.Prefix { return peers }})
	for _, c := range []struct {
		local, remote string
		want          bool
	}{
		{"127.0.0.1:8897", "127.0.0.1:4711", true},
		{"127.0.0.1:8897", "127.0.0.9:4711", true},
		{"[::1]:8897", "[::1]:4711", true},
		{"[::ffff:127.0.0.1]:8897", "[::ffff:127.0.0.1]:4711", true},
		{"192.0.2.1:8897", "192.0.2.1:4711", true},
		{"192.0.2.1:8897", "192.0.2.2:4711", false},
		{"192.0.2.1:8897", "198.51.100.7:4711", true},
		{"[::ffff:192.0.2.1]:8897", "[::ffff:198.51.100.7]:4711", true},
		{"[2001:db8::1]:8897", "[2001:db8::7]:4711", true},
		{"[fe80::1%2]:8897", "[fe80::7%2]:4711", false},
		{"0.0.0.0:8897", "203.0.113.7:4711", false},
	} {
		if got := l.welcome(peer{nil, c.local, c.remote}); got != c.want {
			t.Errorf("%s at %s may connect: %t, want %t", c.remote, c.local, got, c.want)
		}
	}
}

// strangers is a listener at which first somebody connects from elsewhere.
type strangers struct {
	net.Listener
	first *net.Conn
}

func (s strangers) Accept() (net.Conn, error) {
	if c := *s.first; c != nil {
		*s.first = nil
		return c, nil
	}
	return s.Listener.Accept()
}

func TestAStrangerIsClosedCountedAndSaid(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	var log bytes.Buffer
	a, b := net.Pipe()
	first := net.Conn(peer{b, "192.0.2.1:8897", "203.0.113.7:4711"})
	l := New(strangers{inner, &first}, Rules{
		Key: "milter.listen", PeersKey: "milter.peers", Most: 2, Log: slog.New(slog.NewTextHandler(&log, nil)),
		Peers: func() []netip.Prefix { return nil },
	})
	go net.Dial("tcp", inner.Addr().String())
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := a.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the stranger's connection: %v", err)
	}
	if l.Stats.Strangers.Load() != 1 || !strings.Contains(log.String(), "milter.peers") || !strings.Contains(log.String(), "203.0.113.7") {
		t.Errorf("counted %d, said %q", l.Stats.Strangers.Load(), log.String())
	}
}

func TestSharesLeaveRoomForFiles(t *testing.T) {
	for _, c := range []struct {
		descriptors int
		want        []int
	}{
		{1 << 20, []int{4096, 4096, 4096, 4096}},
		{20_000, []int{4096, 4096, 4096, 2193}},
		{1024, []int{341, 170, 170, 85}},
		{64, []int{14, 7, 7, 3}},
		{4, []int{1, 1, 1, 1}},
	} {
		if got := share(c.descriptors, 4096, []int{4, 2, 2, 1}); !slices.Equal(got, c.want) {
			t.Errorf("of %d: %v, want %v", c.descriptors, got, c.want)
		}
	}
}
