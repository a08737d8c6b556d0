package eventlog

import (
	"net/netip"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// Corrections joins the rows of a trace that replace another row's verdict with that row, whichever
// comes first.
type Corrections struct {
	// learnt is what was learnt of the rows that have an id of their own, as it stands; early are
	// verdicts that came before their row.
	learnt map[int]learnt
	early  map[int]policy.Verdict
	// verdicts are those that were learnt, each once, and numbers their places.
	verdicts []policy.Verdict
	numbers  map[policy.Verdict]int32
}

// learnt is what a row's lesson was made of. There may be millions, so it has no pointers, which
// the garbage collector would have to follow.
type learnt struct {
	addr                                     [16]byte
	at                                       int64 // in milliseconds of Unix time
	hamShare                                 float64
	verdict                                  int32
	known                                    bool // the address is
	mail, authenticated, bounce, backscatter bool
}

// NewCorrections returns corrections that know no row.
func NewCorrections() *Corrections {
	return &Corrections{learnt: map[int]learnt{}, early: map[int]policy.Verdict{}, numbers: map[policy.Verdict]int32{}}
}

// Row takes a row that has been learnt. ok is true where its correction came before it.
func (c *Corrections) Row(r *Row) (corrected policy.Correction, ok bool) {
	if !r.Named {
		return corrected, false
	}
	c.learnt[r.ID] = c.pack(r)
	v, ok := c.early[r.ID]
	if ok {
		delete(c.early, r.ID)
		corrected = c.replace(r.ID, v)
	}
	return corrected, ok
}

// Correct takes a row that replaces another's verdict. ok is false where it has to wait for that.
func (c *Corrections) Correct(r *Row) (corrected policy.Correction, ok bool) {
	if _, ok = c.learnt[r.CorrectionOf]; !ok {
		c.early[r.CorrectionOf] = r.Verdict
		return corrected, false
	}
	return c.replace(r.CorrectionOf, r.Verdict), true
}

// Waiting is how many wait for their row.
func (c *Corrections) Waiting() int { return len(c.early) }

func (c *Corrections) replace(id int, v policy.Verdict) policy.Correction {
	l := c.learnt[id]
	m := c.unpack(&l)
	corrected := policy.Correction{Message: m, Was: m.Verdict}
	corrected.Verdict = v
	l.verdict = c.number(v)
	c.learnt[id] = l
	return corrected
}

func (c *Corrections) pack(r *Row) learnt {
	m := r.Message()
	l := learnt{
		at: m.Time.UnixMilli(), hamShare: m.HamShare, verdict: c.number(m.Verdict), known: m.Client.Addr.IsValid(),
		mail: m.Mail, authenticated: m.Authenticated, bounce: m.Bounce, backscatter: m.Backscatter,
	}
	if l.known {
		l.addr = m.Client.Addr.As16()
	}
	return l
}

func (c *Corrections) unpack(l *learnt) policy.Message {
	m := policy.Message{
		Time: time.UnixMilli(l.at), HamShare: l.hamShare, Verdict: c.verdicts[l.verdict],
		Mail: l.mail, Authenticated: l.authenticated, Bounce: l.bounce, Backscatter: l.backscatter,
	}
	if l.known {
		m.Client.Addr = policy.PlainAddr(netip.AddrFrom16(l.addr))
	}
	return m
}

// number is the place of a verdict among those that were learnt, without what its source says
// besides.
func (c *Corrections) number(v policy.Verdict) int32 {
	v.Score, v.Reason = 0, ""
	n, ok := c.numbers[v]
	if !ok {
		n = int32(len(c.verdicts))
		c.numbers[v] = n
		c.verdicts = append(c.verdicts, v)
	}
	return n
}
