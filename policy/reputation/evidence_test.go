package reputation

import (
	"bytes"
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

// updates are verdicts and corrections over twelve days, few enough to stay within a record's
// counts.
func updates(t *rapid.T, label string) []update {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) update {
		return update{
			at:   epoch.Add(time.Duration(rapid.Int64Range(-int64(144*time.Hour), int64(144*time.Hour)).Draw(t, "offset"))),
			spam: rapid.Float64Range(-20, 100).Draw(t, "spam"),
			ham:  rapid.Float64Range(-20, 100).Draw(t, "ham"),
		}
	}), 0, 30).Draw(t, label)
}

// of is the evidence of a host that did this, and of a network of which it is the only one.
func of(us []update) (host, network Evidence) {
	for _, u := range us {
		var m Move
		host, m = host.Add(u.at, u.spam, u.ham)
		network = network.Apply(m)
	}
	return host, network
}

func hostOf(us []update) Evidence {
	host, _ := of(us)
	return host
}

// contributions is what a host adds in its network, slice by slice.
func contributions(host Evidence) Evidence {
	for i := range host.Recent {
		host.Recent[i] = host.Recent[i].contribution()
	}
	for i := range host.Past {
		host.Past[i] = host.Past[i].contribution()
	}
	return host
}

func TestUpdatesAndCorrectionsCommute(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		us := updates(t, "updates")
		a, b := hostOf(us), hostOf(rapid.Permutation(us).Draw(t, "order"))
		if a != b {
			t.Fatalf("the order of the updates matters:\n%v\n%v", a, b)
		}
	})
}

func TestACorrectionLeavesWhatTheRightVerdictWouldHaveLeft(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		us := updates(t, "others")
		at := epoch.Add(time.Duration(rapid.Int64Range(0, int64(72*time.Hour)).Draw(t, "at")))
		wrong, right, fix := update{at, 1, 0}, update{at, 0, 1}, update{at, -1, 1}
		order := rapid.Permutation(append([]update{wrong, fix}, us...)).Draw(t, "order")
		if got, want := hostOf(order), hostOf(append([]update{right}, us...)); got != want {
			t.Fatalf("corrected %v, want %v", got, want)
		}
	})
}

// TestTwoStoresThatKnewAHostBecomeOne joins what two stores knew of a host and of its network,
// which also has another host.
func TestTwoStoresThatKnewAHostBecomeOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, networkA := of(updates(t, "in one store"))
		b, networkB := of(updates(t, "in the other"))
		_, neighbour := of(updates(t, "of a neighbour"))
		got := Merge(Merge(networkA, neighbour), networkB).Rejoin(a, b)
		want := Merge(contributions(Merge(a, b)), neighbour)
		if got.Recent != want.Recent || got.Past != want.Past || got.Newest != want.Newest {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

func TestANetworkIsTheSumOfItsHostsVoices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// All within one recent slice, so that nothing is dropped for being late.
		type said struct {
			host      int
			spam, ham float64
		}
		all := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) said {
			return said{rapid.IntRange(0, 4).Draw(t, "host"), float64(rapid.IntRange(-1, 5).Draw(t, "spam")), float64(rapid.IntRange(-1, 5).Draw(t, "ham"))}
		}), 0, 40).Draw(t, "said")
		var hosts [5]Evidence
		var network Evidence
		for _, s := range all {
			var m Move
			hosts[s.host], m = hosts[s.host].Add(epoch, s.spam, s.ham)
			network = network.Apply(m)
		}
		var sum Evidence
		for _, h := range hosts {
			sum = Merge(sum, contributions(h))
		}
		if network != sum {
			t.Fatalf("network %v, the hosts' voices are %v", network, sum)
		}
		others := Merge(Merge(contributions(hosts[1]), contributions(hosts[2])), Merge(contributions(hosts[3]), contributions(hosts[4])))
		if got := network.Without(hosts[0]); got.Recent != others.Recent || got.Past != others.Past {
			t.Fatalf("without a host %v, want %v", got, others)
		}
	})
}

func TestMergeIsTheSumOfWhatTwoNodesLearnt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := updates(t, "a"), updates(t, "b"), updates(t, "c")
		x, y, z := hostOf(a), hostOf(b), hostOf(c)
		x, y = x.Enter(Tier(rapid.IntRange(0, 3).Draw(t, "tier")), epoch, 1), y.Enter(Tier(rapid.IntRange(0, 3).Draw(t, "tier")), epoch, 2)
		if Merge(x, y) != Merge(y, x) {
			t.Fatal("merging does not commute")
		}
		if Merge(Merge(x, y), z) != Merge(x, Merge(y, z)) {
			t.Fatal("merging does not associate")
		}
		if got, want := Merge(hostOf(a), hostOf(b)), hostOf(append(append([]update{}, a...), b...)); got != want {
			t.Fatalf("merged %v, one node would have %v", got, want)
		}
	})
}

func TestCountsStopAndNeverWrap(t *testing.T) {
	e, _ := Evidence{}.Add(epoch, 1e9, math.Inf(1))
	for range 3 {
		e, _ = e.Add(epoch, 1e9, 1e9)
	}
	b, err := e.AppendBinary(nil)
	var got Evidence
	if err := errors.Join(err, got.UnmarshalBinary(b)); err != nil || got != e {
		t.Fatalf("a full record reads back as %v, %v, want %v", got, err, e)
	}
	if m := got.Total(); m.Spam < 1e6 || m.Ham < 1e6 {
		t.Errorf("a million messages read as %v", m)
	}
	if e, _ := (Evidence{}).Add(epoch, math.NaN(), math.NaN()); e.Total() != (Mass{}) {
		t.Error("weights that are no numbers count")
	}
}

func TestRecordsRoundTripAndForeignOnesAreRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := hostOf(updates(t, "updates"))
		e = e.Enter(Tier(rapid.IntRange(0, int(Bad)).Draw(t, "tier")), epoch, rapid.Float64Range(-20, 20).Draw(t, "score"))
		b, _ := e.AppendBinary(nil)
		var got Evidence
		if err := got.UnmarshalBinary(b); err != nil || got != e || len(b) != RecordSize {
			t.Fatalf("read back %v, %v from %d bytes, want %v", got, err, len(b), e)
		}
		b[0] += 1 << 4
		if err := got.UnmarshalBinary(b); !errors.Is(err, ErrRecord) || got != e {
			t.Fatalf("a record of a future version: %v, and left %v", err, got)
		}
	})
	for _, b := range [][]byte{nil, {RecordVersion << 4}, make([]byte, RecordSize), append([]byte{RecordVersion<<4 | 9}, make([]byte, RecordSize-1)...)} {
		if err := new(Evidence).UnmarshalBinary(b); !errors.Is(err, ErrRecord) {
			t.Errorf("record %x: %v", b, err)
		}
	}
}

func TestTheTierRemembersWhenItWasEnteredAndAtWhichScore(t *testing.T) {
	e := Evidence{}.Enter(Bad, epoch.Add(7*time.Minute), 2.33)
	e = e.Enter(Bad, epoch.Add(time.Hour), 3)
	if at, score := e.Entered(); !at.Equal(epoch.Add(5*time.Minute)) || math.Abs(score-2.33) > 0.04 {
		t.Errorf("entered %v at %v", at, score)
	}
	if at, _ := (Evidence{}).Entered(); !at.IsZero() {
		t.Errorf("nobody entered at %v", at)
	}
}

func TestEvidenceEndsWithItsRings(t *testing.T) {
	e, _ := Evidence{}.Add(epoch, 1, 1)
	start := time.Unix(epoch.Unix()/int64(PastWidth/time.Second)*int64(PastWidth/time.Second), 0)
	if e.Empty(start.Add(Pasts*PastWidth-time.Second)) || !e.Empty(start.Add(Pasts*PastWidth)) {
		t.Error("evidence ends with its rings, no earlier and no later")
	}
	if got := e.Since(); !got.Equal(epoch) {
		t.Errorf("since %v, want the start of its hour", got)
	}
	e, _ = e.Add(epoch.Add(10*time.Hour), 1, 1)
	if got := e.Since(); !got.Equal(start) {
		t.Errorf("ten hours later since %v, want the start of its four days", got)
	}
}

// FuzzRecord reads anything as a record: what is taken is what it is written as, and can be worked
// with at any time.
func FuzzRecord(f *testing.F) {
	e, _ := Evidence{}.AddCount(490_000, Count{Spam: 8, Ham: -3})
	sound, _ := e.AppendBinary(nil)
	f.Add(sound, int64(1_760_000_000))
	f.Add(bytes.Repeat([]byte{0x22}, RecordSize), int64(0))
	f.Fuzz(func(t *testing.T, b []byte, at int64) {
		var e Evidence
		if e.UnmarshalBinary(b) != nil {
			return
		}
		again, _ := e.AppendBinary(nil)
		if !bytes.Equal(again, b) {
			t.Errorf("%x is written as %x", b, again)
		}
		now := time.Unix(at%(1<<33), 0)
		healed := e.Heal(now)
		healed, _ = healed.Add(now, 1, 1)
		if j := Judge(healed, e, e, now, DefaultParams); j.Score != j.Score {
			t.Errorf("%x at %s: score %v", b, now, j.Score)
		}
	})
}
