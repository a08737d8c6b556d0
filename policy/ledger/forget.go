package ledger

import (
	"net/netip"
	"strings"
	"time"

	"github.com/gaissmai/bart"
)

// Forget takes the addresses and networks inside a network out of all tallies: what was counted of
// them until now, and in what this node has published. The counts stay, since they name nobody.
// Tallies are looked through when they are next read or written, or when one of the forgotten is
// counted again.
func (l *Ledger) Forget(n netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.forgotten == nil {
		l.forgotten = new(bart.Lite)
	}
	l.forgotten.Insert(n)
}

// forget looks through all tallies for what is forgotten. The lock is held.
func (l *Ledger) forget() error {
	if l.forgotten == nil {
		return nil
	}
	for _, k := range leavesOf(leafTally) {
		if k.kind != ByAddress && k.kind != ByNetwork {
			continue
		}
		if err := l.forgetWritten(k); err != nil {
			return err
		}
	}
	for k, t := range l.tallies {
		if (k.kind == ByAddress || k.kind == ByNetwork) && t.drop(l.isForgotten) {
			l.touch(leafKey{leafTally, k.width, k.kind, k.at})
		}
	}
	l.forgotten = nil
	return nil
}

// forgetWritten brings those tallies of a kind back to memory that have what is forgotten.
func (l *Ledger) forgetWritten(k leafKey) error {
	if l.db == nil {
		return nil
	}
	return l.eachWritten(k, time.Unix(0, 0), l.opt.Now().Add(keepCoarse), func(at int64, b []byte) error {
		key := tallyKey{k.kind, slotKey{k.width, at}}
		if l.tallies[key] != nil {
			return nil
		}
		t := NewTally()
		if err := t.decode(b); err != nil {
			return err
		}
		for i := range t.tallied {
			if l.isForgotten(t.tallied[i].Name) {
				l.tallies[key] = t
				break
			}
		}
		return nil
	})
}

// isForgotten reports whether a name is an address or a network inside one that is forgotten.
func (l *Ledger) isForgotten(name string) bool {
	if !strings.Contains(name, "/") {
		addr, err := netip.ParseAddr(name)
		return err == nil && l.forgotten.Contains(addr)
	}
	n, err := netip.ParsePrefix(name)
	return err == nil && l.forgotten.LookupPrefix(n)
}

// drop removes names, and reports whether there were any.
func (t *Tally) drop(gone func(name string) bool) (any bool) {
	kept := t.tallied[:0]
	for _, n := range t.tallied {
		if gone(n.Name) {
			any = true
			delete(t.names, n.Name)
			continue
		}
		t.names[n.Name] = len(kept)
		kept = append(kept, n)
	}
	t.tallied = kept
	return any
}
