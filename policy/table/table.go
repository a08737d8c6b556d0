// Package table answers the MTA's own lookups: socketmap and memcache, as Postfix's
// socketmap_table(5) and memcache_table(5), Sendmail's socket map and Exim's readsocket ask them.
//
// A socketmap that fails stops all mail in Postfix ("421 4.3.0 Server local data error"), so an
// answer is never TEMP, PERM or TIMEOUT and never late: on any doubt it is NOTFOUND, and STARTTLS
// is offered. memcache answers every address with a value, because Postfix asks the backup table
// after a miss and writes a hit of the backup back.
package table

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/deadline"
)

const (
	// Deadline is the longest that an answer may take; later it is NOTFOUND.
	Deadline = 50 * time.Millisecond
	// MaxRequest is the longest request in bytes: a name, a space and an address need far less.
	MaxRequest = 1024
	// idle ends a connection on which nothing is asked. Postfix itself leaves after 10 s
	// (socketmap) and never (memcache); it notices when it asks again, and connects anew.
	idle = 5 * time.Minute
	// answerWait is how long a peer may take to read an answer.
	answerWait = 2 * time.Second
)

// Stats are counts since the start.
type Stats struct {
	Connections, Malformed, Late       atomic.Uint64
	Offered, Withheld, Unknown, Panics atomic.Uint64
	// Would counts lookups that a mode other than observe would have answered with withhold.
	Would atomic.Uint64
}

// Server answers lookups. Its exported fields are set before Serve.
type Server struct {
	// Decide judges an address.
	Decide func(netip.Addr) policy.Decision
	// Answered is called with each answer about STARTTLS, and when that was asked for, before it is
	// sent.
	Answered func(netip.Addr, policy.Answer, time.Time)
	// Took is told how long a decision took; nil for nobody.
	Took func(time.Duration)
	Log  *slog.Logger

	Stats Stats

	mu      sync.Mutex
	logged  time.Time // when complain last logged something
	conns   map[net.Conn]struct{}
	stopped atomic.Bool
	running sync.WaitGroup
}

// Protocol is how requests and answers look on the wire.
type Protocol func(*Server, *peer) error

// errMalformed ends a connection whose peer does not speak the protocol.
var errMalformed = errors.New("malformed request")

// Serve answers on a listener until the context ends; then it closes the listener, lets each
// connection end its request and returns.
func (s *Server) Serve(ctx context.Context, l net.Listener, speak Protocol) error {
	stop := context.AfterFunc(ctx, func() { l.Close(); s.closeAll() })
	defer stop()
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if c != nil {
				c.Close()
			}
			s.running.Wait()
			return nil
		case err != nil:
			return fmt.Errorf("table: %w", err)
		}
		if !s.track(c) {
			c.Close()
			continue
		}
		s.running.Go(func() { s.serve(c, speak) })
	}
}

func (s *Server) serve(c net.Conn, speak Protocol) {
	defer func() {
		if p := recover(); p != nil {
			s.Stats.Panics.Add(1)
			s.Log.Error("table: panic", "panic", p, "stack", string(debug.Stack()))
		}
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		c.Close()
	}()
	if err := speak(s, &peer{Conn: c, now: time.Now()}); errors.Is(err, errMalformed) {
		s.Stats.Malformed.Add(1)
		s.complain("table: malformed request, connection closed", "peer", c.RemoteAddr().String(), "error", err)
	}
}

// peer is a connection whose peer has to ask now and then, and to read what it asked for.
type peer struct {
	net.Conn
	reading, writing deadline.Lazy
	// now is when it last asked: an answer takes no time.
	now time.Time
}

func (p *peer) Write(b []byte) (int, error) {
	if until, set := p.writing.Move(p.now, answerWait); set {
		p.SetWriteDeadline(until)
	}
	return p.Conn.Write(b)
}

func (s *Server) track(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		s.conns = map[net.Conn]struct{}{}
	}
	if s.stopped.Load() {
		return false
	}
	s.conns[c] = struct{}{}
	s.Stats.Connections.Add(1)
	return true
}

// closeAll ends reading on every connection; an answer under way may still be written.
func (s *Server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped.Store(true)
	for c := range s.conns {
		c.SetReadDeadline(time.Now())
	}
}

// wait sets how long a peer may take for its next request, unless the server is stopping.
func (s *Server) wait(p *peer) error {
	until, set := p.reading.Move(p.now, idle)
	if !set && !s.stopped.Load() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped.Load() {
		return net.ErrClosed
	}
	return p.SetReadDeadline(until)
}

// The tables by name.
const (
	starttls = "starttls" // the EHLO keywords to leave out
	ehlogate = "ehlogate" // the same, as Sendmail and Exim name it
	tier     = "tier"     // the tier's name
)

// tables are all of them.
var tables = [][]byte{[]byte(starttls), []byte(ehlogate), []byte(tier)}

// lookup answers a key of a table that was asked for now; ok is false when the table is unknown or
// the key is not an address. value is "" where nothing is left out of the EHLO reply.
func (s *Server) lookup(name, key []byte, now time.Time) (value string, ok bool) {
	// The text is read and not kept, so that a string of it would be made for nothing.
	addr, err := policy.ParseAddr(unsafe.String(unsafe.SliceData(key), len(key)))
	if err != nil || string(name) != starttls && string(name) != ehlogate && string(name) != tier {
		s.Stats.Unknown.Add(1)
		s.complain("table: unknown table or malformed key, answered with not found", "table", clip(string(name)), "key", clip(string(key)))
		return "", false
	}
	d, ok := s.decide(addr, now)
	if string(name) == tier {
		return d.Tier.String(), ok
	}
	answer := d.Answer()
	if d.Would {
		s.Stats.Would.Add(1)
	}
	if answer == policy.Withheld {
		s.Stats.Withheld.Add(1)
	} else {
		s.Stats.Offered.Add(1)
	}
	if s.Answered != nil {
		s.Answered(addr, answer, now)
	}
	return d.Keywords(), ok
}

// decide judges within the deadline. The stores answer from memory, so a late answer is a fault;
// like a panic it is counted and becomes an offer, because a connection closed instead would make
// Postfix refuse the session.
func (s *Server) decide(addr netip.Addr, now time.Time) (d policy.Decision, ok bool) {
	defer func() {
		if p := recover(); p != nil {
			s.Stats.Panics.Add(1)
			s.Log.Error("table: panic", "client", addr, "panic", p, "stack", string(debug.Stack()))
			d, ok = policy.Decision{Addr: addr}, false
		}
	}()
	d = s.Decide(addr)
	took := time.Since(now)
	if s.Took != nil {
		s.Took(took)
	}
	if took > Deadline {
		s.Stats.Late.Add(1)
		return policy.Decision{Addr: addr}, false
	}
	return d, true
}

// complain logs at most once a minute what goes wrong with peers; all of it is counted.
func (s *Server) complain(msg string, args ...any) {
	s.mu.Lock()
	silent := time.Since(s.logged) < time.Minute
	if !silent {
		s.logged = time.Now()
	}
	s.mu.Unlock()
	if !silent {
		s.Log.Warn(msg, append(args, "malformed", s.Stats.Malformed.Load(), "unknown", s.Stats.Unknown.Load())...)
	}
}

// clip shortens what a peer sent for a log line.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}
