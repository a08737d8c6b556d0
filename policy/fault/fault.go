// Package fault keeps a fault of ours, a panic, inside the piece of work that has it. A policy
// service is a guest at the MTA: it does not die of a message, and one message that is not learnt
// is better than none that is heard.
package fault

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// pause is how long work that goes on and on is left alone after a fault.
const pause = 100 * time.Millisecond

// Guard keeps faults inside, counts them, and logs each kind of work's once a minute. Its zero
// value, with a log, is ready.
type Guard struct {
	Log *slog.Logger
	// Count counts faults since the start.
	Count atomic.Uint64

	throttle Throttle
}

// Do does some work, and returns a fault as an error.
func (g *Guard) Do(what string, work func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("a fault of ours in %s: %v", what, p)
			g.Count.Add(1)
			g.throttle.About(what, func() {
				g.Log.Error("a fault of ours", "in", what, "panic", p, "faults", g.Count.Load(), "stack", string(debug.Stack()))
			})
		}
	}()
	work()
	return nil
}

// Keep does work that goes on until a context ends, and begins it anew after a fault.
func (g *Guard) Keep(ctx context.Context, what string, work func(context.Context)) {
	for {
		if g.Do(what, func() { work(ctx) }) == nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}
