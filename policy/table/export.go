package table

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
)

// WriteCIDR writes a line of a cidr_table(5) for smtpd_discard_ehlo_keyword_address_maps: the EHLO
// keywords left out for a network. The first match wins there, so smaller networks have to be
// written before larger ones. A network from which nothing is left out gets silent-discard alone,
// which stops the search.
func WriteCIDR(w io.Writer, n netip.Prefix, keywords string) error {
	if _, err := fmt.Fprintf(w, "%s\t%s\n", n, cmp.Or(keywords, "silent-discard")); err != nil {
		return fmt.Errorf("table: write cidr table: %w", err)
	}
	return nil
}
