package table

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/store"
)

// known is a table over a memory in which every other host of 198.18.0.0/15 is bad.
func known(hosts int) *Server {
	inForce := policy.NewInForce(policy.New(policy.Default()), time.Now)
	judge := policy.NewJudge(inForce, store.NewMemory(inForce.Tier, time.Now))
	for i := range hosts {
		class := []policy.Class{policy.Spam, policy.Ham}[i%2]
		for range 3 {
			judge.Learn(&policy.Message{Time: time.Now(), Mail: true, Client: policy.Client{Addr: nth(i)}, Verdict: policy.Verdict{Class: class, Weight: 1}})
		}
	}
	return &Server{Decide: judge.Decide, Answered: NewAnswers().Put, Log: slog.New(slog.DiscardHandler)}
}

func nth(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{198, byte(18 + i>>16&1), byte(i >> 8), byte(i)})
}

// script is a connection on which the same is asked again and again.
type script struct {
	net.Conn
	requests [][]byte
	rest     []byte
	asked    int
	answers  bytes.Buffer
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		if s.asked == 0 {
			return 0, io.EOF
		}
		s.asked--
		s.rest = s.requests[s.asked%len(s.requests)]
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error)      { s.answers.Reset(); return s.answers.Write(p) }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

var protocols = map[string]struct {
	speak  Protocol
	format func(addr string) []byte
}{
	"socketmap": {Socketmap, func(addr string) []byte { return fmt.Appendf(nil, "%d:starttls %s,", 9+len(addr), addr) }},
	"memcache":  {Memcache, func(addr string) []byte { return fmt.Appendf(nil, "get starttls:%s\r\n", addr) }},
}

// A lookup allocates nothing: with 2,000 lookups on a connection there are no more allocations than
// with a few. So a flood of them gives the garbage collector nothing to do.
func TestALookupAllocatesNothing(t *testing.T) {
	s := known(1000)
	for name, p := range protocols {
		ask := &script{}
		for i := range 1000 {
			ask.requests = append(ask.requests, p.format(nth(i).String()))
		}
		ask.requests = append(ask.requests, p.format("2001:db8::7"), p.format("192.0.2.7"))
		for range 3 {
			// The memories of answers grow at first.
			ask.asked = 2000
			p.speak(s, &peer{Conn: ask})
		}
		allocations := func(n int) float64 {
			return testing.AllocsPerRun(20, func() {
				ask.asked = n
				if err := p.speak(s, &peer{Conn: ask}); err != io.EOF {
					t.Fatal(err)
				}
			})
		}
		if few, many := allocations(2), allocations(2002); many > few {
			t.Errorf("%s: 2,000 lookups more take %v allocations", name, many-few)
		}
	}
	if s.Stats.Withheld.Load() == 0 || s.Stats.Offered.Load() == 0 || s.Stats.Unknown.Load() != 0 {
		t.Errorf("%d withheld, %d offered, %d unknown", s.Stats.Withheld.Load(), s.Stats.Offered.Load(), s.Stats.Unknown.Load())
	}
}

func BenchmarkLookup(b *testing.B) {
	s := known(1 << 16)
	for name, p := range protocols {
		b.Run(name, func(b *testing.B) {
			ask := &script{asked: b.N}
			for i := range 1 << 16 {
				ask.requests = append(ask.requests, p.format(nth(i).String()))
			}
			b.ReportAllocs()
			b.ResetTimer()
			p.speak(s, &peer{Conn: ask})
		})
	}
}
