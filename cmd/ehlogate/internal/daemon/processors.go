package daemon

import (
	"context"
	"os"
	"runtime"
	"syscall"
	"time"
)

const (
	// loadEvery is how often the load is looked at.
	loadEvery = 100 * time.Millisecond
	// busy is the share of their time for which the processors in use are at work when more are
	// taken, and calm that of the half that is left when the other half is given back, after
	// calmFor.
	busy, calm = 0.6, 0.3
	calmFor    = 5 * time.Second
)

// processors has the Go runtime use as many processors as the load needs: one, where it is small.
// With more, each packet that comes wakes a thread that looks for work and finds none, which takes
// a third of the processor time that a session costs.
type processors struct {
	most, inUse int
	calmSince   time.Time
}

// spent is the processor time that this process has had.
func spent() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// adapt follows the load until the context ends. Where the operator has set GOMAXPROCS, that holds.
func adapt(ctx context.Context) {
	if os.Getenv("GOMAXPROCS") != "" {
		return
	}
	p := processors{most: runtime.GOMAXPROCS(0), inUse: 1}
	runtime.GOMAXPROCS(p.inUse)
	defer runtime.GOMAXPROCS(p.most)
	tick := time.NewTicker(loadEvery)
	defer tick.Stop()
	at, before := time.Now(), spent()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, after := time.Now(), spent()
		if n := p.next(now, float64(after-before)/float64(now.Sub(at))); n != p.inUse {
			p.inUse = n
			runtime.GOMAXPROCS(n)
		}
		at, before = now, after
	}
}

// next is how many processors to use after so many were at work in the mean.
func (p *processors) next(now time.Time, atWork float64) int {
	n := float64(p.inUse)
	switch {
	case atWork > busy*n:
		p.calmSince = time.Time{}
		return min(2*p.inUse, p.most)
	case p.inUse == 1 || atWork > calm*n/2:
		p.calmSince = time.Time{}
	case p.calmSince.IsZero():
		p.calmSince = now
	case now.Sub(p.calmSince) >= calmFor:
		p.calmSince = time.Time{}
		return p.inUse / 2
	}
	return p.inUse
}
