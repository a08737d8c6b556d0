package intake

import (
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/ehlogate/ehlogate/policy"
)

// reinjectedMost bounds the messages that after-queue filters have put back and that are
// remembered, for as long as correlate remembers the first ones.
const reinjectedMost = 50_000

// reinjections join what is heard of messages that an after-queue filter has put back to the
// messages that clients sent. The milter hears the one, the log tells which other it was; either
// can come first. The zero value has none.
type reinjections struct {
	sync.Mutex
	// originals are known from the log, heard from the milter, by the queue id of what was put
	// back.
	originals *otter.Cache[string, original]
	heard     *otter.Cache[string, []policy.Signal]
}

// original is a message that was put back, and when that was heard.
type original struct {
	policy.Reinjection
	at time.Time
}

// joinedWithin is how far apart milter and log may tell of the same message: queue ids are used
// again.
const joinedWithin = 10 * time.Minute

// lock locks it for use.
func (r *reinjections) lock() {
	r.Lock()
	if r.heard == nil {
		r.originals = otter.Must(&otter.Options[string, original]{MaximumSize: reinjectedMost})
		r.heard = otter.Must(&otter.Options[string, []policy.Signal]{MaximumSize: reinjectedMost})
	}
}

// Reinjected takes note that a message was put back, as the log tells.
func (in *Intake) Reinjected(r policy.Reinjection) {
	in.Stats.Reinjected.Add(1)
	re := &in.reinjections
	re.lock()
	re.originals.Set(r.QueueID, original{r, in.Now()})
	signals, _ := re.heard.Invalidate(r.QueueID)
	re.Unlock()
	if c := in.Correlator.Reinjected(r.QueueID); c != nil {
		in.correct(c).Write()
	}
	if len(signals) > 0 && in.Now().Sub(signals[0].Time).Abs() < joinedWithin {
		in.attribute(signals, r)
	}
}

// originalOf is the message that was put back with a queue id. Its lock is held.
func (r *reinjections) originalOf(queueID string, now time.Time) (policy.Reinjection, bool) {
	o, ok := r.originals.GetIfPresent(queueID)
	return o.Reinjection, ok && now.Sub(o.at) < joinedWithin
}

// putBack takes what filters said of a message that came from this host itself. It is said of the
// message that was put back, if it is one; nothing is said of this host.
func (in *Intake) putBack(o *policy.Observation, assessments []policy.Assessment) {
	if o.QueueID == "" {
		return
	}
	re := &in.reinjections
	re.lock()
	r, known := re.originalOf(o.QueueID, in.Now())
	re.Unlock()
	o.Reinjected = known
	var signals []policy.Signal
	for _, a := range assessments {
		if a.Source == policy.FromHeader || a.Source == policy.FromAuthentication {
			signals = append(signals, policy.Signal{Time: o.Time, Mail: true, Outcome: o.Outcome, Assessment: a})
		}
	}
	if len(signals) == 0 {
		return
	}
	if known {
		in.attribute(signals, r)
		return
	}
	re.lock()
	re.heard.Set(o.QueueID, signals)
	re.Unlock()
}

// originalOf is the queue id of the message that was put back as another one, else that one.
func (in *Intake) originalOf(queueID string) string {
	re := &in.reinjections
	re.lock()
	defer re.Unlock()
	if r, ok := re.originals.GetIfPresent(queueID); ok && queueID != "" && r.Original != "" {
		return r.Original
	}
	return queueID
}

// attribute takes signals of a message that was put back for the message that a client sent.
func (in *Intake) attribute(signals []policy.Signal, r policy.Reinjection) {
	for _, s := range signals {
		s.QueueID, s.Addr, s.Port = r.Original, r.Addr, r.Port
		in.Signal(s)
	}
}

// hearResolver takes note of a block list that refuses to serve our resolver: it then lists every
// client, and the MTA refuses all mail.
func (in *Intake) hearResolver(a policy.Assessment) {
	if a.Source != policy.FromDNSBL || a.Class != policy.None {
		return
	}
	in.Stats.ResolverRefused.Add(1)
	in.refused.every(time.Minute, func() {
		in.Log.Error("a DNS block list does not serve this host's resolver, and the MTA refuses mail because of it; ask the list through a resolver of your own, or restrict its answers, as in reject_rbl_client LIST=127.0.0.[2..11]",
			"reason", a.Reason)
	})
}
