package eventlog

import "github.com/ehlogate/ehlogate/policy"

// Corrections joins the rows of a trace that replace another row's verdict with that row, whichever
// comes first.
type Corrections struct {
	// messages are those of the rows that have an id of their own, as they stand; early are verdicts
	// that came before their row.
	messages map[int]policy.Message
	early    map[int]policy.Verdict
}

// NewCorrections returns corrections that know no row.
func NewCorrections() *Corrections {
	return &Corrections{map[int]policy.Message{}, map[int]policy.Verdict{}}
}

// Row takes a row that has been learnt. ok is true where its correction came before it.
func (c *Corrections) Row(r *Row) (corrected policy.Correction, ok bool) {
	if !r.Named {
		return corrected, false
	}
	c.messages[r.ID] = r.Message()
	v, ok := c.early[r.ID]
	if ok {
		delete(c.early, r.ID)
		corrected = c.replace(r.ID, v)
	}
	return corrected, ok
}

// Correct takes a row that replaces another's verdict. ok is false where it has to wait for that.
func (c *Corrections) Correct(r *Row) (corrected policy.Correction, ok bool) {
	if _, ok = c.messages[r.CorrectionOf]; !ok {
		c.early[r.CorrectionOf] = r.Verdict
		return corrected, false
	}
	return c.replace(r.CorrectionOf, r.Verdict), true
}

// Waiting is how many wait for their row.
func (c *Corrections) Waiting() int { return len(c.early) }

func (c *Corrections) replace(id int, v policy.Verdict) policy.Correction {
	corrected := policy.Correction{Message: c.messages[id], Was: c.messages[id].Verdict}
	corrected.Verdict = v
	c.messages[id] = corrected.Message
	return corrected
}
