package redis

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/ehlogate/ehlogate/policy"
)

// exceptionField starts the field of an exception in overridesKey; that of an override is its
// network.
const exceptionField = "mark "

// SetOverride makes an override hold on all nodes, in place of one on the same network. It is in
// Redis when this returns nil.
func (s *Store) SetOverride(o policy.Override) error { return s.set(o.Network.String(), o) }

// SetException makes an exception hold on all nodes, in place of one for the same host and of those
// that have to go for it. It is in Redis when this returns nil. The other nodes are told at most
// once a second, and look by themselves every ten: they read all of them anew.
func (s *Store) SetException(x policy.Exception, gone ...policy.Exception) error {
	if !s.ready() {
		return fmt.Errorf("%w; nothing was changed", errAway)
	}
	value, err := json.Marshal(x)
	if err != nil {
		return fmt.Errorf("store: exception for %s: %w", x.Network, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	pipe := s.server.client.Pipeline()
	pipe.HSet(ctx, overridesKey, exceptionField+x.Network.String(), value)
	for _, g := range gone {
		pipe.HDel(ctx, overridesKey, exceptionField+g.Network.String())
	}
	if err := firstError(exec(ctx, pipe)); err != nil {
		return fmt.Errorf("store: exception for %s: %w", x.Network, err)
	}
	s.loading.Lock()
	defer s.loading.Unlock()
	s.exceptions.Store(policy.Replace(s.exceptions.Load(), x, gone))
	s.telling.Do(func() { s.invalidate(overridesWord) })
	return nil
}

func (s *Store) set(field string, v any) error {
	value, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("store: override %s: %w", field, err)
	}
	return s.changeOverrides(func(ctx context.Context) error {
		return s.server.client.HSet(ctx, overridesKey, field, value).Err()
	})
}

// changeAtOnce is how many overrides are sent at once.
const changeAtOnce = 1000

// ChangeOverrides makes overrides hold on all nodes, each in place of one on the same network, and
// removes those on others. They are in Redis when it returns nil; where it returns an error, some
// may be.
func (s *Store) ChangeOverrides(set []policy.Override, lift []netip.Prefix) error {
	var values []any
	for _, o := range set {
		value, err := json.Marshal(o)
		if err != nil {
			return fmt.Errorf("store: override %s: %w", o.Network, err)
		}
		values = append(values, o.Network.String(), value)
	}
	return s.changeOverrides(func(ctx context.Context) error {
		for some := range slices.Chunk(values, 2*changeAtOnce) {
			if err := s.server.client.HSet(ctx, overridesKey, some...).Err(); err != nil {
				return err
			}
		}
		for some := range slices.Chunk(lift, changeAtOnce) {
			var fields []string
			for _, n := range some {
				fields = append(fields, n.String())
			}
			if err := s.server.client.HDel(ctx, overridesKey, fields...).Err(); err != nil {
				return err
			}
		}
		return nil
	})
}

// LiftOverride removes the override and the exception on exactly this network, and says whether
// there was one.
func (s *Store) LiftOverride(n netip.Prefix) (lifted bool, err error) {
	err = s.changeOverrides(func(ctx context.Context) error {
		gone, err := s.server.client.HDel(ctx, overridesKey, n.String(), exceptionField+n.String()).Result()
		lifted = gone > 0
		return err
	})
	return lifted, err
}

func (s *Store) changeOverrides(change func(context.Context) error) error {
	if !s.ready() {
		return fmt.Errorf("%w; nothing was changed", errAway)
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if err := change(ctx); err != nil {
		return fmt.Errorf("store: overrides: %w", away(err))
	}
	s.invalidate(overridesWord)
	return s.loadOverrides(ctx)
}

// ID names the store: it is the same for all nodes, as long as Redis keeps its data. It is empty
// where Redis does not say.
func (s *Store) ID() string {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	id, _ := s.settle(ctx, idKey, rand.Text())
	return id
}

// Overrides are all overrides in the order of their networks.
func (s *Store) Overrides() []policy.Override { return s.overrides.Load().List() }

// Exceptions are all exceptions in the order of their hosts.
func (s *Store) Exceptions() []policy.Exception { return s.exceptions.Load().List() }

// KeptExceptions are all exceptions, by their hosts.
func (s *Store) KeptExceptions() *policy.Exceptions { return s.exceptions.Load() }

// OverridesKnown reports whether the overrides have been read since the start.
func (s *Store) OverridesKnown() bool { return s.overridesRead.Load() }

// loadOverrides reads all overrides and exceptions, and removes exceptions that have ended. What
// cannot be read leaves them as they were. Readings do not overlap: an older one never replaces a
// newer one. A Redis that has lost its data is given those that this node knows.
func (s *Store) loadOverrides(ctx context.Context) error {
	if !s.ready() {
		return nil
	}
	s.loading.Lock()
	defer s.loading.Unlock()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	id, err := s.settle(ctx, idKey, rand.Text())
	if err == nil && s.id != "" && s.id != id {
		err = s.putBack(ctx)
	}
	if err != nil {
		return fmt.Errorf("store: overrides: %w", err)
	}
	s.id = id
	fields, err := s.server.client.HGetAll(ctx, overridesKey).Result()
	if err != nil {
		return fmt.Errorf("store: overrides: %w", err)
	}
	r := readOverrides(fields)
	for _, field := range r.unreadable {
		s.throttle.About("override", func() {
			s.opt.Log.Error("an override in Redis cannot be read and does not hold", "network", field)
		})
	}
	ended := map[string]string{}
	for _, x := range r.exceptions.List() {
		if x.Ended(s.opt.Now()) {
			r.exceptions.Delete(x.Network)
			field := exceptionField + x.Network.String()
			ended[field] = fields[field]
		}
	}
	s.overrides.Store(r.overrides)
	s.exceptions.Store(r.exceptions)
	s.overridesRead.Store(true)
	return s.removeUnchanged(ctx, ended)
}

// putBack gives a Redis that has lost its data the overrides and exceptions that this node knows,
// where it has none on the same network.
func (s *Store) putBack(ctx context.Context) error {
	var values []any
	add := func(field string, v any) error {
		value, err := json.Marshal(v)
		values = append(values, field, value)
		return err
	}
	now := s.opt.Now()
	var err error
	for _, o := range s.Overrides() {
		if !o.Ended(now) {
			err = errors.Join(err, add(o.Network.String(), o))
		}
	}
	for _, x := range s.Exceptions() {
		if !x.Ended(now) {
			err = errors.Join(err, add(exceptionField+x.Network.String(), x))
		}
	}
	if err != nil || len(values) == 0 {
		return err
	}
	var put int64
	for some := range slices.Chunk(values, 2*changeAtOnce) {
		n, err := restoration.Run(ctx, s.server.client, []string{overridesKey}, some...).Int64()
		if err != nil {
			return err
		}
		put += n
	}
	s.opt.Log.Error("Redis has lost its data: the overrides and exceptions that this node knows were put back; evidence of the last minute is sent again, the rest is lost", "put_back", put, "known", len(values)/2)
	if put > 0 {
		s.invalidate(overridesWord)
	}
	return nil
}

// restoration sets fields that are not there, and says how many those were.
var restoration = redis.NewScript(`local put = 0
for i = 1, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 0 then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    put = put + 1
  end
end
return put`)

// overrideReading is what a reading of overridesKey found.
type overrideReading struct {
	overrides  *policy.Networks[policy.Override]
	exceptions *policy.Networks[policy.Exception]
	unreadable []string
}

func readOverrides(fields map[string]string) overrideReading {
	r := overrideReading{overrides: policy.NewNetworks[policy.Override](), exceptions: policy.NewNetworks[policy.Exception]()}
	for field, value := range fields {
		var o policy.Override
		var x policy.Exception
		switch {
		case strings.HasPrefix(field, exceptionField):
			if json.Unmarshal([]byte(value), &x) == nil && field == exceptionField+x.Network.String() {
				r.exceptions.Insert(x.Network, &x)
				continue
			}
		case json.Unmarshal([]byte(value), &o) == nil && field == o.Network.String():
			r.overrides.Insert(o.Network, &o)
			continue
		}
		r.unreadable = append(r.unreadable, field)
	}
	return r
}

// removal removes a field only if it still has the value that was read: another node may have set
// it anew since.
var removal = redis.NewScript(`if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0`)

func (s *Store) removeUnchanged(ctx context.Context, fields map[string]string) error {
	for field, value := range fields {
		if err := removal.Run(ctx, s.server.client, []string{overridesKey}, field, value).Err(); err != nil {
			return fmt.Errorf("store: overrides: %w", err)
		}
	}
	return nil
}
