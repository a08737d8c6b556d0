// Package reputation is the science of ehlogate: evidence, its decay, and the score that is made of
// it.
//
// Evidence of a key (a host, a network or an autonomous system) is plain counts of spam and ham in
// slices of time: short ones for the last hours, because a clean-up must be noticed within hours,
// and long ones for the last days, because an honest sender may be a rare one. Adding is a sum, so
// updates commute: two mail exchangers, a late report that takes a verdict back and a replay give
// the same evidence in any order. Bounds and fading are applied only when evidence is read, because
// a bound applied while adding does not commute.
//
// The score is the log-odds of spam. A host's own verdicts move it as in Wald's sequential test,
// bounded and faded; it starts at what is expected of a host of its network.
// contrib/model/README.md derives it.
//
// Everything here is a pure function over small values: no clock, no I/O, no state.
package reputation

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

const (
	// SliceWidth is the length of a recent slice, Slices how many are kept: the last two to three
	// hours.
	SliceWidth = time.Hour
	Slices     = 3
	// PastWidth is the length of a long slice, Pasts how many are kept: the last four to eight
	// days. Long slices hold the recent ones, too.
	PastWidth = 96 * time.Hour
	Pasts     = 2
	// Lifetime is how long evidence can count.
	Lifetime = PastWidth * Pasts
	// Unit is the weight of one message in a count: a count of Unit is one message of full weight.
	Unit = 8
	// RecordSize is the length of an encoded Evidence in bytes.
	RecordSize = 32

	// RecordVersion is in the first four bits of an encoded Evidence.
	RecordVersion = 2
	// MostRecent and MostPast are where counts stop, which is what the record holds: 4095 messages
	// in a recent slice, a million in a long one.
	MostRecent, MostPast = 1<<15 - 1, 1<<23 - 1
	// SlicesPerPast is how many recent slices are as long as a long one.
	SlicesPerPast = uint32(PastWidth / SliceWidth)
	// ContributionCap is how many messages a host speaks for in its network, in each slice: each
	// host has one voice.
	ContributionCap = 1

	// mostSlice is the newest slice that the record holds: the year 3883.
	mostSlice = 1<<24 - 1
	// tierClock is the resolution of Evidence.since.
	tierClock = 5 * time.Minute
	// ClocksPerSlice is how many tierClocks a recent slice has.
	ClocksPerSlice = uint32(SliceWidth / tierClock)
	// scoreUnit is the resolution of Evidence.at: a sixteenth.
	scoreUnit = 16
)

// ErrRecord is returned for bytes that are not an evidence record, or one of a version this program
// does not know.
var ErrRecord = errors.New("not an evidence record of a known version")

// Count is the mass of spam and of ham in one slice, in 1/Unit of a message. It is below zero while
// a verdict is taken back that has not come in yet, and counts as zero then.
type Count struct{ Spam, Ham int32 }

// Evidence is what is known of one key. The zero value knows nothing.
type Evidence struct {
	// Newest is the number of the newest recent slice: Unix time divided by SliceWidth.
	Newest uint32
	// Recent holds slice n at n % Slices, for n in (Newest-Slices, Newest].
	Recent [Slices]Count
	// Past holds long slice m at m % Pasts, for the long slices up to the one that Newest lies in.
	Past [Pasts]Count
	// Tier is the tier that the key was in when it was last learnt of.
	Tier Tier
	// since and at are when the tier was entered, in tierClock, and the score then, in 1/scoreUnit.
	// Entered reads them.
	since uint32
	at    int8
}

// Slice is the number of the recent slice that a time lies in; times before 1970 lie in slice 0.
func Slice(t time.Time) uint32 {
	n := t.Unix() / int64(SliceWidth/time.Second)
	return uint32(min(max(n, 0), mostSlice))
}

// Empty reports whether nothing is left that could count at the given time.
func (e Evidence) Empty(now time.Time) bool {
	if Slice(now)/SlicesPerPast >= e.Newest/SlicesPerPast+Pasts {
		return true
	}
	return e.Recent == [Slices]Count{} && e.Past == [Pasts]Count{}
}

// Move is what a change of a host's evidence moves in its network's: what the host says there after
// less what it said before.
type Move struct {
	// At is the recent slice of the change.
	At uint32
	// Recent and Past are for that slice and for the long one that it lies in.
	Recent, Past Count
}

// Add returns the evidence with spam and ham, in messages, added at a time, and what that moves in
// the key's network. Taking back is adding what is below zero. What is older than a ring is dropped
// from it, as it would have been had it come in order. Non-numbers count as nothing.
func (e Evidence) Add(at time.Time, spam, ham float64) (Evidence, Move) {
	return e.AddCount(Slice(at), CountOf(spam, ham))
}

// AddCount is Add with the slice and the count already made out.
func (e Evidence) AddCount(n uint32, d Count) (Evidence, Move) {
	e.advance(n)
	m := Move{At: n}
	if c := e.past(n / SlicesPerPast); c != nil {
		m.Past = c.move(d, MostPast)
	}
	if c := e.recent(n); c != nil {
		m.Recent = c.move(d, MostRecent)
	}
	return e, m
}

// Apply returns a network's evidence after a move in one of its hosts: the sum, slice by slice, of
// what its hosts say there.
func (e Evidence) Apply(m Move) Evidence {
	e.advance(m.At)
	if c := e.past(m.At / SlicesPerPast); c != nil {
		*c = c.plus(m.Past, MostPast)
	}
	if c := e.recent(m.At); c != nil {
		*c = c.plus(m.Recent, MostRecent)
	}
	return e
}

// Merge returns the sum of two pieces of evidence of the same key. It commutes and associates. The
// tier is that of the newer piece, or the worse of the two when they are equally new.
func Merge(a, b Evidence) Evidence {
	if cmp.Or(cmp.Compare(a.Newest, b.Newest), cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.since, b.since), cmp.Compare(a.at, b.at)) < 0 {
		a, b = b, a
	}
	a.combine(&b, Count.plus)
	return a
}

// Without returns a network's evidence less what one of its hosts says there.
func (e Evidence) Without(host Evidence) Evidence {
	e.combine(&host, func(c, d Count, most int32) Count { return c.minus(d.contribution(), most) })
	return e
}

// With returns a network's evidence with what one more of its hosts says there.
func (e Evidence) With(host Evidence) Evidence {
	e.advance(host.Newest)
	e.combine(&host, func(c, d Count, most int32) Count { return c.plus(d.contribution(), most) })
	return e
}

// Rejoin returns a network's evidence after two pieces of evidence of one of its hosts, each of
// which had its say in it, have become one.
func (e Evidence) Rejoin(a, b Evidence) Evidence {
	both := Merge(a, b)
	e.advance(both.Newest)
	return e.Without(a).Without(b).With(both)
}

// combine makes of each slice that both keep what f says of the two.
func (e *Evidence) combine(other *Evidence, f func(c, d Count, most int32) Count) {
	for i := range other.Recent {
		n := other.Newest - uint32(i)
		if c, d := e.recent(n), other.recent(n); c != nil && d != nil {
			*c = f(*c, *d, MostRecent)
		}
	}
	for i := range other.Past {
		m := other.Newest/SlicesPerPast - uint32(i)
		if c, d := e.past(m), other.past(m); c != nil && d != nil {
			*c = f(*c, *d, MostPast)
		}
	}
}

// Heal returns the evidence with nothing in it later than the hour after a time. What bears a later
// time, because a clock was wrong or false input was believed, counts from that hour on: left alone
// it would never fade, and nothing that comes in at its own time could be added.
func (e Evidence) Heal(now time.Time) Evidence { return e.HealSlice(Slice(now) + 1) }

// HealSlice is Heal with the newest slice allowed.
func (e Evidence) HealSlice(newest uint32) Evidence {
	if clock := newest * ClocksPerSlice; e.since > clock {
		e.since = clock
	}
	if e.Newest <= newest {
		return e
	}
	healed := Evidence{Newest: newest, Tier: e.Tier, since: e.since, at: e.at}
	for i := range min(Slices, e.Newest+1) {
		n := e.Newest - i
		if c := healed.recent(min(n, newest)); c != nil {
			*c = c.plus(e.Recent[n%Slices], MostRecent)
		}
	}
	for i := range min(Pasts, e.Newest/SlicesPerPast+1) {
		m := e.Newest/SlicesPerPast - i
		if c := healed.past(min(m, newest/SlicesPerPast)); c != nil {
			*c = c.plus(e.Past[m%Pasts], MostPast)
		}
	}
	return healed
}

// Enter returns the evidence in a tier, entered at a time with a score if it was not in it before.
func (e Evidence) Enter(t Tier, at time.Time, score float64) Evidence {
	if t == e.Tier && e.since != 0 {
		return e
	}
	e.Tier = t
	e.since = uint32(min(max(at.Unix()/int64(tierClock/time.Second), 0), 1<<24-1))
	e.at = int8(math.Round(min(max(score*scoreUnit, math.MinInt8), math.MaxInt8)))
	return e
}

// Entered is when the evidence's tier was entered, to five minutes, and the score then, to a
// sixteenth; a zero time is never.
func (e Evidence) Entered() (at time.Time, score float64) {
	if e.since == 0 {
		return time.Time{}, 0
	}
	return time.Unix(int64(e.since)*int64(tierClock/time.Second), 0).UTC(), float64(e.at) / scoreUnit
}

// Since is the start of the oldest slice that knows something no other does, or the zero time.
func (e Evidence) Since() time.Time {
	start := func(n int64, width time.Duration) time.Time { return time.Unix(n*int64(width/time.Second), 0).UTC() }
	for m := max(int64(e.Newest/SlicesPerPast)-Pasts+1, 0); m <= int64(e.Newest/SlicesPerPast); m++ {
		if e.older(m) != (Count{}) {
			return start(m, PastWidth)
		}
	}
	for n := max(int64(e.Newest)-Slices+1, 0); n <= int64(e.Newest); n++ {
		if e.Recent[n%Slices] != (Count{}) {
			return start(n, SliceWidth)
		}
	}
	return time.Time{}
}

// Mass is evidence in messages.
type Mass struct{ Spam, Ham float64 }

// Total is all that the record knows, unfaded: the long slices, which hold the recent ones.
func (e Evidence) Total() (m Mass) {
	for _, c := range e.Past {
		m.add(c)
	}
	return m
}

func (m *Mass) add(c Count) {
	m.Spam += messages(c.Spam)
	m.Ham += messages(c.Ham)
}

// Settled is what the record knows at a time of the time before the recent slices, unfaded.
func (e Evidence) Settled(now time.Time) (m Mass) {
	e.advance(Slice(now))
	newest := int64(e.Newest / SlicesPerPast)
	for n := max(newest-Pasts+1, 0); n <= newest; n++ {
		m.add(e.older(n))
	}
	return m
}

// CountOf is spam and ham, in messages, as a count.
func CountOf(spam, ham float64) Count { return Count{units(spam), units(ham)} }

// older is what a long slice that is kept knows of the time before the recent slices.
func (e *Evidence) older(m int64) Count {
	c := e.Past[m%Pasts]
	for n := max(int64(e.Newest)-Slices+1, m*int64(SlicesPerPast)); n <= int64(e.Newest) && n < (m+1)*int64(SlicesPerPast); n++ {
		c.Spam -= e.Recent[n%Slices].Spam
		c.Ham -= e.Recent[n%Slices].Ham
	}
	return c
}

// recent is the place of a recent slice, nil if it is not kept.
func (e *Evidence) recent(n uint32) *Count {
	if n > e.Newest || n+Slices <= e.Newest {
		return nil
	}
	return &e.Recent[n%Slices]
}

// past is the place of a long slice, nil if it is not kept.
func (e *Evidence) past(m uint32) *Count {
	newest := e.Newest / SlicesPerPast
	if m > newest || m+Pasts <= newest {
		return nil
	}
	return &e.Past[m%Pasts]
}

// advance makes slice n the newest, if it is newer, and clears what falls out of the rings.
func (e *Evidence) advance(n uint32) {
	if n <= e.Newest {
		return
	}
	for i := max(e.Newest+1, max(n, Slices)-Slices+1); i <= n; i++ {
		e.Recent[i%Slices] = Count{}
	}
	old, m := e.Newest/SlicesPerPast, n/SlicesPerPast
	for i := max(old+1, max(m, Pasts)-Pasts+1); i <= m; i++ {
		e.Past[i%Pasts] = Count{}
	}
	e.Newest = n
}

// forget clears what counts no more in slice now: what lies in a long slice that would have fallen
// out of the ring had anything come in since.
func (e *Evidence) forget(now uint32) {
	if now/SlicesPerPast <= e.Newest/SlicesPerPast {
		return
	}
	oldest := max(int64(now/SlicesPerPast)-Pasts+1, 0)
	newest := int64(e.Newest / SlicesPerPast)
	for m := max(newest-Pasts+1, 0); m <= newest && m < oldest; m++ {
		e.Past[m%Pasts] = Count{}
	}
	for n := max(int64(e.Newest)-Slices+1, 0); n <= int64(e.Newest) && n/int64(SlicesPerPast) < oldest; n++ {
		e.Recent[n%Slices] = Count{}
	}
}

// move adds to a host's count and returns what that moves in its network's.
func (c *Count) move(d Count, most int32) Count {
	before := c.contribution()
	*c = c.plus(d, most)
	return c.contribution().minus(before, math.MaxInt32)
}

// contribution is what a host with such a count adds to its network: its count, scaled down to
// ContributionCap where it is more, so that no host speaks for its neighbours.
func (c Count) contribution() Count {
	c.Spam, c.Ham = max(c.Spam, 0), max(c.Ham, 0)
	if all := int64(c.Spam) + int64(c.Ham); all > ContributionCap*Unit {
		c.Spam = int32((int64(c.Spam)*ContributionCap*Unit + all/2) / all)
		c.Ham = ContributionCap*Unit - c.Spam
	}
	return c
}

func (c Count) plus(d Count, most int32) Count {
	return Count{stopped(int64(c.Spam)+int64(d.Spam), most), stopped(int64(c.Ham)+int64(d.Ham), most)}
}

func (c Count) minus(d Count, most int32) Count { return c.plus(Count{-d.Spam, -d.Ham}, most) }

// stopped keeps a sum within what the record holds.
func stopped(n int64, most int32) int32 { return int32(min(max(n, -int64(most)), int64(most))) }

func units(messages float64) int32 {
	if math.IsNaN(messages) {
		return 0
	}
	return int32(math.Round(min(max(messages*Unit, -MostPast), MostPast)))
}

// messages is a count in messages; what is owed counts as nothing.
func messages(n int32) float64 { return float64(max(n, 0)) / Unit }

// AppendBinary appends the record, RecordSize bytes, all numbers big endian: version (4 bits) and
// tier (4 bits), newest slice (3 bytes), when the tier was entered (3 bytes) and the score then (1
// byte), spam and ham of the recent ring (2 bytes each) and of the long one (3 bytes each).
func (e Evidence) AppendBinary(b []byte) ([]byte, error) {
	b = append24(append(b, RecordVersion<<4|byte(e.Tier)), int32(e.Newest))
	b = append(append24(b, int32(e.since)), byte(e.at))
	for _, c := range e.Recent {
		b = binary.BigEndian.AppendUint16(b, uint16(c.Spam))
		b = binary.BigEndian.AppendUint16(b, uint16(c.Ham))
	}
	for _, c := range e.Past {
		b = append24(append24(b, c.Spam), c.Ham)
	}
	return b, nil
}

// UnmarshalBinary reads a record. It refuses another length, another version and an unknown tier
// with ErrRecord.
func (e *Evidence) UnmarshalBinary(b []byte) error {
	if len(b) == 0 || b[0]>>4 != RecordVersion {
		return fmt.Errorf("%w: it starts with %x", ErrRecord, string(b[:min(1, len(b))]))
	}
	if len(b) != RecordSize || Tier(b[0]&15) > Bad {
		return fmt.Errorf("%w: %d bytes, tier %d", ErrRecord, len(b), b[0]&15)
	}
	*e = Evidence{Tier: Tier(b[0] & 15), Newest: uint32(signed24(b[1:]) & 0xffffff), since: uint32(signed24(b[4:]) & 0xffffff), at: int8(b[7])}
	b = b[8:]
	for i := range e.Recent {
		e.Recent[i] = Count{int32(int16(binary.BigEndian.Uint16(b))), int32(int16(binary.BigEndian.Uint16(b[2:])))}
		b = b[4:]
	}
	for i := range e.Past {
		e.Past[i] = Count{signed24(b), signed24(b[3:])}
		b = b[6:]
	}
	return nil
}

func append24(b []byte, n int32) []byte { return append(b, byte(n>>16), byte(n>>8), byte(n)) }

func signed24(b []byte) int32 { return int32(uint32(b[0])<<24|uint32(b[1])<<16|uint32(b[2])<<8) >> 8 }
