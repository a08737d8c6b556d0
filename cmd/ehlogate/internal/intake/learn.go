package intake

import (
	"net/netip"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/correlate"
	"github.com/ehlogate/ehlogate/policy/eventlog"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

// Status is what became of a person's report.
type Status string

// The statuses.
const (
	Corrected Status = "corrected" // the message was known, and has this verdict now, too
	New       Status = "new"       // the message was not known: a new verdict on its client
	Again     Status = "again"     // the same was reported before
	Unknown   Status = "unknown"   // no message with that queue id is known, and no client
	OwnUser   Status = "own-user"  // the client had logged in: nothing is learnt of its address
	TooOld    Status = "too-old"   // no evidence is kept so long
)

// Learnt is what became of a report, and the client it was about.
type Learnt struct {
	Status Status
	Addr   netip.Addr
	// Receipt is nil where nothing was learnt, or the message is still pending.
	Receipt *Receipt
}

// Trust is how far a report's queue id and address can be believed.
type Trust string

const (
	// Certain: the operator's own hosts, or a person, give both.
	Certain Trust = ""
	// Foreign: the queue id may be another host's. It counts if it is known, else the address does.
	Foreign Trust = "foreign"
	// Claimed: a host inside can have made both up. They count if such a message is known.
	Claimed Trust = "claimed"
)

// Known reports whether it is one of these.
func (t Trust) Known() bool { return t == Certain || t == Foreign || t == Claimed }

// Report is what a person says of a message.
type Report struct {
	policy.Signal
	Trust Trust
	// Fingerprint stands for the queue id where the report has none, or a foreign one that is not
	// known.
	Fingerprint string
}

// Learn takes the reports of people on messages: each corrects the verdict on its message as far as
// the event log has it, or is a verdict of its own.
func (in *Intake) Learn(reports []Report) (done []Learnt, err error) {
	if err := in.find(reports); err != nil {
		return nil, err
	}
	elsewhere := in.askOfReports(reports)
	for i, r := range reports {
		learnt, known := elsewhere[i]
		if !known {
			learnt, known = in.learnKnown(r)
		}
		if !known {
			learnt = in.learnNew(r)
		}
		done = append(done, learnt)
	}
	return done, nil
}

// find takes the messages that are reported from the event log into the correlator, as far as they
// are not there.
func (in *Intake) find(reports []Report) error {
	var missing []string
	for i := range reports {
		reports[i].QueueID = in.originalOf(reports[i].QueueID)
		for _, id := range []string{reports[i].QueueID, reports[i].Fingerprint} {
			if id != "" && !in.Correlator.Has(id) {
				missing = append(missing, id)
			}
		}
	}
	set := in.Settings()
	if len(missing) == 0 || set.Anonymize {
		return nil
	}
	found, err := eventlog.Find(set.Events, missing)
	for _, m := range found {
		in.restore(m)
	}
	return err
}

// identified is the signal of a report, with what stands for its message.
func (in *Intake) identified(told Report) policy.Signal {
	r := told.Signal
	if told.Fingerprint != "" && !in.Correlator.Has(r.QueueID) && told.Trust != Claimed {
		r.QueueID = told.Fingerprint
	}
	return r
}

// learnKnown takes a report on a message that is known here.
func (in *Intake) learnKnown(told Report) (l Learnt, known bool) {
	r := in.identified(told)
	c, found := in.Correlator.Report(r, in.weigh(r.Assessment))
	switch {
	case found == correlate.Repeated:
		return Learnt{Status: Again, Addr: r.Addr}, true
	case found == correlate.Pending:
		return Learnt{Status: Corrected, Addr: r.Addr}, true
	case found == correlate.Corrected && c.Authenticated:
		return Learnt{Status: OwnUser, Addr: r.Addr}, true
	case found == correlate.Corrected && policy.IsHere(c.Client.Addr):
		// A filter has put it back, and nothing is known of the message that a client sent.
		return Learnt{Status: Unknown, Addr: r.Addr}, true
	case found == correlate.Corrected:
		receipt := in.correct(c)
		return Learnt{Status: Corrected, Addr: c.Client.Addr, Receipt: &receipt}, true
	}
	return l, false
}

// learnNew takes a report on a message of which nothing is known.
func (in *Intake) learnNew(told Report) Learnt {
	r := in.identified(told)
	switch {
	case !r.Addr.IsValid(), told.Trust == Claimed:
		return Learnt{Status: Unknown}
	case !r.Time.IsZero() && in.Now().Sub(r.Time) > reputation.Lifetime:
		return Learnt{Status: TooOld, Addr: r.Addr}
	case told.Trust == Foreign && told.Fingerprint == "":
		r.QueueID = ""
	}
	if r.Time.IsZero() {
		r.Time = in.Now()
	}
	r.Time = in.bound(r.Time)
	o := r.Observation(in.weigh(r.Assessment))
	o.Decision = in.Judge.Decide(r.Addr)
	o.Remember()
	if o.QueueID != "" {
		// Reported again, it is known.
		in.Correlator.Restore(&o.Message)
	}
	receipt := in.record(o)
	return Learnt{Status: New, Addr: r.Addr, Receipt: &receipt}
}
