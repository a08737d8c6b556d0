package ledger

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// pages is a shelf in memory.
type pages map[string]map[string][]byte

func (p pages) Publish(_ context.Context, leaves []Leaf) error {
	for _, l := range leaves {
		if p[l.Page] == nil {
			p[l.Page] = map[string][]byte{}
		}
		p[l.Page][l.Field] = l.Value
	}
	return nil
}

func (p pages) Pages(context.Context, []string) (map[string]map[string][]byte, error) { return p, nil }

// spamByName is what is tallied by address and by network.
func (n *node) spamByName(since time.Time) string {
	n.t.Helper()
	b, err := n.Read(context.Background(), since, n.clock.Add(time.Second))
	if err != nil {
		n.t.Fatal(err)
	}
	var all []string
	for _, kind := range []Kind{ByAddress, ByNetwork} {
		for _, name := range b.Tallies[kind].Top(10, func(n *Named) int64 { return total(n.Spam) }) {
			all = append(all, fmt.Sprint(name.Name, "=", total(name.Spam)))
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// TestWhatIsForgottenIsInNoTally: neither in memory, nor in the file, nor as it is published, nor
// after a restart; what is counted afterwards is.
func TestWhatIsForgottenIsInNoTally(t *testing.T) {
	shelf := pages{}
	n := newNode(t, "mx1", shelf)
	old := noon.Add(-100 * 24 * time.Hour)
	count := func(addr string, at time.Time) {
		e := message(0)
		e.Addr, e.Time = netip.MustParseAddr(addr), at
		n.Count(e, false)
	}
	for _, at := range []time.Time{old, noon} {
		for _, addr := range []string{"192.0.2.7", "192.0.2.8", "203.0.113.9", "2001:db8::7"} {
			count(addr, at)
		}
	}
	n.flush("1")
	if got, want := n.spamByName(old), "192.0.2.0/24=4 192.0.2.7=2 192.0.2.8=2 2001:d00::/24=2 2001:db8::7=2 203.0.113.0/24=2 203.0.113.9=2"; got != want {
		t.Fatalf("before: %s\nwant    %s", got, want)
	}
	spam := n.report(old).Messages[policy.Spam]
	for _, forgotten := range []string{"192.0.2.7/32", "203.0.113.0/24", "2001:d00::/24"} {
		n.Forget(netip.MustParsePrefix(forgotten))
	}
	count("203.0.113.9", noon)
	const want = "192.0.2.0/24=4 192.0.2.8=2 203.0.113.0/24=1 203.0.113.9=1"
	if got := n.spamByName(old); got != want {
		t.Errorf("forgotten: %s\nwant       %s", got, want)
	}
	n.flush("2")
	for page, fields := range shelf {
		for field, b := range fields {
			if bytes.Contains(b, []byte("192.0.2.7")) || bytes.Contains(b, []byte("2001:db8")) {
				t.Errorf("%s %s is published with what is forgotten", page, field)
			}
		}
	}
	n.kill()
	if got := n.spamByName(old); got != want {
		t.Errorf("after a restart: %s\nwant             %s", got, want)
	}
	if got := n.report(old).Messages[policy.Spam]; got.TLS != spam.TLS+1 {
		t.Errorf("counts of spam over TLS: %+v, before %+v; they name nobody and stay", got, spam)
	}
}
