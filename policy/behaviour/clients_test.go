package behaviour

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

var client = netip.MustParseAddr("192.0.2.7")

// ask asks for unknown users, one every so often from a time on, and returns what that adds up to.
func ask(c *Clients, users int, from time.Time, every time.Duration) (sum policy.Confidence) {
	for i := range users {
		sum += c.UnknownUser(client, fmt.Sprintf("user%d@mx.example", i), from.Add(time.Duration(i)*every), ByMilter)
	}
	return sum
}

func same(a policy.Confidence, b float64) bool { return math.Abs(float64(a)-b) < 1e-9 }

func TestUnknownUsersOfAnHourAreCountedTogether(t *testing.T) {
	for _, c := range []struct {
		name  string
		users int
		every time.Duration
		want  float64
	}{
		{"one may be a typo", 1, 0, 0},
		{"two", 2, time.Second, 1.0 / 9},
		{"ten count whole", 10, 6 * time.Minute, 1},
		{"ten at once", 10, 0, 1},
		{"one an hour and a second", 10, time.Hour + time.Second, 0},
		{"one an hour", 2, time.Hour, 1.0 / 9},
		{"a log that is read backwards", 10, -time.Minute, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := ask(NewClients(), c.users, now, c.every); !same(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

func TestAnUnknownUserCountsOnce(t *testing.T) {
	c := NewClients()
	ask(c, 2, now, 0)
	if got := c.UnknownUser(client, "USER1@mx.example", now, ByMilter); got != 0 {
		t.Errorf("asked for again: %v", got)
	}
	if got := c.UnknownUser(netip.MustParseAddr("192.0.2.8"), "another@mx.example", now, ByMilter); got != 0 {
		t.Errorf("the neighbour's first: %v", got)
	}
	if got := c.UnknownUser(netip.Addr{}, "another@mx.example", now, ByMilter); got != 0 {
		t.Errorf("of no client: %v", got)
	}
	// In the next hour all is new.
	if got := ask(c, 2, now.Add(2*time.Hour), 0); !same(got, 1.0/9) {
		t.Errorf("in another hour: %v", got)
	}
}

// Whoever tells of a recipient first, milter and log come to the same sum.
func TestBothWitnessesComeToTheSameSum(t *testing.T) {
	for _, order := range [][]Witness{{ByMilter, ByLog}, {ByLog, ByMilter}} {
		c := NewClients()
		var sum [ByLog + 1]policy.Confidence
		for i := range 20 {
			for _, by := range order {
				for range 2 {
					sum[by] += c.UnknownUser(client, fmt.Sprint(i), now, by)
				}
			}
		}
		if !same(sum[ByMilter], 19.0/9) || !same(sum[ByLog], 19.0/9) {
			t.Errorf("%v: the milter %v, the log %v; want %v", order, sum[ByMilter], sum[ByLog], 19.0/9)
		}
	}
}

func TestAClientsUnknownUsersAreBounded(t *testing.T) {
	c := NewClients()
	ask(c, mostRcpts, now, 0)
	h, _ := c.harvests.GetIfPresent(client)
	if len(h.rcpts) != mostRcpts {
		t.Fatalf("%d remembered of %d", len(h.rcpts), mostRcpts)
	}
	c.UnknownUser(client, "one.more@mx.example", now, ByMilter)
	if len(h.rcpts) != mostRcpts {
		t.Errorf("%d remembered, %d is the most", len(h.rcpts), mostRcpts)
	}
}

func TestThirtyIdleSessionsWithinAMinuteAreAFlood(t *testing.T) {
	for _, c := range []struct {
		name     string
		sessions int
		every    time.Duration
		floods   int
	}{
		{"twenty-nine", 29, 0, 0},
		{"thirty", 30, 2 * time.Second, 1},
		{"sixty are two", 60, time.Second, 2},
		{"thirty in a longer time", 30, 2100 * time.Millisecond, 0},
		{"one a minute", 100, time.Minute + time.Second, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			clients, floods := NewClients(), 0
			for i := range c.sessions {
				if clients.Idle(client, now.Add(time.Duration(i)*c.every)) {
					floods++
				}
			}
			if floods != c.floods {
				t.Errorf("%d floods, want %d", floods, c.floods)
			}
		})
	}
	if NewClients().Idle(netip.Addr{}, now) {
		t.Error("a flood of no client")
	}
}

// A clock that steps forth and back leaves no count that never ends.
func TestAClockThatStepsEndsNoCountForEver(t *testing.T) {
	c := NewClients()
	ask(c, 5, now.AddDate(1, 0, 0), 0)
	if got := ask(c, 10, now, 0); !same(got, 1) {
		t.Errorf("unknown users after the step: %v, want 1", got)
	}
	for range 5 {
		c.Idle(client, now.AddDate(1, 0, 0))
	}
	for i := range floodWhole {
		if flood := c.Idle(client, now); flood != (i == floodWhole-1) {
			t.Errorf("session %d after the step: %v", i, flood)
		}
	}
}
