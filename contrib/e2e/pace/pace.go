// Package pace tells how far a machine lags behind, so that a test of a promise about time holds
// the program to it, and not the machine that runs the test.
package pace

import (
	"sync"
	"time"
)

// tick is how long each sleep is that is measured.
const tick = 2 * time.Millisecond

// Lag measures by how much sleeps are late. Start makes one.
type Lag struct {
	stop chan struct{}
	done sync.WaitGroup

	mu   sync.Mutex
	most time.Duration
}

// Start begins to measure, until Stop.
func Start() *Lag {
	l := &Lag{stop: make(chan struct{})}
	l.done.Go(func() {
		for {
			began := time.Now()
			select {
			case <-l.stop:
				return
			case <-time.After(tick):
			}
			l.mu.Lock()
			l.most = max(l.most, time.Since(began)-tick)
			l.mu.Unlock()
		}
	})
	return l
}

// Most is by how much the latest of the sleeps so far was late. What goes through several processes
// can be held up so long in each.
func (l *Lag) Most() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.most
}

// Stop ends the measurement.
func (l *Lag) Stop() {
	close(l.stop)
	l.done.Wait()
}
