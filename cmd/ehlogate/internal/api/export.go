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
	x := s.newExporter()
	named := x.named()
	hosts, err := x.withheldHosts(named)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	out := bufio.NewWriterSize(stream{w, http.NewResponseController(w)}, 64<<10)
	// The first match wins, so what lies within something else comes before it. Hosts do not
	// overlap.
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
		if err = table.WriteCIDR(out, n, x.decide(n).Keywords()); err != nil {
			break
		}
	}
	if cmp.Or(err, out.Flush()) != nil {
		// A table cut short must not look whole.
		panic(http.ErrAbortHandler)
	}
}

// exporter decides about networks, by overrides and exceptions as they were when it began.
type exporter struct {
	*Server
	overrides  *policy.Networks[policy.Override]
	exceptions *policy.Exceptions
}

func (s *Server) newExporter() *exporter {
	x := &exporter{s, policy.NewNetworks[policy.Override](), policy.NewNetworks[policy.Exception]()}
	for _, o := range s.Store.Overrides() {
		x.overrides.Insert(o.Network, &o)
	}
	for _, e := range s.exceptions() {
		x.exceptions.Insert(e.Network, &e)
	}
	return x
}

// decide judges what holds for all of a network.
func (x *exporter) decide(n netip.Prefix) policy.Decision {
	_, known := x.Judge.Explain(n.Addr())
	now := x.Now()
	known.Override, known.Exception = x.overrides.HoldsAll(n, now), x.exceptions.HoldsAll(n, now)
	return x.Judge.Policy().DecideNetwork(n, known, now)
}

// named are the networks of which more is said than evidence: those that are exempt, and those of
// overrides and exceptions. Those that are smaller than a host come first, then the rest, the
// smallest first.
func (x *exporter) named() []netip.Prefix {
	all := map[netip.Prefix]struct{}{}
	for _, n := range x.Judge.Policy().Exempt {
		all[n] = struct{}{}
	}
	for n, o := range x.overrides.All() {
		if !o.Ended(x.Now()) {
			all[n] = struct{}{}
		}
	}
	for n := range x.exceptions.All() {
		all[n] = struct{}{}
	}
	keysOf := x.Judge.Policy().Keys
	// beyond is by how many bits a network is smaller than a host.
	beyond := func(n netip.Prefix) int { return n.Bits() - keysOf(n.Addr()).Host.Bits() }
	return slices.SortedFunc(maps.Keys(all), func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(max(beyond(b), 0), max(beyond(a), 0)), cmp.Compare(b.Bits(), a.Bits()), a.Addr().Compare(b.Addr()))
	})
}

// withheldHosts are the hosts from which something is left out, without those that are named.
func (x *exporter) withheldHosts(named []netip.Prefix) (hosts []netip.Addr, err error) {
	known := map[netip.Prefix]bool{}
	for _, n := range named {
		known[n] = true
	}
	err = x.Store.Each(func(r policy.Record) error {
		if x.host(r) && !known[r.Network] && x.decide(r.Network).Keywords() != "" {
			hosts = append(hosts, r.Network.Addr())
		}
		return nil
	})
	slices.SortFunc(hosts, netip.Addr.Compare)
	return hosts, err
}
