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

// hearSources hears what the sources said of an observation: where its client is a host of long
// standing, that tells of the sources, too.
func (in *Intake) hearSources(o *policy.Observation) {
	addr := o.Client.Addr
	if !addr.IsValid() || o.Authenticated || o.Submission || policy.IsHere(addr) || !o.Mail && len(o.Verdicts) == 0 {
		return
	}
	d, known := in.Judge.Explain(addr)
	in.turn(in.Sources.Hear(&o.Message, d.Keys, known.OfLongStanding(in.Now()), in.Settings().Believed))
}

// hearAgain hears what the sources said later of a message.
func (in *Intake) hearAgain(c *policy.Correction) {
	if addr := c.Client.Addr; addr.IsValid() {
		in.turn(in.Sources.Hear(&c.Message, in.Judge.Policy().Keys(addr), false, in.Settings().Believed))
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
