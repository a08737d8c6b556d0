package daemon

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// garbageEvery is how often it is looked how much memory is in use.
	garbageEvery = 10 * time.Second
	// garbage is how much may lie about until it is collected, beside a small heap of which as much
	// may as is in use, and a large one of which a tenth may.
	garbage = 16 << 20
)

// collect has garbage collected the sooner the more memory is in use, until the context ends. What
// a large store keeps has no pointers, so that the collector need not look into it, and lets as
// much garbage lie about by itself as there is in use. Where the operator has set GOGC or
// GOMEMLIMIT, that holds.
func collect(ctx context.Context) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	defer debug.SetGCPercent(usualPercent)
	tick := time.NewTicker(garbageEvery)
	defer tick.Stop()
	percent := usualPercent
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if p := garbagePercent(inUse()); p < percent*9/10 || p > percent*11/10 {
			percent = p
			debug.SetGCPercent(p)
			// What the start left, or what is forgotten, goes back to the system.
			debug.FreeOSMemory()
		}
	}
}

// usualPercent is what the Go runtime begins with.
const usualPercent = 100

// garbagePercent is how much garbage there may be, in hundredths of what is in use.
func garbagePercent(inUse uint64) int {
	return int(min(max(100*garbage/max(inUse, 1), 10), usualPercent))
}

// inUse is how much memory was in use when garbage was last collected, in bytes.
func inUse() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}
