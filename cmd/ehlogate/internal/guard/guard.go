// Package guard stands before the daemon's listeners: it says who may connect, and bounds how many
// connections are open at once.
//
// Where there are too many, the one that has been idle longest is closed for the new one, and of
// all one on which nothing was ever asked. So whoever opens connections and leaves them alone takes
// room from himself, and not from the MTA: Postfix asks within a millisecond of connecting.
package guard

import (
	"container/list"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Stats are counts since the start.
type Stats struct {
	// Evicted counts connections that were closed for a new one, Strangers those that were closed
	// because of where they came from.
	Evicted, Strangers atomic.Uint64
}

// Rules are what a listener keeps to.
type Rules struct {
	// Key is the configuration key of the listener, for the log.
	Key string
	// Most is how many connections are open at once.
	Most int
	// Peers are the networks that may connect over TCP, besides this host, and PeersKey the
	// configuration key that names them.
	Peers    func() []netip.Prefix
	PeersKey string
	Log      *slog.Logger
}

// Listener is a guarded listener. New makes one.
type Listener struct {
	net.Listener
	Stats Stats
	rules Rules

	mu   sync.Mutex
	open map[*conn]struct{}
	// mute has those on which nothing was asked yet, the oldest first.
	mute list.List

	crowded, strange, failing rate.Sometimes
	lastStranger              atomic.Pointer[stranger]
}

// New puts rules on a listener.
func New(l net.Listener, rules Rules) *Listener {
	g := &Listener{Listener: l, rules: rules, open: map[*conn]struct{}{}}
	for _, s := range []*rate.Sometimes{&g.crowded, &g.strange, &g.failing} {
		s.First, s.Interval = 1, time.Minute
	}
	return g
}

// Key is the configuration key of the listener, PeersKey that of its peers.
func (l *Listener) Key() string      { return l.rules.Key }
func (l *Listener) PeersKey() string { return l.rules.PeersKey }

// stranger is a connection that was refused.
type stranger struct {
	peer string
	at   time.Time
}

// LastStranger is where the last connection came from that was refused, and when; the time is zero
// if there was none.
func (l *Listener) LastStranger() (peer string, at time.Time) {
	if last := l.lastStranger.Load(); last != nil {
		return last.peer, last.at
	}
	return "", time.Time{}
}

// pause is how long accept(2) is left alone after it failed.
const pause = 10 * time.Millisecond

// Accept returns the next connection of somebody who may connect. It returns an error only when the
// listener is closed.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil, err
		case err != nil:
			// Out of file descriptors, most likely: closing one helps.
			l.failing.Do(func() { l.rules.Log.Warn("connections cannot be accepted", "listener", l.rules.Key, "error", err) })
			l.mu.Lock()
			l.evict()
			l.mu.Unlock()
			time.Sleep(pause)
		case !l.welcome(c):
			l.Stats.Strangers.Add(1)
			l.lastStranger.Store(&stranger{c.RemoteAddr().String(), time.Now()})
			l.strange.Do(func() {
				l.rules.Log.Warn("connection of another host refused; list it if it may connect", "listener", l.rules.Key,
					"peer", c.RemoteAddr().String(), "key", l.rules.PeersKey, "refused", l.Stats.Strangers.Load())
			})
			c.Close()
		default:
			return l.admit(c), nil
		}
	}
}

// welcome reports whether whoever is at the other end may connect: over a unix socket whom the
// permissions let, over TCP this host and the peers that are listed.
func (l *Listener) welcome(c net.Conn) bool {
	peer, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return true
	}
	addr := peer.AddrPort().Addr().Unmap().WithZone("")
	if addr.IsLoopback() {
		return true
	}
	if own, ok := c.LocalAddr().(*net.TCPAddr); ok && own.AddrPort().Addr().Unmap().WithZone("") == addr {
		// From one of this host's own addresses to itself.
		return true
	}
	for _, n := range l.rules.Peers() {
		if n.Contains(addr) {
			return true
		}
	}
	return false
}

// admit lets a connection in, for another one if there are too many.
func (l *Listener) admit(c net.Conn) net.Conn {
	guarded := &conn{Conn: c, listener: l}
	guarded.last.Store(time.Now().UnixNano())
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) >= l.rules.Most {
		l.evict()
	}
	l.open[guarded] = struct{}{}
	guarded.mute = l.mute.PushBack(guarded)
	return guarded
}

const (
	// grace is how long a peer has until it asks: an MTA asks within a millisecond. idle is how
	// long one that has asked is left alone.
	grace = 100 * time.Millisecond
	idle  = time.Second
)

// looked is how many connections are looked at for the longest idle one: all of them would take too
// long, when somebody makes room again and again.
const looked = 64

// evict closes the connection that is missed least, or nearly so.
func (l *Listener) evict() {
	var mute, idlest *conn
	if oldest := l.mute.Front(); oldest != nil {
		mute = oldest.Value.(*conn)
	}
	if mute == nil || mute.silence() < grace {
		n := 0
		// The order of a map is random enough.
		for c := range l.open {
			if c.mute == nil && (idlest == nil || c.last.Load() < idlest.last.Load()) {
				idlest = c
			}
			if n++; n == looked {
				break
			}
		}
	}
	// One that has just come may be about to ask: it goes only where nothing else is idle.
	if mute != nil && (idlest == nil || idlest.silence() < idle) {
		idlest = mute
	}
	if idlest == nil {
		return
	}
	l.forget(idlest)
	l.Stats.Evicted.Add(1)
	l.crowded.Do(func() {
		l.rules.Log.Warn("too many connections: the longest idle ones are closed", "listener", l.rules.Key, "most", l.rules.Most,
			"peer", idlest.RemoteAddr().String(), "closed", l.Stats.Evicted.Load())
	})
	idlest.Conn.Close()
}

// Open is how many connections are open.
func (l *Listener) Open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

// Cut closes all connections.
func (l *Listener) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		c.Conn.Close()
	}
}

// conn is a connection that knows when something last came or went.
type conn struct {
	net.Conn
	listener *Listener
	// asked says that the peer has sent something; last is when something last went either way, as
	// far as it was more than an answer, else when it connected, in nanoseconds of Unix time.
	asked atomic.Bool
	last  atomic.Int64
	// mute is its place among those on which nothing was asked; the listener's mu guards it.
	mute *list.Element
}

// NetConn is the connection that is guarded.
func (c *conn) NetConn() net.Conn { return c.Conn }

// silence is how long nothing has gone either way.
func (c *conn) silence() time.Duration { return time.Duration(time.Now().UnixNano() - c.last.Load()) }

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.last.Store(time.Now().UnixNano())
		if !c.asked.Swap(true) {
			c.listener.speaks(c)
		}
	}
	return n, err
}

// speaks takes a connection from those on which nothing was asked.
func (l *Listener) speaks(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.mute != nil {
		l.mute.Remove(c.mute)
		c.mute = nil
	}
}

// forget takes a connection out; mu is held.
func (l *Listener) forget(c *conn) {
	delete(l.open, c)
	if c.mute != nil {
		l.mute.Remove(c.mute)
		c.mute = nil
	}
}

// answer is how long an answer is at most, which comes just after what was asked.
const answer = 1024

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if n > answer {
		c.last.Store(time.Now().UnixNano())
	}
	return n, err
}

func (c *conn) Close() error {
	c.listener.mu.Lock()
	c.listener.forget(c)
	c.listener.mu.Unlock()
	return c.Conn.Close()
}
