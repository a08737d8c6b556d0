// Package redis keeps evidence in Redis, where a cluster of MX hosts shares it.
//
// Each network is one hash: its own sum, and one record for each of its hosts, so that a lookup is
// one command to one server. Lessons are gathered for a moment and sent in batches. A script adds
// them on the server, so that the sums are those of one host that had learnt it all. Batches are
// numbered, and the number of the last one is kept beside the evidence: none counts twice, however
// often it has to be sent, and what Redis has lost is noticed and sent again. A lookup is answered
// from a bounded cache, else by Redis within 20 ms; failing both, STARTTLS is offered. While Redis
// is away, observations wait on disk, and the cache answers.
//
// Changes of tier invalidate what other nodes have in their caches, by sharded publish and
// subscribe. Server-assisted client caching (CLIENT TRACKING) would say more than is needed, and
// cost more: it tells of each write of a record, where only a change of tier matters; the server
// has to remember which connection read what; and a client hears of it only on the connections that
// it reads.
package redis

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/fault"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

// ErrClosed is what a change gets after Close.
var ErrClosed = errors.New("store: closed")

// readWait is how long a lookup waits for Redis.
const readWait = 20 * time.Millisecond

// Options are what a Store needs to know.
type Options struct {
	Target *Target
	// SpoolDir is the directory of the spool, SpoolLimit how many bytes of observations it holds.
	SpoolDir   string
	SpoolLimit int64
	// Layout is how addresses are cut into hosts and networks. All nodes must agree on it.
	Layout policy.Layout
	// Tier finds a host's tier after a change.
	Tier policy.Tiering
	Now  func() time.Time
	Log  *slog.Logger
}

// schema is what Redis has to hold for this node to work with it.
func (o *Options) schema() string { return schemaVersion + "; " + o.Layout.Text() }

// Store is reputation in Redis. Open makes one.
type Store struct {
	Stats Stats

	opt      Options
	server   *server
	cache    *cache
	writer   *writer
	reading  singleflight.Group
	throttle fault.Throttle
	faults   fault.Guard

	// schema is what is known of what Redis is filled with.
	schema atomic.Int32
	// loading is held by a reading of overrides and exceptions, which are replaced whole.
	loading    sync.Mutex
	overrides  atomic.Pointer[policy.Networks[policy.Override]]
	exceptions atomic.Pointer[policy.Networks[policy.Exception]]
	// id is the store's when they were last read: one that has another has lost its data.
	id string
	// overridesRead says that they have been read since the start.
	overridesRead atomic.Bool

	invalidations invalidations
	// telling is for exceptions, of which there may be many.
	telling rate.Sometimes
	// told waits to be sent to the other nodes.
	told chan []byte

	stop context.CancelFunc
	done sync.WaitGroup
}

// Open opens the spool and begins to work with Redis, whether that answers yet or not.
func Open(o Options) (*Store, error) {
	client, err := o.Target.connect()
	if err != nil {
		return nil, fmt.Errorf("store: %s: %w", o.Target, err)
	}
	s := &Store{opt: o, cache: newCache(), telling: rate.Sometimes{Interval: time.Second}, told: make(chan []byte, mostTold), faults: fault.Guard{Log: o.Log}}
	s.overrides.Store(policy.NewNetworks[policy.Override]())
	s.exceptions.Store(policy.NewNetworks[policy.Exception]())
	s.invalidations.wake = make(chan struct{}, 1)
	s.server = newServer(client, o.Log, &s.throttle, &s.faults, s.back)
	sender := make([]byte, 8)
	rand.Read(sender)
	w := &writer{
		server: s.server, now: o.Now, log: o.Log, stats: &s.Stats, ready: s.ready, took: s.took, script: newScript(),
		sender: hex.EncodeToString(sender), wake: make(chan struct{}, 1), streams: map[streamID]*stream{}, dirty: map[*stream]struct{}{}, sending: map[string]*sending{},
		throttle: &s.throttle, faults: &s.faults,
	}
	s.writer = w
	var aside string
	w.spool, aside, err = openSpool(o.SpoolDir, o.SpoolLimit, o.Now, func(b *batch) {
		l := w.streamOf(streamID{b.Sender, b.Bucket})
		l.disk = append(l.disk, stored{b.stored, b.Number})
		w.dirty[l] = struct{}{}
	})
	if err != nil {
		client.Close()
		return nil, err
	}
	if aside != "" {
		o.Log.Error("the spool was damaged; what waited there for Redis is not replayed, and was moved aside", "file", aside)
	}
	w.spool.renewed = func(aside string) {
		if aside == "" {
			o.Log.Error("the spool's file was gone while it was open, and a new one was begun: what waited there for Redis is lost", "file", w.spool.path)
			return
		}
		o.Log.Error("the spool was damaged while it was open, and a new one was begun: what waited there for Redis is not replayed", "file", aside)
	}
	if n := w.spool.damaged; n > 0 {
		o.Log.Error("batches in the spool are damaged and left out", "batches", n)
	}
	s.Stats.Spooled.Store(w.spool.batches)
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	first, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s.look(first)
	s.loadOverrides(first)
	s.done.Go(func() { s.faults.Keep(ctx, "writing to Redis", s.writer.loop) })
	s.done.Go(func() { s.faults.Keep(ctx, "listening to other nodes", s.listen) })
	s.warm(first)
	s.done.Go(func() { s.faults.Keep(ctx, "looking at Redis", s.lookLoop) })
	s.done.Go(func() { s.faults.Keep(ctx, "telling other nodes", s.publishLoop) })
	s.done.Go(func() { s.faults.Keep(ctx, "asking other nodes", s.tellLoop) })
	return s, nil
}

// warm waits until connections are open and the other nodes are heard, so that the first clients do
// not wait for that.
func (s *Store) warm(ctx context.Context) {
	for s.ready() && (!s.invalidations.heard.Load() || s.server.client.PoolStats().IdleConns < minIdle) && ctx.Err() == nil {
		time.Sleep(window)
	}
}

// Close sends what is waiting, or puts it on disk.
func (s *Store) Close() error {
	s.stop()
	s.done.Wait()
	return errors.Join(s.writer.close(), s.writer.spool.close(), s.server.client.Close())
}

// Recall returns what is known of an address: from memory, else from Redis within 20 ms.
// Known.Unavailable says that neither knew.
func (s *Store) Recall(addr netip.Addr, k policy.Keys, now time.Time) policy.Known {
	known, f := s.cache.recall(k, now)
	switch f {
	case fresh:
		s.Stats.Hits.Add(1)
	case ageing:
		s.Stats.Hits.Add(1)
		s.ask(k)
	default:
		if read, ok := s.read(k); ok {
			s.Stats.Read.Add(1)
			known = read
		} else {
			s.Stats.Late.Add(1)
			known.Unavailable = f == guess
		}
	}
	known.Override, known.Exception = s.overrides.Load().Holds(addr, now), s.exceptions.Load().Holds(addr, now)
	return known
}

// read asks Redis and waits, but not for long.
func (s *Store) read(k policy.Keys) (policy.Known, bool) {
	if !s.ready() {
		return policy.Known{}, false
	}
	answer := s.ask(k)
	wait := time.NewTimer(readWait)
	defer wait.Stop()
	select {
	case r := <-answer:
		if r.Err != nil {
			return policy.Known{}, false
		}
		return r.Val.(policy.Known), true
	case <-wait.C:
		return policy.Known{}, false
	}
}

// ask reads a client's evidence into the cache. Callers that ask for the same client meanwhile
// share the answer.
func (s *Store) ask(k policy.Keys) <-chan singleflight.Result {
	// A panic in there would be one of a goroutine of the group, and end the process.
	return s.reading.DoChan(fmt.Sprint(k.Host, k.Network, k.ASN), func() (known any, err error) {
		fault := s.faults.Do("reading from Redis", func() { known, err = s.recallFrom(k) })
		return known, cmp.Or(fault, err)
	})
}

// recallFrom reads a client's evidence into the cache.
func (s *Store) recallFrom(k policy.Keys) (known policy.Known, err error) {
	// Whoever asked before may just have been answered.
	if known, f := s.cache.recall(k, s.opt.Now()); f == fresh {
		return known, nil
	}
	return s.refresh(k)
}

// Refresh reads a client's evidence, and what is known of its network, into the cache, whatever is
// there: for an operator who asks, and to whom what was remembered would be yesterday's news.
func (s *Store) Refresh(k policy.Keys) {
	if s.ready() {
		s.refresh(k)
	}
}

func (s *Store) refresh(k policy.Keys) (known policy.Known, err error) {
	addr, ok := s.server.master(redisKey(k.Network.String()))
	if !ok {
		return known, errAway
	}
	s.cache.begin(k.Network)
	err = s.server.call(addr, func() (err error) {
		known, err = s.fetch(k)
		return err
	})
	if err == nil {
		known = s.heal(k, known)
	}
	s.cache.end(k, known, err == nil, s.opt.Now())
	switch {
	case err == nil, down(err):
	case transient(err):
		s.throttle.About("read "+kind(err), func() { s.opt.Log.Warn("Redis does not answer a lookup", "error", err) })
	default:
		s.throttle.About("unreadable", func() {
			s.opt.Log.Error("Redis holds what cannot be read; its clients are offered STARTTLS", "network", k.Network, "key", redisKey(k.Network.String()), "error", err)
		})
	}
	return known, err
}

// fetch reads a client's evidence in one round trip.
func (s *Store) fetch(k policy.Keys) (known policy.Known, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	pipe := s.server.client.Pipeline()
	near := pipe.HMGet(ctx, redisKey(k.Network.String()), "", field(k.Host, k.Network))
	var system *redis.StringCmd
	if k.ASN != 0 {
		system = pipe.HGet(ctx, redisKey(systemKey(k.ASN)), "")
	}
	exec(ctx, pipe)
	values, err := near.Result()
	if err != nil {
		return known, err
	}
	record := func(v any) (reputation.Evidence, error) {
		text, _ := v.(string)
		return parseRecord(text)
	}
	if known.Network, err = record(values[0]); err != nil {
		return known, err
	}
	if known.Host, err = record(values[1]); err != nil {
		return known, err
	}
	if system != nil && system.Err() == nil {
		known.AS, err = parseRecord(system.Val())
	}
	return known, err
}

// heal heals what was read. What was of the future is healed in Redis, too, by a change that adds
// nothing: otherwise it would be as of now for ever.
func (s *Store) heal(k policy.Keys, read policy.Known) policy.Known {
	now := s.opt.Now()
	healed := read
	healed.Host, healed.Network, healed.AS = read.Host.Heal(now), read.Network.Heal(now), read.AS.Heal(now)
	slice := reputation.Slice(now)
	switch {
	case healed.Host != read.Host:
		s.writer.add(change{Op: learn, Key: k.Network.String(), Host: k.Host, Slice: slice, Record: state(healed.Host)})
	case healed.Network != read.Network:
		s.writer.add(change{Op: move, Key: k.Network.String(), Slice: slice})
	}
	if healed.AS != read.AS {
		s.writer.add(change{Op: move, Key: systemKey(k.ASN), Slice: slice})
	}
	return healed
}

// Learn adds a lesson; see policy.Store. The channel yields nil when it is in Redis, or on disk to
// go there.
func (s *Store) Learn(k policy.Keys, l policy.Lesson) <-chan error {
	s.Stats.Learnt.Add(1)
	taken := make(chan error, 1)
	c := change{
		Op: learn, Key: k.Network.String(), Host: k.Host, ASN: k.ASN, Slice: reputation.Slice(l.At), Count: reputation.CountOf(l.Spam, l.Ham),
		waiting: []chan<- error{taken},
	}
	if host, sure := s.cache.learn(k, l, s.opt.Tier, s.opt.Now()); sure {
		c.Record = state(host)
	}
	s.writer.add(c)
	return taken
}

// took takes what Redis said of a batch of ours: what it knows now, and what follows of that.
func (s *Store) took(b *batch, r reply) (next []change) {
	sums := map[string]kept{}
	place := 0
	for i := range b.Changes {
		if key := b.Changes[i].Key; r.status == applied {
			if _, ok := sums[key]; !ok {
				sums[key] = r.sums[place]
				place++
			}
		}
	}
	for i := range b.Changes {
		c := &b.Changes[i]
		var did changed
		if i < len(r.changes) {
			did = r.changes[i]
		}
		if did.err != nil {
			s.Stats.Refused.Add(1)
			s.throttle.About("foreign", func() {
				s.opt.Log.Error("Redis holds something else where evidence should be; what was learnt of it is lost until that is removed", "key", redisKey(c.Key), "error", did.err)
			})
			c.finish(did.err)
			continue
		}
		// Should Redis lose the batch and get it again, the system has had its part already.
		if c.Op == learn && c.ASN != 0 && !c.moved && did.move != (reputation.Move{}) {
			next = append(next, change{Op: move, Key: systemKey(c.ASN), Slice: c.Slice, Count: did.move.Recent, Past: did.move.Past, waiting: c.waiting})
			c.waiting, c.moved = nil, true
		}
		if c.Op == remove && c.ASN != 0 && !c.moved && r.status == applied {
			record, _ := did.before.AppendBinary(nil)
			next = append(next, change{Op: subtract, Key: systemKey(c.ASN), Record: record, waiting: c.waiting})
			c.waiting, c.moved = nil, true
		}
		switch {
		case c.Op == move || c.Op == subtract:
		case r.status != applied:
			// What it made of the evidence got lost on the way: it is read again when it is needed.
			s.cache.markStale(c.keys().Network)
			s.invalidate(c.Key)
		case c.Op == learn:
			next = append(next, s.tier(c, did.kept, sums[c.Key])...)
		case c.Op == remove:
			s.cache.drop(c.keys().Network)
			s.invalidate(c.Key)
		}
		c.finish(nil)
	}
	return next
}

// tier finds the tier that a host is in after a change, by all that is known now.
func (s *Store) tier(c *change, host, network kept) []change {
	k := c.keys()
	system := s.cache.system(k.ASN)
	now := s.opt.Tier(
		policy.Known{Host: host.before, Network: network.before, AS: system},
		policy.Known{Host: host.after, Network: network.after, AS: system})
	s.cache.store(k, now, network.after, s.opt.Now())
	if now.Tier != host.before.Tier {
		s.invalidate(c.Key)
	}
	if now == host.after {
		return nil
	}
	return []change{{Op: enter, Key: c.Key, Host: c.Host, Record: state(now)}}
}

// back is called when Redis answers again after it did not.
func (s *Store) back() {
	s.cache.markAllStale()
	go s.faults.Do("looking at Redis", func() {
		s.look(context.Background())
		s.writer.confirm(context.Background(), 0)
	})
}

// Up reports whether Redis answers and may be written to.
func (s *Store) Up() bool { return s.ready() && s.server.up() }

// Why is why Redis did not serve last, nil where it always did.
func (s *Store) Why() error {
	if err := s.server.why.Load(); err != nil {
		return *err
	}
	return nil
}

// Cached is how many hosts and networks are remembered.
func (s *Store) Cached() int { return s.cache.len() }
