package intake

import (
	"sync"

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
	v := in.Settings().Weights.Weigh(a)
	if v.Class == policy.None || !in.Sources.Distrusts(v.Source) {
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

// turn says that sources are distrusted, or trusted again, and has what they said taken back.
func (in *Intake) turn(turns []behaviour.Turn) {
	for _, t := range turns {
		if !t.Distrusted {
			in.Log.Info("a source of verdicts is as it was before, and is learnt from again", "source", t.Source)
			continue
		}
		in.Log.Error("a source of verdicts calls the mail of hosts of long standing spam: nothing is learnt from it until that is over, and what it called spam since then is taken back; look at the filter, or at the rule",
			"source", t.Source, "networks", t.Networks, "usual", t.Usual, "since", t.Since)
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
		corrections = append(corrections, in.Correlator.Distrust(t.Source, t.Since)...)
	}
	return corrections
}
