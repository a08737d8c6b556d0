package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/account"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/contacts"
	"github.com/ehlogate/ehlogate/policy/ledger"
	"github.com/ehlogate/ehlogate/policy/store/redis"
)

// ledgerFile is the ledger's file in the store's directory.
const ledgerFile = "ledger.db"

// openLedger opens what reports are made of. The daemon does without it where that fails: mail does
// not wait for reports.
func (d *Daemon) openLedger(cfg *config.Config) {
	o := ledger.Options{
		Path: filepath.Join(cfg.Store.Dir, ledgerFile), Node: cfg.Log.Node, Now: d.clock.Now, Log: d.log,
		Network: func(a netip.Addr) netip.Prefix { return d.judge.Policy().Keys(a).Network },
	}
	if s, ok := d.store.(*redis.Store); ok {
		o.Shelf = shelf{s}
	}
	l, err := ledger.Open(o)
	if err != nil {
		d.log.Error("nothing is counted for reports until the next start", "error", err)
		d.uncounted = err
		return
	}
	alarms := &account.Alarms{Ledger: l, Notify: func() string { return d.cfg.Load().Report.Notify }, Node: cfg.Log.Node, Now: d.clock.Now, Log: d.log}
	tail := &account.Tail{Events: cfg.Log.Events, ID: l.ID()}
	if s, ok := d.store.(*redis.Store); ok {
		tail.Wire = s
	}
	d.keeper = account.NewKeeper(l, alarms, tail, cfg.Log.Events, d.clock.Now, d.log)
}

// contactsOf are the contacts that are configured, as their file is now.
func (d *Daemon) contactsOf() *contacts.Book {
	before := d.contacts.Load()
	book := contacts.Open(d.cfg.Load().Report.Contacts, before)
	if book != nil && book.Fault != nil && (before == nil || before.Fault == nil) {
		d.log.Error("reports do not say whom to write to: the file of report.contacts cannot be used", "error", book.Fault)
	}
	d.contacts.Store(book)
	return book
}

// shelf is Redis as the nodes of a cluster publish their counts in it.
type shelf struct{ store *redis.Store }

func (s shelf) Publish(ctx context.Context, leaves []ledger.Leaf) error {
	all := make([]redis.Publication, len(leaves))
	for i, l := range leaves {
		all[i] = redis.Publication{Page: l.Page, Field: l.Field, Value: l.Value, Expire: l.Expire}
	}
	return s.store.Publish(ctx, all)
}

func (s shelf) Pages(ctx context.Context, names []string) (map[string]map[string][]byte, error) {
	return s.store.Pages(ctx, names)
}

// recentEnd is how far the end of a report may lie behind for one of what has just come in, and
// pendingShare the share of its messages that may wait to be counted without a word.
const (
	recentEnd    = time.Minute
	pendingShare = 0.05
)

// report draws up a report of what was counted.
func (d *Daemon) report(ctx context.Context, since, until time.Time, v ledger.View) (*ledger.Report, error) {
	if d.keeper == nil {
		return nil, d.uncounted
	}
	v.HandshakeCost = d.cfg.Load().Report.Handshake
	recent := d.clock.Now().Sub(until) < recentEnd
	if _, behind := d.keeper.Behind(); recent && !behind {
		// Who sends a message and asks for a report wants to see it.
		d.keeper.CatchUp()
	}
	book, err := d.keeper.Ledger.ReadNode(ctx, since, until, v.Node)
	if err != nil {
		return nil, err
	}
	r := book.Report(v)
	r.WriteTo(d.contactsOf().Of)
	if v.Node != "" {
		// A wave is one of the whole cluster.
		r.Nodes = []ledger.Node{{Name: v.Node, Time: d.clock.Now()}}
		return r, nil
	}
	r.Waves = ledger.WavesIn(d.keeper.Alarms.Waves(), since, until)
	// What is not in the event log is not counted either.
	r.Notes = append(d.uncountedYet(), d.events.Notes()...)
	if n := d.intake.Correlator.Pending(); recent && float64(n) > pendingShare*float64(r.AllMessages()) {
		r.Notes = append(r.Notes, fmt.Sprintf("%d more of the last minutes are counted when it is known what else is said of them: after some seconds, or when their sessions end", n))
	}
	if book.Alone != nil {
		r.Nodes = []ledger.Node{{Name: d.cfg.Load().Log.Node, Time: d.clock.Now()}}
		r.Notes = append(r.Notes, "these are the counts of this node alone, for Redis does not give those of others: "+book.Alone.Error())
		return r, nil
	}
	r.Nodes, err = d.keeper.Ledger.Nodes(ctx)
	return r, err
}

// uncountedYet says how much of the event log has yet to be counted, where that is much.
func (d *Daemon) uncountedYet() []string {
	if d.keeper == nil {
		return nil
	}
	left, behind := d.keeper.Behind()
	if !behind {
		return nil
	}
	return []string{fmt.Sprintf("the event log is being counted, %d MB of it are left: until then reports have too little", left>>20)}
}
