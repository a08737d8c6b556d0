package behaviour

import (
	"hash/maphash"
	"math"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"
)

const (
	// alikeWithin is how long messages of a host to one recipient, or of one domain, are counted
	// together.
	alikeWithin = time.Hour
	// alikeWhole is how many messages of a host to one recipient within that time count whole: a
	// forwarder and a mailing list may have no other recipient here.
	alikeWhole = 4
	// bouncesOfDay are few bounces of a host in a day, and one in bouncesShare of its messages is.
	bouncesOfDay, bouncesShare = 3, 5
	// mostSenders bounds the hosts remembered, mostAlike the recipients and domains of one.
	mostSenders = 20_000
	mostAlike   = 128
)

// Variety tells how much the ham of a host proves, by how much like it the host sent within an
// hour. Anybody can send ham to a mailbox of their own, as much as they like and in a minute: it
// shows less than the same number of messages to many people over a day.
type Variety struct {
	seed  maphash.Seed
	hosts *otter.Cache[netip.Prefix, *sender]
}

// sender is what a host sent since a time: how many messages to each recipient and of each envelope
// domain, and in the last minute.
type sender struct {
	sync.Mutex
	since       time.Time
	to, domains map[uint64]int
	minute      int64
	inMinute    int
	// day is a day, counted from 1970, in which so many messages came, and so many bounces.
	day, mails, bounces int64
}

// NewVariety returns an empty memory of senders.
func NewVariety() *Variety {
	return &Variety{maphash.MakeSeed(), bounded[netip.Prefix, *sender](mostSenders)}
}

// Share takes a message of a host at a time, with its envelope domain and the recipients that were
// accepted, and returns the share of its weight that it counts if it is ham, above 0 and up to 1.
//
// Four messages to a recipient within an hour count whole, the kth counts 4/k; if there are several
// recipients, the one that got least decides. The kth of an envelope domain within an hour, or of a
// minute, counts 1/k^(1/4): more of them may be the burst of an honest bulk sender, of which the
// filter flags a few. A host of standing has shown in days that it is honest: its kth message to a
// recipient counts (4/k)^(1/2), and others whole.
func (v *Variety) Share(host netip.Prefix, domain string, to []string, standing bool, at time.Time) float64 {
	s, _ := v.hosts.SetIfAbsent(host, &sender{})
	s.Lock()
	defer s.Unlock()
	if !within(at, s.since, alikeWithin) {
		s.since, s.to, s.domains = at, map[uint64]int{}, map[uint64]int{}
	}
	if m := at.Unix() / 60; m != s.minute {
		s.minute, s.inMinute = m, 0
	}
	s.inMinute++
	least := 0
	for _, rcpt := range to {
		if k := another(s.to, v.hash(withoutExtension(rcpt))); least == 0 || k < least {
			least = k
		}
	}
	ofDomain := 0
	if domain != "" {
		ofDomain = another(s.domains, v.hash(domain))
	}
	ofRecipient := alikeWhole / float64(max(least, alikeWhole))
	if standing {
		return math.Sqrt(ofRecipient)
	}
	return min(ofRecipient, fourthRoot(ofDomain), fourthRoot(s.inMinute))
}

// fourthRoot is 1/k^(1/4), 1 for none.
func fourthRoot(k int) float64 { return math.Pow(float64(max(k, 1)), -0.25) }

// FewBounces counts a message of a host at a time, and reports whether its bounces of that day are
// few: spammers would use the null sender if it cost nothing.
func (v *Variety) FewBounces(host netip.Prefix, bounce bool, at time.Time) bool {
	s, _ := v.hosts.SetIfAbsent(host, &sender{})
	s.Lock()
	defer s.Unlock()
	if day := at.Unix() / 86400; day != s.day {
		s.day, s.mails, s.bounces = day, 0, 0
	}
	s.mails++
	if bounce {
		s.bounces++
	}
	return s.bounces <= max(bouncesOfDay, s.mails/bouncesShare)
}

func (v *Variety) hash(s string) uint64 {
	return maphash.String(v.seed, strings.ToLower(strings.Trim(s, "<>")))
}

// withoutExtension is a recipient without the extension of its local part (RFC 5233), which makes
// as many addresses of one mailbox as one likes.
func withoutExtension(rcpt string) string {
	at := strings.LastIndexByte(rcpt, '@')
	if plus := strings.IndexByte(rcpt, '+'); plus > 0 && plus < at {
		return rcpt[:plus] + rcpt[at:]
	}
	return rcpt
}

// another counts one more, and returns how many it makes. Where there are too many others, one that
// came seldom makes room: what comes again and again stays known.
func another(counts map[uint64]int, of uint64) int {
	if _, known := counts[of]; !known && len(counts) >= mostAlike {
		least, looked := uint64(0), 0
		for other, n := range counts {
			if looked == 0 || n < counts[least] {
				least = other
			}
			if looked++; n == 1 || looked == 16 {
				break
			}
		}
		delete(counts, least)
	}
	counts[of]++
	return counts[of]
}
