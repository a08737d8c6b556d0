package redis

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/ehlogate/ehlogate/policy"
)

const (
	// walkTimeout bounds a walk over all keys, walkStep is how many are looked at in one call.
	walkTimeout = time.Minute
	walkStep    = 500
	// forgetWait is how long a forget waits for what is on its way to Redis.
	forgetWait = 5 * time.Second
	// dumpTimeout bounds a dump, whose reader may be slow.
	dumpTimeout = time.Hour
)

var errAway = errors.New("store: Redis cannot be used now")

// away says so of an error that comes of it.
func away(err error) error {
	if down(err) {
		return fmt.Errorf("no answer from Redis: %w", err)
	}
	return err
}

// Forget removes the evidence of every host and network inside a network, takes the hosts' parts
// out of what is around them, given how addresses are cut, and removes the override and the
// exception on exactly that network. It returns how many records and overrides it removed.
func (s *Store) Forget(n netip.Prefix, keysOf func(netip.Addr) policy.Keys) (removed int, err error) {
	if !s.Up() {
		return 0, fmt.Errorf("%w; nothing was changed", errAway)
	}
	ctx, cancel := context.WithTimeout(context.Background(), walkTimeout)
	defer cancel()
	if err := s.writer.settle(ctx, forgetWait); err != nil {
		return 0, fmt.Errorf("store: forget %s: %w", n, err)
	}
	if k := keysOf(n.Addr()); n == k.Host {
		removed, err = s.forgetHost(ctx, k)
	} else {
		removed, err = s.forgetInside(ctx, n, keysOf)
	}
	if err != nil {
		err = fmt.Errorf("store: forget %s: %w", n, err)
	}
	lifted, liftErr := s.LiftOverride(n)
	if lifted {
		removed++
	}
	return removed, errors.Join(err, liftErr)
}

func (s *Store) forgetHost(ctx context.Context, k policy.Keys) (removed int, err error) {
	known, err := s.server.client.HExists(ctx, redisKey(k.Network.String()), field(k.Host, k.Network)).Result()
	if err != nil || !known {
		return 0, err
	}
	return 1, s.removeHosts(ctx, []policy.Keys{k})
}

// removeHosts takes hosts out of their networks and autonomous systems, and waits until that is
// done.
func (s *Store) removeHosts(ctx context.Context, hosts []policy.Keys) error {
	done := make(chan error, len(hosts))
	for _, k := range hosts {
		s.writer.add(change{Op: remove, Key: k.Network.String(), Host: k.Host, ASN: k.ASN, waiting: []chan<- error{done}})
	}
	var errs error
	for range hosts {
		select {
		case err := <-done:
			errs = errors.Join(errs, err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errs
}

// forgetInside removes what lies inside a network that is not a host's.
func (s *Store) forgetInside(ctx context.Context, n netip.Prefix, keysOf func(netip.Addr) policy.Keys) (removed int, err error) {
	err = s.walk(ctx, func(name string, fields map[string]string) error {
		network, _ := parseKey(name)
		if !n.Overlaps(network) {
			return nil
		}
		var hosts []policy.Keys
		for f := range fields {
			host := s.host(network, f)
			if f == "" || !host.IsValid() || !n.Contains(host.Addr()) {
				continue
			}
			// Evidence may have been kept under another layout's keys.
			k := policy.Keys{Host: host, Network: network, ASN: keysOf(host.Addr()).ASN}
			hosts = append(hosts, k)
		}
		if err := s.removeHosts(ctx, hosts); err != nil {
			return err
		}
		removed += len(hosts)
		if n.Bits() <= network.Bits() {
			if _, ok := fields[""]; ok {
				removed++
			}
			s.invalidate(network.String())
			s.cache.drop(network)
			return s.server.client.Del(ctx, redisKey(name)).Err()
		}
		return nil
	})
	return removed, err
}

// Each calls f for every record until it returns an error, which it returns. Records that change
// meanwhile may be seen before or after the change, and while a cluster is resharded, some may be
// missed.
func (s *Store) Each(f func(policy.Record) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), dumpTimeout)
	defer cancel()
	return s.walk(ctx, func(key string, fields map[string]string) error {
		network, system := parseKey(key)
		for name, value := range fields {
			r := policy.Record{Network: network, ASN: system}
			if name != "" {
				r.Network = s.host(network, name)
			}
			err := r.Evidence.UnmarshalBinary([]byte(value))
			if err != nil || system == 0 && !r.Network.IsValid() {
				s.throttle.About("foreign", func() { s.opt.Log.Error("Redis holds what is no evidence", "key", redisKey(key), "field", name) })
				continue
			}
			if err := f(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// parseKey reads the key of a network, or of an autonomous system.
func parseKey(key string) (network netip.Prefix, system uint32) {
	if number, ok := strings.CutPrefix(key, "AS"); ok {
		n, _ := strconv.ParseUint(number, 10, 32)
		return network, uint32(n)
	}
	network, _ = netip.ParsePrefix(key)
	return network, 0
}

// host is the host of a field in its network's hash, invalid for a field that is none.
func (s *Store) host(network netip.Prefix, field string) netip.Prefix {
	bits := 32
	if network.Addr().Is6() {
		bits = s.opt.Layout.IPv6Host
	}
	b := network.Addr().AsSlice()
	last := (bits + 7) / 8
	if len(field) > last {
		return netip.Prefix{}
	}
	copy(b[last-len(field):], field)
	addr, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(addr, bits)
}

// walk shows the hash of every network and autonomous system.
func (s *Store) walk(ctx context.Context, f func(string, map[string]string) error) error {
	// A scan may show a key twice, and one that moves between servers is shown by both.
	seen, seed := map[uint64]struct{}{}, maphash.MakeSeed()
	once := func(key string, fields map[string]string) error {
		h := maphash.String(seed, key)
		if _, ok := seen[h]; ok {
			return nil
		}
		seen[h] = struct{}{}
		return f(key, fields)
	}
	return away(eachServer(ctx, s.server.client, func(_ string, c redis.Cmdable) error { return walkServer(ctx, c, once) }))
}

func walkServer(ctx context.Context, c redis.Cmdable, f func(string, map[string]string) error) error {
	var cursor uint64
	for {
		keys, next, err := c.Scan(ctx, cursor, prefix+"{???}:[0-9a-fA]*", walkStep).Result()
		if err != nil {
			return err
		}
		pipe := c.Pipeline()
		hashes := make([]*redis.MapStringStringCmd, len(keys))
		for i, k := range keys {
			hashes[i] = pipe.HGetAll(ctx, k)
		}
		if len(keys) > 0 {
			// A key of another type is none of ours; a server that is gone leaves out what is.
			if err := firstError(exec(ctx, pipe)); down(err) {
				return err
			}
		}
		for i, k := range keys {
			_, name, _ := strings.Cut(strings.TrimPrefix(k, prefix), ":")
			if len(hashes[i].Val()) == 0 {
				// It expired meanwhile, or is of another type.
				continue
			}
			if err := f(name, hashes[i].Val()); err != nil {
				return err
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}
