package ledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Slot are the counts of a time.
type Slot struct {
	At time.Time
	*Counts
}

// Book is what was counted in a time, over all nodes.
type Book struct {
	// Since and Until are where its first slot begins and where it ends; Width is that of its
	// slots.
	Since, Until time.Time
	Width        Width
	Slots        []Slot
	// Tallies are of whole hours, or of whole days (UTC) where the time is longer than two days.
	Tallies map[Kind]*Tally
	// Clients are estimates of how many different clients there were in these, how many of them
	// used TLS and how many sent spam.
	Clients, TLSClients, SpamClients uint64
	// Alone is why only this node's counts are in it, nil where all are.
	Alone error
}

// Read reads what was counted from a time on, rounded down to a slot, until another. Where the
// counts of other nodes cannot be read, it is this one's, which says so.
func (l *Ledger) Read(ctx context.Context, since, until time.Time) (*Book, error) {
	b, err := l.read(ctx, since, until, nil)
	if errors.Is(err, errOthers) {
		alone := fault(err)
		if b, err = l.read(ctx, since, until, whose{l.id: {}}); err == nil {
			b.Alone = alone
		}
	}
	return b, err
}

// fault is what is behind an error of reading what others have published, without where it came up.
func fault(err error) error {
	for {
		switch wrapped := err.(type) {
		case interface{ Unwrap() error }:
			if err = wrapped.Unwrap(); err == nil {
				return wrapped.(error)
			}
		case interface{ Unwrap() []error }:
			all := wrapped.Unwrap()
			err = all[len(all)-1]
		default:
			return err
		}
	}
}

// errOthers says that what other nodes have published cannot be read.
var errOthers = errors.New("what other nodes have counted cannot be read")

// ErrNoNode says that a node has never published.
var ErrNoNode = errors.New("no node is called")

// ReadNode is Read for what the nodes of a name have counted: one, unless hosts are called alike,
// and all where the name is empty.
func (l *Ledger) ReadNode(ctx context.Context, since, until time.Time, name string) (*Book, error) {
	if name == "" {
		return l.Read(ctx, since, until)
	}
	all, err := l.nodes(ctx)
	if err != nil && name != l.opt.Node {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	w, names := whose{}, []string{l.opt.Node}
	if l.opt.Node == name {
		w[l.id] = struct{}{}
	}
	for id, n := range all {
		if id == l.id {
			continue
		}
		names = append(names, n.Name)
		if n.Name == name {
			w[id] = struct{}{}
		}
	}
	if len(w) == 0 {
		slices.Sort(names)
		return nil, fmt.Errorf("%w %q; there are %s", ErrNoNode, name, strings.Join(slices.Compact(names), ", "))
	}
	return l.read(ctx, since, until, w)
}

// whose are the ids of the nodes whose counts are wanted; nil are all.
type whose map[string]struct{}

func (w whose) has(id string) bool {
	_, ok := w[id]
	return ok || w == nil
}

func (l *Ledger) read(ctx context.Context, since, until time.Time, w whose) (*Book, error) {
	b := &Book{Width: Coarse, Until: until.UTC(), Tallies: map[Kind]*Tally{}}
	if l.opt.Path != "" && l.opt.Now().Sub(since) < keepFine-time.Duration(Daily) {
		b.Width = Fine
	}
	b.Since = b.Width.start(since)
	var err error
	if b.Slots, err = l.slotsOf(ctx, b.Width, b.Since, until, w); err != nil {
		return nil, err
	}
	width := b.setWidth()
	for _, kind := range Kinds {
		t := NewTally()
		err := l.each(ctx, leafKey{what: leafTally, width: width, kind: kind}, width.start(since), until, w, func(_ int64, enc []byte) error {
			return t.decode(enc)
		})
		if err != nil {
			return nil, err
		}
		b.Tallies[kind] = t
	}
	return b, l.readClients(ctx, b, w)
}

// seasons is how much of the past says what is usual.
const seasons = 8 * 7 * 24 * time.Hour

// Course are the slots in which waves are looked for, until a time: the last week in short ones,
// and hours before that.
func (l *Ledger) Course(ctx context.Context, until time.Time) ([]Slot, error) {
	border := Daily.start(until.Add(-keepFine + 24*time.Hour))
	hours, err := l.slotsOf(ctx, Coarse, until.Add(-seasons), border, nil)
	if err != nil {
		return nil, err
	}
	fine, err := l.slotsOf(ctx, Fine, border, until, nil)
	return append(hours, fine...), err
}

// slotsOf are the counts of a width in a time, in their order.
func (l *Ledger) slotsOf(ctx context.Context, width Width, since, until time.Time, w whose) (all []Slot, err error) {
	slots := map[int64]*Counts{}
	err = l.each(ctx, leafKey{what: leafCounts, width: width}, since, until, w, func(at int64, enc []byte) error {
		if slots[at] == nil {
			slots[at] = new(Counts)
		}
		return slots[at].decode(enc)
	})
	for _, at := range slices.Sorted(maps.Keys(slots)) {
		all = append(all, Slot{time.Unix(at, 0).UTC(), slots[at]})
	}
	return all, err
}

func (l *Ledger) readClients(ctx context.Context, b *Book, w whose) error {
	width := b.setWidth()
	all := newClients()
	err := l.each(ctx, leafKey{what: leafClients, width: width}, width.start(b.Since), b.Until, w, func(_ int64, enc []byte) error {
		return all.decode(enc)
	})
	b.Clients, b.TLSClients, b.SpamClients = all[allClients].Estimate(), all[tlsClients].Estimate(), all[spamClients].Estimate()
	return err
}

// mostHourly is how long a time is at most of which names and clients are of whole hours.
const mostHourly = 49 * time.Hour

// setWidth is the width of slots of clients and tallies.
func (b *Book) setWidth() Width {
	if b.Width == Fine && b.Until.Sub(b.Since) <= mostHourly {
		return Coarse
	}
	return Daily
}

// each shows the leaves of a kind that lie in a time: those of this node as they are in memory,
// else as they were written, and those of the others as they have published them.
func (l *Ledger) each(ctx context.Context, k leafKey, since, until time.Time, w whose, show func(at int64, b []byte) error) error {
	if w.has(l.id) {
		if err := l.eachOwn(k, since, until, show); err != nil {
			return fmt.Errorf("ledger: %w", err)
		}
	}
	if err := l.eachPublished(ctx, k, since, until, w, show); err != nil {
		return fmt.Errorf("ledger: %w: %w", errOthers, err)
	}
	return nil
}

// eachOwn shows those of this node.
func (l *Ledger) eachOwn(k leafKey, since, until time.Time, show func(at int64, b []byte) error) error {
	l.mu.Lock()
	err := l.forget()
	var fresh map[int64][]byte
	if err == nil {
		fresh, err = l.inMemory(k, since, until)
	}
	l.mu.Unlock()
	if err != nil {
		return err
	}
	for at, b := range fresh {
		if err := show(at, b); err != nil {
			return err
		}
	}
	return l.eachWritten(k, since, until, func(at int64, b []byte) error {
		if _, ok := fresh[at]; ok {
			return nil
		}
		return show(at, b)
	})
}

// inMemory are the leaves of a kind that are in memory. The lock is held.
func (l *Ledger) inMemory(k leafKey, since, until time.Time) (map[int64][]byte, error) {
	fresh := map[int64][]byte{}
	take := func(at int64) error {
		if at < since.Unix() || at >= until.Unix() {
			return nil
		}
		k.at = at
		b, err := l.encode(k)
		fresh[at] = b
		return err
	}
	switch k.what {
	case leafCounts:
		for s := range l.slots {
			if s.width == k.width {
				if err := take(s.at); err != nil {
					return nil, err
				}
			}
		}
	case leafClients:
		for s := range l.clients {
			if s.width == k.width {
				if err := take(s.at); err != nil {
					return nil, err
				}
			}
		}
	case leafTally:
		for s := range l.tallies {
			if s.kind == k.kind && s.width == k.width {
				if err := take(s.at); err != nil {
					return nil, err
				}
			}
		}
	}
	return fresh, nil
}

// Total adds up all slots.
func (b *Book) Total() *Counts {
	c := new(Counts)
	for i := range b.Slots {
		c.plus(b.Slots[i].Counts)
	}
	return c
}
