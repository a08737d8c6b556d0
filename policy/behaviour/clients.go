package behaviour

import (
	"hash/maphash"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/ehlogate/ehlogate/policy"
)

const (
	// harvestWithin is how long the unknown users of a client are counted together, harvestWhole
	// how many of them count whole.
	harvestWithin = time.Hour
	harvestWhole  = 10
	// floodWithin and floodWhole are the same for sessions without a message.
	floodWithin = time.Minute
	floodWhole  = 30
	// mostClients bounds the clients remembered, mostRcpts the recipients of one.
	mostClients = 100_000
	mostRcpts   = 64
)

// Witness is who saw what a client did. The milter and the MTA's log both tell of most of it, in
// any order.
type Witness uint8

// The witnesses.
const (
	ByMilter Witness = 1 << iota
	ByLog
)

// Clients counts the unknown users that clients ask for, and their sessions without a message.
type Clients struct {
	seed     maphash.Seed
	harvests *otter.Cache[netip.Addr, *harvest]
	floods   *otter.Cache[netip.Addr, *flood]
}

// harvest is the unknown users that a client asked for since a time.
type harvest struct {
	sync.Mutex
	since time.Time
	rcpts map[uint64]asked
}

// asked is an unknown user that was asked for: what it counts, and who has told of it.
type asked struct {
	counts policy.Confidence
	by     Witness
}

// flood is the number of sessions without a message since a time.
type flood struct {
	sync.Mutex
	since    time.Time
	sessions int
}

// NewClients returns an empty memory of clients.
func NewClients() *Clients {
	return &Clients{
		seed:     maphash.MakeSeed(),
		harvests: bounded[netip.Addr, *harvest](mostClients),
		floods:   bounded[netip.Addr, *flood](mostClients),
	}
}

// UnknownUser takes an unknown user that a client asked for at a time, as a witness tells, and
// returns what that adds to the confidence that the client harvests addresses: nothing for the
// first one of an hour, which may be a typo; a ninth for each further one, so that ten count whole.
// What one witness tells again adds nothing. What the other one tells, too, adds the same to what
// that one says of the session, so that it does not matter who is first.
func (c *Clients) UnknownUser(client netip.Addr, recipient string, at time.Time, by Witness) policy.Confidence {
	if !client.IsValid() {
		return 0
	}
	h, _ := c.harvests.SetIfAbsent(client, &harvest{since: at, rcpts: map[uint64]asked{}})
	h.Lock()
	defer h.Unlock()
	if !within(at, h.since, harvestWithin) {
		h.since, h.rcpts = at, map[uint64]asked{}
	}
	rcpt := maphash.String(c.seed, strings.ToLower(strings.Trim(recipient, "<>")))
	known, again := h.rcpts[rcpt]
	switch {
	case again && known.by&by != 0:
		return 0
	case !again && len(h.rcpts) > 0:
		known.counts = 1.0 / (harvestWhole - 1)
	}
	known.by |= by
	if again || len(h.rcpts) < mostRcpts {
		h.rcpts[rcpt] = known
	}
	return known.counts
}

// Idle takes a session without a message that ended at a time and reports whether it is the last of
// a flood. The next flood begins with the next session.
func (c *Clients) Idle(client netip.Addr, at time.Time) bool {
	if !client.IsValid() {
		return false
	}
	f, _ := c.floods.SetIfAbsent(client, &flood{since: at})
	f.Lock()
	defer f.Unlock()
	if !within(at, f.since, floodWithin) {
		f.since, f.sessions = at, 0
	}
	f.sessions++
	if f.sessions < floodWhole {
		return false
	}
	f.since, f.sessions = at, 0
	return true
}
