package daemon

import (
	"log/slog"
	"time"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/store"
	"github.com/ehlogate/ehlogate/policy/store/shared"
)

// keeper is a store of either kind.
type keeper interface {
	policy.Store
	api.Store
	// Marked is how many marks there are.
	Marked() int
	Close() error
}

func openStore(cfg *config.Config, log *slog.Logger) (keeper, error) {
	if cfg.Store.Redis == nil {
		return store.Open(cfg.Store.Dir, time.Now)
	}
	shared.LogLibrary(log)
	return shared.Open(SharedOptions(cfg, log))
}

// SharedOptions are the options of the store in Redis that is configured.
func SharedOptions(cfg *config.Config, log *slog.Logger) shared.Options {
	return shared.Options{
		Target: cfg.Store.Redis, SpoolDir: cfg.Store.Spool, SpoolLimit: cfg.Store.SpoolLimit, Now: time.Now, Log: log,
		Layout: cfg.Policy.Layout,
	}
}

// sameStore reports whether two configurations keep evidence in the same place. With Redis, how addresses are cut is part of that.
func sameStore(a, b *config.Config) bool {
	x, y := a.Store, b.Store
	x.Redis, y.Redis = nil, nil
	return x == y && (a.Store.Redis == nil) == (b.Store.Redis == nil) &&
		(a.Store.Redis == nil || a.Policy.Layout == b.Policy.Layout)
}
