package reputation

import (
	"math"
	"time"
)

// Params are the parameters of the model that an operator may set.
type Params struct {
	// HalfLife is the time in which spam that a host sent beside its ham loses half its weight,
	// HamHalfLife the same for the ham.
	HalfLife, HamHalfLife time.Duration
	// NetworkHalfLife is the age at which what the neighbours sent weighs half.
	NetworkHalfLife time.Duration
	// Cap bounds what a host's own evidence weighs, and what its neighbours' does, in log-odds
	// either way: 3 is odds of twenty to one.
	Cap float64
	// Prior is the share of spammers that is expected among clients of whom nothing is known,
	// between 0 and 1.
	Prior float64
}

// DefaultParams are used where the configuration says nothing else.
var DefaultParams = Params{HalfLife: 30 * time.Minute, HamHalfLife: 72 * time.Hour, NetworkHalfLife: 15 * time.Hour, Cap: 3, Prior: 0.35}

const (
	// spamOdds and hamOdds are what one verdict tells, in log-odds: those of a filter that flags 78
	// % of a spammer's messages and 10.5 % of an honest host's, ln(0.78/0.105) and ln(0.895/0.22).
	spamOdds, hamOdds = 2.0, 1.4
	// hamless is how much longer the spam of a host without any ham lasts: 1 + hamless half-lives.
	// A host that never sent anything else is not a server that was broken into and cleaned.
	hamless = 15.0
	// networkShrink is how many messages of neighbours it takes to outweigh what was expected
	// before.
	networkShrink = 4.0
	// missed is how much of the neighbours' ham is taken for spam that the filter missed, for each
	// message of their spam: ranges that send spam by the clean message have up to half as much ham
	// as spam.
	missed = 0.5
	// asShrink is networkShrink for an autonomous system, which is larger and less alike. asMost is
	// the most that it may lead to expect: it makes a stranger's first spam weigh, and convicts
	// nobody.
	asShrink, asMost = 40.0, 0.6
)

// Judgement is a score with the terms that it was made of.
type Judgement struct {
	// Score is the log-odds of spam, Own.LogOdds + Expected.LogOdds: 0 is even, 2.2 is nine to one
	// for spam.
	Score float64
	Own   Own
	// Expected is what is expected of a host of its network.
	Expected Expectation
}

// Own is a host's own evidence.
type Own struct {
	// Spam and Ham are all messages on record, unfaded.
	Mass
	// LogOdds is what they weigh now, bounded and faded; SpamHalfLife is the time in which its spam
	// fades to half.
	LogOdds      float64
	SpamHalfLife time.Duration
}

// Expectation is what is expected of a host before its own evidence.
type Expectation struct {
	// Neighbours is what the evidence of its network without the host itself weighs now, and AS
	// that of its autonomous system. The last hours weigh twice: by themselves, and in the days
	// that they lie in.
	Neighbours, AS Mass
	// Start is the share of spammers expected before the neighbours: the prior, or what the
	// autonomous system makes of it.
	Start float64
	// Share is the share expected after them, LogOdds the same as ln(Share / (1-Share)), bounded by
	// Cap.
	Share, LogOdds float64
}

// Judge scores a host by its own evidence, its network's and its autonomous system's at a time. The
// result is finite for every input.
func Judge(host, network, as Evidence, now time.Time, p Params) Judgement {
	at := float64(now.UnixMilli()) / 1000
	j := Judgement{Own: Own{Mass: host.Total()}, Expected: expect(&host, &network, &as, at, &p)}
	n := 1 + j.Own.Ham
	j.Own.SpamHalfLife = time.Duration(float64(p.HalfLife) * (1 + hamless/(n*n)))
	p.HalfLife = j.Own.SpamHalfLife
	j.Own.LogOdds = host.logOdds(at, &p)
	j.Score = j.Own.LogOdds + j.Expected.LogOdds
	return j
}

// expect is the share of spammers that the neighbours lead to expect, shrunk to the autonomous
// system's, itself shrunk to the prior.
func expect(host, network, as *Evidence, at float64, p *Params) Expectation {
	x := Expectation{Start: p.Prior}
	if as.Newest != 0 {
		x.AS = as.neighbours(host, at, p.NetworkHalfLife)
		start, _ := shrink(x.AS, asShrink, p.Prior)
		x.Start = min(start, max(asMost, p.Prior))
	}
	x.Neighbours = network.neighbours(host, at, p.NetworkHalfLife)
	x.Share, x.LogOdds = shrink(x.Neighbours, networkShrink, x.Start)
	// Neighbours weigh no more than a host's own evidence can, so that every host can prove itself.
	x.LogOdds = min(max(x.LogOdds, -p.Cap), p.Cap)
	return x
}

// shrink is the mean of a beta distribution with strength messages of the start share and the mass
// added to it, and its log-odds.
func shrink(m Mass, strength, start float64) (share, logOdds float64) {
	spam, ham := m.Spam+strength*start, max(0, m.Ham-missed*m.Spam)+strength*(1-start)
	return spam / (spam + ham), math.Log(spam / ham)
}

// logOdds reads a host's evidence slice by slice in the order of time: verdicts add up, the sum
// stays within Cap, and what has passed fades towards nothing.
func (e *Evidence) logOdds(at float64, p *Params) float64 {
	var odds float64
	var until int64 // the time that odds stand for, in Unix seconds
	today := int64(at)
	step := func(c Count, start, end int64) {
		if c.Spam <= 0 && c.Ham <= 0 {
			return
		}
		// What lies in the future, because a clock stepped back, fades nothing.
		if start = min(start, today); start > until && odds != 0 {
			odds = fade(odds, float64(start-until), p)
		}
		odds = min(max(odds+spamOdds*messages(c.Spam)-hamOdds*messages(c.Ham), -p.Cap), p.Cap)
		until = end
	}
	const width, pastWidth = int64(SliceWidth / time.Second), int64(PastWidth / time.Second)
	first := int64(e.Newest) - Slices + 1
	newest := int64(e.Newest / SlicesPerPast)
	for m := max(newest-Pasts+1, 0); m <= newest; m++ {
		step(e.older(m), m*pastWidth, min((m+1)*pastWidth, first*width))
	}
	for n := max(first, 0); n <= int64(e.Newest); n++ {
		step(e.Recent[n%Slices], n*width, (n+1)*width)
	}
	return fade(odds, at-float64(until), p)
}

// fade is a host's log-odds some seconds later. It composes: fading twice is fading by the sum.
func fade(odds, after float64, p *Params) float64 {
	halfLife := p.HalfLife
	if odds < 0 {
		halfLife = p.HamHalfLife
	}
	if odds == 0 || !(after > 0) {
		return odds
	}
	halvings := after * float64(time.Second) / float64(halfLife)
	if halvings > 64 {
		return 0
	}
	return odds * math.Exp(-halvings*math.Ln2)
}

// neighbours reads a network's evidence, less what one of its hosts says there, at a time in Unix
// seconds. A slice counts 1/(1 + age/halfLife): a burst counts at once, and with 15 hours a sixth
// is left after three days, where an exponential would leave a twenty-eighth. It subtracts while it
// reads, which spares a score the copy that Without makes.
func (e *Evidence) neighbours(host *Evidence, at float64, halfLife time.Duration) (m Mass) {
	half := float64(halfLife) / float64(time.Second)
	add := func(c, own *Count, age float64) {
		if *c == (Count{}) {
			return
		}
		others := *c
		if own != nil {
			part := own.contribution()
			others.Spam -= part.Spam
			others.Ham -= part.Ham
		}
		weight := half / (half + max(age, 0))
		m.Spam += messages(others.Spam) * weight
		m.Ham += messages(others.Ham) * weight
	}
	const width, pastWidth = float64(SliceWidth / time.Second), float64(PastWidth / time.Second)
	for i := range min(Pasts, e.Newest/SlicesPerPast+1) {
		n := e.Newest/SlicesPerPast - i
		// A long slice is as old as the middle of what has passed of it.
		start := float64(n) * pastWidth
		add(&e.Past[n%Pasts], host.past(n), at-(start+min(start+pastWidth, max(at, start)))/2)
	}
	for i := range min(Slices, e.Newest+1) {
		n := e.Newest - i
		add(&e.Recent[n%Slices], host.recent(n), at-float64(n+1)*width)
	}
	return m
}
