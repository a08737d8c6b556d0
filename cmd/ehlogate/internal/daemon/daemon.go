// Package daemon joins the parts: what the milter hears is judged, kept and recorded, and the
// tables answer from it.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/account"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/contacts"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/guard"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/intake"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/postfix"
	"github.com/ehlogate/ehlogate/milter"
	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/milter/verdict/maillog"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/asn"
	"github.com/ehlogate/ehlogate/policy/behaviour"
	"github.com/ehlogate/ehlogate/policy/correlate"
	"github.com/ehlogate/ehlogate/policy/eventlog"
	"github.com/ehlogate/ehlogate/policy/fault"
	evidence "github.com/ehlogate/ehlogate/policy/store"
	"github.com/ehlogate/ehlogate/policy/table"
)

const (
	// stopMost is how long a stop takes at most, sessionsWait how long it waits for sessions under
	// way, tablesWait for answers.
	stopMost     = 9500 * time.Millisecond
	sessionsWait = 5 * time.Second
	tablesWait   = 500 * time.Millisecond
)

// Daemon is a running ehlogate. New makes one.
type Daemon struct {
	log       *slog.Logger
	cfg       atomic.Pointer[config.Config]
	listeners *Listeners
	guards    []*guard.Listener
	store     keeper
	systems   asn.Database
	events    *eventlog.Log
	judge     *policy.Judge
	tables    *table.Server
	milter    *milter.Server
	http      *http.Server
	intake    *inbox
	follower  *follower
	faults    fault.Guard
	clock     *clock
	// keeper counts for reports; nil where that is not possible, because of uncounted.
	keeper    *account.Keeper
	uncounted error
	// exportFault is why the static table was not written the last time.
	exportFault atomic.Pointer[error]
	counting    sync.WaitGroup
	contacts    atomic.Pointer[contacts.Book]
	// unread is why the configuration was not taken at the last reload, nil where it was.
	unread atomic.Pointer[error]
	tokens []*api.Token

	version string
	started time.Time
	today   today
	reload  func() (api.Reloaded, error)
	// server is the API.
	server *api.Server
	// booted is the configuration of the start.
	booted *config.Config
}

// Options are what a daemon is told beside its configuration.
type Options struct {
	Version string
	// Reload reads the configuration again and puts it in force.
	Reload func() (api.Reloaded, error)
}

// New opens the store and the event log and listens on what the configuration names, or on what is
// passed on in listeners. Nothing is served before Run.
func New(cfg *config.Config, listeners *Listeners, o Options, log *slog.Logger) (*Daemon, error) {
	d := &Daemon{log: log, clock: newClock(log), faults: fault.Guard{Log: log}, listeners: listeners, version: o.Version, reload: o.Reload, booted: cfg, started: time.Now().UTC().Truncate(time.Second)}
	d.cfg.Store(cfg)
	if err := d.open(cfg); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// open opens and makes all that the daemon consists of.
func (d *Daemon) open(cfg *config.Config) (err error) {
	p, err := d.policyOf(cfg)
	if err != nil {
		d.log.Error(err.Error())
	}
	inForce := policy.NewInForce(p, d.clock.Now)
	// Whatever the store is, this host keeps something in its directory.
	if err := os.MkdirAll(cfg.Store.Dir, 0o750); err != nil {
		return atStart("store.url", err)
	}
	store, err := openStore(cfg, inForce.Tier, d.clock.Now, d.log)
	if err != nil {
		return atStart("store.url", err)
	}
	d.store = store
	if d.events, err = eventlog.Open(cfg.Log.Events, cfg.Log.Retain, d.clock.Now, d.log); err != nil {
		return atStart("log.events", err)
	}
	if e, ok := d.store.(*evidence.Embedded); ok {
		if n, err := d.events.Complete(e.Lines()); err != nil {
			d.log.Error("events that the last process had no time to write may be missing from the event log", "file", cfg.Log.Events, "error", err)
		} else if n > 0 {
			d.log.Info("events that the last process had no time to write were added to the event log", "file", cfg.Log.Events, "events", n)
		}
	}
	if d.guards, err = d.listeners.listen(cfg, d.Config, d.log); err != nil {
		return err
	}
	d.judge = policy.NewJudge(inForce, d.store)
	d.openLedger(cfg)
	if err = d.newIntake(cfg); err != nil {
		return err
	}
	d.http, err = d.newHTTP(cfg)
	return err
}

// atStart names the key that a fault at the start is about, and says what to do where the system's
// own word does not.
func atStart(key string, err error) error {
	switch {
	case errors.Is(err, evidence.ErrRemedied):
	case errors.Is(err, fs.ErrPermission) && errors.Is(err, api.ErrNoToken):
		return fmt.Errorf("%s: %w; make it, for user %s to read, or name another file", key, err, userName())
	case errors.Is(err, fs.ErrPermission) && strings.HasSuffix(key, "token_file"):
		return fmt.Errorf("%s: %w; let user %s read it, or name another file", key, err, userName())
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: %w; let user %s write there, or name another place", key, err, userName())
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%s: %w; make the directory, or name another place", key, err)
	case errors.Is(err, syscall.EISDIR):
		return fmt.Errorf("%s: %w; name a file", key, err)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%s: %w; name a place that can be written", key, err)
	}
	return fmt.Errorf("%s: %w", key, err)
}

// userName is the user that the daemon runs as.
func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprintf("%d", os.Getuid())
}

// newIntake makes what hears: the milter, the follower of the MTA's log, and intake behind them.
func (d *Daemon) newIntake(cfg *config.Config) error {
	in := &intake.Intake{
		Correlator: correlate.New(d.clock.Now), Judge: d.judge, EventLog: d.events, Store: d.store,
		Clients: behaviour.NewClients(), Handshakes: behaviour.NewHandshakes(), Departures: behaviour.NewDepartures(), Sources: behaviour.NewSources(), Variety: behaviour.NewVariety(),
		Settings: d.intakeSettings, Now: d.clock.Now, Log: d.log,
	}
	d.intake = newInbox(in, &d.faults)
	d.intake.meet(d.store)
	users := ownUsers(cfg)
	answers := table.NewAnswers()
	d.tables = &table.Server{Decide: d.judge.Decide, Answered: answers.Put, Log: d.log}
	d.milter = &milter.Server{
		Decide: d.judge.Decide, Answered: answers.Take, Observe: d.intake.observe, Sessions: in.Correlator,
		Clients: in.Clients, Now: d.clock.Now, Log: d.log, Treats: d.treats, Refuses: d.refuses,
		Rules: func() verdict.Rules { return d.cfg.Load().Verdict }, Users: usersOf(cfg, users),
	}
	d.follower = &follower{
		source: cfg.LogFile, path: filepath.Join(cfg.Store.Dir, positionFile), log: d.log,
		reader: maillog.NewReader(maillog.Options{
			Now: time.Now, Zone: time.Local, Reinjected: in.Reinjected,
			UnknownUser: func(client netip.Addr, recipient string, at time.Time) policy.Confidence {
				return in.UnknownUser(client, recipient, d.clock.Told(at))
			},
			Services: cfg.Services, UserServices: users.SyslogNames, Silence: cfg.Verdict.Silence,
		}), signal: func(s policy.Signal) {
			s.Time = d.clock.Told(s.Time)
			d.intake.signal(s)
		},
		oldestPending: in.Correlator.OldestPending, now: d.clock.Now, throttled: rate.Sometimes{First: 1, Interval: time.Minute}, faults: &d.faults,
	}
	return in.Restore()
}

// postconfWait is how long Postfix may take to tell its services.
const postconfWait = 5 * time.Second

// ownUsers tells how services of the operator's own users are recognized, if there is a Postfix to
// ask.
func ownUsers(cfg *config.Config) (u postfix.Users) {
	if cfg.Milter.Users != nil && (cfg.LogFile == "" || len(cfg.Services) > 0) {
		// The configuration says it all.
		return u
	}
	ctx, cancel := context.WithTimeout(context.Background(), postconfWait)
	defer cancel()
	if p, err := postfix.Find(ctx, "", cfg); err == nil {
		u = p.Users()
	}
	if len(cfg.Services) > 0 {
		u.SyslogNames = nil
	}
	return u
}

// usualUsers are the names and ports of services of users, where nothing else is known: Postfix's
// sample files, and Sendmail's.
var usualUsers = []string{"ORIGINATING", "MSA", "587", "465"}

// usersOf reports which services are those of the operator's own users.
func usersOf(cfg *config.Config, found postfix.Users) func(daemon, port string) bool {
	known := func(name string) bool { return found.Daemons[name] }
	switch {
	case cfg.Milter.Users != nil:
		known = func(name string) bool { return slices.Contains(cfg.Milter.Users, name) }
	case found.Daemons == nil:
		known = func(name string) bool { return slices.Contains(usualUsers, name) }
	}
	return func(daemon, port string) bool { return known(daemon) || known(port) }
}

func (d *Daemon) intakeSettings() intake.Settings {
	c := d.cfg.Load()
	return intake.Settings{Weights: c.Weights, Believed: c.Believed, Node: c.Log.Node, Events: c.Log.Events, Anonymize: c.Log.Anonymize}
}

// policyOf is the policy of a configuration. Where its database of autonomous systems cannot be
// used, it does without, and the error says so.
func (d *Daemon) policyOf(cfg *config.Config) (*policy.Policy, error) {
	err := d.systems.Use(cfg.ASNDatabase)
	if err != nil {
		err = fmt.Errorf("autonomous systems are not judged until the file of reputation.asn_database is fixed: %w", err)
	}
	p := cfg.Policy
	p.ASN = d.systems.Lookup
	return policy.New(p), err
}

// treats reports whether any tier has an action that changes a message.
func (d *Daemon) treats() bool {
	return d.anyTier(func(t policy.Treatment) bool { return t.Action == policy.ActHeader || t.Action == policy.ActQuarantine })
}

// refuses reports whether any tier is refused at a stage.
func (d *Daemon) refuses(at policy.Stage) bool {
	return d.anyTier(func(t policy.Treatment) bool { return t.Action.Refuses() && t.Stage == at })
}

func (d *Daemon) anyTier(is func(policy.Treatment) bool) bool {
	for _, t := range d.judge.Policy().Treatments {
		if is(t) {
			return true
		}
	}
	return false
}

// Run serves until the context ends, then stops in good order: sessions under way end first while
// the tables still answer, so that an MTA with a socketmap misses as little as it can, and what was
// learnt is committed last. Whoever hangs is cut off.
func (d *Daemon) Run(ctx context.Context) error {
	failed := make(chan error, 4)
	tables, stopTables := context.WithCancel(context.Background())
	defer stopTables()
	var answering sync.WaitGroup
	answer := func(l net.Listener, speak table.Protocol) {
		if l == nil {
			return
		}
		answering.Go(func() {
			if err := d.tables.Serve(tables, l, speak); err != nil {
				failed <- err
			}
		})
	}
	answer(d.listeners.Socketmap, table.Socketmap)
	answer(d.listeners.Memcache, table.Memcache)
	watching, unwatch := context.WithCancel(ctx)
	defer unwatch()
	go d.faults.Keep(watching, "following the load", adapt)
	go d.faults.Keep(watching, "collecting garbage", collect)
	go d.faults.Keep(watching, "counting days", d.turn)
	go d.faults.Keep(watching, "watching sockets and tokens", func(ctx context.Context) { d.listeners.watch(ctx, d.tokens, d.log) })
	go d.faults.Keep(watching, "watching autonomous systems", func(ctx context.Context) { d.systems.Watch(ctx, asn.Every, d.log) })
	go d.faults.Keep(watching, "writing the static table", d.export)
	if d.keeper != nil {
		d.counting.Go(func() { d.faults.Keep(watching, "counting for reports", d.keeper.Run) })
	}
	if l := d.listeners.Milter; l != nil {
		go func() { failed <- d.milter.Serve(l) }()
	}
	if l := d.listeners.HTTP; l != nil {
		go func() {
			if err := d.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("http: %w", err)
			}
		}()
	}
	stopIntake := d.intake.start(d.follower)
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	// What cannot be cut off, such as a disk that hangs, ends with the process.
	late := time.AfterFunc(stopMost, func() {
		d.log.Error("the stop took too long, and what hangs is given up", "after", stopMost)
		os.Exit(1)
	})
	defer late.Stop()
	wait, cancel := context.WithTimeout(context.Background(), sessionsWait)
	defer cancel()
	if cut := d.milter.Shutdown(wait); cut != nil {
		d.log.Warn("sessions under way were cut off", "after", sessionsWait, "error", cut)
	}
	stopTables()
	cut := time.AfterFunc(tablesWait, func() {
		for _, g := range d.guards {
			g.Cut()
		}
	})
	answering.Wait()
	cut.Stop()
	d.http.Close()
	stopIntake()
	unwatch()
	d.counting.Wait()
	return errors.Join(err, d.close())
}

// Config is the configuration in force.
func (d *Daemon) Config() *config.Config { return d.cfg.Load() }

// Decide judges an address as the tables do.
func (d *Daemon) Decide(addr netip.Addr) policy.Decision { return d.judge.Decide(addr) }

// Unread notes why a configuration was not taken, nil where it was.
func (d *Daemon) Unread(err error) {
	if err == nil {
		d.unread.Store(nil)
		return
	}
	d.unread.Store(&err)
}

// Reload puts a new configuration in force, as far as that goes without a restart, and opens the
// event log anew.
func (d *Daemon) Reload(cfg *config.Config) (api.Reloaded, error) {
	old, done := d.booted, api.Reloaded{Restart: []string{}, Warnings: []string{}}
	for _, c := range []struct {
		key     string
		changed bool
	}{
		{"milter", cfg.Milter.Listen != old.Milter.Listen || cfg.Milter.Group != old.Milter.Group || !slices.Equal(cfg.Milter.Users, old.Milter.Users)},
		{"table", cfg.Table.Socketmap != old.Table.Socketmap || cfg.Table.Memcache != old.Table.Memcache || cfg.Table.Group != old.Table.Group},
		{"http", cfg.HTTP.Listen != old.HTTP.Listen || cfg.HTTP.Group != old.HTTP.Group || cfg.HTTP.TokenFile != old.HTTP.TokenFile || cfg.HTTP.FeedTokenFile != old.HTTP.FeedTokenFile},
		{"store", !sameStore(cfg, old)}, {"store.sync", cfg.Store.Sync != old.Store.Sync}, {"log.events", cfg.Log.Events != old.Log.Events}, {"log.retain", cfg.Log.Retain != old.Log.Retain},
		{"verdict.log_file", cfg.LogFile != old.LogFile}, {"verdict.services", !slices.Equal(cfg.Services, old.Services)}, {"verdict.rspamd_feed", cfg.Feed != old.Feed},
	} {
		if c.changed {
			done.Restart = append(done.Restart, c.key)
			d.log.Warn("this key changes with the next restart", "key", c.key)
		}
	}
	if cfg.Policy.Layout != old.Policy.Layout {
		d.log.Error("the store holds evidence of other prefix lengths, which stay in force: put reputation.ipv4_network, ipv6_host and ipv6_network back, or the next start will be refused",
			"store", old.Policy.Layout.Text(), "configuration", cfg.Policy.Layout.Text())
		cfg.Policy.Layout = old.Policy.Layout
	}
	p, err := d.policyOf(cfg)
	for _, err := range []error{err, d.follower.inspect(cfg.LogFile)} {
		if err != nil {
			d.log.Error(err.Error())
			done.Warnings = append(done.Warnings, err.Error())
		}
	}
	d.cfg.Store(cfg)
	done.Warnings = append(done.Warnings, d.reportWarnings()...)
	d.judge.Set(p)
	err = d.events.Reopen()
	if d.keeper != nil {
		d.keeper.CatchUp()
	}
	return done, err
}

func (d *Daemon) close() error {
	d.listeners.close()
	var err error
	if d.events != nil {
		err = d.events.Close()
	}
	if d.keeper != nil {
		err = errors.Join(err, d.keeper.Close())
	}
	if d.store != nil {
		err = errors.Join(err, d.store.Close())
	}
	return err
}
