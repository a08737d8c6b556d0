package api

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// TestATableIsAsShortAsItCanBe: neighbours that are all withheld from are one line, and those of a
// network that is denied are none.
func TestATableIsAsShortAsItCanBe(t *testing.T) {
	s := newServer(t)
	spam := func(addr netip.Addr) {
		for range 9 {
			m := &policy.Message{
				Time: s.Now(), Began: s.Now().Add(-time.Second), Client: policy.Client{Addr: addr}, Mail: true,
				Verdict: policy.Verdict{Class: policy.Spam, Weight: 1, Source: policy.FromHeader},
			}
			if err := <-s.Judge.Learn(m); err != nil {
				t.Fatal(err)
			}
		}
	}
	for n := range 64 {
		spam(netip.AddrFrom4([4]byte{192, 0, 2, byte(64 + n)}))
	}
	spam(netip.MustParseAddr("192.0.2.200"))
	spam(netip.MustParseAddr("203.0.113.9"))
	spam(netip.MustParseAddr("2001:db8::7"))
	for _, o := range []policy.Override{{Network: netip.MustParsePrefix("203.0.113.0/24")}, {Network: netip.MustParsePrefix("192.0.2.70/32"), Allow: true}} {
		o.Set = s.Now()
		if err := s.Store.SetOverride(o); err != nil {
			t.Fatal(err)
		}
	}
	var table strings.Builder
	if err := s.Export(&table, "cidr"); err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSpace(table.String()), "\n")
	var withheld []string
	for _, line := range got {
		if network, keywords, _ := strings.Cut(line, "\t"); strings.HasPrefix(keywords, "starttls") {
			withheld = append(withheld, network)
		}
	}
	want := "[192.0.2.64/30 192.0.2.68/31 192.0.2.71/32 192.0.2.72/29 192.0.2.80/28 192.0.2.96/27 192.0.2.200/32 2001:db8::/64 203.0.113.0/24]"
	if fmt.Sprint(withheld) != want {
		t.Errorf("withheld from %v\nwant          %s\n%s", withheld, want, &table)
	}
	table.Reset()
	if err := s.Export(&table, "texthash"); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(table.String(), "\tstarttls"); n != 63+1+256 || strings.Contains(table.String(), "192.0.2.70\t") || !strings.Contains(table.String(), "# left out: networks of more than 256 addresses, 1 of them, the first 2001:db8::/64") {
		t.Errorf("%d addresses; want 320\n%s", n, table.String()[max(0, table.Len()-200):])
	}
}

// TestATableSaysWhatALookupSays sets overrides at random, one in another, and asks the table, the
// first match first, about every address of the network.
func TestATableSaysWhatALookupSays(t *testing.T) {
	s := newServer(t)
	random := rand.New(rand.NewPCG(1, 2))
	network := netip.MustParsePrefix("192.0.2.0/24")
	for range 60 {
		var set []netip.Prefix
		for range 1 + random.IntN(10) {
			addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(random.IntN(256))})
			n := netip.PrefixFrom(addr, 22+random.IntN(11)).Masked()
			if err := s.Store.SetOverride(policy.Override{Network: n, Allow: random.IntN(2) == 0, Set: s.Now()}); err != nil {
				t.Fatal(err)
			}
			set = append(set, n)
		}
		lines, err := s.withheld()
		if err != nil {
			t.Fatal(err)
		}
		var list strings.Builder
		if err := lines.write(&list, "list"); err != nil {
			t.Fatal(err)
		}
		var networks []netip.Prefix
		for line := range strings.Lines(list.String()) {
			if !strings.HasPrefix(line, "#") {
				networks = append(networks, netip.MustParsePrefix(strings.TrimSpace(line)))
			}
		}
		for addr := network.Addr(); network.Contains(addr); addr = addr.Next() {
			got := ""
			if want := s.Judge.Decide(addr).Keywords() != ""; slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(addr) }) != want {
				t.Fatalf("%s: to be in the list: %v; it has %v; overrides %v", addr, want, networks, s.Store.Overrides())
			}
			for _, l := range lines {
				if l.network.Contains(addr) {
					got = l.keywords
					break
				}
			}
			if want := s.Judge.Decide(addr).Keywords(); got != want {
				t.Fatalf("%s: the table says %q, a lookup %q; overrides %v, lines %v", addr, got, want, s.Store.Overrides(), lines)
			}
		}
		for _, n := range set {
			if _, err := s.Store.LiftOverride(n); err != nil {
				t.Fatal(err)
			}
		}
	}
}
