package verdict

import (
	"hash/maphash"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"
)

const (
	// harvestWithin is how long unknown users of a client are counted together, harvestWhole how many of them count whole.
	harvestWithin = time.Hour
	harvestWhole  = 10
	// floodWithin and floodWhole are the same for sessions without a message.
	floodWithin = time.Minute
	floodWhole  = 30
	// clientsMost bounds the clients remembered, rcptsMost the recipients of one.
	clientsMost = 100_000
	rcptsMost   = 64
)

// Harvest counts what a client does again and again: asking for unknown users, and sessions without a message. It is bounded, and forgets
// the clients that were silent longest.
type Harvest struct {
	seed    maphash.Seed
	clients *otter.Cache[netip.Addr, *asked]
	idle    *otter.Cache[netip.Addr, *idle]
}

// asked are the unknown users that a client asked for.
type asked struct {
	sync.Mutex
	rcpts map[uint64]struct{}
}

type idle struct {
	sync.Mutex
	since time.Time
	n     int
}

// NewHarvest returns an empty one.
func NewHarvest() *Harvest {
	return &Harvest{
		seed: maphash.MakeSeed(),
		clients: otter.Must(&otter.Options[netip.Addr, *asked]{
			MaximumSize: clientsMost, ExpiryCalculator: otter.ExpiryCreating[netip.Addr, *asked](harvestWithin),
		}),
		idle: otter.Must(&otter.Options[netip.Addr, *idle]{
			MaximumSize: clientsMost, ExpiryCalculator: otter.ExpiryWriting[netip.Addr, *idle](floodWithin),
		}),
	}
}

// Count takes an unknown user that a client asked for and returns what that adds: nothing for the first, which is a typo, and for one
// that was asked for already; a ninth for each further one, so that ten count whole.
func (h *Harvest) Count(client netip.Addr, recipient string) float64 {
	if !client.IsValid() {
		return 0
	}
	a, _ := h.clients.SetIfAbsent(client, &asked{rcpts: map[uint64]struct{}{}})
	a.Lock()
	defer a.Unlock()
	rcpt := maphash.String(h.seed, strings.ToLower(recipient))
	if _, again := a.rcpts[rcpt]; again {
		return 0
	}
	if len(a.rcpts) < rcptsMost {
		a.rcpts[rcpt] = struct{}{}
	}
	if len(a.rcpts) == 1 {
		return 0
	}
	return 1.0 / (harvestWhole - 1)
}

// Idle takes a session without a message and reports whether it makes a flood whole, and that begins anew.
func (h *Harvest) Idle(client netip.Addr, now time.Time) bool {
	if !client.IsValid() {
		return false
	}
	f, _ := h.idle.SetIfAbsent(client, &idle{since: now})
	f.Lock()
	defer f.Unlock()
	if now.Sub(f.since) > floodWithin {
		f.since, f.n = now, 0
	}
	f.n++
	if f.n < floodWhole {
		return false
	}
	f.since, f.n = now, 0
	return true
}
