package reputation

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// sent is the evidence of a host that sent so much now.
func sent(spam, ham float64) Evidence {
	e, _ := Evidence{}.Add(epoch, spam, ham)
	return e
}

// neighbours is the evidence of a network in which so many hosts sent spam and so many ham.
func neighbours(spammers, honest int) (network Evidence) {
	for i := range spammers + honest {
		spam, ham := 2.0, 0.0
		if i >= spammers {
			spam, ham = 0, 2
		}
		_, m := Evidence{}.Add(epoch, spam, ham)
		network = network.Apply(m)
	}
	return network
}

func someParams(t *rapid.T) Params {
	hours := func(label string) time.Duration {
		return time.Duration(rapid.Int64Range(int64(time.Minute), int64(720*time.Hour)).Draw(t, label))
	}
	return Params{
		HalfLife: hours("half-life"), HamHalfLife: hours("ham half-life"), NetworkHalfLife: hours("network half-life"),
		Cap: rapid.Float64Range(0.5, 10).Draw(t, "cap"), Prior: rapid.Float64Range(0.01, 0.99).Draw(t, "prior"),
	}
}

func someTime(t *rapid.T) time.Time {
	return epoch.Add(time.Duration(rapid.Int64Range(-int64(500*time.Hour), int64(500*time.Hour)).Draw(t, "now")))
}

func TestScoreIsFiniteAndBoundedForEveryInput(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		host, network, as := hostOf(updates(t, "host")), hostOf(updates(t, "network")), hostOf(updates(t, "system"))
		p := someParams(t)
		j := Judge(host, network, as, someTime(t), p)
		if math.IsNaN(j.Score) || math.Abs(j.Own.LogOdds) > p.Cap || math.Abs(j.Expected.LogOdds) > p.Cap || !(j.Expected.Share > 0 && j.Expected.Share < 1) {
			t.Fatalf("%+v", j)
		}
	})
	// A host without ham reaches the cap itself, and rounding must not carry it over.
	for p, limit := DefaultParams, 6.4; limit < 6.4+1e-13; limit = math.Nextafter(limit, 7) {
		p.Cap = limit
		if j := Judge(sent(50, 0), Evidence{}, Evidence{}, epoch, p); j.Own.LogOdds != limit {
			t.Errorf("50 spam under a cap of %v weigh %v", limit, j.Own.LogOdds)
		}
	}
	for _, now := range []time.Time{{}, time.Unix(0, 0), time.Unix(1<<40, 0), time.Unix(-1<<40, 0)} {
		if j := Judge(sent(3, 1), neighbours(3, 1), Evidence{}, now, DefaultParams); math.IsNaN(j.Score) || math.Abs(j.Score) > 2*DefaultParams.Cap {
			t.Errorf("at %v: %+v", now, j)
		}
	}
}

// counted reports whether the slice of a time has evidence that counts.
func counted(e Evidence, at time.Time) bool {
	c := e.recent(Slice(at))
	if c == nil {
		older := e.older(int64(Slice(at) / SlicesPerPast))
		c = &older
	}
	return c.Spam > 0 || c.Ham > 0
}

// More spam in a slice never betters a score and more ham never worsens it: of the host itself, of
// its neighbours, of its system. The first message in a slice is left out: what came before it does
// not fade while the slice lasts, so that even ham can keep a bad score for that long.
func TestScoreIsMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		us := [3][]update{updates(t, "host"), updates(t, "neighbours"), updates(t, "system")}
		p, now := someParams(t), someTime(t)
		score := func() float64 {
			host := hostOf(us[0])
			// What the host says in its network and its system moves with it.
			return Judge(host, Merge(hostOf(us[1]), contributions(host)), Merge(hostOf(us[2]), contributions(host)), now, p).Score
		}
		before := score()
		which := rapid.IntRange(0, 2).Draw(t, "which")
		old := us[which]
		if len(old) == 0 {
			return
		}
		at, more := old[rapid.IntRange(0, len(old)-1).Draw(t, "when")].at, rapid.Float64Range(0, 50).Draw(t, "more")
		if which == 0 && !counted(hostOf(old), at) {
			return
		}
		us[which] = append([]update{{at, more, 0}}, old...)
		if worse := score(); worse < before-1e-9 {
			t.Fatalf("%v more spam: from %v to %v", more, before, worse)
		}
		us[which] = append([]update{{at, 0, more}}, old...)
		if better := score(); better > before+1e-9 {
			t.Fatalf("%v more ham: from %v to %v", more, before, better)
		}
	})
}

// Whatever a host sent before, and however much ham beside it in the same slice, spam beyond a
// third of that ham and twice the cap turns its own evidence against it.
func TestHamBuysBoundedSpam(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		host := hostOf(updates(t, "host"))
		now := epoch.Add(145 * time.Hour)
		p := DefaultParams
		ham := rapid.Float64Range(0, 2000).Draw(t, "ham")
		host, _ = host.Add(now, math.Ceil(2*p.Cap/spamOdds+excused*ham)+1, ham)
		if j := Judge(host, Evidence{}, Evidence{}, now, p); j.Own.LogOdds <= 0 {
			t.Fatalf("%+v", j.Own)
		}
	})
}

// Spam of a host that sends ham, too, is forgiven with the next message of ham; without any, it
// stays for days. So no clock has to be set for how often an exchanger sees a sender.
func TestHamForgivesSpam(t *testing.T) {
	for _, before := range []float64{5, 50, 500} {
		host, _ := Evidence{}.Add(epoch, 0, before)
		host, _ = host.Add(epoch.Add(24*time.Hour), 100, 0)
		later := epoch.Add(25 * time.Hour)
		if got := DefaultThresholds.Next(Bad, Judge(host, Evidence{}, Evidence{}, later, DefaultParams)); got != Bad && before < 50 {
			t.Errorf("%v ham, then 100 spam: %v an hour later", before, got)
		}
		host, _ = host.Add(later, 0, 1)
		if got := DefaultThresholds.Next(Bad, Judge(host, Evidence{}, Evidence{}, later, DefaultParams)); got == Bad {
			t.Errorf("%v ham, 100 spam, and one ham after it: %v", before, got)
		}
	}
	host := sent(3, 0)
	if got := DefaultThresholds.Next(Bad, Judge(host, Evidence{}, Evidence{}, epoch.Add(72*time.Hour), DefaultParams)); got != Bad {
		t.Errorf("three days after three spam and no ham: %v", got)
	}
}

// What counts no more is nothing, whether its record has been removed or not; so two nodes agree of
// which one has.
func TestWhatIsForgottenCountsNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		host, network := hostOf(updates(t, "host")), hostOf(updates(t, "network"))
		now := epoch.Add(144*time.Hour + Lifetime + time.Duration(rapid.Int64Range(0, int64(1000*time.Hour)).Draw(t, "later")))
		if got, want := Judge(host, network, network, now, DefaultParams), Judge(Evidence{}, Evidence{}, Evidence{}, now, DefaultParams); got.Score != want.Score || got.Own.Mass != want.Own.Mass {
			t.Fatalf("%+v, of a stranger %+v", got, want)
		}
		// And what came in meanwhile leaves of it what is left in the ring.
		again, _ := host.Add(now, 0, 0)
		if got, want := Judge(again, network, network, now, DefaultParams), Judge(host, network, network, now, DefaultParams); got.Own.Mass != want.Own.Mass {
			t.Fatalf("%+v, and after nothing more came in %+v", want.Own, got.Own)
		}
	})
}

func TestDecayComposes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := someParams(t)
		odds := rapid.Float64Range(-p.Cap, p.Cap).Draw(t, "odds")
		a, b := rapid.Float64Range(0, 1e6).Draw(t, "a"), rapid.Float64Range(0, 1e6).Draw(t, "b")
		if twice, once := fade(fade(odds, a, &p), b, &p), fade(odds, a+b, &p); math.Abs(twice-once) > 1e-9 {
			t.Fatalf("%v after %v and %v seconds is %v, at once %v", odds, a, b, twice, once)
		}
	})
}

// What was learnt counts in full until its slice has passed: a clock that steps back finds it as it
// was.
func TestAClockThatStepsBackDoesNoHarm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		host, network := sent(rapid.Float64Range(0, 20).Draw(t, "spam"), rapid.Float64Range(0, 20).Draw(t, "ham")), neighbours(3, 2)
		back := epoch.Add(-time.Duration(rapid.Int64Range(0, int64(1000*time.Hour)).Draw(t, "back")))
		now, then := Judge(host, network, Evidence{}, epoch, DefaultParams), Judge(host, network, Evidence{}, back, DefaultParams)
		if now.Own != then.Own || then.Expected.Neighbours.Spam < now.Expected.Neighbours.Spam {
			t.Fatalf("now %+v, stepped back %+v", now, then)
		}
		// What is learnt by the wrong clock is as old as that clock says, and nothing newer is
		// lost.
		late, _ := host.Add(back, 0, 1)
		if late.Recent[Slice(epoch)%Slices].Spam != host.Recent[Slice(epoch)%Slices].Spam {
			t.Fatalf("%v became %v", host, late)
		}
	})
}

// However much a host sends and for however long, its fresh neighbour is not bad for it.
func TestOneHostNeverConvictsItsNeighbours(t *testing.T) {
	var host, network Evidence
	for i := range 24 * 14 * 4 {
		at := epoch.Add(time.Duration(i) * 15 * time.Minute)
		var m Move
		host, m = host.Add(at, 100, 0)
		network = network.Apply(m)
		j := Judge(Evidence{}, network, Evidence{}, at, DefaultParams)
		if DefaultThresholds.Next(Unknown, j) == Bad {
			t.Fatalf("after %v of one spammer the neighbour's score is %.2f", at.Sub(epoch), j.Score)
		}
	}
}

func TestAnAutonomousSystemAloneConvictsNobody(t *testing.T) {
	j := Judge(Evidence{}, Evidence{}, neighbours(5000, 0), epoch, DefaultParams)
	if tier := DefaultThresholds.Next(Unknown, j); tier == Bad || j.Expected.Start <= DefaultParams.Prior {
		t.Errorf("a stranger of a system of spammers is %v, expected %v", tier, j.Expected)
	}
	worse, better := Judge(sent(0, 0), neighbours(3, 0), neighbours(5000, 0), epoch, DefaultParams), Judge(sent(0, 0), neighbours(3, 0), neighbours(0, 5000), epoch, DefaultParams)
	if worse.Score <= better.Score {
		t.Errorf("in a bad system %.2f, in a good one %.2f", worse.Score, better.Score)
	}
}

func TestTiers(t *testing.T) {
	for _, c := range []struct {
		name    string
		host    Evidence
		network Evidence
		was     Tier
		want    Tier
	}{
		{"a stranger is unknown", Evidence{}, Evidence{}, Unknown, Unknown},
		{"one spam message makes a stranger suspect, it does not convict him", sent(1, 0), Evidence{}, Unknown, Suspect},
		{"two do", sent(2, 0), Evidence{}, Unknown, Bad},
		{"one does where the neighbours have spammed", sent(1, 0), neighbours(2, 0), Unknown, Bad},
		{"steady ham is good", sent(0, 5), Evidence{}, Unknown, Good},
		{"a tenth of spam in much ham is good", sent(10, 90), Evidence{}, Unknown, Good},
		{"one flagged message among a small server's ham harms nobody", sent(1, 3), Evidence{}, Good, Good},
		{"a stranger in a good network is not proven", Evidence{}, neighbours(0, 100), Unknown, Unknown},
		{"a fresh host of a network of spammers is bad at once", Evidence{}, neighbours(10, 0), Unknown, Bad},
		{"an honest host there is not", sent(0, 2), neighbours(250, 1), Unknown, Unknown},
		{"hysteresis keeps what is bad", sent(1, 0), neighbours(1, 0), Bad, Bad},
		{"what is no longer bad may still be suspect", sent(1, 0), neighbours(0, 1), Bad, Suspect},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := Judge(c.host, c.network, Evidence{}, epoch, DefaultParams)
			if got := DefaultThresholds.Next(c.was, j); got != c.want {
				t.Errorf("tier %v at score %.2f, want %v", got, j.Score, c.want)
			}
		})
	}
}

func TestLearnAndScoreAllocateNothing(t *testing.T) {
	host, network := sent(3, 2), neighbours(3, 2)
	if n := testing.AllocsPerRun(100, func() {
		h, m := host.Add(epoch, 1, 0)
		if Judge(h, network.Apply(m), network, epoch, DefaultParams).Score > 100 {
			t.Fatal("impossible")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkLearn is a verdict learnt: into the host, and into its network.
func BenchmarkLearn(b *testing.B) {
	host, network := sent(3, 2), neighbours(3, 2)
	at := epoch
	b.ReportAllocs()
	for b.Loop() {
		var m Move
		at = at.Add(time.Second)
		host, m = host.Add(at, 1, 0)
		network = network.Apply(m)
	}
}

// BenchmarkScore is a score of a host with something in every slice.
func BenchmarkScore(b *testing.B) {
	var host, network Evidence
	for i := range 20 {
		var m Move
		host, m = host.Add(epoch.Add(time.Duration(i)*8*time.Hour), 1, 2)
		network = network.Apply(m)
		network = Merge(network, neighbours(1, 1))
	}
	now := epoch.Add(170 * time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		if Judge(host, network, Evidence{}, now, DefaultParams).Score > 100 {
			b.Fatal("impossible")
		}
	}
}
