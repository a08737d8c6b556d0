package daemon

import (
	"log/slog"
	"time"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/intake"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/store"
	"github.com/ehlogate/ehlogate/policy/store/redis"
)

// keeper is a store of either kind.
type keeper interface {
	policy.Store
	api.Store
	intake.Store
	Close() error
}

func openStore(cfg *config.Config, tier policy.Tiering, now func() time.Time, log *slog.Logger) (keeper, error) {
	if cfg.Store.Redis == nil {
		return store.Open(cfg.Store.Dir, store.Options{Layout: cfg.Policy.Layout, Tier: tier, Now: now, Most: cfg.Store.MaxRecords, Always: cfg.Store.Sync == config.SyncAlways, Log: log})
	}
	redis.LogLibrary(log)
	o := RedisOptions(cfg, log)
	o.Tier, o.Now = tier, now
	return redis.Open(o)
}

// RedisOptions are the options of the store in Redis that is configured, without its Tier.
func RedisOptions(cfg *config.Config, log *slog.Logger) redis.Options {
	return redis.Options{
		Target: cfg.Store.Redis, SpoolDir: cfg.Store.Spool, SpoolLimit: cfg.Store.SpoolLimit, Now: time.Now, Log: log,
		Layout: cfg.Policy.Layout,
	}
}

// sameStore reports whether two configurations keep evidence in the same place.
func sameStore(a, b *config.Config) bool {
	x, y := a.Store, b.Store
	x.Redis, y.Redis, x.Sync, y.Sync = nil, nil, "", ""
	return x == y && (a.Store.Redis == nil) == (b.Store.Redis == nil)
}
