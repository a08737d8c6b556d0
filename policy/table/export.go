package table

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
)

// Entry is one line of a static table: the EHLO keywords left out for a network, "" for none.
type Entry struct {
	Network  netip.Prefix
	Keywords string
}

// WriteCIDR writes entries as a cidr_table(5) for smtpd_discard_ehlo_keyword_address_maps. The
// first match wins there, so the longest prefix comes first. A network from which nothing is left
// out gets silent-discard alone, which stops the search.
func WriteCIDR(w io.Writer, entries []Entry) error {
	slices.SortFunc(entries, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(b.Network.Bits(), a.Network.Bits()), a.Network.Addr().Compare(b.Network.Addr()))
	})
	for _, e := range entries {
		if _, err := fmt.Fprintf(w, "%s\t%s\n", e.Network, cmp.Or(e.Keywords, "silent-discard")); err != nil {
			return fmt.Errorf("table: write cidr table: %w", err)
		}
	}
	return nil
}
