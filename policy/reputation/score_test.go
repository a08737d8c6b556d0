package reputation

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func messages(spam, ham float64) Evidence { return Evidence{}.Add(epoch, spam, ham) }

func TestScoreIsFiniteForEveryInput(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		host, network := of(updates(t, "host")), of(updates(t, "network"))
		now := epoch.Add(time.Duration(rapid.Int64Range(-int64(500*time.Hour), int64(500*time.Hour)).Draw(t, "now")))
		p := DefaultParams
		p.Prior = rapid.Float64Range(0.01, 0.99).Draw(t, "prior")
		if s := Judge(host, network, now, p).Score; math.IsNaN(s) || math.IsInf(s, 0) || math.Abs(s) > 20 {
			t.Fatalf("score %v", s)
		}
	})
}

func TestScoreIsMonotoneInOwnEvidence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spam, ham := rapid.Float64Range(0, 100).Draw(t, "spam"), rapid.Float64Range(0, 100).Draw(t, "ham")
		more := rapid.Float64Range(1, 50).Draw(t, "more")
		score := func(s, h float64) float64 {
			return Judge(messages(s, h), Evidence{}, epoch, DefaultParams).Score
		}
		if score(spam+more, ham) < score(spam, ham)-1e-9 || score(spam, ham+more) > score(spam, ham)+1e-9 {
			t.Fatalf("more spam made it better or more ham made it worse: %v spam, %v ham, %v more", spam, ham, more)
		}
	})
}

func TestTiers(t *testing.T) {
	neighbours := func(spam, ham float64) Evidence { return messages(spam, ham) }
	for _, c := range []struct {
		name    string
		host    Evidence
		network Evidence
		was     Tier
		want    Tier
	}{
		{"a stranger is unknown", Evidence{}, Evidence{}, Unknown, Unknown},
		{"one spam message is not enough", messages(1, 0), messages(1, 0), Unknown, Unknown},
		{"a few spam messages are", messages(3, 0), messages(3, 0), Unknown, Bad},
		{"steady ham is good", messages(0, 5), messages(0, 5), Unknown, Good},
		{"a big provider with a tenth of spam stays good", messages(10, 90), messages(10, 90), Unknown, Good},
		{"one flagged message among a small server's ham harms nobody", messages(1, 3), messages(1, 3), Unknown, Unknown},
		{"a stranger in a good network is not proven", Evidence{}, neighbours(0, 100), Unknown, Unknown},
		{"a fresh host of a spamming network is bad at once", Evidence{}, neighbours(100, 0), Unknown, Bad},
		{"an honest host of a spamming network is not", messages(0, 4), messages(96, 4), Unknown, Unknown},
		{"hysteresis keeps what is bad", messages(2, 0), messages(2, 0), Bad, Bad},
		{"what is no longer bad may still be suspect", messages(1.2, 0), messages(1.2, 0), Bad, Suspect},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := Judge(c.host, c.network, epoch, DefaultParams)
			if got := DefaultThresholds.Next(c.was, j); got != c.want {
				t.Errorf("tier %v at score %.2f, want %v", got, j.Score, c.want)
			}
		})
	}
}

func BenchmarkJudge(b *testing.B) {
	host, network := messages(3, 2), messages(30, 20)
	for b.Loop() {
		if Judge(host, network, epoch, DefaultParams).Score > 100 {
			b.Fatal("impossible")
		}
	}
}
