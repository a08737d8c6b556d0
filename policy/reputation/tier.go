package reputation

import "fmt"

// Tier is a class of reputation, from best to worst.
type Tier uint8

// The tiers. Unknown is zero, so that evidence of nothing is unknown.
const (
	Unknown Tier = iota
	Good
	Suspect
	Bad
)

var tierNames = [...]string{Unknown: "unknown", Good: "good", Suspect: "suspect", Bad: "bad"}

func (t Tier) String() string {
	if int(t) < len(tierNames) {
		return tierNames[t]
	}
	return fmt.Sprintf("tier %d", uint8(t))
}

// MarshalText writes the tier's name.
func (t Tier) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads a tier's name.
func (t *Tier) UnmarshalText(b []byte) error {
	tier, err := ParseTier(string(b))
	*t = tier
	return err
}

// ParseTier reads a tier's name.
func ParseTier(name string) (Tier, error) {
	for t, n := range tierNames {
		if n == name {
			return Tier(t), nil
		}
	}
	return Unknown, fmt.Errorf("unknown tier %q: want good, unknown, suspect or bad", name)
}

// Threshold is where a tier is entered and left, in log-odds. The two differ, so that a client does
// not flutter between tiers.
type Threshold struct{ Enter, Leave float64 }

// Thresholds are those of the tiers that have any: unknown is what is left between them. Bad and
// Suspect are entered at Enter or above and left below Leave, which is lower; Good is entered at
// Enter or below and left above Leave, which is higher.
type Thresholds struct{ Good, Suspect, Bad Threshold }

// DefaultThresholds are used where the configuration says nothing else.
var DefaultThresholds = Thresholds{
	Good:    Threshold{Enter: -1.5, Leave: -0.9},
	Suspect: Threshold{Enter: 0.6, Leave: 0.3},
	Bad:     Threshold{Enter: 1.4, Leave: 1.2},
}

// provenHam is how many messages of ham of its own a client needs on record before it can be good:
// the neighbours' merit does not prove a stranger.
const provenHam = 2.0

// Next is the tier of a client that was in a tier and is now judged so.
func (t Thresholds) Next(was Tier, j Judgement) Tier {
	switch s := j.Score; {
	case s >= t.Bad.Enter, was == Bad && s >= t.Bad.Leave:
		return Bad
	case s >= t.Suspect.Enter, (was == Suspect || was == Bad) && s >= t.Suspect.Leave:
		return Suspect
	case j.Own.Ham < provenHam:
		return Unknown
	case s <= t.Good.Enter, was == Good && s <= t.Good.Leave:
		return Good
	}
	return Unknown
}
