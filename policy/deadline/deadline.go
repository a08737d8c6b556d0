// Package deadline moves the deadlines of connections that are read and written often. To set one
// takes a timer of the runtime's, and may wake a thread; one that comes somewhat late does no harm.
package deadline

import "time"

// Lazy is a deadline that is to lie at least so far ahead, and not much farther. Its zero value is
// one that was never set.
type Lazy struct{ until time.Time }

// Move returns when the deadline has to be to leave somebody so much time from now on, and whether
// it has to be set for that: the one in force comes too early, or more than twice as late.
func (l *Lazy) Move(now time.Time, wait time.Duration) (until time.Time, set bool) {
	if left := l.until.Sub(now); left < wait || left > 2*wait {
		l.until = now.Add(wait + wait/4)
		return l.until, true
	}
	return l.until, false
}

// Set is Move for exactly so much time.
func (l *Lazy) Set(now time.Time, wait time.Duration) time.Time {
	l.until = now.Add(wait)
	return l.until
}
