package policy

import (
	"net/netip"
	"testing"
	"time"
)

// TestMakeRoom: the oldest goes, of the same network where that has too many.
func TestMakeRoom(t *testing.T) {
	begun := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	at := func(addr string, cause Cause, minute int) Exception {
		a := netip.MustParseAddr(addr)
		return Exception{Network: netip.PrefixFrom(a, a.BitLen()), Cause: cause, Set: begun.Add(time.Duration(minute) * time.Minute)}
	}
	host := func(i int) string {
		return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String()
	}
	network := func(e Exception) netip.Prefix { return netip.PrefixFrom(e.Network.Addr(), 24).Masked() }
	// keep adds exceptions as a store does.
	keep := func(all ...Exception) *Exceptions {
		kept := NewNetworks[Exception]()
		for _, e := range all {
			kept = Replace(kept, e, MakeRoom(kept, e, network(e)))
		}
		return kept
	}
	var all []Exception
	for i := range 3 * MostInNetwork {
		all = append(all, at(host(i), RequiresTLS, i))
	}
	kept := keep(all...)
	if _, ok := kept.Get(all[0].Network); ok || kept.Size() != MostInNetwork {
		t.Errorf("a network has %d, the oldest among them %t", kept.Size(), ok)
	}
	if gone := MakeRoom(kept, all[len(all)-1], network(all[0])); gone != nil {
		t.Errorf("for one that is renewed goes %v", gone)
	}
	if gone := MakeRoom(kept, at(host(200), OwnUser, 0), network(all[0])); gone != nil {
		t.Errorf("for a user goes %v", gone)
	}
	all = nil
	for i := range 2 * MostInRange {
		all = append(all, at(host(i<<6), BrokenTLS, i))
	}
	if kept := keep(all...); kept.Size() != MostInRange {
		t.Errorf("a range has %d", kept.Size())
	}
	// A botnet has hosts everywhere. What users gave rise to stays.
	kept = keep(at("192.0.2.1", OwnUser, -1))
	for i := range 2 * MostExceptions {
		a := netip.AddrFrom4([4]byte{byte(11 + i>>11), byte(i >> 3), byte(i << 5), 1})
		e := at(a.String(), RequiresTLS, i)
		kept = Replace(kept, e, MakeRoom(kept, e, network(e)))
	}
	if kept.Size() > MostExceptions || kept.Size() < MostExceptions*9/10 {
		t.Errorf("%d are kept", kept.Size())
	}
	if _, ok := kept.Get(netip.MustParsePrefix("192.0.2.1/32")); !ok {
		t.Error("the user's is gone")
	}
}
