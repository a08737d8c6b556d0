package reputation

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestHealingLosesNothingAndLeavesNothingInTheFuture draws evidence of any times and heals it at
// any other.
func TestHealingLosesNothingAndLeavesNothingInTheFuture(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		us := updates(t, "updates")
		e := hostOf(us).Enter(Bad, epoch.Add(time.Duration(rapid.Int64Range(0, int64(400*time.Hour)).Draw(t, "entered"))), 1)
		now := epoch.Add(time.Duration(rapid.Int64Range(-int64(300*time.Hour), int64(300*time.Hour)).Draw(t, "now")))
		h := e.Heal(now)
		if h.Newest > Slice(now)+1 {
			t.Fatalf("the newest slice is %d, it is %d now", h.Newest, Slice(now))
		}
		if entered, _ := h.Entered(); entered.After(now.Truncate(time.Hour).Add(time.Hour)) {
			t.Fatalf("entered at %s, it is %s", entered, now)
		}
		if h != h.Heal(now) {
			t.Fatal("healing twice is not healing once")
		}
		if e.Newest <= Slice(now)+1 {
			h.since = e.since
			if h != e {
				t.Fatal("what is not of the future is changed")
			}
			return
		}
		if rapid.Bool().Draw(t, "the sums, too") {
			var before, after Count
			for i := range e.Past {
				before, after = before.plus(e.Past[i], MostPast), after.plus(h.Past[i], MostPast)
			}
			// What was older than the long slice before the one that it is now is out of the ring.
			if m := Slice(now) / SlicesPerPast; e.Newest/SlicesPerPast >= m && before != after {
				t.Fatalf("%+v is healed to %+v", e, h)
			}
		}
		if again, _ := h.Add(now, 1, 0); again.Total().Spam < h.Total().Spam {
			t.Fatal("what comes in now does not count")
		}
	})
}

func TestHeal(t *testing.T) {
	const hour = time.Hour
	bad, _ := Evidence{}.Add(epoch, 3, 0)
	for _, c := range []struct {
		name string
		e    Evidence
		at   time.Duration
		want func(Evidence) bool
	}{
		{"a post dated 2062", first(bad.Add(epoch.AddDate(36, 0, 0), 0, 2)), 0, func(e Evidence) bool {
			return e.Newest == Slice(epoch)+1 && e.Total() == Mass{Ham: 2} && e.Recent[e.Newest%Slices] == CountOf(0, 2)
		}},
		{"one hour ahead is let be", first(bad.Add(epoch.Add(hour), 0, 2)), 0, func(e Evidence) bool {
			return e.Newest == Slice(epoch)+1 && e.Total() == Mass{Spam: 3, Ham: 2} && e.Recent[Slice(epoch)%Slices] == CountOf(3, 0)
		}},
		{"two hours ahead come together with what is now", first(bad.Add(epoch.Add(2*hour), 0, 2)), 0, func(e Evidence) bool {
			return e.Newest == Slice(epoch)+1 && e.Total() == Mass{Spam: 3, Ham: 2} && e.Recent[e.Newest%Slices] == CountOf(0, 2) && e.Recent[Slice(epoch)%Slices] == CountOf(3, 0)
		}},
		{"the start of time", first(Evidence{}.Add(epoch, 1, 0)), -70 * 365 * 24 * hour, func(e Evidence) bool {
			return e.Newest == 1 && e.Total() == Mass{Spam: 1}
		}},
	} {
		if got := c.e.Heal(epoch.Add(c.at)); !c.want(got) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

func first(e Evidence, _ Move) Evidence { return e }
