package policy

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/ehlogate/ehlogate/policy/reputation"
)

// Class is what a verdict says of a message.
type Class string

// The classes. None says nothing: no filter spoke, or what it said is no judgement of the client, like greylisting.
const (
	Spam Class = "spam"
	Ham  Class = "ham"
	None Class = "none"
)

// Verdict is what one source said of a message, or of a session without one, and in what words.
type Verdict struct {
	Class Class `json:"class"`
	// Score is the filter's own score, 0 when it gave none.
	Score float64 `json:"score"`
	// Weight is how much it counts, in messages; 0 stands for 1. Verdict.Class None counts nothing.
	Weight float64 `json:"weight,omitempty"`
	// Source is who said it; empty for None without a word.
	Source Source `json:"source,omitempty"`
	// Reason is the words it was said in.
	Reason string `json:"reason,omitempty"`
}

// Messages is how much a verdict counts, in messages.
func (v Verdict) Messages() float64 {
	switch {
	case v.Class != Spam && v.Class != Ham:
		return 0
	case v.Weight == 0:
		return 1
	}
	return v.Weight
}

// lesson is what a verdict on a message of a time teaches, in the steps in which evidence is kept: so a verdict taken back leaves nothing.
func (v Verdict) lesson(at time.Time) Lesson {
	n := math.Round(v.Messages()*reputation.Unit) / reputation.Unit
	if v.Class == Spam {
		return Lesson{At: at, Spam: n}
	}
	return Lesson{At: at, Ham: n}
}

// doubtful is below which weight, in messages, a spam verdict is a hint that yields to a filter's ham.
const doubtful = 0.5

// Resolve is the one verdict of all that was said of a message. It is the greatest in an order that does not depend on who spoke first:
// people before traps, traps before filters and the MTA, these before silence; among equals spam before ham, unless the spam is but a hint;
// then by weight and score.
func Resolve(said []Verdict) Verdict {
	if len(said) == 0 {
		return Verdict{Class: None}
	}
	return slices.MaxFunc(said, Verdict.compare)
}

func (v Verdict) compare(w Verdict) int {
	return cmp.Or(
		cmp.Compare(v.authority(), w.authority()), cmp.Compare(v.claim(), w.claim()),
		cmp.Compare(v.Messages(), w.Messages()), cmp.Compare(v.Score, w.Score), cmp.Compare(v.Source, w.Source), cmp.Compare(v.Reason, w.Reason), cmp.Compare(v.Weight, w.Weight),
	)
}

// authority is whose word goes first: 0 for who says nothing.
func (v Verdict) authority() int {
	switch {
	case v.Class == None:
		return 0
	case v.Source == FromSilence:
		return 1
	case v.Source == FromTrap:
		return 3
	case v.Source.People():
		return 4
	}
	return 2
}

// claim orders what sources of the same authority say.
func (v Verdict) claim() int {
	switch {
	case v.Class == Spam && v.Messages() >= doubtful:
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

// Add puts a verdict to what was said of a message. Each source has one say: of filters and the MTA the graver word stays, of people the
// last.
func Add(said []Verdict, v Verdict) []Verdict {
	for i, old := range said {
		if old.Source != v.Source && !(old.Source.People() && v.Source.People()) {
			continue
		}
		if !v.Source.People() && v.compare(old) <= 0 {
			return said
		}
		said = slices.Clone(said)
		said[i] = v
		return said
	}
	return append(slices.Clip(said), v)
}
