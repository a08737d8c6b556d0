// Package reputation is the science of ehlogate: evidence, its decay, and the score that is made of it.
//
// Evidence of a key (a host or a network) is plain counts of spam and ham in slices of time. Adding and merging are sums of
// non-negative numbers, so they commute: two mail exchangers, a late report and a replay give the same evidence in any order.
// Bounds and fading are applied only when evidence is read, because a bound that is applied while adding does not commute.
//
// The score is the log-odds of spam, ln(S/H), of a host's own evidence over a prior taken from its network: Jøsang and Ismail,
// "The Beta Reputation System" (2002), with the prior shrunk towards a global one as in empirical Bayes.
//
// Everything here is a pure function over small values: no clock, no I/O, no state.
package reputation

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

const (
	// SliceWidth is the length of one slice of evidence.
	SliceWidth = 6 * time.Hour
	// Slices is how many slices a key keeps: its memory is Slices × SliceWidth, 36 hours.
	Slices = 6
	// Unit is the weight of one message in a count: a count of Unit is one message of full weight.
	Unit = 16
	// RecordSize is the length of an encoded Evidence in bytes.
	RecordSize = 30

	recordVersion = 1
)

// ErrRecord is returned for bytes that are no evidence record, or one of a version this program does not know.
var ErrRecord = errors.New("not an evidence record of a known version")

// Count is the mass of spam and of ham in one slice, in 1/Unit of a message. Sums stop at the type's limit instead of wrapping;
// stopping sums of non-negative numbers still commute.
type Count struct{ Spam, Ham uint16 }

// Evidence is what is known of one key. The zero value knows nothing.
type Evidence struct {
	// Newest is the number of the newest slice: Unix time divided by SliceWidth.
	Newest uint32
	// Ring holds slice n at n % Slices, for n in (Newest-Slices, Newest].
	Ring [Slices]Count
	// Tier is the tier that the key was in when it was last learnt of.
	Tier Tier
}

// Slice is the number of the slice that a time lies in; times before 1970 lie in slice 0.
func Slice(t time.Time) uint32 {
	n := t.Unix() / int64(SliceWidth/time.Second)
	return uint32(min(max(n, 0), math.MaxUint32))
}

// Empty reports whether nothing is left that could count at the given time.
func (e Evidence) Empty(now time.Time) bool {
	if uint64(Slice(now)) >= uint64(e.Newest)+Slices {
		return true
	}
	return e.Ring == [Slices]Count{}
}

// Add returns the evidence with spam and ham, in messages, added at a time. What is older than the ring is dropped, as it would
// have been had it come in order; weights below zero and non-numbers count as nothing.
func (e Evidence) Add(at time.Time, spam, ham float64) Evidence {
	n := Slice(at)
	e.advance(n)
	if uint64(n)+Slices <= uint64(e.Newest) {
		return e
	}
	c := &e.Ring[n%Slices]
	c.Spam = addSaturated(c.Spam, units(spam))
	c.Ham = addSaturated(c.Ham, units(ham))
	return e
}

// Merge returns the sum of two pieces of evidence of the same key. It commutes and associates. The tier is that of the newer
// piece, or the worse of the two when they are equally new.
func Merge(a, b Evidence) Evidence {
	if b.Newest > a.Newest || b.Newest == a.Newest && b.Tier > a.Tier {
		a, b = b, a
	}
	for _, n := range b.slices() {
		if uint64(n)+Slices > uint64(a.Newest) {
			c, d := &a.Ring[n%Slices], b.Ring[n%Slices]
			c.Spam, c.Ham = addSaturated(c.Spam, d.Spam), addSaturated(c.Ham, d.Ham)
		}
	}
	return a
}

// Without returns the evidence less a part of it: a network's neighbours are the network without the host. Counts stop at zero.
func (e Evidence) Without(part Evidence) Evidence {
	for _, n := range part.slices() {
		if n <= e.Newest && uint64(n)+Slices > uint64(e.Newest) {
			c, d := &e.Ring[n%Slices], part.Ring[n%Slices]
			c.Spam, c.Ham = c.Spam-min(c.Spam, d.Spam), c.Ham-min(c.Ham, d.Ham)
		}
	}
	return e
}

// Mass is the evidence as it counts at a time, in messages.
type Mass struct{ Spam, Ham float64 }

// Mass reads the evidence at a time: every slice bounded to capacity messages with its ratio kept, (s, h)·min(1, C/(s+h)), then faded
// by half for each half-life that has passed since the slice ended. Slices of the future count in full, so a clock that steps back does no harm.
func (e Evidence) Mass(now time.Time, halfLife time.Duration, capacity float64) Mass {
	var m Mass
	width := SliceWidth.Seconds()
	for _, n := range e.slices() {
		c := e.Ring[n%Slices]
		if c == (Count{}) {
			continue
		}
		spam, ham := float64(c.Spam)/Unit, float64(c.Ham)/Unit
		age := float64(now.UnixMilli())/1000 - float64(n+1)*width
		weight := min(1, capacity/(spam+ham))
		if age > 0 {
			weight *= math.Exp2(-age / halfLife.Seconds())
		}
		m.Spam += spam * weight
		m.Ham += ham * weight
	}
	return m
}

// Since is the start of the oldest slice with something in it, or the zero time.
func (e Evidence) Since() time.Time {
	for _, n := range e.slices() {
		if e.Ring[n%Slices] != (Count{}) {
			return time.Unix(int64(n)*int64(SliceWidth/time.Second), 0).UTC()
		}
	}
	return time.Time{}
}

// AppendBinary appends the record of the evidence: version, tier, newest slice (4 bytes, big endian), then spam and ham of every
// ring place (2 bytes each, big endian), RecordSize bytes in all.
func (e Evidence) AppendBinary(b []byte) ([]byte, error) {
	b = append(b, recordVersion, byte(e.Tier))
	b = binary.BigEndian.AppendUint32(b, e.Newest)
	for _, c := range e.Ring {
		b = binary.BigEndian.AppendUint16(b, c.Spam)
		b = binary.BigEndian.AppendUint16(b, c.Ham)
	}
	return b, nil
}

// UnmarshalBinary reads a record. It refuses another length, another version and an unknown tier with ErrRecord.
func (e *Evidence) UnmarshalBinary(b []byte) error {
	if len(b) == 0 || b[0] != recordVersion {
		return fmt.Errorf("%w: version %x", ErrRecord, b[:min(1, len(b))])
	}
	if len(b) != RecordSize || Tier(b[1]) > Bad {
		return fmt.Errorf("%w: %d bytes, tier %d", ErrRecord, len(b), b[min(1, len(b)-1)])
	}
	e.Tier, e.Newest = Tier(b[1]), binary.BigEndian.Uint32(b[2:])
	for i := range e.Ring {
		e.Ring[i] = Count{binary.BigEndian.Uint16(b[6+4*i:]), binary.BigEndian.Uint16(b[8+4*i:])}
	}
	return nil
}

// slices are the numbers of the slices that the ring holds, oldest first.
func (e Evidence) slices() [Slices]uint32 {
	var s [Slices]uint32
	first := max(e.Newest, Slices-1) - (Slices - 1)
	for i := range s {
		s[i] = first + uint32(i)
	}
	return s
}

// advance makes slice n the newest, if it is newer, and clears what falls out of the ring.
func (e *Evidence) advance(n uint32) {
	if n <= e.Newest {
		return
	}
	for i := uint64(e.Newest) + 1; i <= uint64(n) && i <= uint64(e.Newest)+Slices; i++ {
		e.Ring[i%Slices] = Count{}
	}
	if uint64(n) > uint64(e.Newest)+Slices {
		e.Ring = [Slices]Count{}
	}
	e.Newest = n
}

func units(messages float64) uint16 {
	if !(messages > 0) {
		return 0
	}
	return uint16(min(math.Round(messages*Unit), math.MaxUint16))
}

func addSaturated(a, b uint16) uint16 {
	if a > math.MaxUint16-b {
		return math.MaxUint16
	}
	return a + b
}
