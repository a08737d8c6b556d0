package deadline

import (
	"testing"
	"time"
)

func TestALazyDeadlineIsNeverTooEarly(t *testing.T) {
	var l Lazy
	now, inForce, sets := time.Unix(1_000_000, 0), time.Time{}, 0
	for i := range 10_000 {
		wait := time.Minute
		if i%1000 >= 500 {
			wait = time.Hour
		}
		until, set := l.Move(now, wait)
		if set {
			inForce, sets = until, sets+1
		}
		if left := inForce.Sub(now); left < wait || left > 2*wait {
			t.Fatalf("step %d: %v left of %v", i, left, wait)
		}
		now = now.Add(100 * time.Millisecond)
	}
	if sets > 100 {
		t.Errorf("it was set %d times", sets)
	}
	if until := l.Set(now, time.Second); until.Sub(now) != time.Second {
		t.Errorf("%v left of a second", until.Sub(now))
	}
}
