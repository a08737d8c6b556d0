// Package ledger counts what was heard, over time, and keeps tallies of who it came from: what
// reports, alarms and the page are made of.
//
// Counts are kept for each five minutes of a week and for each hour of a year; tallies of the most
// frequent clients, networks and domains for each hour of a week and each day of a year, and so are
// estimates of how many different clients there were (HyperLogLog, Flajolet et al. 2007). All of it
// is bounded, whatever clients send: series are named here, and what has no name counts as "other".
//
// A ledger counts the lines of its node's event log, and keeps in the same transaction how far it
// has read: a line counts once, however the daemon ends. In a cluster each node publishes what it
// has counted, and whoever reports adds the nodes up. What is published twice is the same, so that
// nothing has to be published exactly once.
package ledger

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/gaissmai/bart"
	"golang.org/x/time/rate"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/store/bolted"
)

// Width is how long a slot of counts is.
type Width time.Duration

// The widths of slots, and for how long those are kept.
const (
	Fine   = Width(5 * time.Minute)
	Coarse = Width(time.Hour)
	Daily  = Width(24 * time.Hour)

	keepFine   = 8 * 24 * time.Hour
	keepCoarse = 400 * 24 * time.Hour

	// KeptFor is for how long anything is kept.
	KeptFor = keepCoarse
)

// start is when the slot of a time began.
func (w Width) start(t time.Time) time.Time { return t.UTC().Truncate(time.Duration(w)) }

// Entry is what is counted of a message, or of a session that carried none.
type Entry struct {
	Time time.Time
	Addr netip.Addr
	// Message says that there was a message, Session that a session is counted with it: the first
	// message of a session does that, and a session without one.
	Message, Session bool
	// Unheard says that nobody heard its session, so that it is not known whether that used TLS.
	Unheard bool
	// Own says that it was of one of the operator's own users, Forgotten that its client was
	// forgotten since: it is not tallied.
	Own, Forgotten bool

	Verdict policy.Verdict
	Trouble policy.Trouble
	policy.Facts
}

// Options are what a ledger needs to know.
type Options struct {
	// Path is the file, empty for a ledger that is kept in memory only.
	Path string
	// Node is this node's name, shown in reports.
	Node string
	// Network is the network of an address.
	Network func(netip.Addr) netip.Prefix
	// Shelf is where nodes of a cluster publish; nil where there is one node.
	Shelf Shelf
	Now   func() time.Time
	Log   *slog.Logger
}

// Ledger counts. Open makes one.
type Ledger struct {
	opt Options
	// id tells this node's counts from those of others.
	id string

	mu       sync.Mutex
	db       *bolted.File
	position []byte
	slots    map[slotKey]*Counts
	tallies  map[tallyKey]*Tally
	clients  map[slotKey]*Clients
	// dirty are the leaves that were changed since they were last written, unshared those that were
	// since they were last published.
	dirty    map[leafKey]struct{}
	unshared map[leafKey]struct{}
	pruned   time.Time
	fresh    *fresh
	// unread says now and then that counts cannot be read.
	unread rate.Sometimes
	// published is when this node last published.
	published time.Time
	// forgotten are networks that tallies are still to be looked through for; nil where there are
	// none.
	forgotten *bart.Lite
	// day is that of all tallies where they are kept in memory only.
	day int64
}

// slotKey names counts of a width that began at a time in Unix seconds.
type slotKey struct {
	width Width
	at    int64
}

type tallyKey struct {
	kind Kind
	slotKey
}

// Open opens the ledger in a file, or makes it. A file that is damaged is moved aside, and counting
// begins anew from what is left of the event log.
func Open(o Options) (*Ledger, error) {
	l := &Ledger{opt: o, slots: map[slotKey]*Counts{}, tallies: map[tallyKey]*Tally{}, clients: map[slotKey]*Clients{}, fresh: newFresh(), dirty: map[leafKey]struct{}{}, unshared: map[leafKey]struct{}{}, unread: rate.Sometimes{Interval: time.Minute}}
	if o.Path == "" {
		return l, nil
	}
	if err := l.openFile(); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	return l, nil
}

// ID tells this node's counts from those of others.
func (l *Ledger) ID() string { return l.id }

// newID is a name that no other node has.
func newID() string {
	var id [6]byte
	rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

// Count counts an entry, or takes it back.
func (l *Ledger) Count(e *Entry, back bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := int64(1)
	if back {
		n = -1
	}
	var add Counts
	add.Add(e, n)
	if !back && !e.Own && e.Addr.IsValid() {
		l.fresh.add(&add, e, l.opt.Network(e.Addr))
	}
	for _, w := range []Width{Fine, Coarse} {
		if w == Fine && (l.opt.Path == "" || l.tooOld(e.Time, keepFine)) || l.tooOld(e.Time, keepCoarse) {
			continue
		}
		key := slotKey{w, w.start(e.Time).Unix()}
		l.counts(key).plus(&add)
		l.touch(leafKey{leafCounts, key.width, "", key.at})
	}
	if e.Own || l.tooOld(e.Time, keepCoarse) {
		return
	}
	if !e.Forgotten {
		l.tally(e, n)
	}
	if !back && e.Addr.IsValid() {
		l.countClient(e)
	}
}

// tooOld reports whether what is counted of a time is not kept any more. Memory keeps all.
func (l *Ledger) tooOld(t time.Time, keep time.Duration) bool {
	return l.opt.Path != "" && l.opt.Now().Sub(t) > keep
}

func (l *Ledger) touch(k leafKey) {
	if l.db != nil {
		l.dirty[k] = struct{}{}
	}
}

// counts are those of a slot. The lock is held.
func (l *Ledger) counts(k slotKey) *Counts {
	c := l.slots[k]
	if c == nil {
		c = new(Counts)
		l.load(leafKey{leafCounts, k.width, "", k.at}, c.decode)
		l.slots[k] = c
	}
	return c
}

func (l *Ledger) tally(e *Entry, n int64) {
	if l.forgotten != nil && e.Addr.IsValid() && l.forgotten.Contains(e.Addr) {
		if err := l.forget(); err != nil {
			l.cannotRead("tallies of what is forgotten", err)
		}
	}
	for kind, name := range l.names(e) {
		if name == "" {
			continue
		}
		for _, w := range []Width{Coarse, Daily} {
			if w == Coarse && (l.opt.Path == "" || l.tooOld(e.Time, keepFine)) {
				continue
			}
			leaf := leafKey{leafTally, w, kind, w.start(e.Time).Unix()}
			if l.opt.Path == "" {
				leaf.at = l.onlyDay(leaf.at)
			}
			l.tallyOf(leaf).Count(name, e, n)
			l.touch(leaf)
		}
	}
}

// onlyDay is the day of the tallies that are kept in memory only: there is one for all days. The
// lock is held.
func (l *Ledger) onlyDay(day int64) int64 {
	if l.day == 0 {
		l.day = day
	}
	return l.day
}

// tallyOf is the tally of a kind in a slot. The lock is held.
func (l *Ledger) tallyOf(leaf leafKey) *Tally {
	key := tallyKey{leaf.kind, slotKey{leaf.width, leaf.at}}
	t := l.tallies[key]
	if t == nil {
		t = NewTally()
		if l.opt.Path == "" {
			t.most = mostInMemory
		}
		l.load(leaf, t.decode)
		l.tallies[key] = t
	}
	return t
}

// names yields under which names an entry is tallied.
func (l *Ledger) names(e *Entry) func(yield func(Kind, string) bool) {
	return func(yield func(Kind, string) bool) {
		if e.Addr.IsValid() && !(yield(ByAddress, e.Addr.String()) && yield(ByNetwork, l.opt.Network(e.Addr).String())) {
			return
		}
		if e.ASN != 0 && !yield(ByASN, fmt.Sprintf("AS%d", e.ASN)) {
			return
		}
		if !e.Message {
			return
		}
		if !yield(ByDomain, clean(e.FromDomain)) {
			return
		}
		if e.Auth.DKIM == "pass" && !yield(ByDKIM, clean(e.Auth.DKIMDomain)) {
			return
		}
		if e.Auth.SPF == "pass" && !yield(BySPF, clean(e.Auth.SPFDomain)) {
			return
		}
		if e.TLS != nil {
			yield(ByCertificate, clean(e.TLS.CertSubject))
		}
	}
}

// mostName bounds a name in bytes: a domain has 253 at most, RFC 1035 section 2.3.4.
const mostName = 255

// clean is a name as it is tallied: what a client sent, in printable characters, not too long.
func clean(name string) string {
	if len(name) > mostName {
		name = name[:mostName]
	}
	return policy.Printable(name)
}

// Position is how far the event log was read when the last counts were written; nil at first.
func (l *Ledger) Position() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.position
}

// Flush writes what was counted, with how far the event log has been read, and publishes it. What
// cannot be published is published with the next flush.
func (l *Ledger) Flush(ctx context.Context, position []byte) error {
	l.mu.Lock()
	err := l.forget()
	var leaves []leafKey
	if err == nil {
		leaves, err = l.write(position)
	}
	l.mu.Unlock()
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	now := l.opt.Now()
	quiet := len(leaves)+len(l.unshared) == 0 && now.Sub(l.published).Abs() < publishEvery
	if l.opt.Shelf == nil || l.db == nil || quiet {
		return nil
	}
	if err := l.publish(ctx, leaves); err != nil {
		return err
	}
	l.published = now
	return nil
}

// publishEvery is how often a node publishes at least that it is there, and notices that what it
// has published is lost.
const publishEvery = 20 * time.Second

// Close closes the file. What was not flushed is counted again from the event log.
func (l *Ledger) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.db == nil {
		return nil
	}
	return l.db.Close()
}
