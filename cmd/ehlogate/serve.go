package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	server "github.com/ehlogate/ehlogate/cmd/ehlogate/internal/daemon"
	"github.com/ehlogate/ehlogate/milter"
)

func serveCommand() *cli.Command {
	return &cli.Command{
		Name: "serve", Usage: "run the daemon: SIGTERM shuts it down cleanly, SIGHUP reloads and reopens the event log", Action: serve,
	}
}

func serve(c *cli.Context) error {
	if err := noArguments(c, "serve"); err != nil {
		return err
	}
	cfg, err := loadConfig(c)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(c.App.ErrWriter, nil))
	for _, f := range ignoredVariables(cfg) {
		log.Warn(f.What, "fix", f.Fix)
	}
	milter.LogLibrary(log)
	passed, err := activation.ListenersWithNames()
	if err != nil {
		return err
	}
	listeners, err := server.Passed(passed)
	if err != nil {
		return misused{err}
	}
	var d *server.Daemon
	d, err = server.New(cfg, listeners, server.Options{Version: version, Reload: func() (api.Reloaded, error) { return reload(c, d, log) }}, log)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(c.Context, syscall.SIGTERM, os.Interrupt)
	defer stop()
	go reloadOnHangup(ctx, c, d, log)
	go feedWatchdog(ctx, d)
	context.AfterFunc(ctx, func() { daemon.SdNotify(false, daemon.SdNotifyStopping) })
	log.Info("serving", "version", version, "milter", addr(listeners.Milter), "socketmap", addr(listeners.Socketmap),
		"memcache", addr(listeners.Memcache), "http", addr(listeners.HTTP), "store", cfg.StoreName(), "events", cfg.Log.Events, "mode", cfg.Policy.Mode)
	if !cfg.ModeGiven {
		log.Info("policy.mode is not set", "note", modeNotSet)
	}
	daemon.SdNotify(false, daemon.SdNotifyReady)
	err = d.Run(ctx)
	log.Info("stopped")
	return err
}

// reloadOnHangup reads the configuration again at each SIGHUP. A broken one leaves the old one in
// force.
func reloadOnHangup(ctx context.Context, c *cli.Context, d *server.Daemon, log *slog.Logger) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
		}
		daemon.SdNotify(false, daemon.SdNotifyReloading+"\n"+daemon.SdNotifyMonotonicUsec())
		if _, err := reload(c, d, log); err != nil {
			log.Error("reload", "error", err)
		}
		daemon.SdNotify(false, daemon.SdNotifyReady)
	}
}

// reload reads the configuration again and puts it in force, unless it is broken.
func reload(c *cli.Context, d *server.Daemon, log *slog.Logger) (done api.Reloaded, err error) {
	cfg, err := loadConfig(c)
	d.Unread(err)
	if err != nil {
		_, reopened := d.Reload(d.Config())
		return done, errors.Join(fmt.Errorf("the old configuration stays in force: %w", err), reopened)
	}
	if done, err = d.Reload(cfg); err == nil {
		log.Info("reloaded", "mode", cfg.Policy.Mode)
	}
	return done, err
}

// feedWatchdog tells systemd that the daemon is alive, as long as it can judge (WatchdogSec= in
// systemd.service(5)). A daemon that hangs is restarted, and costs sessions no longer than that.
func feedWatchdog(ctx context.Context, d *server.Daemon) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return
	}
	tick := time.NewTicker(interval / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			d.Decide(netip.IPv6Loopback())
			daemon.SdNotify(false, daemon.SdNotifyWatchdog)
		}
	}
}

func addr(l net.Listener) string {
	if l == nil {
		return "none"
	}
	return l.Addr().String()
}
