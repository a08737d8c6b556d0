package table

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

// badNet is the network that the tests' judge withholds STARTTLS from.
var badNet = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/48")}

func decide(addr netip.Addr) policy.Decision {
	d := policy.Decision{Addr: addr}
	for _, n := range badNet {
		if n.Contains(addr) {
			d.Withhold, d.Tier, d.Discard = true, reputation.Bad, []string{policy.STARTTLS}
		}
	}
	return d
}

func newServer() *Server {
	return &Server{Decide: decide, Answered: NewAnswers().Put, Log: slog.New(slog.DiscardHandler)}
}

// ask sends raw bytes to a served connection, ends its sending side and returns all that comes
// back.
func ask(t testing.TB, speak Protocol, raw string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- newServer().Serve(ctx, l, speak) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	c.(*net.TCPConn).CloseWrite()
	answer, err := io.ReadAll(c)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		t.Fatal(err)
	}
	return string(answer)
}

func TestSocketmap(t *testing.T) {
	withheld, offered := "27:OK starttls, silent-discard,", "9:NOTFOUND ,"
	for _, c := range []struct{ name, raw, want string }{
		{"a bad client", "18:starttls 192.0.2.7,", withheld},
		{"another client", "21:starttls 198.51.100.7,", offered},
		{"as Sendmail asks", "18:ehlogate 192.0.2.7,", withheld},
		{"IPv6 as Sendmail writes it", "38:ehlogate ipv6:2001:db8:0:0:0:0:0:0007 ,", withheld},
		{"IPv6 with a capital prefix", "25:starttls IPv6:2001:db8::7,", withheld},
		{"an IPv4 address mapped", "25:starttls ::ffff:192.0.2.7,", withheld},
		{"the tier", "14:tier 192.0.2.7,", "6:OK bad,"},
		{"the tier of a stranger", "17:tier 198.51.100.7,", "10:OK unknown,"},
		{"an unknown table", "15:other 192.0.2.7,", offered},
		{"a key that is no address", "18:starttls elsewhere,", offered},
		{"no key", "8:starttls,", offered},
		{"an empty request", "0:,", offered},
		{"two at once", "18:starttls 192.0.2.7,14:tier 192.0.2.7,", withheld + "6:OK bad,"},
		{"a length that is none", "x:starttls 192.0.2.7,", ""},
		{"no length", ":,", ""},
		{"a length beyond all bounds", "999999999999:", ""},
		{"a request beyond the bound", "99999:x", ""},
		{"no comma", "18:starttls 192.0.2.7;", ""},
		{"cut short", "18:starttls", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := ask(t, Socketmap, c.raw); got != c.want {
				t.Errorf("asked %q, answered %q, want %q", c.raw, got, c.want)
			}
		})
	}
}

func TestMemcache(t *testing.T) {
	for _, c := range []struct{ name, raw, want string }{
		{"a bad client", "get starttls:192.0.2.7\r\n", "VALUE starttls:192.0.2.7 0 24\r\nstarttls, silent-discard\r\nEND\r\n"},
		{"a bare address", "get 192.0.2.7\r\n", "VALUE 192.0.2.7 0 24\r\nstarttls, silent-discard\r\nEND\r\n"},
		{"a bare IPv6 address", "get 2001:db8::7\r\n", "VALUE 2001:db8::7 0 24\r\nstarttls, silent-discard\r\nEND\r\n"},
		{"every address has a value, so the backup is not asked", "get 198.51.100.7\r\n", "VALUE 198.51.100.7 0 14\r\nsilent-discard\r\nEND\r\n"},
		{"the tier", "get tier:192.0.2.7\r\n", "VALUE tier:192.0.2.7 0 3\r\nbad\r\nEND\r\n"},
		{"a key that is no address", "get elsewhere\r\n", "END\r\n"},
		{"a set is ignored", "set starttls:198.51.100.7 0 3600 8\r\nstarttls\r\nget 198.51.100.7\r\n",
			"STORED\r\nVALUE 198.51.100.7 0 14\r\nsilent-discard\r\nEND\r\n"},
		{"a set without reply", "set k 0 0 2 noreply\r\nxx\r\nversion\r\n", "VERSION ehlogate\r\n"},
		{"quit", "quit\r\nversion\r\n", ""},
		{"another command", "flush_all\r\n", ""},
		{"an empty line", "\r\n", ""},
		{"a set of a negative length", "set k 0 0 -1\r\n", ""},
		{"a set of a huge length", "set k 0 0 99999999\r\n", ""},
		{"a line without end", strings.Repeat("x", 3*MaxRequest), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := ask(t, Memcache, c.raw); got != c.want {
				t.Errorf("asked %q, answered %q, want %q", c.raw, got, c.want)
			}
		})
	}
}

func TestUnixListenerAndWhatWasAnswered(t *testing.T) {
	l, err := net.Listen("unix", t.TempDir()+"/socketmap.sock")
	if err != nil {
		t.Fatal(err)
	}
	answers := NewAnswers()
	s := newServer()
	s.Answered = answers.Put
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go s.Serve(ctx, l, Socketmap)
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "18:starttls 192.0.2.7,")
	if got, _ := bufio.NewReader(c).ReadString(','); !strings.HasPrefix(got, "27:OK starttls,") {
		t.Errorf("answered %q", got)
	}
	if got := answers.Take(netip.MustParseAddr("192.0.2.7")); got != policy.Withheld {
		t.Errorf("told %q", got)
	}
	if got := answers.Take(netip.MustParseAddr("192.0.2.8")); got != policy.Unasked {
		t.Errorf("an address that was not asked for: %q", got)
	}
}

// TestAnswersComeWithinAMillisecond takes the median over a real connection, which noise of the
// machine moves little. Where the machine itself takes longer for a byte there and back, that
// counts.
func TestAnswersComeWithinAMillisecond(t *testing.T) {
	for name, c := range map[string]struct {
		speak           Protocol
		request, answer string
	}{
		"socketmap": {Socketmap, "18:starttls 192.0.2.7,", "27:OK starttls, silent-discard,"},
		"memcache":  {Memcache, "get starttls:192.0.2.7\r\n", "VALUE starttls:192.0.2.7 0 24\r\nstarttls, silent-discard\r\nEND\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			go newServer().Serve(ctx, l, c.speak)
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			answer := make([]byte, len(c.answer))
			var took []time.Duration
			for range 2000 {
				began := time.Now()
				io.WriteString(conn, c.request)
				if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != c.answer {
					t.Fatalf("answered %q, %v", answer, err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			t.Logf("median %v, 99th percentile %v", took[1000], took[1980])
			if echo := echoes(t); took[1000] > max(time.Millisecond, 10*echo) {
				t.Logf("an echo takes %v", echo)
				t.Errorf("median %v", took[1000])
			}
		})
	}
}

// echoes is the median time that a byte takes over loopback and back.
func echoes(t *testing.T) time.Duration {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			io.Copy(c, c)
		}
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var took []time.Duration
	for range 500 {
		began := time.Now()
		conn.Write([]byte{0})
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)/2]
}

func TestALateAnswerIsAnOffer(t *testing.T) {
	s := newServer()
	s.Decide = func(a netip.Addr) policy.Decision { time.Sleep(Deadline + 5*time.Millisecond); return decide(a) }
	if value, ok := s.lookup([]byte(starttls), []byte("192.0.2.7"), time.Now()); ok || value != "" || s.Stats.Late.Load() != 1 {
		t.Errorf("a late answer: %q, %v", value, ok)
	}
}

func TestAFaultOfOursIsAnOffer(t *testing.T) {
	s := newServer()
	s.Decide = func(netip.Addr) policy.Decision { panic("a fault") }
	client, server := net.Pipe()
	s.track(server)
	go s.serve(server, Socketmap)
	defer client.Close()
	for range 2 {
		io.WriteString(client, "18:starttls 192.0.2.7,")
		answer := make([]byte, len("9:NOTFOUND ,"))
		if _, err := io.ReadFull(client, answer); err != nil || string(answer) != "9:NOTFOUND ," {
			t.Errorf("answered %q, %v", answer, err)
		}
	}
	if n := s.Stats.Panics.Load(); n != 2 {
		t.Errorf("counted %d", n)
	}
}

func TestWriteCIDR(t *testing.T) {
	var b strings.Builder
	err := errors.Join(
		WriteCIDR(&b, netip.MustParsePrefix("192.0.2.9/32"), ""),
		WriteCIDR(&b, netip.MustParsePrefix("192.0.2.0/24"), "starttls, silent-discard"),
	)
	if want := "192.0.2.9/32\tsilent-discard\n192.0.2.0/24\tstarttls, silent-discard\n"; err != nil || b.String() != want {
		t.Errorf("%v, wrote %q", err, b.String())
	}
}

func fuzz(f *testing.F, speak Protocol, seeds ...string) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		client, server := net.Pipe()
		s := newServer()
		s.track(server)
		go io.Copy(io.Discard, client)
		go func() { client.Write(raw); client.Close() }()
		s.serve(server, speak)
		if s.Stats.Panics.Load() != 0 {
			t.Fatal("a panic")
		}
	})
}

func FuzzSocketmap(f *testing.F) {
	fuzz(f, Socketmap, "18:starttls 192.0.2.7,", "0:,", "99999:", "1:a", "-1:,")
}

func FuzzMemcache(f *testing.F) {
	fuzz(f, Memcache, "get starttls:192.0.2.7\r\n", "set a 0 0 1\r\nx\r\n", "set a 0 0 65536\r\n", "\n")
}

// TestAnAnswerIsOfOneSession: a client that was withheld STARTTLS, and then comes to a service that
// does not ask the table, was not withheld it there.
func TestAnAnswerIsOfOneSession(t *testing.T) {
	answers := NewAnswers()
	addr := netip.MustParseAddr("192.0.2.7")
	answers.Put(addr, policy.Offered, answers.now())
	answers.Put(addr, policy.Withheld, answers.now())
	for i, want := range []policy.Answer{policy.Withheld, policy.Withheld, policy.Unasked} {
		if got := answers.Take(addr); got != want {
			t.Errorf("session %d was told %s, want %s", i+1, got, want)
		}
	}
}

func TestAnswersAreForgotten(t *testing.T) {
	answers, now := NewAnswers(), time.Unix(1_000_000, 0)
	answers.now = func() time.Time { return now }
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, byte(18 + i>>16), byte(i >> 8), byte(i)}) }
	answers.Put(addr(0), policy.Withheld, answers.now())
	now = now.Add(remember - time.Second)
	answers.Put(addr(1), policy.Withheld, answers.now())
	now = now.Add(2 * time.Second)
	answers.Put(addr(2), policy.Withheld, answers.now())
	for i, want := range []policy.Answer{policy.Unasked, policy.Withheld, policy.Withheld} {
		if got := answers.Take(addr(i)); got != want {
			t.Errorf("address %d was told %s, want %s", i, got, want)
		}
	}
	// Of many more than there is room for, the last ones are known.
	const many = 5 * sets * ways
	for i := range many {
		answers.Put(addr(i), policy.Offered, answers.now())
	}
	if got := answers.Take(addr(many - 1)); got != policy.Offered {
		t.Errorf("the last one was told %s", got)
	}
}
