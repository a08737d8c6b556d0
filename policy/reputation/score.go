package reputation

import (
	"math"
	"time"
)

// Params are the constants of the model.
type Params struct {
	// HalfLife is the time in which a host's own evidence loses half its weight.
	HalfLife time.Duration
	// NetworkHalfLife is the same for the evidence of its network.
	NetworkHalfLife time.Duration
	// Cap bounds the mass of one slice when it is read, in messages.
	Cap float64
	// Prior is the share of spam that is expected of a client of whom nothing is known, between 0 and 1.
	Prior float64
}

// DefaultParams are used where the configuration says nothing else.
var DefaultParams = Params{HalfLife: 6 * time.Hour, NetworkHalfLife: 24 * time.Hour, Cap: 10, Prior: 0.25}

const (
	// baseStrength is how many messages the prior weighs when nothing is known of the network.
	baseStrength = 1.0
	// likeness is how many more it weighs when all that is known of a well-known network points one way.
	likeness = 2.0
	// networkShrink is how many messages of neighbours it takes to outweigh the global prior.
	networkShrink = 4.0
)

// Judgement is a score with the terms that it was made of.
type Judgement struct {
	// Score is the log-odds of spam, ln((S + k·p) / (H + k·(1-p))): 0 is even, 2.2 is nine to one for spam.
	Score float64
	// Own is the host's own evidence as it counts now, S and H.
	Own Mass
	// Neighbours is the evidence of its network without the host itself.
	Neighbours Mass
	// Expected is p, the share of spam expected of a host of this network.
	Expected float64
	// Strength is k, how many messages that expectation weighs.
	Strength float64
}

// Judge scores a host by its own evidence and its network's at a time. The result is finite for every input.
func Judge(host, network Evidence, now time.Time, p Params) Judgement {
	j := Judgement{
		Own:        host.Mass(now, p.HalfLife, p.Cap),
		Neighbours: network.Without(host).Mass(now, p.NetworkHalfLife, p.Cap),
	}
	known := j.Neighbours.Spam + j.Neighbours.Ham
	j.Expected = (j.Neighbours.Spam + networkShrink*p.Prior) / (known + networkShrink)
	// A network whose hosts are alike tells more of a host than a mixed one: its share of spam is near 0 or 1.
	alike := (2*j.Expected - 1) * (2*j.Expected - 1)
	j.Strength = baseStrength + likeness*alike*known/(known+networkShrink)
	j.Score = math.Log((j.Own.Spam + j.Strength*j.Expected) / (j.Own.Ham + j.Strength*(1-j.Expected)))
	return j
}
