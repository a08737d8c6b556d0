package daemon

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/policy/ledger"
	"github.com/ehlogate/ehlogate/policy/store"
	"github.com/ehlogate/ehlogate/policy/store/redis"
)

// enoughForSilence is how many messages, or sessions, it takes until a source that said nothing is
// silent.
const enoughForSilence = 20

// nodesWait is how long Redis may take to list the nodes.
const nodesWait = time.Second

// enoughLookups is the same for lookups, of which a check makes some itself.
const enoughLookups = 200

// today keeps the counts as they were at the last midnight.
type today struct {
	mu       sync.Mutex
	heard    api.Counts
	withheld api.Answers
}

// turn keeps the counts at each midnight, until the context ends.
func (d *Daemon) turn(ctx context.Context) {
	for {
		now := time.Now()
		y, m, day := now.Date()
		midnight := time.NewTimer(time.Date(y, m, day+1, 0, 0, 0, 0, now.Location()).Sub(now))
		select {
		case <-ctx.Done():
			midnight.Stop()
			return
		case <-midnight.C:
			heard, withheld := d.counts()
			d.today.mu.Lock()
			d.today.heard, d.today.withheld = heard, withheld
			d.today.mu.Unlock()
		}
	}
}

// counts are what was heard and answered since the start.
func (d *Daemon) counts() (api.Counts, api.Answers) {
	m, in, t := &d.milter.Stats, &d.intake.Stats, &d.tables.Stats
	withheld, told := t.Withheld.Load(), in.Told.Load()
	return api.Counts{
		Sessions: m.Sessions.Load(), Messages: m.Messages.Load() + told, Told: told, TLS: m.TLSMessages.Load() + in.ToldTLS.Load(), Spam: in.Spam.Load(), Ham: in.Ham.Load(),
	}, api.Answers{Lookups: t.Offered.Load() + withheld, Withheld: withheld, Would: t.Would.Load()}
}

// status is how the daemon stands, but for what the store knows.
func (d *Daemon) status() api.Status {
	cfg := d.cfg.Load()
	st := api.Status{
		Version: d.version, Node: cfg.Log.Node, Started: d.started, Mode: d.judge.Policy().Mode,
		Config: cfg.File, Events: cfg.Log.Events, Anonymized: cfg.Log.Anonymize,
		TokenFile: cfg.HTTP.TokenFile, Store: api.StoreStatus{Name: cfg.StoreName(), State: "ok"},
	}
	b := d.booted
	st.Listen = map[string]string{"milter.listen": b.Milter.Listen.String(), "table.socketmap": b.Table.Socketmap.String(), "table.memcache": b.Table.Memcache.String(), "http.listen": b.HTTP.Listen.String()}
	st.LogFile, st.Warnings, st.Notes = b.LogFile, d.warnings(), append(d.events.Notes(), d.intake.notes()...)
	if b.Store.Redis == nil {
		st.Store.Sync = string(b.Store.Sync)
	}
	switch k := d.store.(type) {
	case *redis.Store:
		if !k.Up() {
			st.Store.State = "away: lookups answer from memory, observations wait on disk"
			if err := k.Why(); err != nil {
				st.Warnings = append(st.Warnings, "Redis does not serve: "+err.Error())
			}
		} else if d.keeper != nil {
			ctx, cancel := context.WithTimeout(context.Background(), nodesWait)
			// Without them the rest is there.
			st.Nodes, _ = d.keeper.Ledger.Nodes(ctx)
			cancel()
		}
	case *store.Embedded:
		st.Notes = append(st.Notes, k.Notes()...)
		if err := k.Fault(); err != nil {
			st.Store.State = "what is learnt is in memory only"
			st.Warnings = append(st.Warnings, st.Store.State+": "+err.Error())
		}
		select {
		case <-k.Ready():
		default:
			st.Store.State = "starting: STARTTLS is offered until all is read"
		}
	}
	heard, withheld := d.counts()
	st.Heard.Counts, st.Withheld.Answers = heard, withheld
	st.Cost = costOf(spent(), heard.Sessions, withheld.Withheld)
	d.today.mu.Lock()
	st.Heard.Today = heard.Less(d.today.heard)
	st.Withheld.Today = api.Answers{
		Lookups: withheld.Lookups - d.today.withheld.Lookups, Withheld: withheld.Withheld - d.today.withheld.Withheld, Would: withheld.Would - d.today.withheld.Would,
	}
	d.today.mu.Unlock()
	st.Waves = []ledger.Wave{}
	if d.keeper != nil {
		st.Waves = ledger.Lasting(d.keeper.Alarms.Waves())
	}
	d.findSilent(&st)
	for i, w := range st.Warnings {
		st.Warnings[i] = strings.ReplaceAll(w, "\n", "; ")
	}
	return st
}

// costOf is what so much processor time was for.
func costOf(spent time.Duration, sessions, avoided uint64) api.Cost {
	each := func(n uint64) float64 {
		if n == 0 {
			return 0
		}
		return math.Round(float64(spent.Microseconds())/float64(n)) / 1000
	}
	return api.Cost{CPUSeconds: math.Round(spent.Seconds()*100) / 100, CPUMilliseconds: each(sessions), Avoided: avoided, PaysFrom: each(avoided)}
}

// strangersSaid is for how long a connection of another host that was refused is a warning.
const strangersSaid = time.Hour

// warnings are what is wrong now, and does not keep the daemon from running.
func (d *Daemon) warnings() []string {
	all := append([]string{}, d.listeners.warnings()...)
	if err := d.follower.inspect(d.booted.LogFile); err != nil {
		all = append(all, err.Error())
	}
	all = append(all, d.reportWarnings()...)
	if d.keeper == nil {
		all = append(all, "nothing is counted for reports: "+d.uncounted.Error())
	} else if err := d.keeper.Fault(); err != nil {
		all = append(all, "reports lag behind the event log, and catch up when this is over: "+err.Error())
	}
	all = append(all, d.uncountedYet()...)
	if err := d.events.Fault(); err != nil {
		all = append(all, "the event log cannot be written: "+err.Error())
	}
	if err := d.exportFault.Load(); err != nil && *err != nil {
		all = append(all, "the static table of table.export cannot be written, and stays as it was: "+(*err).Error())
	}
	if say := d.intake.strangersSay(); say != "" {
		all = append(all, say)
	}
	for _, t := range d.intake.Sources.Distrusted() {
		if !slices.Contains(d.Config().Believed, t.Source) {
			all = append(all, fmt.Sprintf("%s has called mail of hosts with a long good record spam since %s, from %d networks (usually %.0f %% of it), and nothing has been learnt from it since: look at the filter, or at the rule; if it is right, put it in verdict.believed",
				t.Source, t.Since.UTC().Format("2006-01-02 15:04:05Z"), t.Networks, 100*t.Usual))
		}
	}
	if err := d.unread.Load(); err != nil {
		all = append(all, "the configuration was not taken at the last reload: "+(*err).Error())
	}
	for _, g := range d.guards {
		if peer, at := g.LastStranger(); time.Since(at) < strangersSaid {
			all = append(all, fmt.Sprintf("connections of other hosts to %s are refused, %d so far, the last from %s: a host that may connect has to be in %s", g.Key(), g.Stats.Strangers.Load(), peer, g.PeersKey()))
		}
	}
	return all
}

// reportWarnings are what is wrong with what reports and alarms need.
func (d *Daemon) reportWarnings() (all []string) {
	cfg := d.cfg.Load()
	if to := cfg.Report.Notify; filepath.IsAbs(to) {
		if info, err := os.Stat(to); err != nil {
			all = append(all, "nobody is told of waves: report.notify: "+err.Error())
		} else if info.IsDir() || info.Mode()&0o111 == 0 {
			all = append(all, fmt.Sprintf("nobody is told of waves: report.notify: %s is no program; chmod +x it", to))
		}
	}
	if book := d.contactsOf(); book != nil && book.Fault != nil {
		all = append(all, "reports do not say whom to write to: report.contacts: "+book.Fault.Error())
	}
	return all
}

// findSilent names the sources that should have said something by now.
func (d *Daemon) findSilent(st *api.Status) {
	cfg := d.cfg.Load()
	st.Silent, st.Why = []string{}, map[string]string{}
	silent := func(is bool, source, format string, args ...any) {
		if is {
			st.Silent = append(st.Silent, source)
			st.Why[source] = fmt.Sprintf(format, args...)
		}
	}
	lookups, messages := st.Withheld.Lookups, d.intake.Stats.Messages.Load()
	silent(cfg.Milter.Listen.Network != "" && st.Heard.Sessions == 0 && lookups >= enoughLookups, "milter", "no session in %d lookups: is it in smtpd_milters?", lookups)
	silent(lookups == 0 && st.Heard.Sessions >= enoughForSilence, "table", "no lookup in %d sessions: is it in smtpd_discard_ehlo_keyword_address_maps?", st.Heard.Sessions)
	silent(len(cfg.Verdict.Names()) > 0 && d.intake.Stats.Headers.Load() == 0 && messages >= enoughForSilence, "header", "no verdict header in %d messages: does the filter run before ehlogate, and is its header in verdict.headers?", messages)
	silent(cfg.LogFile != "" && d.follower.reader.Stats.Postfix.Load() == 0 && st.Heard.Sessions >= enoughForSilence, "log", "no line of the MTA in %s, in %d sessions", cfg.LogFile, st.Heard.Sessions)
}
