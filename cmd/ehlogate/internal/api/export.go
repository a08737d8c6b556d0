package api

import (
	"bufio"
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/table"
)

// export writes the cidr table of what would be withheld now; see table.CIDR. Hosts take 24 bytes
// of memory each meanwhile.
func (s *Server) export(w http.ResponseWriter, r *http.Request) {
	if f := r.URL.Query().Get("format"); f != "cidr" {
		refuse(w, http.StatusBadRequest, fmt.Errorf("format: %q is not allowed; want cidr", f))
		return
	}
	named := s.named()
	hosts, err := s.withheldHosts(named)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	out := bufio.NewWriterSize(stream{w, http.NewResponseController(w)}, 64<<10)
	// The first match wins, so what lies within something else comes before it. Hosts do not overlap.
	keysOf := s.Judge.Policy().Keys
	smaller := slices.IndexFunc(named, func(n netip.Prefix) bool { return n.Bits() <= keysOf(n.Addr()).Host.Bits() })
	if smaller < 0 {
		smaller = len(named)
	}
	each := func(yield func(netip.Prefix) bool) {
		for _, n := range named[:smaller] {
			if !yield(n) {
				return
			}
		}
		for _, h := range hosts {
			if !yield(keysOf(h).Host) {
				return
			}
		}
		for _, n := range named[smaller:] {
			if !yield(n) {
				return
			}
		}
	}
	for n := range each {
		if err = table.WriteCIDR(out, n, s.Judge.Decide(n.Addr()).Keywords()); err != nil {
			break
		}
	}
	if cmp.Or(err, out.Flush()) != nil {
		// A table cut short must not look whole.
		panic(http.ErrAbortHandler)
	}
}

// named are the networks of which more is said than evidence: those that are exempt, and those of
// overrides and exceptions. Those that are smaller than a host come first, then the rest, the
// smallest first.
func (s *Server) named() []netip.Prefix {
	all := map[netip.Prefix]struct{}{}
	for _, n := range s.Judge.Policy().Exempt {
		all[n] = struct{}{}
	}
	for _, o := range s.Store.Overrides() {
		if !o.Ended(s.Now()) {
			all[o.Network] = struct{}{}
		}
	}
	for _, x := range s.exceptions() {
		all[x.Network] = struct{}{}
	}
	keysOf := s.Judge.Policy().Keys
	// beyond is by how many bits a network is smaller than a host.
	beyond := func(n netip.Prefix) int { return n.Bits() - keysOf(n.Addr()).Host.Bits() }
	return slices.SortedFunc(maps.Keys(all), func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(max(beyond(b), 0), max(beyond(a), 0)), cmp.Compare(b.Bits(), a.Bits()), a.Addr().Compare(b.Addr()))
	})
}

// withheldHosts are the hosts from which something is left out, without those that are named.
func (s *Server) withheldHosts(named []netip.Prefix) (hosts []netip.Addr, err error) {
	known := map[netip.Prefix]bool{}
	for _, n := range named {
		known[n] = true
	}
	err = s.Store.Each(func(r policy.Record) error {
		if s.host(r) && !known[r.Network] && s.Judge.Decide(r.Network.Addr()).Keywords() != "" {
			hosts = append(hosts, r.Network.Addr())
		}
		return nil
	})
	slices.SortFunc(hosts, netip.Addr.Compare)
	return hosts, err
}
