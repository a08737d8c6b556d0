package redis

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// invalidationChannel is the sharded channel on which nodes tell of changes: lines of the
	// sender's stream and the networks in which a tier changed, or the words overrides and
	// everything.
	invalidationChannel = prefix + "{news}"
	// schemaKey holds the schema, overridesKey the operator's overrides, each a field with JSON,
	// idKey the name of the store.
	schemaKey     = prefix + "schema"
	overridesKey  = prefix + "overrides"
	idKey         = prefix + "id"
	overridesWord = "overrides"
	// everythingWord says that all of it may have changed.
	everythingWord = "everything"
	// schemaVersion changes with whatever another version could misread.
	schemaVersion = "ehlogate evidence 2"

	invalidationRetry = 100 * time.Millisecond
	// mostInvalidations bounds the invalidations that wait to be sent, invalidationsAtOnce those of
	// one message.
	mostInvalidations, invalidationsAtOnce = 10_000, 100
	lookAgain                              = 10 * time.Second
)

// invalidations are what the other nodes have yet to hear of.
type invalidations struct {
	sync.Mutex
	wake    chan struct{}
	pending []string
	// heard says that other nodes are heard.
	heard atomic.Bool
}

// invalidate tells the other nodes that something changed in a network.
func (s *Store) invalidate(word string) {
	n := &s.invalidations
	n.Lock()
	defer n.Unlock()
	if len(n.pending) < mostInvalidations {
		n.pending = append(n.pending, word)
	}
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (s *Store) publishLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.invalidations.wake:
		}
		for s.publishSome(ctx) {
		}
	}
}

// publishSome sends some invalidations, and reports whether to go on.
func (s *Store) publishSome(ctx context.Context) bool {
	n := &s.invalidations
	n.Lock()
	some := n.pending[:min(len(n.pending), invalidationsAtOnce)]
	n.Unlock()
	if len(some) == 0 {
		return false
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := s.server.client.SPublish(call, invalidationChannel, s.writer.sender+" "+strings.Join(some, " ")).Err(); err != nil {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(invalidationRetry):
			return true
		}
	}
	n.Lock()
	n.pending = n.pending[len(some):]
	n.Unlock()
	return true
}

// listen hears what other nodes tell. Whenever it may have missed something, all that is remembered
// is doubted.
func (s *Store) listen(ctx context.Context) {
	for ctx.Err() == nil {
		err := s.hear(ctx)
		s.invalidations.heard.Store(false)
		s.cache.markAllStale()
		if ctx.Err() == nil && !down(err) {
			s.throttle.About("invalidations", func() { s.opt.Log.Error("changes of other nodes are not heard", "error", err) })
		}
		select {
		case <-ctx.Done():
		case <-time.After(invalidationRetry):
		}
	}
}

// hear hears of changes until the channel is lost.
func (s *Store) hear(ctx context.Context) error {
	return s.subscribe(ctx, invalidationChannel, func() {
		// What was sent before is missed.
		s.cache.markAllStale()
		s.loadOverrides(ctx)
		s.invalidations.heard.Store(true)
	}, func(payload string) { s.invalidated(ctx, payload) })
}

func (s *Store) invalidated(ctx context.Context, payload string) {
	words := strings.Fields(payload)
	if len(words) == 0 || words[0] == s.writer.sender {
		return
	}
	for _, w := range words[1:] {
		if w == overridesWord {
			s.loadOverrides(ctx)
			continue
		}
		if w == everythingWord {
			s.cache.markAllStale()
			continue
		}
		if n, err := netip.ParsePrefix(w); err == nil {
			s.Stats.Invalidated.Add(1)
			s.cache.markStale(n)
		}
	}
}

// What is known of Redis's schema.
const (
	schemaUnknown int32 = iota
	schemaOurs
	schemaOther
)

// ready reports whether Redis may be read and written.
func (s *Store) ready() bool { return s.schema.Load() == schemaOurs }

// settle writes a value for all nodes where there is none yet, and reads which it is.
func (s *Store) settle(ctx context.Context, key, value string) (string, error) {
	if err := s.server.client.SetNX(ctx, key, value, 0).Err(); err != nil {
		return "", err
	}
	return s.server.client.Get(ctx, key).Result()
}

// look reads the schema, and writes it where there is none yet.
func (s *Store) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ours := s.opt.schema()
	found, err := s.settle(ctx, schemaKey, ours)
	was := s.schema.Load()
	switch {
	case err != nil:
		// What was known of it still holds, unless it was never known.
		if was == schemaUnknown {
			s.throttle.About("unusable "+kind(err), func() {
				s.opt.Log.Error("Redis cannot be used yet: lookups offer STARTTLS, observations wait on disk", "redis", s.opt.Target, "error", err)
			})
		}
	case found != ours:
		s.schema.Store(schemaOther)
		s.throttle.About("schema", func() {
			s.opt.Log.Error("Redis holds reputation of another version or layout; nothing is read or written there, and observations wait on disk: give this node the same version and prefix lengths, or another database",
				"redis", s.opt.Target, "holds", found, "this_node", ours)
		})
	default:
		s.schema.Store(schemaOurs)
		if was != schemaOurs {
			s.cache.markAllStale()
		}
	}
}

func (s *Store) lookLoop(ctx context.Context) {
	for {
		pause := time.Second
		if s.ready() {
			pause = lookAgain
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		s.look(ctx)
		s.loadOverrides(ctx)
	}
}
