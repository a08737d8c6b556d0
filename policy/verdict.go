package policy

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ehlogate/ehlogate/policy/reputation"
)

// Class is what a verdict says of a message.
type Class string

// The classes. None says nothing: no filter spoke, or what it said does not judge the client, like
// greylisting.
const (
	Spam Class = "spam"
	Ham  Class = "ham"
	None Class = "none"
)

// Confidence is how sure a source is of what it says, from 0 to 1: a share of the source's weight.
type Confidence float64

// Certain is the confidence of a source that leaves no doubt.
const Certain Confidence = 1

// Messages is how much a verdict counts, in messages.
type Messages float64

// Assessment is what one source says of a message, or of a session without one, as its reader
// understands it. Weights.Weigh makes a Verdict of it.
type Assessment struct {
	Class Class
	// Confidence is the share of the source's weight that this counts.
	Confidence Confidence
	// Score is the filter's own score, 0 when it gave none.
	Score  float64
	Source Source
	// Reason quotes the source.
	Reason string
}

// Verdict is an Assessment with its weight.
type Verdict struct {
	Class Class `json:"class"`
	// Score is the filter's own score, 0 when it gave none.
	Score float64 `json:"score"`
	// Weight is 0 for class None.
	Weight Messages `json:"weight,omitempty"`
	// Source is empty for a verdict of class None that nobody gave.
	Source Source `json:"source,omitempty"`
	// Distrusted is what the source said while it was not believed; Class is none then.
	Distrusted Class `json:"distrusted,omitempty"`
	// Reason quotes the source.
	Reason string `json:"reason,omitempty"`
}

// Said is the class that the source gave, whether it was believed or not.
func (v Verdict) Said() Class { return cmp.Or(v.Distrusted, v.Class) }

// Distrust is the verdict of a source that is not believed: it says nothing, and is recorded.
func (v Verdict) Distrust() Verdict {
	if v.Class == Spam || v.Class == Ham {
		v.Distrusted, v.Class, v.Weight = v.Class, None, 0
	}
	return v
}

// UnmarshalJSON reads a verdict. One of spam or ham without a weight counts one message.
func (v *Verdict) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, v) }

// UnmarshalJSONFrom is UnmarshalJSON, without a copy of the text.
func (v *Verdict) UnmarshalJSONFrom(in *jsontext.Decoder) error {
	type plain Verdict
	read := plain{Weight: unsaid}
	if err := json.UnmarshalDecode(in, &read); err != nil {
		return err
	}
	switch {
	case read.Class != Spam && read.Class != Ham:
		read.Weight = 0
	case read.Weight == unsaid:
		read.Weight = 1
	}
	*v = Verdict(read)
	return nil
}

// unsaid is no weight that a verdict can have.
const unsaid Messages = -math.MaxFloat64

// lesson is what a verdict on a message of a time teaches, in the steps in which evidence is kept,
// so that a verdict taken back leaves nothing.
func (v Verdict) lesson(at time.Time) Lesson {
	n := math.Round(float64(v.Weight)*reputation.Unit) / reputation.Unit
	switch v.Class {
	case Spam:
		return Lesson{At: at, Spam: n}
	case Ham:
		return Lesson{At: at, Ham: n}
	}
	return Lesson{At: at}
}

// doubtful is the weight below which a spam verdict is a hint, which yields to a filter's ham.
const doubtful Messages = 0.5

// Verdicts are what the sources said of one message, one verdict for each source.
type Verdicts []Verdict

// Resolve returns the verdict that counts. It is the greatest in an order that does not depend on
// who spoke first: people before traps, traps before filters and the MTA, these before silence;
// among equals spam before ham, unless the spam is only a hint; then by weight and score.
func (all Verdicts) Resolve() Verdict {
	if len(all) == 0 {
		return Verdict{Class: None}
	}
	return slices.MaxFunc(all, Verdict.compare)
}

func (v Verdict) compare(w Verdict) int {
	return cmp.Or(
		cmp.Compare(v.authority(), w.authority()), cmp.Compare(v.claim(), w.claim()),
		cmp.Compare(v.Weight, w.Weight), cmp.Compare(v.Score, w.Score),
		cmp.Compare(v.Source, w.Source), cmp.Compare(v.Reason, w.Reason),
	)
}

// authority ranks sources: whose verdict goes before whose. A verdict that says nothing has 0, but
// where a source spoke that is not believed, there was no silence.
func (v Verdict) authority() int {
	switch {
	case v.Distrusted != "":
		return 2
	case v.Class == None:
		return 0
	case v.Source == FromSilence:
		return 1
	case v.Source == FromTrap:
		return 4
	case v.Source.People():
		return 5
	}
	return 3
}

// claim orders the verdicts of sources of the same authority.
func (v Verdict) claim() int {
	switch {
	case v.Class == Spam && v.Weight >= doubtful:
		return 3
	case v.Class == Ham:
		return 2
	case v.Class == Spam:
		return 1
	case v.Source != "":
		return 0
	}
	return -1
}

// With returns the verdicts with one more. A source has one verdict on a message: of filters and
// the MTA the graver one stays, of people the last. One that was not believed is not believed when
// it is told again.
func (all Verdicts) With(v Verdict) Verdicts {
	for i, old := range all {
		if old.Source != v.Source && !(old.Source.People() && v.Source.People()) {
			continue
		}
		if !v.Source.People() && (old.Distrusted != "" || v.compare(old) <= 0) {
			return all
		}
		all = slices.Clone(all)
		all[i] = v
		return all
	}
	return append(slices.Clip(all), v)
}

// Accuses reports whether a source's verdict is spam, and believed.
func (all Verdicts) Accuses(source Source) bool {
	return slices.ContainsFunc(all, func(v Verdict) bool { return v.Source == source && v.Class == Spam })
}

// Distrust returns the verdicts with a source's not believed.
func (all Verdicts) Distrust(source Source) Verdicts {
	less := slices.Clone(all)
	for i, v := range less {
		if v.Source == source {
			less[i] = v.Distrust()
		}
	}
	return less
}
