package daemon

import (
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/page"
	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/policy/eventlog"
)

// recentMost is how many of a client's events are shown, of those among so many last bytes of the
// event log.
const recentMost, recentBytes = 20, 8 << 20

// newHTTP makes the server of the API, the metrics and the page.
func (d *Daemon) newHTTP(cfg *config.Config) (*http.Server, error) {
	server := &api.Server{
		Status: d.status, Reload: d.reload, Node: cfg.Log.Node,
		Judge: d.judge, Store: d.store, Now: d.clock.Now, Heard: d.intake.Heard, Learn: d.intake.learn, Forgot: d.intake.forgot, Changed: d.intake.changed,
		LocalFeed: func() bool { return d.cfg.Load().LocalFeed }, Names: func() []string { return d.cfg.Load().HTTP.Names },
		Strangers: d.intake.stranger, Report: d.report,
	}
	if cfg.Feed {
		server.Thresholds = func() verdict.Thresholds { return d.cfg.Load().Verdict.Thresholds }
		server.Feed, server.Malformed = d.intake.post, func() { d.intake.Refused.Add(1) }
		server.KnowsClientOf = d.intake.Correlator.KnowsClientOf
		server.Unread = func(keys []string) { d.intake.unread.Store(&keys) }
	}
	if l := d.listeners.HTTP; l != nil {
		server.Unix = l.Addr().Network() == "unix"
		var err error
		if server.Token, err = api.OpenToken(cfg.HTTP.TokenFile); err != nil && !server.Unix {
			return nil, atStart("http.token_file", err)
		}
		if server.FeedToken, err = api.OpenToken(cfg.HTTP.FeedTokenFile); err != nil && !server.Unix {
			return nil, atStart("http.feed_token_file", err)
		}
		if !server.Unix && server.FeedToken.Same(server.Token) {
			return nil, fmt.Errorf("http.feed_token_file: %s has the same token as %s, with which a filter could do everything; remove it, and the daemon makes another one", cfg.HTTP.FeedTokenFile, cfg.HTTP.TokenFile)
		}
		d.intake.tokenFile = cfg.HTTP.FeedTokenFile
		d.tokens = []*api.Token{server.Token, server.FeedToken}
	}
	if d.keeper != nil {
		server.Watch = d.keeper.Tail.Watch
	}
	d.server = server
	web := &page.Server{
		Log:    d.log,
		Status: server.Whole, Report: d.report, Explain: server.Explain, Change: server.Apply, Now: d.clock.Now, Open: server.Unix,
		Recent: func(addr string) ([]eventlog.Event, error) {
			return eventlog.LastOf(cfg.Log.Events, addr, recentBytes, recentMost)
		},
		Token: func(given string) bool { return server.Token != nil && server.Token.Is(given) },
	}
	server.Page = web.Register
	registry := prometheus.NewRegistry()
	d.register(registry)
	server.Metrics = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	return &http.Server{
		Handler: server.Handler(), ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelWarn),
	}, nil
}
