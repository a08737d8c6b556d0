package ledger

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// exchanger makes the course of a mail exchanger: drones of some hundred networks, servers of
// providers that send some spam, ham by day more than by night, and now and then a range of hosts
// that somebody has hired.
type exchanger struct {
	random *rand.Rand
	fresh  *fresh
	slots  []Slot
	at     time.Time
	ranges byte
}

func newExchanger(seed uint64) *exchanger {
	return &exchanger{random: rand.New(rand.NewPCG(seed, 17)), fresh: newFresh(), at: noon}
}

// poisson is how many events there are where so many are expected.
func (x *exchanger) poisson(mean float64) (n int) {
	for limit, p := math.Exp(-mean), x.random.Float64(); p > limit; p *= x.random.Float64() {
		n++
	}
	return n
}

func (x *exchanger) client(addr netip.Addr, class policy.Class, overTLS float64) {
	e := &Entry{Time: x.at, Addr: addr, Message: true, Session: true, Verdict: policy.Verdict{Class: class}, Facts: policy.Facts{STARTTLS: policy.Offered}}
	if x.random.Float64() < overTLS {
		e.TLS = &policy.TLS{Version: "TLSv1.3"}
	}
	x.fresh.add(x.slots[len(x.slots)-1].Counts, e, networkOf(addr))
}

func (x *exchanger) run(last time.Duration, dronesOverTLS float64) {
	for until := x.at.Add(last); x.at.Before(until); x.at = x.at.Add(time.Duration(Fine)) {
		x.slots = append(x.slots, Slot{At: x.at, Counts: new(Counts)})
		some := func() byte { return byte(x.random.IntN(256)) }
		for range x.poisson(6) {
			x.client(netip.AddrFrom4([4]byte{byte(60 + x.random.IntN(2)), byte(x.random.IntN(150)), 7, some()}), policy.Spam, dronesOverTLS)
		}
		for range x.poisson(2) {
			x.client(netip.AddrFrom4([4]byte{17, byte(x.random.IntN(30)), some(), some()}), policy.Spam, 0.99)
		}
		day := 1 + 0.6*math.Sin(float64(x.at.Hour()-8)/24*2*math.Pi)
		for range x.poisson(10 * day) {
			x.client(netip.AddrFrom4([4]byte{80, some(), some(), some()}), policy.Ham, 0.93)
		}
		if x.random.IntN(12*6) == 0 {
			// A hundred hosts of one network.
			x.ranges++
			for host := range 120 {
				x.client(netip.AddrFrom4([4]byte{99, x.ranges, 1, byte(host)}), policy.Spam, 0.9)
			}
		}
	}
}

// TestAWaveIsAnnouncedWithinAnHour: drones turn to TLS after two days, in ten courses.
func TestAWaveIsAnnouncedWithinAnHour(t *testing.T) {
	var delays []time.Duration
	for seed := range uint64(10) {
		x := newExchanger(seed)
		x.run(48*time.Hour, 0.3)
		began := x.at
		x.run(24*time.Hour, 0.77)
		waves := Waves(x.slots)
		i := slices.IndexFunc(waves, func(w Wave) bool { return w.What == SpamOverTLS })
		if i < 0 {
			t.Errorf("course %d: not noticed", seed)
			continue
		}
		w := waves[i]
		delays = append(delays, w.Noticed.Sub(began))
		if d := w.Noticed.Sub(began); d < 0 || d > time.Hour {
			t.Errorf("course %d: noticed after %v", seed, d)
		}
		if d := w.Began.Sub(began).Abs(); d > 2*time.Hour {
			t.Errorf("course %d: it began %v from when the wave did", seed, d)
		}
		if w.Share < w.Usual+0.15 || !w.Ended.IsZero() {
			t.Errorf("course %d: %+v", seed, w)
		}
	}
	slices.Sort(delays)
	t.Logf("noticed after %v", delays)
}

// TestQuietDaysAreQuiet: in ten courses of thirty days without a wave, nothing is announced.
func TestQuietDaysAreQuiet(t *testing.T) {
	for seed := range uint64(10) {
		x := newExchanger(100 + seed)
		x.run(30*24*time.Hour, 0.3)
		for _, w := range Waves(x.slots) {
			t.Errorf("course %d: %+v", seed, w)
		}
	}
}

// TestAWaveEnds: when drones turn back, or stay for a week, it is over.
func TestAWaveEnds(t *testing.T) {
	for name, after := range map[string]float64{"they turn back": 0.3, "it is usual by now": 0.77} {
		x := newExchanger(5)
		x.run(72*time.Hour, 0.3)
		x.run(24*time.Hour, 0.77)
		x.run(8*24*time.Hour, after)
		waves := Waves(x.slots)
		if len(waves) != 1 || waves[0].Ended.IsZero() {
			t.Errorf("%s: %+v", name, waves)
			continue
		}
		if took := waves[0].Ended.Sub(waves[0].Began); after == 0.3 && took > 36*time.Hour {
			t.Errorf("%s: it took %v", name, took)
		}
	}
}

// TestARisingShareOfWithheldClientsIsAnnounced: a filter that goes mad has STARTTLS withheld from
// many.
func TestARisingShareOfWithheldClientsIsAnnounced(t *testing.T) {
	x := newExchanger(1)
	x.run(96*time.Hour, 0.3)
	began := x.at
	for range 24 * 12 {
		x.run(time.Duration(Fine), 0.3)
		c := x.slots[len(x.slots)-1].Counts
		c[atFresh+freshWithheld] += c[atFresh+freshOffered] / 3
		c[atFresh+freshOffered] -= c[atFresh+freshOffered] / 3
	}
	for _, w := range Waves(x.slots) {
		if w.What == WithheldShare && w.Noticed.Sub(began) < 2*time.Hour {
			return
		}
	}
	t.Errorf("%+v", Waves(x.slots))
}
