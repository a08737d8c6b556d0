package daemon

import (
	"testing"
	"time"
)

func TestProcessorsFollowTheLoad(t *testing.T) {
	p, now := processors{most: 6, inUse: 1}, time.Now()
	run := func(atWork float64, seconds float64) int {
		for range int(seconds * float64(time.Second/loadEvery)) {
			now = now.Add(loadEvery)
			p.inUse = p.next(now, min(atWork, float64(p.inUse)))
		}
		return p.inUse
	}
	for _, c := range []struct {
		atWork, seconds float64
		want            int
	}{
		{0.1, 60, 1}, {1, 0.1, 2}, {0.7, 60, 2}, {0.1, 4, 2}, {0.1, 1.5, 1},
		{8, 0.2, 4}, {8, 0.1, 6}, {8, 60, 6}, {1, 60, 6}, {0.8, 60, 3}, {0, 60, 1},
	} {
		if got := run(c.atWork, c.seconds); got != c.want {
			t.Errorf("%v processors at work for %v s: %d in use, want %d", c.atWork, c.seconds, got, c.want)
		}
	}
	p = processors{most: 1, inUse: 1}
	if got := run(1, 60); got != 1 {
		t.Errorf("of one processor %d are in use", got)
	}
}
