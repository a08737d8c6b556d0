package behaviour

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"
)

var honest = netip.MustParsePrefix("192.0.2.7/32")

func TestWhatMuchAlikeHamCounts(t *testing.T) {
	for _, c := range []struct {
		name       string
		messages   int
		every      time.Duration
		recipients int
		domains    int
		standing   bool
		want       float64
	}{
		{"one message", 1, 0, 1, 1, false, 1},
		{"one a day to one recipient", 30, 24 * time.Hour, 1, 1, false, 30},
		{"one an hour to one recipient", 30, time.Hour + time.Second, 1, 1, false, 30},
		{"200 to one recipient within an hour", 200, 17 * time.Second, 1, 200, false, 18.5},
		{"the same, of a host of long standing", 200, 17 * time.Second, 1, 200, true, 52.3},
		{"200 to twenty recipients", 200, 17 * time.Second, 20, 200, false, 134.7},
		{"200 of one domain to as many recipients", 200, 17 * time.Second, 200, 1, false, 71},
		{"200 within a minute to as many recipients", 200, 0, 200, 200, false, 71},
		{"the same, of a host of long standing", 200, 0, 200, 1, true, 200},
		{"a thousand of many domains to as many recipients", 1000, 3 * time.Second, 1000, 1000, true, 1000},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, sum := NewVariety(), 0.0
			for i := range c.messages {
				sum += v.Share(honest, fmt.Sprintf("d%d.example", i%c.domains), []string{fmt.Sprintf("<r%d@mx.example>", i%c.recipients)}, c.standing, now.Add(time.Duration(i)*c.every))
			}
			if math.Abs(sum-c.want) > 0.015*c.want {
				t.Errorf("%d messages count %.1f, want %.1f", c.messages, sum, c.want)
			}
		})
	}
}

func TestTheRecipientThatGotLeastDecides(t *testing.T) {
	v := NewVariety()
	share := func(to ...string) float64 { return v.Share(honest, "", to, false, now.Add(-time.Hour)) }
	for range 4 {
		share("bob@mx.example")
		share("Bob+news@MX.example")
		share("bob+@mx.example")
	}
	if got := v.Share(honest, "", []string{"bob@mx.example", "carol@mx.example"}, true, now.Add(-30*time.Minute)); got != 1 {
		t.Errorf("a new recipient beside: %v", got)
	}
	if got := v.Share(honest, "", []string{"<BOB@mx.example>"}, true, now.Add(-30*time.Minute)); math.Abs(got-math.Sqrt(4.0/14)) > 1e-9 {
		t.Errorf("the fourteenth: %v", got)
	}
	if got := v.Share(netip.MustParsePrefix("192.0.2.8/32"), "", []string{"bob@mx.example"}, false, now); got != 1 {
		t.Errorf("of another host: %v", got)
	}
	if got := v.Share(honest, "", nil, false, now.Add(time.Hour)); got != 1 {
		t.Errorf("without recipients: %v", got)
	}
}

// A sender to very many does not make a mailbox of its own forgotten.
func TestAMailboxThatGetsMuchIsNotForgotten(t *testing.T) {
	v, own := NewVariety(), 0.0
	for i := range 2000 {
		v.Share(honest, fmt.Sprint(i), []string{fmt.Sprintf("r%d@mx.example", i)}, false, now)
		own += v.Share(honest, fmt.Sprint(i), []string{"own@mx.example"}, false, now)
	}
	if own > 30 {
		t.Errorf("2000 messages to one mailbox count %.1f", own)
	}
	s, _ := v.hosts.GetIfPresent(honest)
	if len(s.to) > mostAlike || len(s.domains) > mostAlike {
		t.Errorf("%d recipients, %d domains", len(s.to), len(s.domains))
	}
}
