package ledger

import (
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// Report is what was counted in a time, as commands and the page show it. Sessions are under
// STARTTLS, TLS and Handshakes, messages everywhere else.
type Report struct {
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	// Messages are by class and whether they came over TLS.
	Messages map[policy.Class]Transport `json:"messages"`
	// Sessions counts those that were heard, STARTTLS what their clients were offered, and TLS
	// their versions, "none" for those in the clear.
	Sessions int64                   `json:"sessions"`
	STARTTLS map[policy.Answer]int64 `json:"starttls"`
	// Uses are sessions by what was offered, and by whether TLS was used.
	Uses       map[policy.Answer]Transport `json:"uses"`
	TLS        map[string]int64            `json:"tls"`
	Handshakes Handshakes                  `json:"handshakes"`
	Shares     Shares                      `json:"shares"`
	Clients    ClientCounts                `json:"clients"`
	// Versions, Ciphers, Exchanges, Sources, Tiers, Answers and Outcomes are messages by class.
	Versions  map[string]Classed         `json:"versions"`
	Ciphers   map[string]Classed         `json:"ciphers"`
	Exchanges map[string]Classed         `json:"key_exchanges"`
	Sources   map[policy.Source]Classed  `json:"sources"`
	Tiers     map[string]Classed         `json:"tiers"`
	Answers   map[policy.Answer]Classed  `json:"answers"`
	Outcomes  map[policy.Outcome]Classed `json:"outcomes"`
	// Own are messages and sessions of the operator's own users, which are nowhere else.
	Own OwnCounts `json:"own_users"`
	// Series is the course, in steps of StepSeconds.
	Series      []Point `json:"series"`
	StepSeconds int64   `json:"step_seconds"`
	// Top are those that sent most spam, by kind; they are of whole hours, or of whole days (UTC)
	// where the time is longer than two.
	Top map[Kind][]Row `json:"top"`
	// Authenticated is what authenticated mail was, by what authenticated it.
	Authenticated map[Kind]Classed `json:"authenticated"`
	RequireTLS    RequireTLS       `json:"require_tls"`
	// Waves are those that were noticed, or ended, in the time or later.
	Waves []Wave `json:"waves"`
	Nodes []Node `json:"nodes,omitempty"`
	// Notes say what the figures lack.
	Notes []string `json:"notes,omitempty"`
}

// Transport is messages over TLS and in the clear.
type Transport struct {
	TLS   int64 `json:"tls"`
	Plain int64 `json:"plain"`
	// Unknown are those of which only a log, a feed or a person told: whether they came over TLS is
	// not known.
	Unknown int64 `json:"unknown,omitempty"`
}

// Sum adds all up.
func (t Transport) Sum() int64 { return t.TLS + t.Plain + t.Unknown }

// AllMessages is how many messages a report is about, of whatever class.
func (r *Report) AllMessages() (n int64) {
	for _, t := range r.Messages {
		n += t.Sum()
	}
	return n
}

// Classed is messages by class.
type Classed struct {
	Spam int64 `json:"spam"`
	Ham  int64 `json:"ham"`
	None int64 `json:"none"`
}

// Sum adds all classes up.
func (c Classed) Sum() int64 { return c.Spam + c.Ham + c.None }

// Handshakes are TLS handshakes, in sessions: those that took place, those that were not offered,
// those that failed, and clients that left, or were refused, because STARTTLS was not offered.
type Handshakes struct {
	Done    int64 `json:"done"`
	Avoided int64 `json:"avoided"`
	Failed  int64 `json:"failed"`
	Left    int64 `json:"left"`
	// SavedSeconds is the processor time that those avoided would have cost, at CostMilliseconds
	// each.
	SavedSeconds     float64 `json:"saved_seconds"`
	CostMilliseconds float64 `json:"cost_ms"`
}

// Shares are shares of messages with a verdict, from 0 to 1; null where there are none.
type Shares struct {
	// SpamOverTLS is how much of the spam came over TLS, TLSThatIsSpam how much of what came over
	// TLS was spam, PlainThatIsSpam the same in the clear, and Withheld how many sessions were not
	// offered STARTTLS.
	SpamOverTLS     *float64 `json:"spam_over_tls"`
	TLSThatIsSpam   *float64 `json:"tls_that_is_spam"`
	PlainThatIsSpam *float64 `json:"plain_that_is_spam"`
	HamOverTLS      *float64 `json:"ham_over_tls"`
	Withheld        *float64 `json:"withheld"`
}

// ClientCounts are estimates of how many different clients there were.
type ClientCounts struct {
	All  uint64 `json:"all"`
	TLS  uint64 `json:"tls"`
	Spam uint64 `json:"spam"`
}

// OwnCounts are of the operator's own users.
type OwnCounts struct {
	Messages int64 `json:"messages"`
	Sessions int64 `json:"sessions"`
}

// Point is a step of the course.
type Point struct {
	At         time.Time                  `json:"at"`
	Messages   map[policy.Class]Transport `json:"messages"`
	STARTTLS   map[policy.Answer]int64    `json:"starttls"`
	Handshakes Handshakes                 `json:"handshakes"`
	Shares     Shares                     `json:"shares"`
}

// Row is who messages came from.
type Row struct {
	Name string `json:"name"`
	// Contact is whom to write to about abuse, where that is known.
	Contact string    `json:"contact,omitempty"`
	Spam    Transport `json:"spam"`
	Ham     Transport `json:"ham"`
	None    Transport `json:"none"`
	// OldHam is ham over TLS that is older than 1.2.
	OldHam       int64 `json:"old_tls_ham,omitempty"`
	Withheld     int64 `json:"withheld"`
	Failed       int64 `json:"handshakes_failed"`
	Left         int64 `json:"left"`
	UnknownUsers int64 `json:"unknown_users"`
	// Missed is how many messages or sessions of it may not be counted, because it was not among
	// the most frequent for a while.
	Missed int64 `json:"missed,omitempty"`
}

// RequireTLS is what would be lost if TLS were required: ham that came in the clear, and ham that
// came in the clear or over versions older than 1.2.
type RequireTLS struct {
	Ham int64 `json:"ham"`
	// Withheld is ham that came in the clear because STARTTLS was withheld. It says nothing of what
	// its sender can do, and is in none of the others.
	Withheld int64 `json:"ham_withheld,omitempty"`

	Plain      int64    `json:"ham_in_the_clear"`
	Old        int64    `json:"ham_over_old_tls"`
	PlainShare *float64 `json:"share_in_the_clear"`
	OldShare   *float64 `json:"share_below_tls_1_2"`
	// Senders are the envelope domains with most of that ham, Clients the addresses.
	Senders []Row `json:"senders"`
	Clients []Row `json:"clients"`
}

// View is how a report is drawn up.
type View struct {
	// Step is the width of a step of the course, in Location.
	Step     time.Duration
	Location *time.Location
	// Top is how many of each kind are named, by Measure.
	Top     int
	Measure func(*Named) int64
	// HandshakeCost is the processor time of a handshake.
	HandshakeCost time.Duration
	// Node is the node whose counts are wanted, empty for all.
	Node string
}

// Measures are what clients, networks and domains can be ordered by.
var Measures = map[string]func(*Named) int64{
	"spam":          func(n *Named) int64 { return total(n.Spam) },
	"tls-spam":      func(n *Named) int64 { return overTLS(n.Spam) },
	"volume":        func(n *Named) int64 { return total(n.Spam) + total(n.Ham) + total(n.None) },
	"unknown-users": func(n *Named) int64 { return n.UnknownUsers },
	"broken-tls":    func(n *Named) int64 { return n.Failed },
}

// Report draws up a report of what was counted.
func (b *Book) Report(v View) *Report {
	c := b.Total()
	r := c.Summary(v.HandshakeCost)
	r.Since, r.Until, r.Clients = b.Since, b.Until, ClientCounts{b.Clients, b.TLSClients, b.SpamClients}
	r.StepSeconds, r.Series = int64(v.Step.Seconds()), b.course(v)
	for _, kind := range Kinds {
		r.Top[kind] = rows(b.Tallies[kind].Top(v.Top, v.Measure))
	}
	r.RequireTLS = b.requireTLS(c, v.Top)
	return r
}

// Summary is what a report has of counts alone, without course and names.
func (c *Counts) Summary(handshake time.Duration) *Report {
	r := &Report{
		Messages: c.messages(), STARTTLS: c.starttls(), Handshakes: c.handshakes(handshake), Shares: c.shares(),
		TLS: map[string]int64{}, Uses: map[policy.Answer]Transport{}, Own: OwnCounts{c[atOwn], c[atOwn+1]},
		Versions: classed(c, Versions, atMessages, 8), Ciphers: classed(c, Ciphers, atCiphers, 16), Exchanges: classed(c, Exchanges, atExchanges, 8),
		Sources: classed(c, Sources, atSources, 64), Tiers: classed(c, Tiers, atTiers, 8), Answers: classed(c, Answers, atAnswers, 8), Outcomes: classed(c, Outcomes, atOutcomes, 8),
		Series: []Point{}, Waves: []Wave{}, Top: map[Kind][]Row{}, Authenticated: classed(c, Proofs, atProofs, 4),
	}
	for at, answer := range Answers {
		var uses Transport
		for i, version := range Versions {
			n := c[atSessions+8*at+i]
			if r.Sessions += n; n != 0 {
				r.TLS[version] += n
			}
			if i == 0 {
				uses.Plain += n
			} else {
				uses.TLS += n
			}
		}
		r.Uses[answer] = uses
	}
	return r
}

func (c *Counts) messages() map[policy.Class]Transport {
	all := map[policy.Class]Transport{}
	for i, class := range Classes {
		t := Transport{Plain: c[atMessages+8*i], Unknown: c[atMessages+8*i+len(Versions)-1]}
		for version := 1; version < len(Versions)-1; version++ {
			t.TLS += c[atMessages+8*i+version]
		}
		all[class] = t
	}
	return all
}

func (c *Counts) starttls() map[policy.Answer]int64 {
	all := map[policy.Answer]int64{}
	for i, answer := range Answers {
		for version := range 8 {
			all[answer] += c[atSessions+8*i+version]
		}
		all[answer] += 0
	}
	return all
}

func (c *Counts) handshakes(cost time.Duration) (h Handshakes) {
	for i, answer := range Answers {
		for version := range 8 {
			n := c[atSessions+8*i+version]
			switch {
			case version > 0:
				h.Done += n
			case answer == policy.Withheld:
				h.Avoided += n
			}
		}
	}
	h.Failed, h.Left = c[atTroubles], c[atTroubles+1]+c[atTroubles+2]
	h.CostMilliseconds = float64(cost.Microseconds()) / 1000
	h.SavedSeconds = float64(h.Avoided) * cost.Seconds()
	return h
}

func (c *Counts) shares() Shares {
	m, answers := c.messages(), c.starttls()
	spam, ham := m[policy.Spam], m[policy.Ham]
	return Shares{
		SpamOverTLS: Share(spam.TLS, spam.TLS+spam.Plain), TLSThatIsSpam: Share(spam.TLS, spam.TLS+ham.TLS), PlainThatIsSpam: Share(spam.Plain, spam.Plain+ham.Plain),
		HamOverTLS: Share(ham.TLS, ham.TLS+ham.Plain), Withheld: Share(answers[policy.Withheld], answers[policy.Withheld]+answers[policy.Offered]),
	}
}

// Share is a part of a whole, nil of nothing.
func Share(part, whole int64) *float64 {
	if whole <= 0 {
		return nil
	}
	share := float64(part) / float64(whole)
	return &share
}

// classed are messages by name and class, without names of which there are none.
func classed[T ~string](c *Counts, names []T, at, room int) map[T]Classed {
	all := map[T]Classed{}
	for i, name := range names {
		if n := (Classed{c[at+i], c[at+room+i], c[at+2*room+i]}); n != (Classed{}) {
			all[name] = n
		}
	}
	return all
}

// course are the counts in steps, without gaps.
func (b *Book) course(v View) []Point {
	points := []Point{}
	if v.Step <= 0 || len(b.Slots) == 0 {
		return points
	}
	steps := map[time.Time]*Counts{}
	for i := range b.Slots {
		at := v.start(b.Slots[i].At)
		if steps[at] == nil {
			steps[at] = new(Counts)
		}
		steps[at].plus(b.Slots[i].Counts)
	}
	// What was before counting began is left out.
	since := b.Since
	if first := b.Slots[0].At; first.After(since) {
		since = first
	}
	for at := v.start(since); at.Before(b.Until); at = v.next(at) {
		c := steps[at]
		if c == nil {
			c = new(Counts)
		}
		points = append(points, Point{At: at, Messages: c.messages(), STARTTLS: c.starttls(), Handshakes: c.handshakes(v.HandshakeCost), Shares: c.shares()})
	}
	return points
}

const aDay = 24 * time.Hour

// start is when the step of a time began: days begin at midnight where the operator is.
func (v *View) start(t time.Time) time.Time {
	if v.Step < aDay {
		return t.Truncate(v.Step).In(v.Location)
	}
	y, m, d := t.In(v.Location).Date()
	return time.Date(y, m, d, 0, 0, 0, 0, v.Location)
}

func (v *View) next(t time.Time) time.Time {
	if v.Step < aDay {
		return t.Add(v.Step)
	}
	y, m, d := t.Date()
	return time.Date(y, m, d+1, 0, 0, 0, 0, v.Location)
}

// WriteTo names whom to write to about each of those that are named.
func (r *Report) WriteTo(contact func(name string) string) {
	for _, rows := range r.Top {
		for i := range rows {
			rows[i].Contact = contact(rows[i].Name)
		}
	}
}

func transport(by [protocols]int64) Transport {
	return Transport{TLS: overTLS(by), Plain: by[InClear], Unknown: by[NotKnown]}
}

func rows(all []Named) []Row {
	list := []Row{}
	for i := range all {
		n := &all[i]
		list = append(list, Row{
			Name: n.Name, Spam: transport(n.Spam), Ham: transport(n.Ham), None: transport(n.None), OldHam: n.Ham[OldTLS],
			Withheld: n.Withheld, Failed: n.Failed, Left: n.Left, UnknownUsers: n.UnknownUsers, Missed: n.Missed,
		})
	}
	return list
}

func (b *Book) requireTLS(c *Counts, top int) RequireTLS {
	var r RequireTLS
	for i, version := range Versions {
		n := c[atMessages+8*placeClass(policy.Ham)+i]
		if protocolOf(version) == NotKnown {
			continue
		}
		r.Ham += n
		switch protocolOf(version) {
		case InClear:
			r.Plain += n
		case OldTLS:
			r.Old += n
		}
	}
	r.Withheld = min(r.Plain, c[atAnswers+8*placeClass(policy.Ham)+placeAnswer(policy.Withheld)])
	r.Ham, r.Plain = r.Ham-r.Withheld, r.Plain-r.Withheld
	r.PlainShare, r.OldShare = Share(r.Plain, r.Ham), Share(r.Plain+r.Old, r.Ham)
	lost := func(n *Named) int64 { return n.byChoice() + n.Ham[OldTLS] }
	r.Senders, r.Clients = losses(b.Tallies[ByDomain].Top(top, lost)), losses(b.Tallies[ByAddress].Top(top, lost))
	return r
}

// byChoice is ham that came in the clear although STARTTLS was offered, as far as that is known:
// what was withheld is counted without its class.
func (n *Named) byChoice() int64 { return max(0, n.Ham[InClear]-n.Withheld) }

func losses(all []Named) []Row {
	list := rows(all)
	for i := range all {
		list[i].Ham.Plain = all[i].byChoice()
	}
	return list
}
