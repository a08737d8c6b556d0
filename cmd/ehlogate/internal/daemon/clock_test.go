package daemon

import (
	"fmt"
	"log/slog"
	"testing"
	"time"
)

// TestALargeStepOfTheClockIsFollowedOnlyWhenItLasts, in either direction, and a small one at once.
func TestALargeStepOfTheClockIsFollowedOnlyWhenItLasts(t *testing.T) {
	const year = 365 * 24 * time.Hour
	start := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	// step is by how much the system's clock is stepped after so much time, which then passes by;
	// behind is by how much our clock is behind the system's then.
	type step struct{ after, step, behind time.Duration }
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"no step", []step{{time.Hour, 0, 0}, {year, 0, 0}}},
		{"small steps", []step{{time.Hour, time.Minute, 0}, {time.Hour, -time.Minute, 0}}},
		{"many small steps within a minute", []step{{time.Second, 4 * time.Minute, 0}, {time.Second, 4 * time.Minute, 8 * time.Minute}}},
		{"an hour ahead, and back", []step{{time.Hour, time.Hour, time.Hour}, {time.Minute, 0, time.Hour}, {time.Minute, -time.Hour, 0}, {time.Hour, 0, 0}}},
		{"a day behind, and back", []step{{time.Hour, -24 * time.Hour, -24 * time.Hour}, {time.Minute, 0, -24 * time.Hour}, {time.Minute, 24 * time.Hour, 0}}},
		{"a year ahead, to stay", []step{{time.Hour, year, year}, {9 * time.Minute, 0, year}, {time.Minute, 0, 0}, {time.Hour, 0, 0}}},
		{"a year behind, to stay", []step{{time.Hour, -year, -year}, {10 * time.Minute, 0, 0}}},
		{"ahead, then further ahead", []step{{time.Hour, year, year}, {9 * time.Minute, time.Hour, year + time.Hour}, {9 * time.Minute, 0, year + time.Hour}, {time.Minute, 0, 0}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			system, running := start, time.Duration(0)
			clock := newClockOf(func() (time.Time, time.Duration) { return system, running }, slog.New(slog.DiscardHandler))
			for i, s := range c.steps {
				system, running = system.Add(s.after+s.step), running+s.after
				for range 3 {
					if got, want := clock.Now(), system.Add(-s.behind); !got.Equal(want) {
						t.Fatalf("step %d: %v, want %v", i, got, want)
					}
				}
				if got, want := clock.Told(system), system.Add(-s.behind); !got.Equal(want) {
					t.Errorf("step %d: told %v, want %v", i, got, want)
				}
			}
		})
	}
}

// TestTheSystemsClockRuns with it, forwards only.
func TestTheSystemsClockRuns(t *testing.T) {
	c := newClock(slog.New(slog.DiscardHandler))
	for last := c.Now(); ; {
		now := c.Now()
		if now.Before(last) {
			t.Fatal(fmt.Sprint(now, " after ", last))
		}
		if d := time.Since(now); d < 0 || d > time.Second {
			t.Fatal(d)
		}
		if last = now; last.Sub(c.agreed.Load().now) > 10*time.Millisecond {
			return
		}
	}
}

func BenchmarkClock(b *testing.B) {
	c := newClock(slog.New(slog.DiscardHandler))
	b.Run("time.Now", func(b *testing.B) {
		for b.Loop() {
			time.Now()
		}
	})
	b.Run("clock", func(b *testing.B) {
		for b.Loop() {
			c.Now()
		}
	})
}
