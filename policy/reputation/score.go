package reputation

import (
	"math"
	"time"
)

// Params are the parameters of the model that an operator may set.
type Params struct {
	// HalfLife is the time in which the spam of a host that sends much ham, too, loses half its
	// weight; without ham it takes 1 + patience times as long. HamHalfLife is the same for its ham.
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
var DefaultParams = Params{HalfLife: 20 * time.Minute, HamHalfLife: 72 * time.Hour, NetworkHalfLife: 300 * time.Hour, Cap: 3, Prior: 0.35}

const (
	// spamOdds and hamOdds are what one verdict tells, in log-odds: those of a filter that flags 70
	// % of a spammer's messages and 9.5 % of an honest host's, ln(0.70/0.095) and ln(0.905/0.30).
	spamOdds, hamOdds = 2.0, 1.1
	// patience is how much longer the spam of a host without any ham lasts, beside that of a host
	// with much: its half-life is 1 + patience/(1+ham)² of Params.HalfLife. Ham that comes often
	// shows a clean-up within hours; where it comes rarely, or never did, nothing shows it.
	patience = 500.0
	// forgiven is what the spam of a host with much ham on record can weigh at most. One message of
	// ham after it is enough to leave tier bad.
	forgiven = 2.4
	// excused is how many spam messages one of ham makes up for in the same slice, beyond Cap: up
	// to a quarter of an honest provider's mail of an hour may be spam, and a thousand messages of
	// ham are no licence for as many of spam.
	excused = 1.0 / 3
	// networkShrink is how many neighbours it takes to outweigh what was expected before.
	networkShrink = 2.0
	// missed is how much of the neighbours' ham is taken for spam that the filter missed, for each
	// message of their spam: a filter that misses 60 % of a range's spam, as poor ones do, lets one
	// and a half times as much pass as it catches.
	missed = 2.0
	// proof is the ham of its own at which a host answers for half of what spamming neighbours lead
	// to expect.
	proof = 3.0
	// asShrink is networkShrink for an autonomous system, which is larger and less alike. asMost is
	// the most that it may lead to expect: it makes a stranger's first spam weigh, and convicts
	// nobody.
	asShrink, asMost = 20.0, 0.6
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
	// that of its autonomous system.
	Neighbours, AS Mass
	// Start is the share of spammers expected before the neighbours: the prior, or what the
	// autonomous system makes of it.
	Start float64
	// Share is the share expected after them, LogOdds the same as ln(Share / (1-Share)), bounded by
	// Cap and, above zero, less the more ham the host has of its own.
	Share, LogOdds float64
}

// Judge scores a host by its own evidence, its network's and its autonomous system's at a time. The
// result is finite for every input.
func Judge(host, network, as Evidence, now time.Time, p Params) Judgement {
	at := float64(now.UnixMilli()) / 1000
	slice := Slice(now)
	for _, e := range []*Evidence{&host, &network, &as} {
		e.forget(slice)
	}
	j := Judgement{Own: Own{Mass: host.Total()}}
	j.Expected = expect(&host, &network, &as, j.Own.Ham, at, &p)
	hamless, most := 1/((1+j.Own.Ham)*(1+j.Own.Ham)), min(forgiven, p.Cap)
	j.Own.SpamHalfLife = time.Duration(float64(p.HalfLife) * (1 + patience*hamless))
	p.HalfLife = j.Own.SpamHalfLife
	j.Own.LogOdds = host.logOdds(at, p.Cap-(p.Cap-most)*(1-hamless), &p)
	j.Score = j.Own.LogOdds + j.Expected.LogOdds
	return j
}

// expect is the share of spammers that the neighbours of a host with so much ham lead to expect,
// shrunk to the autonomous system's, itself shrunk to the prior.
func expect(host, network, as *Evidence, ham, at float64, p *Params) Expectation {
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
	if x.LogOdds > 0 {
		x.LogOdds *= proof * proof / (proof*proof + ham*ham)
	}
	return x
}

// shrink is the mean of a beta distribution with strength messages of the start share and the mass
// added to it, and its log-odds.
func shrink(m Mass, strength, start float64) (share, logOdds float64) {
	spam, ham := m.Spam+strength*start, max(0, m.Ham-missed*m.Spam)+strength*(1-start)
	return spam / (spam + ham), math.Log(spam / ham)
}

// logOdds reads a host's evidence slice by slice in the order of time: verdicts add up, the sum
// stays between -Cap and most, and what has passed fades towards nothing.
func (e *Evidence) logOdds(at, most float64, p *Params) float64 {
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
		ham := messages(c.Ham)
		// No order is known within a slice, so that the bound cannot be applied message by message.
		odds += spamOdds*messages(c.Spam) - min(hamOdds*ham, p.Cap+spamOdds*excused*ham)
		odds = min(max(odds, -p.Cap), most)
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
// seconds. It goes by the long slices, in each of which a host has one voice. One counts 1/(1 +
// age/halfLife): a third after twice that age, where an exponential would leave a quarter. It
// subtracts while it reads, which spares a score the copy that Without makes.
func (e *Evidence) neighbours(host *Evidence, at float64, halfLife time.Duration) (m Mass) {
	const width = float64(PastWidth / time.Second)
	half := float64(halfLife) / float64(time.Second)
	for i := range min(Pasts, e.Newest/SlicesPerPast+1) {
		n := e.Newest/SlicesPerPast - i
		others := e.Past[n%Pasts]
		if own := host.past(n); own != nil {
			others = others.minus(own.contribution(), math.MaxInt32)
		}
		// A slice is as old as the middle of what has passed of it.
		start := float64(n) * width
		age := at - (start+min(start+width, max(at, start)))/2
		weight := half / (half + max(age, 0))
		m.Spam += messages(others.Spam) * weight
		m.Ham += messages(others.Ham) * weight
	}
	return m
}
