package reputation

import (
	"errors"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

type update struct {
	at        time.Time
	spam, ham float64
}

func updates(t *rapid.T, label string) []update {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) update {
		return update{
			at:   epoch.Add(time.Duration(rapid.Int64Range(-int64(72*time.Hour), int64(72*time.Hour)).Draw(t, "offset"))),
			spam: rapid.Float64Range(0, 5000).Draw(t, "spam"),
			ham:  rapid.Float64Range(0, 5000).Draw(t, "ham"),
		}
	}), 0, 30).Draw(t, label)
}

func of(us []update) Evidence {
	var e Evidence
	for _, u := range us {
		e = e.Add(u.at, u.spam, u.ham)
	}
	return e
}

func TestUpdatesCommute(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		us := updates(t, "updates")
		if a, b := of(us), of(rapid.Permutation(us).Draw(t, "order")); a != b {
			t.Fatalf("the order of the updates matters:\n%v\n%v", a, b)
		}
	})
}

func TestMergeIsTheSumOfWhatTwoNodesLearnt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := updates(t, "a"), updates(t, "b"), updates(t, "c")
		x, y, z := of(a), of(b), of(c)
		if Merge(x, y) != Merge(y, x) {
			t.Fatal("merging does not commute")
		}
		if Merge(Merge(x, y), z) != Merge(x, Merge(y, z)) {
			t.Fatal("merging does not associate")
		}
		if got, want := Merge(x, y), of(append(append([]update{}, a...), b...)); got != want {
			t.Fatalf("merged %v, one node would have %v", got, want)
		}
	})
}

func TestWithoutTakesAHostOutOfItsNetwork(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		us := rapid.SliceOfN(rapid.IntRange(0, 40), 0, 20).Draw(t, "hours")
		var host, others, network Evidence
		for i, h := range us {
			at := epoch.Add(time.Duration(h) * time.Hour)
			network = network.Add(at, 1, 0)
			if i%2 == 0 {
				host = host.Add(at, 1, 0)
			} else {
				others = others.Add(at, 1, 0)
			}
		}
		now := epoch.Add(40 * time.Hour)
		got, want := network.Without(host).Mass(now, time.Hour, 1000), others.Mass(now, time.Hour, 1000)
		if math.Abs(got.Spam-want.Spam) > 1e-9 {
			t.Fatalf("neighbours weigh %v, want %v", got.Spam, want.Spam)
		}
	})
}

func TestRecordsRoundTripAndForeignOnesAreRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := of(updates(t, "updates"))
		e.Tier = Tier(rapid.IntRange(0, int(Bad)).Draw(t, "tier"))
		b, _ := e.AppendBinary(nil)
		var got Evidence
		if err := got.UnmarshalBinary(b); err != nil || got != e || len(b) != RecordSize {
			t.Fatalf("read back %v, %v from %d bytes, want %v", got, err, len(b), e)
		}
		b[0] = recordVersion + 1
		if err := got.UnmarshalBinary(b); !errors.Is(err, ErrRecord) {
			t.Fatalf("a record of a future version: %v", err)
		}
	})
	for _, b := range [][]byte{nil, {1}, make([]byte, RecordSize), append([]byte{1, 9}, make([]byte, RecordSize-2)...)} {
		if err := new(Evidence).UnmarshalBinary(b); !errors.Is(err, ErrRecord) {
			t.Errorf("record %x: %v", b, err)
		}
	}
}

func TestMassIsBoundedFadesAndForgets(t *testing.T) {
	burst := Evidence{}.Add(epoch, 3000, 1000)
	at := func(d time.Duration) Mass { return burst.Mass(epoch.Add(d), 6*time.Hour, 10) }
	if m := at(0); m.Spam != 7.5 || m.Ham != 2.5 {
		t.Errorf("a burst reads as %v, want the cap of 10 with the ratio kept", m)
	}
	if a, b := at(SliceWidth), at(SliceWidth+6*time.Hour); math.Abs(b.Spam/a.Spam-0.5) > 1e-9 {
		t.Errorf("after a half-life %v is left of %v", b, a)
	}
	if !burst.Empty(epoch.Add(Slices*SliceWidth)) || burst.Empty(epoch) {
		t.Error("evidence ends with its ring, no earlier and no later")
	}
	if m := burst.Mass(epoch.Add(-48*time.Hour), 6*time.Hour, 10); m.Spam != 7.5 {
		t.Errorf("a clock that steps back reads %v", m)
	}
	if e := (Evidence{}).Add(epoch, math.NaN(), math.Inf(-1)); e.Ring != [Slices]Count{} {
		t.Error("weights that are no weights count")
	}
}
