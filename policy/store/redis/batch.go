package redis

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

// buckets is how many hash tags the keys are spread over, and so how many pieces a Redis Cluster
// can share out. The networks of one bucket are in one slot: their changes of one moment go in one
// call, and one mark says which batches the bucket has had.
const buckets = 1024

// prefix starts every key and channel.
const prefix = "ehlogate:"

// bucketOf is the bucket of a network or an autonomous system, given as text.
func bucketOf(key string) int { return int(crc32.ChecksumIEEE([]byte(key)) % buckets) }

// redisKey is the key of a network or an autonomous system, such as "ehlogate:{1a2}:192.0.2.0/24"
// or "ehlogate:{0f3}:AS64500".
func redisKey(key string) string { return fmt.Sprintf(prefix+"{%03x}:%s", bucketOf(key), key) }

func systemKey(asn uint32) string { return fmt.Sprintf("AS%d", asn) }

// field is a host's field in its network's hash: the bytes of its address that the network leaves
// open, at least one.
func field(host, network netip.Prefix) string {
	if !host.IsValid() {
		return ""
	}
	last := max((host.Bits()+7)/8, 1)
	first := min(network.Bits()/8, last-1)
	return string(host.Addr().AsSlice()[first:last])
}

// The operations of a change; batch.lua says what they do.
const (
	learn    = "learn"
	move     = "move"
	enter    = "enter"
	remove   = "remove"
	merge    = "merge"
	restore  = "restore"
	subtract = "subtract"
)

// renamed are the operations of batches that an earlier version left in the spool.
var renamed = map[string]string{"leave": remove, "join": merge, "less": subtract}

// change is one change of one key. It is kept on disk as JSON while Redis is away.
type change struct {
	Op string `json:"do"`
	// Key is the network or the autonomous system.
	Key string `json:"key"`
	// Host is whom it is about, if it is about a host.
	Host netip.Prefix `json:"host,omitzero"`
	// ASN is the autonomous system that the host's part moves, too, 0 for none.
	ASN   uint32           `json:"asn,omitempty"`
	Slice uint32           `json:"slice,omitempty"`
	Count reputation.Count `json:"count,omitzero"`
	Past  reputation.Count `json:"past,omitzero"`
	// Record is a host's: all of it for merge and subtract, the part that says its tier for learn
	// and enter.
	Record []byte `json:"record,omitempty"`

	waiting []chan<- error
	// moved says that what it moved is under way to its autonomous system.
	moved bool
}

func (c *change) field() string {
	network, _ := netip.ParsePrefix(c.Key)
	return field(c.Host, network)
}

func (c *change) keys() policy.Keys {
	network, _ := netip.ParsePrefix(c.Key)
	return policy.Keys{Host: c.Host, Network: network, ASN: c.ASN}
}

// finish tells those who wait for the change what came of it.
func (c *change) finish(err error) {
	for _, w := range c.waiting {
		w <- err
	}
	c.waiting = nil
}

// batch is what a bucket is sent at once. Its number is the last one's of its stream plus one, and
// stays the same however often it is sent.
type batch struct {
	Sender  string   `json:"stream"`
	Bucket  int      `json:"bucket"`
	Number  uint64   `json:"number"`
	Changes []change `json:"changes"`

	// since is when the first change came in, done when Redis had the batch.
	since, done time.Time
	// stored is its key in the spool, 0 for none.
	stored uint64
}

// mostChanges is how many changes a batch takes: what one call of the script can read at once. It
// takes a flood into one bucket to come to it, and what is beyond is dropped.
const mostChanges = 2000

// add merges a change into an open batch, if there is room. Lessons of a host in one slice are one
// change, and so are moves of an autonomous system.
func (b *batch) add(c change) bool {
	same := func(o change) bool {
		return o.Op == c.Op && o.Key == c.Key && o.Host == c.Host && o.Slice == c.Slice && o.ASN == c.ASN
	}
	i := -1
	if c.Op == learn || c.Op == move {
		i = slices.IndexFunc(b.Changes, same)
	}
	if i < 0 {
		if len(b.Changes) == mostChanges {
			return false
		}
		b.Changes = append(b.Changes, c)
		return true
	}
	o := &b.Changes[i]
	o.Count.Spam += c.Count.Spam
	o.Count.Ham += c.Count.Ham
	o.Past.Spam += c.Past.Spam
	o.Past.Ham += c.Past.Ham
	o.waiting = append(o.waiting, c.waiting...)
	o.Record = c.Record
	return true
}

func (b *batch) finish(err error) {
	for i := range b.Changes {
		b.Changes[i].finish(err)
	}
}

func (b *batch) mark() string { return streamID{b.Sender, b.Bucket}.mark() }

// streamID names a stream: its sender and its bucket.
type streamID struct {
	sender string
	bucket int
}

// mark is the key of what the bucket has had of the sender.
func (id streamID) mark() string { return fmt.Sprintf(prefix+"{%03x}:had:%s", id.bucket, id.sender) }

// stream is the way of one sender's batches to one bucket. They are applied in the order of their
// numbers, each once, whatever gets lost on the way: Redis keeps the last number beside the
// evidence, and the stream keeps what it sent for a while, and sends it again where Redis has lost
// it.
type stream struct {
	streamID
	// number is the last batch's, acked the last one's that Redis said it had.
	number, acked uint64
	// kept are batches that Redis said it had, queue those that it has not, disk those of them that
	// are in the spool only, and open takes what comes in. All are in the order of their numbers.
	kept  []*batch
	queue []*batch
	disk  []stored
	open  *batch
	// busy says that the queue is being sent, failing that the last try failed, and retry when the
	// next is due.
	busy, failing bool
	retry         time.Time
	// gap says that earlier batches are lost, so that the next is applied all the same.
	gap bool
}

// stored is a batch on disk: its key there, and its number.
type stored struct{ key, number uint64 }

// idle reports whether there is nothing to do.
func (l *stream) idle() bool { return l.open == nil && len(l.queue) == 0 && len(l.disk) == 0 }

// spooling reports whether there are batches on disk that have to be applied before what comes in.
func (l *stream) spooling() bool {
	return len(l.disk) > 0 || len(l.queue) > 0 && l.queue[0].stored != 0
}

// seal gives the open batch its number and takes it out of the stream.
func (l *stream) seal() *batch {
	b := l.open
	l.number++
	b.Number, l.open = l.number, nil
	return b
}

// rewind takes back batches after a number, which Redis has lost. It reports whether some are lost
// for good.
func (l *stream) rewind(last uint64) (lost bool) {
	i := slices.IndexFunc(l.kept, func(b *batch) bool { return b.Number > last })
	if i >= 0 {
		for _, b := range l.kept[i:] {
			b.done = time.Time{}
		}
		l.queue = append(slices.Clone(l.kept[i:]), l.queue...)
		l.kept = l.kept[:i]
	}
	l.acked = last
	l.gap = l.first() > last+1
	return l.gap
}

// first is the number of the first batch that Redis has not had, 0 for none.
func (l *stream) first() uint64 {
	switch {
	case len(l.disk) == 0 && len(l.queue) == 0:
		return 0
	case len(l.disk) == 0:
		return l.queue[0].Number
	case len(l.queue) == 0:
		return l.disk[0].number
	}
	return min(l.queue[0].Number, l.disk[0].number)
}

func decodeBatch(v []byte) (*batch, error) {
	b := new(batch)
	if err := json.Unmarshal(v, b); err != nil {
		return nil, err
	}
	if b.Bucket < 0 || b.Bucket >= buckets || b.Number == 0 || b.Sender == "" {
		return nil, fmt.Errorf("not a batch: %.80s", v)
	}
	for i, c := range b.Changes {
		if op, ok := renamed[c.Op]; ok {
			b.Changes[i].Op = op
		}
	}
	return b, nil
}
