package api

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/gaissmai/bart"
	"go4.org/netipx"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/table"
)

// Formats are those of a static table: cidr_table(5); lines of a single address each, as texthash:
// reads them and postmap(1) makes lmdb:, cdb: and hash: tables of them; and lines that are a
// network and nothing else, as table(5) of OpenSMTPD and sets of packet filters take them.
var Formats = []string{"cidr", "texthash", "list"}

// export writes the static table of what would be withheld now. Hosts take some
// 100 bytes of memory each meanwhile.
func (s *Server) export(w http.ResponseWriter, r *http.Request) {
	format := r.URL.Query().Get("format")
	if !slices.Contains(Formats, format) {
		refuse(w, http.StatusBadRequest, fmt.Errorf("format: %q is not allowed; want %s", format, strings.Join(Formats, ", ")))
		return
	}
	lines, err := s.withheld()
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	out := bufio.NewWriterSize(newStream(w), 64<<10)
	if cmp.Or(lines.write(out, format), out.Flush()) != nil {
		// A table cut short must not look whole.
		panic(http.ErrAbortHandler)
	}
	s.NoteExport()
}

// NoteExport keeps when a static table was last made.
func (s *Server) NoteExport() {
	now := s.Now().UTC()
	s.exported.Store(&now)
}

// Export writes the static table of what would be withheld now. Who has put it in its place calls
// NoteExport.
func (s *Server) Export(w io.Writer, format string) error {
	lines, err := s.withheld()
	if err != nil {
		return err
	}
	return lines.write(w, format)
}

// exported is what a static table says, each network before those that it lies in.
type exported []exportedLine

type exportedLine struct {
	network  netip.Prefix
	keywords string
}

// withheld is what is withheld now, in as few lines as say it.
func (s *Server) withheld() (lines exported, err error) {
	x := s.newExporter()
	named := x.named()
	hosts, err := x.withheldHosts(named)
	if err != nil {
		return nil, err
	}
	// The first match wins, so what lies within something else comes before it. Hosts do not
	// overlap.
	keysOf := s.Judge.Policy().Keys
	smaller := slices.IndexFunc(named, func(n netip.Prefix) bool { return n.Bits() <= keysOf(n.Addr()).Host.Bits() })
	if smaller < 0 {
		smaller = len(named)
	}
	for _, n := range named[:smaller] {
		lines = append(lines, exportedLine{n, x.decide(n).Keywords()})
	}
	for _, keywords := range slices.Sorted(maps.Keys(hosts)) {
		set, err := hosts[keywords].IPSet()
		if err != nil {
			return nil, fmt.Errorf("export: %w", err)
		}
		for _, n := range set.Prefixes() {
			lines = append(lines, exportedLine{n, keywords})
		}
	}
	for _, n := range named[smaller:] {
		lines = append(lines, exportedLine{n, x.decide(n).Keywords()})
	}
	return lines.needed(), nil
}

// needed are the lines without which the table would say something else: not those of which the
// next larger network says the same, nor those from which nothing is left out where none does.
func (e exported) needed() exported {
	larger := new(bart.Table[string])
	// From the largest network to the smallest: what is in the table lies around what comes.
	kept := len(e)
	for _, l := range slices.Backward(e) {
		if around, _ := larger.LookupPrefix(l.network); around == l.keywords {
			continue
		}
		kept--
		e[kept] = l
		larger.Insert(l.network, l.keywords)
	}
	return e[kept:]
}

func (e exported) write(w io.Writer, format string) error {
	switch format {
	case "texthash":
		return e.writeAddresses(w)
	case "list":
		return e.writeNetworks(w)
	}
	for _, l := range e {
		if err := table.WriteCIDR(w, l.network, l.keywords); err != nil {
			return err
		}
	}
	return nil
}

// writeNetworks writes the networks from which something is left out. A list has no exceptions: a
// network with one inside is written as what is left of it. By the first line OpenSMTPD knows that
// it is a list; an empty one would be a mapping, and stay one.
func (e exported) writeNetworks(w io.Writer) error {
	var left netipx.IPSetBuilder
	for _, l := range slices.Backward(e) {
		if l.keywords == "" {
			left.RemovePrefix(l.network)
		} else {
			left.AddPrefix(l.network)
		}
	}
	set, err := left.IPSet()
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	lines := []string{"#@list"}
	for _, n := range set.Prefixes() {
		lines = append(lines, n.String())
	}
	if _, err := fmt.Fprintln(w, strings.Join(lines, "\n")); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

// mostAddresses is how many addresses a network may have to be written one by one: a /24.
const mostAddresses = 256

// writeAddresses writes a line for each address from which something is left out. A comment says
// what cannot be said so.
func (e exported) writeAddresses(w io.Writer) (err error) {
	said := map[netip.Addr]bool{}
	var large []netip.Prefix
	apart := 0
	for _, l := range e {
		if l.network.Addr().BitLen()-l.network.Bits() > 8 {
			if l.keywords != "" {
				large = append(large, l.network)
			}
			continue
		}
		if !l.network.IsSingleIP() && l.keywords != "" {
			apart++
		}
		for a := l.network.Addr(); a.IsValid() && l.network.Contains(a); a = a.Next() {
			// A smaller network was before.
			if !said[a] && l.keywords != "" {
				_, err = fmt.Fprintf(w, "%s\t%s\n", a, l.keywords)
			}
			if said[a] = true; err != nil {
				return fmt.Errorf("export: %w", err)
			}
		}
	}
	if apart > 0 {
		_, err = fmt.Fprintf(w, "# written address by address: networks of up to %d addresses, %d of them\n", mostAddresses, apart)
	}
	if len(large) > 0 && err == nil {
		_, err = fmt.Fprintf(w, "# left out: networks of more than %d addresses, %d of them, the first %s; the formats cidr and list have them\n", mostAddresses, len(large), large[0])
	}
	return err
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

// withheldHosts are the hosts from which something is left out, by what that is, without those of
// which the named networks say it.
func (x *exporter) withheldHosts(named []netip.Prefix) (hosts map[string]*netipx.IPSetBuilder, err error) {
	known := map[netip.Prefix]bool{}
	for _, n := range named {
		known[n] = true
	}
	hosts = map[string]*netipx.IPSetBuilder{}
	err = x.Store.Each(func(r policy.Record) error {
		if !x.host(r) || known[r.Network] {
			return nil
		}
		d := x.decide(r.Network)
		if keywords := d.Keywords(); keywords != "" && d.Rule != policy.RuleOverride {
			if hosts[keywords] == nil {
				hosts[keywords] = &netipx.IPSetBuilder{}
			}
			hosts[keywords].AddPrefix(r.Network)
		}
		return nil
	})
	return hosts, err
}
