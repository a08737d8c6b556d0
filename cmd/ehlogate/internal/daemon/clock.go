package daemon

import (
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	// smallStep is how far the system's clock may be stepped at once and be followed: a correction,
	// which no evidence is lost by.
	smallStep = 5 * time.Minute
	// disbelief is for how long a larger step is not followed.
	disbelief = 10 * time.Minute
)

// clock is the time that the daemon goes by: the system's, except that a large step of it is
// followed only when it has lasted. Evidence fades with time, so one message learnt by a clock that
// is a year ahead for a second would make all that its client is known for a year old.
type clock struct {
	// read reads the system's clock, and the time for which the system has been running.
	read func() (now time.Time, running time.Duration)
	log  *slog.Logger
	// agreed is what the clock goes by.
	agreed atomic.Pointer[reading]
}

// reading is a reading of the system's clock that was believed.
type reading struct {
	now     time.Time
	running time.Duration
	// step is how far the system's clock has been stepped since, and stepped when that was noticed,
	// in the time for which the system has been running; zero if it has not been.
	step, stepped time.Duration
}

// newClock is the system's clock.
func newClock(log *slog.Logger) *clock {
	start := time.Now()
	return newClockOf(func() (time.Time, time.Duration) {
		now := time.Now()
		return now, now.Sub(start)
	}, log)
}

func newClockOf(read func() (time.Time, time.Duration), log *slog.Logger) *clock {
	c := &clock{read: read, log: log}
	now, running := read()
	c.agreed.Store(&reading{now: now, running: running})
	return c
}

// Now is the time.
func (c *clock) Now() time.Time {
	a := c.agreed.Load()
	now, running := c.read()
	passed := running - a.running
	// Not now.Sub, which goes by how long the system has been running.
	step := time.Duration(now.UnixNano()-a.now.UnixNano()) - passed
	if step.Abs() < smallStep {
		if a.step != 0 && c.agreed.CompareAndSwap(a, &reading{now: now, running: running}) {
			c.log.Warn("the system's clock was stepped back to where it had been", "step", -a.step)
		} else if passed > time.Minute {
			c.agreed.CompareAndSwap(a, &reading{now: now, running: running})
		}
		return now
	}
	switch {
	case (step - a.step).Abs() >= smallStep:
		if c.agreed.CompareAndSwap(a, &reading{a.now, a.running, step, running}) {
			c.log.Warn("the system's clock was stepped: the time of before is kept until the new one has lasted", "step", step, "for", disbelief)
		}
	case running-a.stepped >= disbelief:
		if c.agreed.CompareAndSwap(a, &reading{now: now, running: running}) {
			c.log.Warn("the system's clock was stepped, and is followed now", "step", step)
		}
		return now
	}
	return a.now.Add(passed)
}

// Told is a time that another program of this host has told, by the system's clock, as it is by
// this one.
func (c *clock) Told(t time.Time) time.Time { return t.Add(-c.agreed.Load().step) }
