package redis

import (
	"context"
	"fmt"
	"time"
)

// shelfKey is the key of a page of what nodes publish: a hash.
func shelfKey(page string) string { return prefix + "shelf:{" + page + "}" }

// Publication is a field of a page that nodes publish for each other.
type Publication struct {
	Page, Field string
	Value       []byte
	// Expire is when the page may be removed.
	Expire time.Time
}

// shelfAtOnce is how many fields or pages are sent at once: reading goes on behind lookups, which
// must not wait long.
const shelfAtOnce = 64

// Publish writes fields of pages, each in place of what was there.
func (s *Store) Publish(ctx context.Context, all []Publication) error {
	if !s.ready() {
		return fmt.Errorf("%w; nothing was published", errAway)
	}
	for len(all) > 0 {
		some := all[:min(shelfAtOnce, len(all))]
		all = all[len(some):]
		pipe := s.server.client.Pipeline()
		for _, p := range some {
			pipe.HSet(ctx, shelfKey(p.Page), p.Field, p.Value)
			pipe.ExpireAt(ctx, shelfKey(p.Page), p.Expire)
		}
		if err := firstError(exec(ctx, pipe)); err != nil {
			return fmt.Errorf("store: publish: %w", err)
		}
	}
	return nil
}

// Pages reads pages; one that is not there has no fields.
func (s *Store) Pages(ctx context.Context, names []string) (map[string]map[string][]byte, error) {
	if !s.ready() {
		return nil, errAway
	}
	pages := map[string]map[string][]byte{}
	for len(names) > 0 {
		some := names[:min(shelfAtOnce, len(names))]
		names = names[len(some):]
		pipe := s.server.client.Pipeline()
		for _, name := range some {
			pipe.HGetAll(ctx, shelfKey(name))
		}
		cmds := exec(ctx, pipe)
		if err := firstError(cmds); err != nil {
			return nil, fmt.Errorf("store: read what nodes have published: %w", away(err))
		}
		for i, cmd := range cmds {
			fields, err := cmd.(interface {
				Result() (map[string]string, error)
			}).Result()
			if err != nil {
				return nil, fmt.Errorf("store: read what nodes have published: %w", err)
			}
			page := map[string][]byte{}
			for name, value := range fields {
				page[name] = []byte(value)
			}
			pages[some[i]] = page
		}
	}
	return pages, nil
}
