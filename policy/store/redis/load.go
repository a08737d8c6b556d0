package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/ehlogate/ehlogate/policy"
)

// Load adds a chunk of another store's dump to what is known; see store.Embedded.Load.
func (s *Store) Load(dump string, chunk uint64, records []policy.Record, networkOf func(netip.Prefix) netip.Prefix) (fresh bool, err error) {
	return s.load(merge, "load-"+dump, chunk, records, networkOf)
}

// Restore adds what is not known any more of a chunk of this store's own dump; see
// store.Embedded.Restore.
func (s *Store) Restore(records []policy.Record, networkOf func(netip.Prefix) netip.Prefix) error {
	_, err := s.load(restore, "restore-"+rand.Text(), 1, records, networkOf)
	return err
}

func (s *Store) load(op, sender string, chunk uint64, records []policy.Record, networkOf func(netip.Prefix) netip.Prefix) (fresh bool, err error) {
	if !s.Up() {
		return false, errAway
	}
	batches := map[int]*batch{}
	for _, r := range records {
		c := change{Op: op, Key: systemKey(r.ASN)}
		if r.ASN == 0 {
			network := networkOf(r.Network)
			if op == restore && network == r.Network {
				// A network is what its hosts say.
				continue
			}
			c.Key = network.String()
			if network != r.Network {
				c.Host = r.Network
			}
		}
		c.Record, _ = r.Evidence.Heal(s.opt.Now()).AppendBinary(nil)
		n := bucketOf(c.Key)
		if batches[n] == nil {
			batches[n] = &batch{Sender: sender, Bucket: n, Number: chunk}
		}
		batches[n].Changes = append(batches[n].Changes, c)
	}
	servers := map[string][][]*batch{}
	for _, b := range batches {
		addr, ok := s.server.master(b.mark())
		if !ok {
			return false, errAway
		}
		servers[addr] = append(servers[addr], []*batch{b})
	}
	for addr, queues := range servers {
		some, err := s.loadInto(addr, queues)
		if err != nil {
			return false, fmt.Errorf("store: load: %w", err)
		}
		fresh = fresh || some
	}
	s.cache.markAllStale()
	s.invalidate(everythingWord)
	return fresh, nil
}

// loadInto sends batches of a dump to a server and reports whether any of them was new.
func (s *Store) loadInto(addr string, queues [][]*batch) (fresh bool, err error) {
	results := make([][]*redis.Cmd, len(queues))
	// A dump's chunks are numbered, and not all of them have something for each bucket.
	gaps := slices.Repeat([]bool{true}, len(queues))
	err = s.server.call(addr, func() error { return s.writer.run(context.Background(), queues, gaps, results) })
	if err != nil {
		return false, err
	}
	for i, q := range queues {
		r, err := q[0].parse(results[i][0].Val(), s.opt.Now())
		if err != nil {
			return false, err
		}
		for _, k := range r.sums {
			err = errors.Join(err, k.err)
		}
		if err != nil {
			return false, err
		}
		fresh = fresh || r.status == applied
	}
	return fresh, nil
}
