// Package behaviour counts what clients do again and again: asking for unknown users, sessions
// without a message, TLS handshakes that fail. It goes by the times that it is given and by no
// clock of its own, so that a log read late counts as one read at once. All of it is bounded, and
// forgets the clients that were silent longest.
package behaviour

import (
	"time"

	"github.com/maypok86/otter/v2"
)

// bounded is a memory of so many entries at most.
func bounded[K comparable, V any](most int) *otter.Cache[K, V] {
	return otter.Must(&otter.Options[K, V]{MaximumSize: most})
}

// within reports whether two times are no further apart than a duration, whichever comes first: the
// clock may have stepped back between them.
func within(a, b time.Time, d time.Duration) bool { return a.Sub(b).Abs() <= d }
