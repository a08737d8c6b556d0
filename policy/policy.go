// Package policy judges SMTP clients: whether STARTTLS is offered to them, and why.
//
// It knows modes, tiers, exempt networks and the operator's overrides, and leaves the score to
// package reputation. A Policy is an immutable value without I/O or clock; a Judge joins it to a
// store of evidence, whose shape is declared here, where it is used.
package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gaissmai/bart"

	"github.com/ehlogate/ehlogate/policy/reputation"
)

// Mode is what the policy does with a tier.
type Mode string

// The modes.
const (
	// Observe decides and logs, and withholds nothing.
	Observe Mode = "observe"
	// Protect withholds STARTTLS from tier bad.
	Protect Mode = "protect"
	// Earn offers STARTTLS to tier good only.
	Earn Mode = "earn"
)

// Modes are all modes.
var Modes = []Mode{Observe, Protect, Earn}

// Action is what the milter does with a message of a tier's client.
type Action string

// The actions.
const (
	ActNone       Action = "none"
	ActHeader     Action = "header"
	ActQuarantine Action = "quarantine"
	ActTempfail   Action = "tempfail"
	ActReject     Action = "reject"
)

// Actions are all actions.
var Actions = []Action{ActNone, ActHeader, ActQuarantine, ActTempfail, ActReject}

// Refuses reports whether an action refuses mail.
func (a Action) Refuses() bool { return a == ActTempfail || a == ActReject }

// Stage is where in a session an action that refuses mail takes effect.
type Stage string

// The stages.
const (
	AtConnect Stage = "connect"
	AtMail    Stage = "mail"
	AtRcpt    Stage = "rcpt"
	// AtMessage is the end of a message: it was transmitted and filtered, so that its verdict is
	// learnt.
	AtMessage Stage = "message"
)

// Stages are all stages.
var Stages = []Stage{AtConnect, AtMail, AtRcpt, AtMessage}

// STARTTLS and SilentDiscard are the EHLO keywords that withhold STARTTLS and keep Postfix's log
// quiet about it: smtpd_discard_ehlo_keywords in postconf(5).
const (
	STARTTLS      = "starttls"
	SilentDiscard = "silent-discard"
)

// Treatment is what a tier's clients get beside the mode's rule.
type Treatment struct {
	// Discard are further EHLO keywords not offered to them.
	Discard []string
	Action  Action
	// Stage is where Action takes effect if it refuses mail; AtRcpt where it is empty.
	Stage Stage
}

// Policy decides. Its fields are set once, before use.
type Policy struct {
	Mode       Mode
	Params     reputation.Params
	Thresholds reputation.Thresholds
	Treatments map[reputation.Tier]Treatment
	// Exempt networks are offered STARTTLS always and get no action.
	Exempt []netip.Prefix
	Layout
	// ASN returns the autonomous system of an address, 0 when it is not known. It is nil where none
	// is.
	ASN func(netip.Addr) uint32

	exempt *bart.Lite
}

// thisHost is exempt whatever the operator lists: mail of the host itself does not come from a
// stranger.
var thisHost = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("::1/128")}

// Default returns the policy of a configuration that says nothing: protect, loopback exempt, /24
// and /64 in /48.
func Default() Policy {
	return Policy{
		Mode:       Protect,
		Params:     reputation.DefaultParams,
		Thresholds: reputation.DefaultThresholds,
		Exempt:     []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		Layout:     Layout{IPv4Network: 24, IPv6Host: 64, IPv6Network: 48},
	}
}

// New returns a policy ready for use.
func New(p Policy) *Policy {
	p.exempt = new(bart.Lite)
	for _, n := range slices.Concat(thisHost, p.Exempt) {
		p.exempt.Insert(n)
	}
	return &p
}

// Exempted are the networks that are exempt, this host's own among them.
func (p *Policy) Exempted() []netip.Prefix { return slices.Concat(thisHost, p.Exempt) }

// Exempts reports whether an address is exempt.
func (p *Policy) Exempts(addr netip.Addr) bool { return p.exempt.Contains(addr) }

// Layout is how addresses are cut into hosts and networks: the prefix lengths of a client's
// identities. An IPv4 host is its /32.
type Layout struct{ IPv4Network, IPv6Host, IPv6Network int }

// Text names a layout, so that two places can be held to have the same.
func (l Layout) Text() string {
	return fmt.Sprintf("IPv4 /32 in /%d; IPv6 /%d in /%d", l.IPv4Network, l.IPv6Host, l.IPv6Network)
}

// Keys are the identities of an address, which must be valid.
func (p *Policy) Keys(addr netip.Addr) Keys {
	host, network := 32, p.IPv4Network
	if addr.Is6() {
		host, network = p.IPv6Host, p.IPv6Network
	}
	k := Keys{Host: netip.PrefixFrom(addr, host).Masked(), Network: netip.PrefixFrom(addr, network).Masked()}
	if p.ASN != nil {
		k.ASN = p.ASN(addr)
	}
	return k
}

// Rule is what decided.
type Rule string

// The rules, in the order in which they are tried.
const (
	RuleExempt      Rule = "exempt"      // the client is of an exempt network
	RuleOverride    Rule = "override"    // the operator's override
	RuleException   Rule = "exception"   // what was noticed of the host and STARTTLS
	RuleUnavailable Rule = "unavailable" // the store did not answer in time
	RuleTier        Rule = "tier"        // the client's tier, in the mode in force
)

// Decision is what an address is told, with what it was made of.
type Decision struct {
	Addr netip.Addr
	Keys
	reputation.Judgement
	Tier reputation.Tier
	// Rule says what decided. Override is set with RuleOverride, Exception with RuleException.
	Rule      Rule
	Override  *Override
	Exception *Exception
	// Withhold says that STARTTLS is not offered; Would that a mode other than observe would not
	// offer it.
	Withhold, Would bool
	// Discard are the EHLO keywords that the MTA is told to leave out, silent-discard not among
	// them.
	Discard []string
	// Action is what the milter does with the client's mail, Stage where, if it is refused.
	Action Action
	Stage  Stage
	Mode   Mode
}

// Decide judges a valid address by what is known of it.
func (p *Policy) Decide(addr netip.Addr, known Known, now time.Time) Decision {
	return p.decide(addr, p.Keys(addr), p.Exempts(addr), known, now)
}

// DecideNetwork judges what holds for a network as a whole, by what is known of its first address,
// and by the override and the exception that hold for all of it.
func (p *Policy) DecideNetwork(n netip.Prefix, known Known, now time.Time) Decision {
	return p.decide(n.Addr(), p.Keys(n.Addr()), p.exempt.LookupPrefix(n), known, now)
}

func (p *Policy) decide(addr netip.Addr, k Keys, exempt bool, known Known, now time.Time) Decision {
	d := Decision{Addr: addr, Keys: k, Mode: p.Mode, Action: ActNone}
	d.Judgement = p.judge(known, now)
	d.Tier = p.Thresholds.Next(known.Host.Tier, d.Judgement)
	d.Rule = p.rule(&d, exempt, &known, now)
	switch d.Rule {
	case RuleExempt, RuleUnavailable:
		return d
	case RuleOverride:
		d.Override = known.Override
		if known.Override.Allow {
			return d
		}
		d.Tier = reputation.Bad
		d.withhold(true)
	case RuleException:
		d.Exception = known.Exception
		d.withhold(!known.Exception.Offers())
	case RuleTier:
		d.withhold(d.Tier == reputation.Bad || p.Mode == Earn && d.Tier != reputation.Good)
	}
	if t := p.Treatments[d.Tier]; p.Mode != Observe {
		if d.Action = cmp.Or(t.Action, ActNone); d.Action.Refuses() {
			d.Stage = cmp.Or(t.Stage, AtRcpt)
		}
		for _, k := range t.Discard {
			if k != SilentDiscard && !slices.Contains(d.Discard, k) {
				d.Discard = append(d.Discard, k)
			}
		}
	}
	return d
}

// rule finds what decides about a client of this tier.
func (p *Policy) rule(d *Decision, exempt bool, known *Known, now time.Time) Rule {
	switch {
	case exempt:
		return RuleExempt
	case known.Override != nil && !known.Override.Ended(now):
		return RuleOverride
	case known.Exception != nil && !known.Exception.Ended(now) && p.heeds(known.Exception, d.Judgement):
		return RuleException
	case known.Unavailable && (d.Tier != reputation.Bad || d.Own.Spam == 0):
		// The client may be good. Only what it did meanwhile can convict it.
		return RuleUnavailable
	}
	return RuleTier
}

// heeds reports whether an exception decides: that of a host that requires TLS does so only until
// the host's own mail is bad.
func (p *Policy) heeds(e *Exception, j reputation.Judgement) bool {
	return e.Cause != RequiresTLS || j.Own.LogOdds < p.Thresholds.Bad.Enter
}

func (d *Decision) withhold(would bool) {
	d.Would = would
	// Mode observe puts the judgement on trial. An operator's deny is not part of that, and holds.
	d.Withhold = would && (d.Mode != Observe || d.Rule == RuleOverride)
	if d.Withhold {
		d.Discard = onlySTARTTLS
	}
}

// onlySTARTTLS is what is left out in most cases. It is full: who appends to it makes a copy.
var onlySTARTTLS = slices.Clip([]string{STARTTLS})

// Answer is what the MTA is told of STARTTLS.
func (d Decision) Answer() Answer {
	if d.Withhold {
		return Withheld
	}
	return Offered
}

// Verb is the answer as replay and lookup print it: offer or withhold.
func (d Decision) Verb() string { return verb(d.Withhold) }

// WouldVerb is the answer that a mode other than observe would give.
func (d Decision) WouldVerb() string { return verb(d.Would) }

func verb(withhold bool) string {
	if withhold {
		return "withhold"
	}
	return "offer"
}

// Keywords is the reply of the MTA's table, such as "starttls, silent-discard", or "" when nothing
// is left out.
func (d Decision) Keywords() string {
	switch {
	case len(d.Discard) == 0:
		return ""
	case len(d.Discard) == 1 && d.Discard[0] == STARTTLS:
		return STARTTLS + ", " + SilentDiscard
	}
	return strings.Join(append(slices.Clone(d.Discard), SilentDiscard), ", ")
}

// Why is the decision's reason in a sentence.
func (d Decision) Why() string {
	switch d.Rule {
	case RuleExempt:
		return "exempt network: STARTTLS is always offered"
	case RuleOverride:
		return fmt.Sprintf("operator's %s of %s%s", d.Override.Verb(), d.Override.Network, note(d.Override.Note))
	case RuleException:
		until := d.Exception.Until.Format(time.RFC3339)
		if d.Exception.Cause == OwnUser || d.Exception.Cause == TLSDemanded {
			return fmt.Sprintf("%s: offered until %s; %s", d.Exception.Note, until, d.terms())
		}
		if d.Exception.Offers() {
			return fmt.Sprintf("it %s, so it may require TLS: offered until %s, unless its own mail is bad; %s", d.Exception.Note, until, d.terms())
		}
		return fmt.Sprintf("%s: withheld until %s, so that its mail gets through in the clear; %s", d.Exception.Note, until, d.terms())
	case RuleUnavailable:
		return "the store does not answer: STARTTLS is offered"
	}
	s := d.terms()
	if d.Would && !d.Withhold {
		s += "; would be withheld outside observe"
	}
	if d.Action.Refuses() {
		s += fmt.Sprintf("; its mail is refused (%s at %s)", d.Action, d.Stage)
	}
	return s
}

func (d Decision) terms() string {
	return fmt.Sprintf("mode %s, tier %s: score %.2f = %.2f from %.1f spam and %.1f ham of its own, %+.2f from neighbours weighing %.1f spam and %.1f ham",
		d.Mode, d.Tier, d.Score, d.Own.LogOdds, d.Own.Spam, d.Own.Ham, d.Expected.LogOdds, d.Expected.Neighbours.Spam, d.Expected.Neighbours.Ham)
}

func note(s string) string {
	if s == "" {
		return ""
	}
	return " (" + Printable(s) + ")"
}
