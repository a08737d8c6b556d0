package shared

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

const (
	// walkTimeout bounds a walk over all keys, walkStep is how many are looked at in one call.
	walkTimeout = time.Minute
	walkStep    = 500
)

var errAway = errors.New("store: Redis cannot be used now")

// Forget removes the evidence of every host and network inside a network, takes a single host's part out of what is around it, given in
// keys, and removes the override on exactly that network. It returns how many records and overrides it removed.
func (s *Store) Forget(n netip.Prefix, k policy.Keys) (removed int, err error) {
	if !s.Up() {
		return 0, fmt.Errorf("%w; nothing was changed", errAway)
	}
	ctx, cancel := context.WithTimeout(context.Background(), walkTimeout)
	defer cancel()
	if n == k.Host {
		removed, err = s.forgetHost(ctx, k)
	} else {
		removed, err = s.forgetInside(ctx, n)
	}
	lifted, liftErr := s.LiftOverride(n)
	if lifted {
		removed++
	}
	return removed, errors.Join(err, liftErr)
}

func (s *Store) forgetHost(ctx context.Context, k policy.Keys) (removed int, err error) {
	known, err := s.server.client.HExists(ctx, redisKey(k.Network.String()), field(k.Host, k.Network)).Result()
	if err != nil {
		return 0, fmt.Errorf("store: forget %s: %w", k.Host, err)
	}
	if !known {
		return 0, nil
	}
	told := make(chan error, 1)
	s.writer.add(change{Word: leave, Key: k.Network.String(), Host: k.Host, ASN: k.ASN, waiting: []chan<- error{told}})
	select {
	case err = <-told:
	case <-ctx.Done():
		err = ctx.Err()
	}
	return 1, err
}

// forgetInside removes what lies inside a network that is not a host's.
func (s *Store) forgetInside(ctx context.Context, n netip.Prefix) (removed int, err error) {
	err = s.walk(ctx, func(network netip.Prefix, fields map[string]string) error {
		if !n.Overlaps(network) {
			return nil
		}
		key := redisKey(network.String())
		if n.Bits() <= network.Bits() {
			removed += len(fields)
			s.announce(network.String())
			s.cache.drop(network)
			return s.server.client.Del(ctx, key).Err()
		}
		var gone []string
		for f := range fields {
			if host := s.host(network, f); f != "" && n.Contains(host.Addr()) {
				gone = append(gone, f)
			}
		}
		if len(gone) == 0 {
			return nil
		}
		removed += len(gone)
		s.announce(network.String())
		s.cache.drop(network)
		return s.server.client.HDel(ctx, key, gone...).Err()
	})
	if err != nil {
		err = fmt.Errorf("store: forget %s: %w", n, err)
	}
	return removed, err
}

// EachNetwork calls f for the record of every host and network until it returns false. Records that change meanwhile may be seen before
// or after the change.
func (s *Store) EachNetwork(f func(netip.Prefix, reputation.Evidence) bool) {
	ctx, cancel := context.WithTimeout(context.Background(), walkTimeout)
	defer cancel()
	err := s.walk(ctx, func(network netip.Prefix, fields map[string]string) error {
		for name, value := range fields {
			n := network
			if name != "" {
				n = s.host(network, name)
			}
			if e, err := parseRecord(value); err == nil && n.IsValid() && !f(n, e) {
				return errEnough
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		s.odd.about("walk", func() { s.opt.Log.Error("not all of Redis could be read", "error", err) })
	}
}

var errEnough = errors.New("enough")

// host is the host of a field in its network's hash, invalid for a field that is none.
func (s *Store) host(network netip.Prefix, field string) netip.Prefix {
	bits := 32
	if network.Addr().Is6() {
		bits = s.opt.IPv6Host
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

// walk shows the hash of every network.
func (s *Store) walk(ctx context.Context, f func(netip.Prefix, map[string]string) error) error {
	if s.server.cluster == nil {
		return s.walkServer(ctx, s.server.client, f)
	}
	// One server after the other, so that f need not mind.
	var masters []*redis.Client
	found := make(chan *redis.Client)
	go func() {
		defer close(found)
		s.server.cluster.ForEachMaster(ctx, func(_ context.Context, c *redis.Client) error { found <- c; return nil })
	}()
	for c := range found {
		masters = append(masters, c)
	}
	for _, c := range masters {
		if err := s.walkServer(ctx, c, f); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) walkServer(ctx context.Context, c redis.Cmdable, f func(netip.Prefix, map[string]string) error) error {
	var cursor uint64
	for {
		keys, next, err := c.Scan(ctx, cursor, prefix+"{???}:*/*", walkStep).Result()
		if err != nil {
			return err
		}
		pipe := c.Pipeline()
		hashes := make([]*redis.MapStringStringCmd, len(keys))
		for i, k := range keys {
			hashes[i] = pipe.HGetAll(ctx, k)
		}
		if len(keys) > 0 {
			pipe.Exec(ctx)
		}
		for i, k := range keys {
			_, name, _ := strings.Cut(strings.TrimPrefix(k, prefix), ":")
			network, err := netip.ParsePrefix(name)
			if err != nil || hashes[i].Err() != nil {
				continue
			}
			if err := f(network, hashes[i].Val()); err != nil {
				return err
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}
