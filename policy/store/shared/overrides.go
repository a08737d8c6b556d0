package shared

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/gaissmai/bart"

	"github.com/ehlogate/ehlogate/policy"
)

// SetOverride makes an override hold on all nodes, in place of one on the same network. It is in Redis when this returns nil.
func (s *Store) SetOverride(o policy.Override) error {
	value, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("store: override of %s: %w", o.Network, err)
	}
	return s.changeOverride(o.Network, func(ctx context.Context) error {
		return s.server.client.HSet(ctx, overridesKey, o.Network.String(), value).Err()
	})
}

// LiftOverride removes the override on exactly this network and says whether there was one.
func (s *Store) LiftOverride(n netip.Prefix) (lifted bool, err error) {
	if _, ok := s.overrides.Load().Get(n); !ok {
		return false, nil
	}
	return true, s.changeOverride(n, func(ctx context.Context) error {
		return s.server.client.HDel(ctx, overridesKey, n.String()).Err()
	})
}

func (s *Store) changeOverride(n netip.Prefix, change func(context.Context) error) error {
	if !s.ready() {
		return fmt.Errorf("%w; nothing was changed", errAway)
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if err := change(ctx); err != nil {
		return fmt.Errorf("store: override of %s: %w", n, err)
	}
	s.announce(overridesWord)
	return s.loadOverrides(ctx)
}

// Overrides are all overrides in the order of their networks.
func (s *Store) Overrides() []policy.Override {
	var all []policy.Override
	for _, o := range s.overrides.Load().AllSorted() {
		all = append(all, o)
	}
	return all
}

// loadOverrides reads all overrides. What cannot be read leaves them as they were.
func (s *Store) loadOverrides(ctx context.Context) error {
	if !s.ready() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	fields, err := s.server.client.HGetAll(ctx, overridesKey).Result()
	if err != nil {
		return fmt.Errorf("store: overrides: %w", err)
	}
	table := new(bart.Table[policy.Override])
	for n, value := range fields {
		var o policy.Override
		if err := json.Unmarshal([]byte(value), &o); err != nil || !o.Network.IsValid() {
			s.odd.about("override", func() { s.opt.Log.Error("an override in Redis cannot be read and does not hold", "network", n) })
			continue
		}
		table.Insert(o.Network, o)
	}
	s.overrides.Store(table)
	return nil
}
