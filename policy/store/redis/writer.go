package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/ehlogate/ehlogate/policy/fault"
)

const (
	// window is how long lessons are gathered before they are sent together.
	window = 2 * time.Millisecond
	// spoolAfter is how long a lesson waits for Redis before it goes to disk.
	spoolAfter = 50 * time.Millisecond
	// lookEvery is how often is looked what has waited so long.
	lookEvery = 10 * time.Millisecond
	// keepSent is how long a batch that Redis had is kept, to be sent again should Redis lose it:
	// by a fail-over to a replica that lags, or a restart from an older copy.
	keepSent = time.Minute
	// confirmEvery is how often is looked for batches that were kept for confirmAfter, whose marks
	// are then looked at before they go.
	confirmEvery, confirmAfter = time.Second, keepSent * 3 / 2
	// mostAtOnce is how many batches one pipeline takes.
	mostAtOnce = 256
	// retryFirst and retryMost bound the pause after a failure.
	retryFirst, retryMost = 50 * time.Millisecond, time.Second
	// mostLoaded is how many batches of a stream are brought back from disk at once.
	mostLoaded = 64
	// saveAgain is the pause after the disk did not take something.
	saveAgain = time.Second
)

// writer sends batches to Redis, each applied once. One loop owns what goes out; calls run beside
// it, one at a time for each server.
type writer struct {
	server *server
	spool  *spool
	now    func() time.Time
	log    *slog.Logger
	stats  *Stats
	// ready says whether Redis may be written to: its schema is ours.
	ready func() bool
	// took is told what came of a batch, with mu held; what it returns is sent next.
	took func(*batch, reply) []change

	script   *redis.Script
	sender   string
	wake     chan struct{}
	throttle *fault.Throttle
	faults   *fault.Guard

	mu      sync.Mutex
	streams map[streamID]*stream
	dirty   map[*stream]struct{}
	sending map[string]*sending
	// finished are keys in the spool that Redis has had.
	finished []uint64
	// unsavedUntil is when the disk is asked again that did not take something.
	unsavedUntil time.Time
	closed       bool
}

// sending is the state of the way to one server.
type sending struct {
	busy  bool
	retry time.Time
	pause time.Duration
}

// add queues a change; who waits for it is told once: nil when it is in Redis or in the spool.
func (w *writer) add(c change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		c.finish(ErrClosed)
		return
	}
	w.addLocked(c)
}

func (w *writer) addLocked(c change) {
	l := w.streamOf(streamID{w.sender, bucketOf(c.Key)})
	if l.open == nil {
		l.open = &batch{Sender: l.sender, Bucket: l.bucket, since: w.now()}
	}
	if !l.open.add(c) {
		w.stats.Dropped.Add(1)
		c.finish(errFull)
		return
	}
	w.dirty[l] = struct{}{}
	w.poke()
}

func (w *writer) streamOf(id streamID) *stream {
	l := w.streams[id]
	if l == nil {
		l = &stream{streamID: id}
		w.streams[id] = l
	}
	return l
}

func (w *writer) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// loop works until the context ends.
func (w *writer) loop(ctx context.Context) {
	look, confirm := time.NewTicker(lookEvery), time.NewTicker(confirmEvery)
	defer look.Stop()
	defer confirm.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
			time.Sleep(window)
		case <-look.C:
		case <-confirm.C:
			go w.faults.Do("asking what Redis has", func() { w.confirm(ctx, confirmAfter) })
		}
		w.step(ctx)
	}
}

// step puts on disk what has to go there, and sends what can be sent.
func (w *writer) step(ctx context.Context) {
	w.mu.Lock()
	idle, finished := len(w.dirty) == 0, w.finished
	w.finished = nil
	w.mu.Unlock()
	if len(finished) > 0 {
		if err := w.spool.remove(finished); err != nil {
			w.complain("the spool cannot be cleared; Redis knows what it has had", err)
		}
		w.stats.Spooled.Store(w.spool.batches)
	}
	if idle {
		return
	}
	ways := w.ways()
	w.save(ways)
	w.send(ctx, ways)
}

// way is where a stream's batches go now.
type way struct {
	addr string
	down bool
}

// ways finds the server of every stream that has something to send.
func (w *writer) ways() map[*stream]way {
	w.mu.Lock()
	streams := make([]*stream, 0, len(w.dirty))
	for l := range w.dirty {
		streams = append(streams, l)
	}
	w.mu.Unlock()
	ready := w.ready()
	ways := make(map[*stream]way, len(streams))
	for _, l := range streams {
		addr, ok := w.server.master(l.mark())
		ways[l] = way{addr, !ok || !ready || w.server.open(addr)}
	}
	return ways
}

// save puts on disk what Redis does not take, or has not taken for too long, in one transaction.
func (w *writer) save(ways map[*stream]way) {
	w.mu.Lock()
	if w.now().Before(w.unsavedUntil) {
		w.mu.Unlock()
		return
	}
	late := w.now().Add(-spoolAfter)
	var batches []*batch
	var opened []*stream
	for l, way := range ways {
		// The queue goes as a whole, so that what is on disk comes before what is not.
		if len(l.queue) > 0 && (way.down || l.failing || l.queue[0].since.Before(late)) {
			for _, b := range l.queue {
				if b.stored == 0 {
					batches, opened = append(batches, b), append(opened, nil)
				}
			}
		}
		if l.open != nil && (way.down || l.failing || l.spooling() || l.open.since.Before(late)) {
			batches, opened = append(batches, l.seal()), append(opened, l)
		}
	}
	w.mu.Unlock()
	if len(batches) == 0 {
		return
	}
	keys, err := w.spool.put(batches)
	if err != nil {
		w.complain("observations cannot be kept on disk while Redis is away", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.Spooled.Store(w.spool.batches)
	if err != nil && !errors.Is(err, errFull) {
		w.unsavedUntil = w.now().Add(saveAgain)
	}
	for i, b := range batches {
		switch l := opened[i]; {
		case keys[i] == 0:
			if l != nil && errors.Is(err, errFull) {
				// Whoever is told may look.
				w.stats.Dropped.Add(uint64(len(b.Changes)))
			}
			b.finish(err)
			w.unsaved(l, b, err)
			continue
		case l != nil:
			l.disk = append(l.disk, stored{keys[i], b.Number})
		case !b.done.IsZero():
			w.finished = append(w.finished, keys[i])
		default:
			b.stored = keys[i]
		}
		b.finish(nil)
	}
}

// unsaved deals with a batch that could not be put on disk. It waits in memory with what comes in
// after it, unless the spool is full. l is nil for one that is in the queue, and waits there.
func (w *writer) unsaved(l *stream, b *batch, err error) {
	if l == nil {
		return
	}
	// Its number was the last that was given.
	l.number--
	if errors.Is(err, errFull) {
		return
	}
	after := l.open
	l.open = b
	if after == nil {
		return
	}
	for _, c := range after.Changes {
		if !b.add(c) {
			w.stats.Dropped.Add(1)
			c.finish(errFull)
		}
	}
}

// send starts a call to every server that is free and has something to get.
func (w *writer) send(ctx context.Context, ways map[*stream]way) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	calls := map[string][]*stream{}
	room := map[string]int{}
	for l, way := range ways {
		if way.down || l.busy || now.Before(l.retry) {
			continue
		}
		s := w.sending[way.addr]
		if s == nil {
			s = &sending{}
			w.sending[way.addr] = s
		}
		if s.busy || now.Before(s.retry) || room[way.addr] >= mostAtOnce {
			continue
		}
		w.load(l)
		if l.open != nil && !l.spooling() {
			l.queue = append(l.queue, l.seal())
		}
		if len(l.queue) == 0 {
			if l.idle() {
				delete(w.dirty, l)
			}
			continue
		}
		l.busy = true
		room[way.addr] += len(l.queue)
		calls[way.addr] = append(calls[way.addr], l)
	}
	for addr, streams := range calls {
		w.sending[addr].busy = true
		queues := make([][]*batch, len(streams))
		gaps := make([]bool, len(streams))
		for i, l := range streams {
			queues[i], gaps[i] = slices.Clone(l.queue), l.gap
		}
		go w.faults.Do("writing to Redis", func() { w.call(ctx, addr, streams, queues, gaps) })
	}
}

// load brings batches back from disk when it is their turn.
func (w *writer) load(l *stream) {
	if len(l.disk) == 0 || len(l.queue) > 0 && l.queue[0].Number < l.disk[0].number {
		return
	}
	n := min(len(l.disk), mostLoaded)
	batches := make([]*batch, 0, n)
	for _, d := range l.disk[:n] {
		b, err := w.spool.get(d.key)
		if err != nil {
			w.complain("a batch in the spool cannot be read and is left out", err)
			w.stats.Dropped.Add(1)
			w.finished = append(w.finished, d.key)
			continue
		}
		batches = append(batches, b)
	}
	l.disk = l.disk[n:]
	l.queue = append(batches, l.queue...)
}

// call sends streams' batches in one pipeline and takes the replies.
func (w *writer) call(ctx context.Context, addr string, streams []*stream, queues [][]*batch, gaps []bool) {
	results := make([][]*redis.Cmd, len(streams))
	err := w.server.call(addr, func() error { return w.run(ctx, queues, gaps, results) })
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.sending[addr]
	s.busy = false
	if down(err) {
		s.pause = min(max(2*s.pause, retryFirst), retryMost)
		s.retry = w.now().Add(s.pause)
	} else {
		s.pause = 0
	}
	for _, l := range streams {
		l.busy = false
	}
	for i, l := range streams {
		w.results(l, queues[i], results[i], err)
	}
	w.poke()
}

// run calls the script for every batch. A server that does not know the script yet is sent it.
func (w *writer) run(ctx context.Context, queues [][]*batch, gaps []bool, results [][]*redis.Cmd) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var all []redis.Cmder
	source := false
	for range 2 {
		pipe := w.server.client.Pipeline()
		for i, q := range queues {
			results[i] = results[i][:0]
			for j, b := range q {
				keys, args := b.arguments(w.now(), gaps[i] && j == 0)
				call := w.script.EvalSha
				if source && i == 0 && j == 0 {
					call = w.script.Eval
				}
				results[i] = append(results[i], call(ctx, pipe, keys, args...))
			}
		}
		all = exec(ctx, pipe)
		w.stats.Trips.Add(1)
		if source || !slices.ContainsFunc(all, func(c redis.Cmder) bool { return c.Err() != nil && strings.HasPrefix(c.Err().Error(), "NOSCRIPT") }) {
			break
		}
		source = true
	}
	return firstError(all)
}

// complain logs what should not happen, once a minute.
func (w *writer) complain(what string, err error) {
	w.throttle.About(what, func() { w.log.Error(what, "error", err) })
}

// settle waits until nothing waits for Redis any more, in memory or in the spool, of what was
// learnt until now: it would come after whatever is done next.
func (w *writer) settle(ctx context.Context, most time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for !w.drained() {
		select {
		case <-ctx.Done():
			return errors.New("observations still wait for Redis, in memory or in the spool, and some may be of it; nothing was changed; say it again when they are written, as ehlogate status shows")
		case <-time.After(lookEvery):
		}
	}
	return nil
}

// close sends what it can in a short time and puts the rest on disk.
func (w *writer) close() error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	deadline := time.Now().Add(callTimeout)
	for time.Now().Before(deadline) && !w.drained() {
		w.step(context.Background())
		time.Sleep(window)
	}
	ways := w.ways()
	for l := range ways {
		ways[l] = way{down: true}
	}
	w.mu.Lock()
	w.unsavedUntil = time.Time{}
	w.mu.Unlock()
	w.save(ways)
	w.step(context.Background())
	w.mu.Lock()
	defer w.mu.Unlock()
	for l := range w.dirty {
		if l.open != nil || slices.ContainsFunc(l.queue, func(b *batch) bool { return b.stored == 0 }) {
			return fmt.Errorf("observations of bucket %d could not be kept", l.bucket)
		}
	}
	return nil
}

func (w *writer) drained() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for l := range w.dirty {
		if l.open != nil || len(l.queue) > 0 || len(l.disk) > 0 {
			return false
		}
	}
	return true
}
