package shared

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/gaissmai/bart"

	"github.com/ehlogate/ehlogate/policy"
)

// markField starts the field of an override that a daemon set itself.
const markField = "mark "

// fieldOf is the field of overridesKey in which an override is kept.
func fieldOf(o policy.Override) string {
	if o.Cause != "" {
		return markField + o.Network.String()
	}
	return o.Network.String()
}

// SetOverride makes an override hold on all nodes, in place of one on the same network; the operator's and the daemons' own do not replace each
// other. It is in Redis when this returns nil.
func (s *Store) SetOverride(o policy.Override) error {
	value, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("store: override of %s: %w", o.Network, err)
	}
	return s.changeOverrides(func(ctx context.Context) error {
		return s.server.client.HSet(ctx, overridesKey, fieldOf(o), value).Err()
	})
}

// LiftOverride removes the operator's override on exactly this network, and the daemons' own, and says whether there was one.
func (s *Store) LiftOverride(n netip.Prefix) (lifted bool, err error) {
	var fields []string
	for _, table := range []*bart.Table[policy.Override]{s.overrides.Load(), s.marks.Load()} {
		if o, ok := table.Get(n); ok {
			fields = append(fields, fieldOf(o))
		}
	}
	if len(fields) == 0 {
		return false, nil
	}
	return true, s.changeOverrides(func(ctx context.Context) error {
		return s.server.client.HDel(ctx, overridesKey, fields...).Err()
	})
}

func (s *Store) changeOverrides(change func(context.Context) error) error {
	if !s.ready() {
		return fmt.Errorf("%w; nothing was changed", errAway)
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if err := change(ctx); err != nil {
		return fmt.Errorf("store: overrides: %w", err)
	}
	s.announce(overridesWord)
	return s.loadOverrides(ctx)
}

// Overrides are all overrides of the operator in the order of their networks.
func (s *Store) Overrides() []policy.Override { return sorted(s.overrides.Load()) }

// Marks are all overrides of the daemons' own in the order of their networks.
func (s *Store) Marks() []policy.Override { return sorted(s.marks.Load()) }

// Marked is how many marks there are.
func (s *Store) Marked() int { return s.marks.Load().Size() }

func sorted(table *bart.Table[policy.Override]) (all []policy.Override) {
	for _, o := range table.AllSorted() {
		all = append(all, o)
	}
	return all
}

// loadOverrides reads all overrides, and removes marks that have ended. What cannot be read leaves them as they were.
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
	overrides, marks := new(bart.Table[policy.Override]), new(bart.Table[policy.Override])
	var ended []string
	for field, value := range fields {
		var o policy.Override
		if err := json.Unmarshal([]byte(value), &o); err != nil || !o.Network.IsValid() {
			s.odd.about("override", func() { s.opt.Log.Error("an override in Redis cannot be read and does not hold", "network", field) })
			continue
		}
		switch {
		case o.Cause != "" && o.Ended(s.opt.Now()):
			ended = append(ended, field)
		case o.Cause != "":
			marks.Insert(o.Network, o)
		default:
			overrides.Insert(o.Network, o)
		}
	}
	s.overrides.Store(overrides)
	s.marks.Store(marks)
	if len(ended) > 0 {
		return s.server.client.HDel(ctx, overridesKey, ended...).Err()
	}
	return nil
}
