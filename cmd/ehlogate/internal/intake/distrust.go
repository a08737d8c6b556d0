package intake

import (
	"context"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/behaviour"
)

// distrusted are the sources that turned, of which something is to be taken back.
type distrusted struct {
	sync.Mutex
	turns []behaviour.Turn
}

// weigh makes a verdict of an assessment. That of a source that is distrusted says nothing.
func (in *Intake) weigh(a policy.Assessment) policy.Verdict {
	set := in.Settings()
	v := set.Weights.Weigh(a)
	if v.Class == policy.None || !in.Sources.Distrusts(v.Source) || slices.Contains(set.Believed, v.Source) {
		return v
	}
	in.Stats.Distrusted.Add(1)
	return v.Distrust()
}

// hear hears what the sources said of a message. That of a host of long standing tells of the
// sources, too, as does what they say of it later.
func (in *Intake) hear(m *policy.Message, standing bool) {
	if m.Teachable() {
		in.turn(in.Sources.Hear(m, in.Judge.Policy().Keys(m.Client.Addr), standing, in.Settings().Believed))
	}
}

// restoredMost is how many messages of before a restart are heard again, restoredFor for how long:
// the MTA waits for the start, and a Redis that is far away takes its time for each.
const (
	restoredMost = 1000
	restoredFor  = time.Second / 2
)

// hearRestored hears messages of the event log again, so that a source that is mad is known sooner.
func (in *Intake) hearRestored(messages []*policy.Message) {
	began := time.Now()
	for _, m := range messages {
		if !m.Teachable() {
			continue
		}
		if time.Since(began) > restoredFor {
			return
		}
		_, known := in.Judge.Explain(m.Client.Addr)
		if known.Unavailable {
			return
		}
		in.hear(m, known.OfLongStanding(in.Now()))
	}
}

// turn says that sources are distrusted, or trusted again, and has what they said taken back.
func (in *Intake) turn(turns []behaviour.Turn) {
	for _, t := range turns {
		if !t.Distrusted {
			in.Log.Info("a source of verdicts is as it was before, and is learnt from again", "source", t.Source)
			continue
		}
		level := slog.LevelError
		if t.Relapse > 0 {
			level = slog.LevelInfo
		}
		in.Log.Log(context.Background(), level, "a source of verdicts calls mail of hosts with a long good record spam: nothing is learnt from it until that is over, and what it said since it began is taken back; look at the filter, or at the rule",
			"source", t.Source, "networks", t.Networks, "usual_percent", math.Round(100*t.Usual), "since", t.Since)
		in.distrusted.Lock()
		in.distrusted.turns = append(in.distrusted.turns, t)
		in.distrusted.Unlock()
	}
}

// takeBack are the corrections that take back what distrusted sources said of the last messages,
// before they were distrusted.
func (in *Intake) takeBack() (corrections []*policy.Correction) {
	in.distrusted.Lock()
	turns := in.distrusted.turns
	in.distrusted.turns = nil
	in.distrusted.Unlock()
	for _, t := range turns {
		from := func(client netip.Addr) time.Time { return t.From(in.Judge.Policy().Keys(client)) }
		corrections = append(corrections, in.Correlator.Distrust(t.Source, from)...)
	}
	return corrections
}
