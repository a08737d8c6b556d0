package redis

import (
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/ehlogate/ehlogate/policy/reputation"
)

//go:embed batch.lua
var batchSource string

// newScript is the script that applies a batch; batch.lua says what it takes and returns.
func newScript() *redis.Script {
	return redis.NewScript(fmt.Sprintf("local SLICES, PASTS, PER_PAST, WIDTH, SIZE, VERSION, CONTRIBUTION_CAP, MOST_RECENT, MOST_PAST, CLOCKS = %d, %d, %d, %d, %d, %d, %d, %d, %d, %d\n",
		reputation.Slices, reputation.Pasts, reputation.SlicesPerPast, int(reputation.SliceWidth/time.Second), reputation.RecordSize,
		reputation.RecordVersion, reputation.ContributionCap*reputation.Unit, reputation.MostRecent, reputation.MostPast, reputation.ClocksPerSlice) + batchSource)
}

const (
	// lifetime is how long evidence counts, and so how long Redis has to remember which batches it
	// had.
	lifetime = reputation.PastWidth * (reputation.Pasts + 1)
	// hostsPerNetwork is how many hosts a network may hold. With it a network stays in the compact
	// encoding of Redis, whose bound is hash-max-listpack-entries, 512 by default; an IPv4 /24
	// never comes to it.
	hostsPerNetwork = 480
)

// arguments are the script's keys and arguments for a batch.
func (b *batch) arguments(now time.Time, forced bool) (keys []string, args []any) {
	places := map[string]int{}
	keys = []string{b.mark()}
	// A change is not copied: who waits for it may be told meanwhile.
	keep := false
	for i := range b.Changes {
		keep = keep || b.Changes[i].ASN != 0
	}
	args = []any{b.Number, forced, now.Add(lifetime).Unix(), hostsPerNetwork, keep, reputation.Slice(now) + 1}
	for i := range b.Changes {
		c := &b.Changes[i]
		place, ok := places[c.Key]
		if !ok {
			keys = append(keys, redisKey(c.Key))
			place = len(keys)
			places[c.Key] = place
		}
		args = append(args, c.Op, place)
		switch c.Op {
		case learn:
			args = append(args, c.field(), c.Slice, c.Count.Spam, c.Count.Ham, c.Record)
		case move:
			args = append(args, c.Slice, c.Count.Spam, c.Count.Ham, c.Past.Spam, c.Past.Ham)
		case enter, merge, restore:
			args = append(args, c.field(), c.Record)
		case remove:
			args = append(args, c.field())
		case subtract:
			args = append(args, c.Record)
		}
	}
	return keys, args
}

// The statuses of a batch.
const (
	applied = "applied"
	had     = "had"
	behind  = "behind"
)

// reply is what the script returned of a batch.
type reply struct {
	status string
	// last is the number of the last batch that was applied.
	last    uint64
	changes []changed
	// sums are of the batch's keys in the order of their first change.
	sums []kept
}

// kept is a record before and after a batch, or why the key could not be changed.
type kept struct {
	before, after reputation.Evidence
	err           error
}

// changed is what a change did to its host, and what that moved.
type changed struct {
	kept
	move reputation.Move
}

var errReply = errors.New("an unexpected reply of our script")

// parse reads the script's reply, given the time.
func (b *batch) parse(v any, now time.Time) (r reply, err error) {
	// The script and its reader are of one program; what does not fit is a fault of ours, and is
	// said.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v: %.200v", errReply, p, v)
		}
	}()
	list := v.([]any)
	r.status, r.last = list[0].(string), uint64(list[1].(int64))
	for i, v := range list[2].([]any) {
		c := changed{}
		switch v := v.(type) {
		case string:
			c.err = errors.New(v)
		case []any:
			if len(v) == 6 {
				if c.kept, err = parseKept(v, now); err != nil {
					return r, err
				}
				n := func(i int) int32 { return int32(v[i].(int64)) }
				c.move = reputation.Move{At: b.Changes[i].Slice, Recent: reputation.Count{Spam: n(2), Ham: n(3)}, Past: reputation.Count{Spam: n(4), Ham: n(5)}}
			}
		}
		r.changes = append(r.changes, c)
	}
	for _, v := range list[3].([]any) {
		k := kept{}
		switch v := v.(type) {
		case string:
			k.err = errors.New(v)
		case []any:
			if k, err = parseKept(v, now); err != nil {
				return r, err
			}
		}
		r.sums = append(r.sums, k)
	}
	return r, nil
}

// parseKept reads a record before and after a change, healed as the script does.
func parseKept(v []any, now time.Time) (k kept, err error) {
	if k.before, err = parseRecord(v[0].(string)); err == nil {
		k.after, err = parseRecord(v[1].(string))
	}
	k.before, k.after = k.before.Heal(now), k.after.Heal(now)
	return k, err
}

// parseRecord reads a record as Redis holds it; one that is not there is empty.
func parseRecord(s string) (e reputation.Evidence, err error) {
	if s != "" {
		err = e.UnmarshalBinary([]byte(s))
	}
	return e, err
}

// parseMark reads the number of the last batch out of a mark; no mark is none.
func parseMark(s string) uint64 {
	if len(s) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64([]byte(s))
}

// state is the part of a record that says its tier.
func state(e reputation.Evidence) []byte {
	b, _ := e.AppendBinary(make([]byte, 0, reputation.RecordSize))
	return b[:8]
}
