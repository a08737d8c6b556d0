package ledger

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Leaf is something that a node publishes, in a field of a page.
type Leaf struct {
	Page, Field string
	Value       []byte
	// Expire is when the page may be thrown away.
	Expire time.Time
}

// Shelf is where the nodes of a cluster publish what they have counted, such as Redis. What is
// published again in the same field replaces what was there.
type Shelf interface {
	Publish(ctx context.Context, leaves []Leaf) error
	// Pages are the fields of some pages.
	Pages(ctx context.Context, names []string) (map[string]map[string][]byte, error)
}

// nodesPage has a field for each node.
const nodesPage = "nodes"

// Node is a node of a cluster, as it last published.
type Node struct {
	Name string    `json:"name"`
	Time time.Time `json:"time"`
}

// pageWidth is how much time a page of leaves spans.
func (k leafKey) pageWidth() time.Duration {
	switch {
	case k.what == leafTally, k.keep() == keepFine:
		return 24 * time.Hour
	}
	return 30 * 24 * time.Hour
}

// page is where a leaf is published.
func (k leafKey) page() (name string, end time.Time) {
	begin := time.Unix(k.at, 0).UTC().Truncate(k.pageWidth())
	return fmt.Sprintf("%s/%s%d", k.what, k.prefix(), begin.Unix()), begin.Add(k.pageWidth())
}

// publish publishes leaves, and what could not be published before.
func (l *Ledger) publish(ctx context.Context, written []leafKey) error {
	for _, k := range written {
		l.unshared[k] = struct{}{}
	}
	nodes, err := l.nodes(ctx)
	if err != nil {
		return err
	}
	if _, known := nodes[l.id]; !known {
		// It has lost what was published, or nothing was yet.
		if err := l.unshareAll(); err != nil {
			return err
		}
	}
	now := l.opt.Now().UTC()
	var leaves []Leaf
	err = recounted(l.db.View(func(tx *bolt.Tx) error {
		for k := range l.unshared {
			page, end := k.page()
			b := tx.Bucket([]byte(k.what)).Get(k.key())
			if b == nil || now.Sub(end) > k.keep() {
				continue
			}
			b, err := unsealed([]byte(k.what), k.key(), b)
			if err != nil {
				return err
			}
			leaves = append(leaves, Leaf{Page: page, Field: fmt.Sprintf("%d/%s", k.at, l.id), Value: append([]byte(nil), b...), Expire: end.Add(k.keep())})
		}
		return nil
	}))
	if err != nil {
		return err
	}
	node, err := json.Marshal(Node{Name: l.opt.Node, Time: now})
	if err != nil {
		return err
	}
	leaves = append(leaves, Leaf{Page: nodesPage, Field: l.id, Value: node, Expire: now.Add(keepCoarse)})
	if err := l.opt.Shelf.Publish(ctx, leaves); err != nil {
		return err
	}
	clear(l.unshared)
	return nil
}

// unshareAll has everything published again.
func (l *Ledger) unshareAll() error {
	for _, what := range leafKinds {
		for _, k := range leavesOf(what) {
			err := l.eachWritten(k, time.Unix(0, 0), l.opt.Now().Add(keepCoarse), func(at int64, _ []byte) error {
				k.at = at
				l.unshared[k] = struct{}{}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// eachPublished shows the leaves of a kind that other nodes have published.
func (l *Ledger) eachPublished(ctx context.Context, k leafKey, since, until time.Time, w whose, show func(at int64, b []byte) error) error {
	if _, own := w[l.id]; l.opt.Shelf == nil || own && len(w) == 1 {
		return nil
	}
	var names []string
	for k.at = since.Unix(); ; {
		name, end := k.page()
		names = append(names, name)
		if k.at = end.Unix(); k.at >= until.Unix() {
			break
		}
	}
	pages, err := l.opt.Shelf.Pages(ctx, names)
	if err != nil {
		return err
	}
	for name, fields := range pages {
		for field, b := range fields {
			slot, node, ok := strings.Cut(field, "/")
			var at int64
			if _, err := fmt.Sscan(slot, &at); !ok || err != nil || node == l.id || !w.has(node) || at < since.Unix() || at >= until.Unix() {
				continue
			}
			if err := show(at, b); err != nil {
				return fmt.Errorf("%s %s: %w", name, field, err)
			}
		}
	}
	return nil
}

// aliveFor is for how long a node is taken to be alive after it has published.
const aliveFor = 15 * time.Minute

// nodes are the nodes that have published, by their ids.
func (l *Ledger) nodes(ctx context.Context) (map[string]Node, error) {
	if l.opt.Shelf == nil {
		return nil, nil
	}
	pages, err := l.opt.Shelf.Pages(ctx, []string{nodesPage})
	if err != nil {
		return nil, err
	}
	all := map[string]Node{}
	for id, b := range pages[nodesPage] {
		var n Node
		if json.Unmarshal(b, &n) == nil {
			all[id] = n
		}
	}
	return all, nil
}

// First reports whether this node is the one that does what one of a cluster has to do.
func (l *Ledger) First(ctx context.Context) (bool, error) {
	all, err := l.nodes(ctx)
	for id, n := range all {
		if id < l.id && l.opt.Now().Sub(n.Time) < aliveFor {
			return false, nil
		}
	}
	return err == nil, err
}

// Nodes are the nodes of the cluster, this one not among them where there is none.
func (l *Ledger) Nodes(ctx context.Context) ([]Node, error) {
	all, err := l.nodes(ctx)
	return slices.SortedFunc(maps.Values(all), func(a, b Node) int { return cmp.Or(cmp.Compare(a.Name, b.Name), a.Time.Compare(b.Time)) }), err
}
